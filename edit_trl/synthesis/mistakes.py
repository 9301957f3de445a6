"""
Ask a judge model which kind of mistake each wrong chain makes.

The kinds are those of the EDIT paper: logical, knowledge, calculation, other, and combinations. The judge sees both
chains. If a verdict cannot be read, the judge is asked again. If no verdict can be read, it is recorded as missing: it
is never guessed.

Paper: https://huggingface.co/papers/2405.19737
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ..chat import BudgetReached, ChatClient, EndpointError
from .config import Progress
from .prompts import Prompts


if TYPE_CHECKING:
    from datasets import Dataset


# Letters of the categories in `templates/mistake.txt`
MISTAKE_KINDS = {"a": "logical", "b": "knowledge", "c": "calculation", "d": "other"}

# In "Category: a sum is wrong" the letter "a" is a word and not a category. Letters of other scripts may stand beside
# a category without a space, as in "Category: a和c".
_LETTER = r"(?!a[ \t]+(?!and\b|logical\b)[a-z]{2})[a-d](?![0-9_a-z\u00c0-\u024f])"
_VERDICT = re.compile(
    rf"\bcategor(?:y|ies)\W*?({_LETTER})((?:[^\w\n]*?(?:[+,/;&、和与及と]|\band\b)[^\w\n]*{_LETTER})*)",
    re.IGNORECASE,
)


def classify_mistakes(
    pairs: "Dataset",
    client: ChatClient,
    template_dir: str | None = None,
    max_attempts: int = 3,
    on_progress: Progress | None = None,
) -> "Dataset":
    """
    Add the column `mistake_kinds` to a dataset of pairs.

    Args:
        pairs ([`~datasets.Dataset`]):
            Pairs with the texts `prompt`, `chosen` and `rejected`.
        client ([`~chat.ChatClient`]):
            The judge.
        template_dir (`str`, *optional*):
            Folder with your own `mistake.txt`. The reply to this prompt must end with a line such as `Category: a+c`.
        max_attempts (`int`, *optional*, defaults to `3`):
            Maximum number of verdicts to ask for until one can be read. If the client's temperature is zero, only one.
        on_progress (`Callable`, *optional*):
            Called after each pair with `"classify"`, counts by outcome, the number of pairs done and the number of
            pairs.

    Returns:
        [`~datasets.Dataset`]: The same pairs with `mistake_kinds`, a list of `"logical"`, `"knowledge"`,
        `"calculation"` and `"other"`; `None` if no verdict could be read or the budget was reached.

    Raises:
        EndpointError: If the endpoint fails for all requests.
        ValueError: If a column is missing or is not text.

    Examples:

    ```python
    from edit_trl.synthesis import classify_mistakes, filter_mistakes

    pairs = classify_mistakes(pairs, client)
    calculation = filter_mistakes(pairs, ["calculation"])
    ```
    """
    from datasets import List, Value

    missing = [name for name in ("prompt", "chosen", "rejected") if name not in pairs.column_names]
    if missing:
        raise ValueError(
            f"`pairs` must have the columns `prompt`, `chosen` and `rejected`, got {pairs.column_names}. The judge "
            "compares the chains; rename the columns."
        )
    prompts = Prompts(template_dir)
    outcomes: Counter[str] = Counter()

    async def work(pair: dict[str, Any]) -> list[str] | None:
        texts = [pair[name] for name in ("prompt", "chosen", "rejected")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                "`prompt`, `chosen` and `rejected` must be text, got messages. The judge reads text; join the "
                "contents."
            )
        prompt, chosen, rejected = (text.strip() for text in texts)
        messages = prompts.render("mistake", prompt=prompt, chosen=chosen, rejected=rejected)
        kinds = None
        try:
            for attempt in range(client.num_attempts(max_attempts)):
                reply = await client.chat(messages, attempt)
                # In a reply that was cut at the limit, "a+c" may have become "a".
                kinds = None if reply.finish_reason == "length" else read_verdict(reply.text)
                if kinds is not None:
                    break
            return kinds
        finally:
            outcomes["+".join(kinds) if kinds else "no verdict"] += 1
            if on_progress is not None:
                on_progress("classify", outcomes, outcomes.total(), len(pairs))

    found = client.for_each(pairs, work)
    kinds = [None if isinstance(kind, (BudgetReached, EndpointError)) else kind for kind in found]
    return pairs.add_column("mistake_kinds", kinds, feature=List(Value("string")))


def read_verdict(reply: str) -> list[str] | None:
    """
    Read the kinds of mistakes from a judge's reply: from its last line that names a category.

    Args:
        reply (`str`):
            Reply of the judge.

    Returns:
        `list[str]` or `None`: Kinds, each once, in the order of `MISTAKE_KINDS`; `None` if there is no verdict.

    Examples:

    ```python
    >>> read_verdict("The carry is forgotten, and so is an item.\\nCategory: c+a")
    ['logical', 'calculation']
    >>> read_verdict("They differ.") is None
    True

    ```
    """
    verdicts = _VERDICT.findall(unicodedata.normalize("NFKC", reply))  # full-width letters and signs
    if not verdicts:
        return None
    first, others = verdicts[-1]
    letters = {first.lower(), *re.findall(r"\b[a-d]\b", others.lower(), re.ASCII)}
    return [kind for letter, kind in MISTAKE_KINDS.items() if letter in letters]


def filter_mistakes(pairs: "Dataset", kinds: Collection[str]) -> "Dataset":
    """
    Keep the pairs whose mistakes are all of the given kinds.

    Args:
        pairs ([`~datasets.Dataset`]):
            Pairs with `mistake_kinds`.
        kinds (`Collection[str]`):
            Kinds to keep, from `"logical"`, `"knowledge"`, `"calculation"` and `"other"`.

    Returns:
        [`~datasets.Dataset`]: The pairs that were kept. Pairs without a verdict are left out.

    Raises:
        ValueError: If a kind is unknown or the column is missing.
    """
    unknown = sorted(set(kinds) - set(MISTAKE_KINDS.values()))
    if isinstance(kinds, str) or unknown:
        raise ValueError(
            f"`kinds` must be a list of {', '.join(map(repr, MISTAKE_KINDS.values()))}, got {kinds!r}. Pass "
            '`kinds=["logical"]`, for example.'
        )
    if "mistake_kinds" not in pairs.column_names:
        raise ValueError(
            f"`pairs` must have the column `mistake_kinds`, got {pairs.column_names}. Make it with "
            "`classify_mistakes`."
        )
    return pairs.filter(lambda mistakes: bool(mistakes) and set(mistakes) <= set(kinds), input_columns="mistake_kinds")
