"""
Make the generated pairs of the key-step benchmark: as `edit_trl.tasks` writes them, and with changes to the wrong
chain that are not mistakes (phrases reworded, steps swapped).
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from key_steps_chains import STEP_BREAK, Chain

from edit_trl.tasks import IN_DOMAIN_TASKS, OUT_OF_DOMAIN_TASKS, DualCoT, Span, generate_dual_cots


def generate(num_pairs: int, levels: Sequence[int], seed: int) -> list[DualCoT]:
    """Pairs of all tasks, in equal shares of each level."""
    examples: list[DualCoT] = []
    for number, level in enumerate(levels):
        share = num_pairs // len(levels) + (number < num_pairs % len(levels))
        examples += generate_dual_cots(share, tasks=IN_DOMAIN_TASKS + OUT_OF_DOMAIN_TASKS, level=level, seed=seed)
    return examples


def change_pairs(
    examples: Sequence[DualCoT], rates: Sequence[float], swaps: Sequence[int], seed: int
) -> dict[str, list[tuple[Chain, Chain]]]:
    """Return the pairs as they are, and with wrong chains that are reworded or have swapped steps."""
    chosen = [Chain(example.chosen, example.chosen_spans) for example in examples]
    rejected = [Chain(example.rejected, example.rejected_spans) for example in examples]
    changed = {"as generated": rejected}
    changed |= {f"reworded {rate:g}": change_chains(rejected, reword, rate, seed) for rate in rates}
    changed |= {f"swapped {num_swaps}": change_chains(rejected, swap_steps, num_swaps, seed) for num_swaps in swaps}
    return {variant: list(zip(chosen, chains, strict=True)) for variant, chains in changed.items()}


def change_chains(
    chains: Sequence[Chain], change: Callable[[Chain, Any, random.Random], Chain], amount: float, seed: int
) -> list[Chain]:
    """Apply `reword` or `swap_steps` to all chains, each with its own random generator."""
    return [change(chain, amount, random.Random(f"{seed}/{number}")) for number, chain in enumerate(chains)]


# Phrases of the chains and what a teacher might write instead. Where two match, the earlier one is used.
REWORDINGS = {
    r"Therefore, the answer is": ["So the answer is", "Hence the answer is", "The final answer is"],
    r"So the answer is": ["Therefore, the answer is", "The final answer is"],
    r"\bdo not count as\b": ["are not"],
    r"\bcount as\b": ["are"],
    r"\bare not\b": ["aren't"],
    r"\bis not the start\b": ["is away from the start"],
    r" = ": [" equals ", " is ", " makes "],
    r"\bgives\b": ["yields", "is", "becomes"],
    r", (?:which leaves|leaving|so we have)\b": [", and what is left is", ", so the rest is", ", giving"],
    r"\bThis leaves\b": ["What is left is", "The rest is"],
    r"\bThe (?:first |second )?bracket:": ["Inside the bracket:", "In brackets:"],
    r"\bTogether:": ["Combined:", "All in all:"],
    r"\bStart:": ["At first:", "Initially:"],
    r"\bAt the start:": ["At first:", "Initially:"],
    r"\bStart at\b": ["Begin at", "We set out from"],
    r"\b(?:swap|trade|switch)(?: balls| books| positions| partners)?:": ["exchange theirs:", "do a swap:"],
    r"\b(?:has|holds) the\b": ["ends up with the", "is left with the"],
    r"\bhas (?=\d+ days)": ["is a month of ", "counts "],
    r"\b(?:So the date is|So today is|That is)\b": ["This gives", "We land on"],
    r"\bsteps?\b": ["paces"],
    r"\bnow at\b": ["which is at", "ending at"],
    r"\bfacing\b": ["looking", "heading"],
    r"\bTurn (?=\w+:)": ["Turning "],
    r"\bIn order:": ["Sorted:", "The order is"],
    r"(?<=\b[a-z]) is(?= \d)": [" has number", " comes as"],
    r"(?<= ; )stack:": ["the stack is", "we hold"],
    r"\bNow, we have reached the end\.": ["That is the end of the input."],
    r"\bWe will need to pop out\b": ["What is left to close is"],
    r"\bWe now have:": ["This gives:"],
    r"\bHence, we have\b": ["So we have", "Altogether"],
    r"\bNow let's sort this subpart\b": ["Next we sort the part"],
    r"\bby looking at their\b": ["by their"],
    r"\bLet's calculate\b": ["We compute", "Next,"],
    r"\bThen, the final equation is\b": ["So the equation becomes"],
    # An opener before a sentence.
    r"(?<=[a-z0-9)]\. )(?=[A-Z0-9(-])": ["Then ", "Next, ", "Now "],
}
REWORDING = re.compile("|".join(f"({pattern})" for pattern in REWORDINGS))


def reword(chain: Chain, rate: float, rng: random.Random) -> Chain:
    """Reword each place that can be reworded with probability `rate`, except inside the spans."""
    text, done, spans, num_carried = "", 0, [], 0
    for match in REWORDING.finditer(chain.text):
        start, end = match.span()
        if any(span.start < end and start < span.end for span in chain.spans) or rng.random() >= rate:
            continue
        # The spans before this place move by as much as the text before them has grown.
        while num_carried < len(chain.spans) and chain.spans[num_carried].end <= start:
            spans.append(move(chain.spans[num_carried], len(text) - done))
            num_carried += 1
        assert match.lastindex is not None
        text += chain.text[done:start] + rng.choice(list(REWORDINGS.values())[match.lastindex - 1])
        done = end
    spans += [move(span, len(text) - done) for span in chain.spans[num_carried:]]
    return Chain(text + chain.text[done:], tuple(spans))


def move(span: Span, by: int) -> Span:
    return Span(span.start + by, span.end + by, span.role)


def swap_steps(chain: Chain, num_swaps: int, rng: random.Random) -> Chain:
    """Swap two neighbouring steps `num_swaps` times. The last step, the answer, stays in its place."""
    borders = [0, *(match.end() for match in STEP_BREAK.finditer(chain.text)), len(chain.text)]
    order = list(range(len(borders) - 1))
    for _ in range(num_swaps if len(order) > 2 else 0):
        place = rng.randrange(len(order) - 2)
        order[place : place + 2] = reversed(order[place : place + 2])
    text, spans = "", []
    for step in order:
        start, end = borders[step : step + 2]
        for span in chain.spans:
            cut = Span(max(span.start, start), min(span.end, end), span.role)
            if cut.start < cut.end:
                spans.append(move(cut, len(text) - start))
        text += chain.text[start:end]
    return Chain(text, tuple(spans))
