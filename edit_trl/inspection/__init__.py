"""Look at dual chains-of-thought before training on them: what is key, and what is amiss."""

from .statistics import InspectedPair, InspectionConfig, Statistics, read_pairs
from .terminal import print_statistics, show_pair


__all__ = ["InspectedPair", "InspectionConfig", "Statistics", "print_statistics", "read_pairs", "show_pair"]
