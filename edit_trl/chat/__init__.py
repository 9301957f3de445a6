"""
Chat calls to OpenAI-compatible endpoints, and prompt templates. Used for the teacher, the judge and the student.
"""

from .batch import BatchResults, Collector
from .client import ChatClient
from .endpoint import EndpointError, estimate_tokens
from .prompt_template import PromptTemplate
from .replies import has_half_character, plain_text
from .run import BudgetReached
from .store import ChatReply, Usage


__all__ = [
    "BatchResults",
    "BudgetReached",
    "ChatClient",
    "ChatReply",
    "Collector",
    "EndpointError",
    "PromptTemplate",
    "Usage",
    "estimate_tokens",
    "has_half_character",
    "plain_text",
]
