"""
Ask a judge model how well chains of thought show the key steps of reasoning.

As in the EDIT paper, scores go from 1 to 10. The judge sees the responses of all students to one question together,
without names, in an order that is shuffled with a seed. If a verdict cannot be read, the judge is asked again. If no
verdict can be read, it is recorded as missing: it is never guessed and counts for no student.

Responses are quoted: each line begins with `> `. A response may contain headings and scores, and the quotes keep them
apart from the prompt and, if the judge repeats them, from its verdict.

Paper: https://huggingface.co/papers/2405.19737
"""

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..answers.characters import plain_characters
from ..chat import ChatClient, PromptTemplate
from .metrics import bootstrap_interval


_SCORES = re.compile(r"^[^\S\n]*[*_`#{\"]*[^\S\n]*scores?[*_`\"]*[^\S\n]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_DECORATION = re.compile(r"[*_`\[\](){}]|\s*/\s*10\b")
_SCORE = re.compile(r"10(?:\.0+)?|[1-9](?:\.[0-9]+)?")


def judge_chains(
    prompts: Sequence[str],
    responses: Mapping[str, Sequence[str]],
    client: ChatClient,
    num_orders: int = 1,
    max_attempts: int = 3,
    seed: int = 42,
    template_dir: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """
    Let a judge score the chains of several students, from 1 to 10.

    Judges prefer some positions in the list, often the first. The order is shuffled by seed and question, so over many
    questions each student is about equally often at each position. With as many orders as students, each student is at
    each position once, and the preference cancels exactly.

    Args:
        prompts (`Sequence[str]`):
            Questions.
        responses (`Mapping[str, Sequence[str]]`):
            Chains of each student, by the name of the student: one chain for each question, in order.
        client ([`~chat.ChatClient`]):
            The judge.
        num_orders (`int`, *optional*, defaults to `1`):
            Number of orders in which the responses to each question are judged, at most the number of students. A
            score is the mean over the orders.
        max_attempts (`int`, *optional*, defaults to `3`):
            Maximum number of verdicts to ask for until one can be read. If the client's temperature is zero, only one.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the orders.
        template_dir (`str`, *optional*):
            Folder with a `judge.txt` of your own. Its reply must end with a line such as `Scores: 7, 3`.
        on_progress (`Callable`, *optional*):
            Called after each verdict, also a missing one, with the number of verdicts done and the total number.

    Returns:
        `dict[str, dict[str, Any]]`: For each student `mean_score`; its 95 percent `interval` (list of two, from
        [`bootstrap_interval`] over the questions); `num_questions`; `num_missing`, the number of questions without a
        score; and `scores`, the score of each question. A score is `None` if the verdict in one of the orders is
        missing: it could not be read, its request failed, or the budget was reached. Without any score, `mean_score`
        and `interval` are `None`.

    Raises:
        EndpointError: If the endpoint fails for all requests.
        ValueError: If an option has a value that cannot work, there is not one text per student and question, or the
            template is missing or wrong.

    Examples:

    ```python
    from edit_trl.chat import ChatClient
    from edit_trl.evaluation import judge_chains

    judge = ChatClient("Qwen/Qwen3-8B", "http://localhost:8000/v1", api_key_env=None, store="verdicts.sqlite")
    table = judge_chains(questions, {"sft": sft_chains, "edit": edit_chains}, judge, num_orders=2)
    print({student: row["mean_score"] for student, row in table.items()})
    ```
    """
    _check(prompts, responses, num_orders, max_attempts)
    template = _load_template(template_dir)
    students = list(responses)
    attempts = client.num_attempts(max_attempts)
    items = list(itertools.product(range(len(prompts)), range(num_orders)))
    num_done = 0

    async def work(item: tuple[int, int]) -> dict[str, float] | None:
        nonlocal num_done
        number, turn = item
        order = _order(students, prompts[number], turn, seed)
        messages = template.render(
            prompt=_quoted(prompts[number]), responses=[_quoted(responses[student][number]) for student in order]
        )
        try:
            for attempt in range(attempts):
                reply = await client.chat(messages, attempt)
                # In a reply that was truncated at the limit, "10" may have become "1".
                scores = None if reply.finish_reason == "length" else read_scores(reply.text, len(students))
                if scores is not None:
                    return dict(zip(order, scores, strict=True))
            return None
        finally:
            num_done += 1
            if on_progress is not None:
                on_progress(num_done, len(items))

    found = client.for_each(items, work)
    # The result is an exception if a request failed or was not sent because of the budget.
    verdicts = [verdict if isinstance(verdict, dict) else None for verdict in found]
    by_question = [verdicts[start : start + num_orders] for start in range(0, len(items), num_orders)]
    return {student: _summary([_mean(student, orders) for orders in by_question]) for student in students}


def read_scores(reply: str, num_responses: int) -> list[float] | None:
    """
    Read the scores from a judge's reply: from its last line that begins with "Scores:".

    Args:
        reply (`str`):
            Reply of the judge.
        num_responses (`int`):
            Number of responses that it was shown.

    Returns:
        `list[float]` or `None`: The scores in the order of the responses; `None` if there is no such line, or it does
        not hold exactly one number from 1 to 10 for each response.

    Examples:

    ```python
    >>> read_scores("The first forgets a carry.\\nScores: 3, 8", num_responses=2)
    [3.0, 8.0]
    >>> read_scores("Scores: 3, 11", num_responses=2) is None
    True

    ```
    """
    lines = _SCORES.findall(plain_characters(reply))
    if not lines:
        return None
    scores = [score for score in re.split(r"[\s,;]+", _DECORATION.sub(" ", lines[-1]).strip(" \t\r.")) if score]
    if len(scores) != num_responses or not all(map(_SCORE.fullmatch, scores)):
        return None
    return [float(score) for score in scores]


def _check(prompts: Sequence[str], responses: Mapping[str, Sequence[str]], num_orders: int, max_attempts: int) -> None:
    if not prompts or not responses:
        raise ValueError(
            f"There must be at least one question and one student, got {len(prompts)} and {len(responses)}. Pass the "
            "questions as `prompts` and the chains of each student as `responses`."
        )
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(
            "`prompts` must be text, got something else. The judge reads text; join the contents of messages."
        )
    for student, chains in responses.items():
        if len(chains) != len(prompts):
            raise ValueError(
                f"Each student must have a response to each question, but {student!r} has {len(chains)} to "
                f"{len(prompts)}. Students are judged side by side; pass the responses to the same questions, in the "
                "same order."
            )
        if not all(isinstance(chain, str) for chain in chains):
            raise ValueError(
                f"`responses` must be text, got something else of {student!r}. Pass an empty text for a reply that is "
                "missing."
            )
    if not 1 <= num_orders <= len(responses):
        raise ValueError(
            f"`num_orders` must lie between 1 and the number of students, {len(responses)}, got {num_orders}. With as "
            "many orders as students, each student is at each position once; more orders would be repetitions."
        )
    if max_attempts < 1:
        raise ValueError(f"`max_attempts` must be at least 1, got {max_attempts}. Leave it out for the default.")


def _load_template(template_dir: str | None) -> PromptTemplate:
    shipped = Path(__file__).parent / "templates" / "judge.txt"
    path = shipped if template_dir is None else Path(template_dir, "judge.txt")
    if not path.is_file():
        raise ValueError(
            f"`template_dir` must hold a `judge.txt`, and {template_dir!r} has none. Copy {shipped} there."
        )
    return PromptTemplate(path)


def _order(students: Sequence[str], prompt: str, turn: int, seed: int) -> list[str]:
    """Return the students in the order shown: shuffled by seed and question, and rotated by one position per turn."""
    order = list(students)
    random.Random(f"{seed}\0{prompt}").shuffle(order)
    return order[turn:] + order[:turn]


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.strip().splitlines() or [""])


def _mean(student: str, verdicts: Sequence[dict[str, float] | None]) -> float | None:
    """Return the mean over all orders. `None` if one is missing, because the preference would not cancel."""
    scores = [verdict[student] for verdict in verdicts if verdict is not None]
    return sum(scores) / len(scores) if len(scores) == len(verdicts) else None


def _summary(scores: list[float | None]) -> dict[str, Any]:
    known = [score for score in scores if score is not None]
    return {
        "mean_score": sum(known) / len(known) if known else None,
        "interval": list(bootstrap_interval(known)) if known else None,
        "num_questions": len(scores),
        "num_missing": len(scores) - len(known),
        "scores": scores,
    }
