"""
Write the page of the docs on what works with `EDITTrainer`: `python tests/compat/page.py docs/compatibility.md`.
"""

import sys
import textwrap
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))

from architectures import PACKED, PADDED, SHARED  # noqa: E402
from features import AREAS, Feature  # noqa: E402
from tuners import OPEN, REFUSED, SUPPORTED  # noqa: E402


HEAD = """\
# Compatibility

What works with `EDITTrainer`. Each row is *supported*, and names the test that trains with it; *refused*, with a part
of the error; or *open*, with the reason. Every option of `SFTConfig` and every argument of `SFTTrainer` is in
`test_supported_surface.py`: it works, is refused with what to use instead, or does not matter.

<!-- `make docs-compat` writes this page from the tables in tests/compat. -->
"""


def row(feature: Feature) -> str:
    """Line of a feature in its table."""
    if feature.status == "supported":
        file, *_, name = feature.test.split("::")
        evidence = (f"{feature.note}; " if feature.note else "") + f"`{file}`: `{name}`"
    elif feature.status == "refused":
        # An error may have backticks of its own.
        evidence = f"“{feature.error}”"
    else:
        evidence = feature.reason
    return f"| {feature.name} | {feature.status} | {evidence} |"


def table(features: list[Feature]) -> str:
    return "\n".join(["| feature | status | evidence |", "| --- | --- | --- |", *map(row, features)])


def paragraph(text: str) -> str:
    return textwrap.fill(text, width=119, break_on_hyphens=False, break_long_words=False)


def tuners() -> str:
    """List of the tuners of PEFT that need no remark, and table of the others."""
    remarks = {}
    for name, tuner in SUPPORTED.items():
        merging = "" if tuner.merges or "merge" in tuner.note else "PEFT cannot merge it"
        remarks[name] = "; ".join(filter(None, (tuner.note, merging)))
    lines = ["| tuner | status | |", "| --- | --- | --- |"]
    lines += [f"| {name} | supported | {remark} |" for name, remark in remarks.items() if remark]
    lines += [f"| {name} | refused | “{error}” |" for name, _, error in REFUSED.values()]
    lines += [f"| {name} | open | {reason} |" for name, reason in OPEN.values()]
    plain = [name for name, remark in remarks.items() if not remark]
    return paragraph(f"Supported: {', '.join(plain)}.") + "\n\n" + "\n".join(lines)


def architectures() -> str:
    """Table of the architectures by layout."""
    lines = ["| layout | architectures |", "| --- | --- |"]
    lines.append(f"| one row for all pairs | {', '.join(PACKED)} |")
    lines.append(f"| one row per pair, with a mask | {', '.join(SHARED)} |")
    lines += [f"| two padded rows: “{reason}” | {', '.join(names)} |" for reason, names in PADDED.items()]
    return "\n".join(lines)


def make_page() -> str:
    """
    Make the page.

    Returns:
        `str`: Markdown.
    """
    parts = [HEAD.rstrip()]
    num_architectures = len(PACKED) + len(SHARED) + sum(map(len, PADDED.values()))
    for area, features in AREAS.items():
        parts += [f"## {area}", table(features)]
    parts += [
        "## PEFT's tuners",
        paragraph(
            "`compat/test_tuners.py` trains with each one that is supported: loss and gradients are those of a plain "
            "computation with one chain at a time, only the adapter moves, and it reloads with "
            "`PeftModel.from_pretrained` and merges with the same loss. A tuner that is new in PEFT fails the tests "
            "until it is in this table."
        ),
        tuners(),
        "## Architectures",
        paragraph(
            f"Small random models of {num_architectures} architectures of transformers. In "
            "the layout that the trainer chooses, their log-probabilities are those of the model with one chain at a "
            "time (`compat/test_architectures.py`). For other models, too, the trainer compares the layout "
            "with padded rows on a pair of the first batch. If they differ, it takes the next layout of this table."
        ),
        architectures(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(make_page(), encoding="utf-8")
