"""
Read the final answer of a reply, and compare it with the right answer.

`reading` finds the answer in a reply, with the phrases of several languages in `phrases`. `matching` compares two
answers and reads right answers as benchmarks release them. Both use `kinds`, which tells an option from a number or a
date; `quantities` reads numbers, times and amounts, with the units in `units`; `formulas` compares LaTeX.
"""

from .matching import answers_match, reference_answer
from .reading import extract_answer, reasoning


__all__ = ["answers_match", "extract_answer", "reasoning", "reference_answer"]
