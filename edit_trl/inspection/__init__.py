"""Look at dual chains-of-thought before training on them: what is key, and what is amiss."""

from .log_probs import add_log_probs
from .report import plot_statistics, write_html
from .statistics import InspectedPair, InspectionConfig, Piece, Statistics, read_pairs
from .terminal import print_statistics, show_pair


__all__ = [
    "InspectedPair",
    "InspectionConfig",
    "Piece",
    "Statistics",
    "add_log_probs",
    "plot_statistics",
    "print_statistics",
    "read_pairs",
    "show_pair",
    "write_html",
]
