"""Chat calls to OpenAI-compatible endpoints, and the prompts that are sent. Serves teacher, judge and student alike."""

from .client import BudgetReached, ChatClient, ChatReply, EndpointError, Usage, estimate_tokens
from .prompt_template import PromptTemplate


__all__ = [
    "BudgetReached",
    "ChatClient",
    "ChatReply",
    "EndpointError",
    "PromptTemplate",
    "Usage",
    "estimate_tokens",
]
