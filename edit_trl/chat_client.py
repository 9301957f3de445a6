"""The old name of the module `edit_trl.chat`. It will be removed in 0.3.0."""

from .deprecation import renamed


__all__ = ["BudgetReached", "ChatClient", "ChatReply", "EndpointError", "Usage", "estimate_tokens"]  # noqa: F822

__getattr__ = renamed(
    __name__,
    {name: f"edit_trl.chat.{name}" for name in __all__},
)
