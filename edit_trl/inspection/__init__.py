"""Look at dual chains-of-thought before training: which tokens are key tokens, and which pairs have problems."""

from .dataset_statistics import Statistics
from .log_probs import add_log_probs
from .pairs import InspectedPair, InspectionConfig, Piece, read_pairs
from .plots import plot_statistics
from .report import write_html
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
