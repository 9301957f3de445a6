"""
Compare formulas with `math-verify`, in a process of its own that `formulas.py` starts and ends.

Reads a pair of formulas per line, as JSON, and answers each with a line, `true` or `false`.
"""

import json
import sys

from math_verify import LatexExtractionConfig, parse, verify


try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


MAX_MEMORY = 4 * 2**30  # a power of powers would take all memory before its time is over


def main() -> None:
    """Answer one line after the other, until there are no more."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a package prints is no answer
    config = [LatexExtractionConfig()]
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            # The process that asks keeps the time, and ends this process.
            formulas = [
                parse(f"${side}$", config, fallback_mode="no_fallback", parsing_timeout=None)
                for side in json.loads(line)
            ]
            is_equal = any(verify(*pair, timeout_seconds=None) for pair in (formulas, formulas[::-1]))
        except Exception:
            is_equal = False
        print(json.dumps(is_equal), file=answers, flush=True)


if __name__ == "__main__":
    main()
