"""
Chat calls to OpenAI-compatible endpoints, and prompt templates. Used for the teacher, the judge and the student.
"""

from .client import ChatClient
from .endpoint import EndpointError, estimate_tokens
from .prompt_template import PromptTemplate
from .replies import plain_text
from .run import BudgetReached
from .store import ChatReply, Usage


__all__ = [
    "BudgetReached",
    "ChatClient",
    "ChatReply",
    "EndpointError",
    "PromptTemplate",
    "Usage",
    "estimate_tokens",
    "plain_text",
]
