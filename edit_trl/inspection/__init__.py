"""Look at dual chains-of-thought before training: which tokens are key tokens, and which pairs have problems."""

from typing import TYPE_CHECKING, Any

from .card import card_section
from .dataset_statistics import Statistics
from .log_probs import add_log_probs
from .pairs import InspectedPair, InspectionConfig, Piece, read_pairs
from .plots import plot_statistics
from .report import write_html
from .terminal import print_statistics, show_pair


if TYPE_CHECKING:
    from .tracking import LogPairsCallback

__all__ = [
    "InspectedPair",
    "InspectionConfig",
    "LogPairsCallback",
    "Piece",
    "Statistics",
    "add_log_probs",
    "card_section",
    "plot_statistics",
    "print_statistics",
    "read_pairs",
    "show_pair",
    "write_html",
]


def __getattr__(name: str) -> Any:
    """Import the callback on first use, because it loads transformers."""
    if name != "LogPairsCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .tracking import LogPairsCallback

    return LogPairsCallback
