"""
Write the part of a dataset card that describes the pairs, in Markdown as the Hub renders it.

The rest of the card is not written here. `edit-trl synthesize` writes whole cards and takes this part into them.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from .markup import chain_markdown, markdown_text
from .pairs import PROBLEMS, InspectedPair
from .terminal import visible


# Maximum number of rows of a table by task or origin.
_MAX_GROUPS = 40

_QUANTILES = {"0.05": "5%", "0.5": "median", "0.95": "95%"}
_PARTS = {"prompt": "prompt", "chosen": "right chain", "rejected": "wrong chain"}


def card_section(
    summary: dict[str, Any],
    example: InspectedPair | None = None,
    provenance: Mapping[str, str] | None = None,
    picture: str | None = None,
) -> str:
    """
    Describe the pairs of a dataset for its card on the Hub.

    Args:
        summary (`dict[str, Any]`):
            Output of [`Statistics.summary`].
        example ([`InspectedPair`], *optional*):
            A pair to show, with its key tokens in bold.
        provenance (`Mapping[str, str]`, *optional*):
            What was read and how, by name. It is shown at the end with the version of `edit_trl`, and is public then:
            no folders.
        picture (`str`, *optional*):
            Name of an image beside the card, such as the plots of [`plot_statistics`].

    Returns:
        `str`: Markdown, from a heading of the second level on.

    Examples:

    ```python
    >>> from edit_trl.inspection import Statistics, read_pairs
    >>> row = {"prompt": "Q: 2 + 3?\\nA:", "chosen": " 2 + 3 = 5. So 5.", "rejected": " 2 + 3 = 6. So 6."}
    >>> statistics = Statistics(unit="words")
    >>> (pair,) = read_pairs([row])
    >>> statistics.add(pair)
    >>> print(card_section(statistics.summary(), pair).splitlines()[-5])
    | wrong |  2 + 3 = <strong>6.</strong> So <strong>6.</strong> |

    ```
    """
    unit, num = summary["unit"], summary["pairs"]
    completions = f", and {summary['completions']:,} rows without a wrong chain" if summary["completions"] else ""
    parts = [
        "## The pairs",
        f"{num:,} pairs of a right (`chosen`) and a wrong (`rejected`) chain of thought{completions}. The key {unit} "
        f"are those in which the two chains of a pair differ, by a minimum edit script; in the pairs of the EDIT "
        f"[paper](https://huggingface.co/papers/2405.19737) about {summary['paper']['key_token_ratio']:.1%} of the "
        "tokens are key. The similarity is the share of the longer chain that needs no edit.",
        _numbers(summary),
        *([f"![Distributions of key {unit}, similarity and common start]({picture})"] if picture else []),
    ]
    for column in ("origin", "task"):
        if groups := summary[f"by_{column}"]:
            parts.append(_groups(column, groups, unit))
    if summary["teachers"]:
        rows = [
            [markdown_text(name), markdown_text(prompts or "-"), f"{n:,}"] for name, prompts, n in summary["teachers"]
        ]
        parts.append(_table(["teacher", "version of its prompts", "pairs"], rows, 2))
    parts.append("### Problems")
    if summary["problems"]:
        rows = [[f"`{name}`", PROBLEMS[name], f"{n:,}"] for name, n in summary["problems"].items()]
        parts += [f"Rows with a problem: {summary['with_problems']:,}.", _table(["problem", "", "rows"], rows, 2)]
    else:
        parts.append("The checks of `edit-trl inspect` found none.")
    if example is not None:
        chains = [["right", chain_markdown(example, "chosen")], ["wrong", chain_markdown(example, "rejected")]]
        parts += [
            "### An example",
            f"Row {example.row}, with its key {unit} in bold.",
            _table(["", ""], [["prompt", markdown_text(example.prompt)], *chains]),
        ]
    made = {**(provenance or {}), "Made by": f"edit_trl {version('edit-trl')}"}
    parts += ["### How this was counted", "\n".join(f"- {name}: {_code(value)}" for name, value in made.items())]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return markdown_text(text) if "`" in text or "\n" in text else f"`{visible(text)}`"


def _numbers(summary: dict[str, Any]) -> str:
    unit, ratio, lengths = summary["unit"], summary["key_token_ratio"], summary["lengths"]
    shares = {
        f"key {unit} of a pair": ratio["both"],
        "of the right chain": ratio["chosen"],
        "of the wrong chain": ratio["rejected"],
        "similarity": summary["similarity"],
        "start that both chains share": summary["shared_start"],
    }
    counts = {f"{unit} of the {name}": lengths[key] for key, name in _PARTS.items()}
    rows = []
    for form, table in (("{:.1%}", shares), ("{:,.0f}", counts)):
        for label, numbers in table.items():
            if numbers["mean"] is not None:
                values = [numbers["mean"], *(numbers["quantiles"][share] for share in _QUANTILES)]
                rows.append([label, *map(form.format, values)])
    return _table(["", "mean", *_QUANTILES.values()], rows, 1) if rows else "No pair can be read."


def _groups(column: str, groups: dict[str, dict[str, Any]], unit: str) -> str:
    ordered = sorted(groups.items(), key=lambda item: -item[1]["pairs"])
    rows = []
    for name, group in ordered[:_MAX_GROUPS]:
        means = ["-" if group[key] is None else f"{group[key]:.1%}" for key in ("key_token_ratio", "similarity")]
        rows.append([markdown_text(name), f"{group['pairs']:,}", *means, f"{group['problems']:,}"])
    table = _table([column, "pairs", f"key {unit}", "similarity", "with problems"], rows, 1)
    num_more = len(ordered) - len(rows)
    return f"{table}\n\n{num_more:,} more with fewer pairs." if num_more else table


def _table(head: list[str], rows: list[list[str]], first_number: int = 99) -> str:
    """Write a table whose columns from `first_number` on are aligned to the right."""
    rule = ["---:" if column >= first_number else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
