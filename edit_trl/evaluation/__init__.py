"""
Measure what a student has learned: read its answers and compare them with the right ones.
"""

from .answer_extraction import answers_match, extract_answer, reasoning


__all__ = ["answers_match", "extract_answer", "reasoning"]
