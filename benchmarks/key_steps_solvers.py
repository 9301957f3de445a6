"""
Write right chains for the real wrong chains of BIG-Bench Mistake.

The steps before the marked step are kept. A solver for each task writes the other steps in the form of the wrong
chain. A chain is used only if the solver's answer is the target, and if the solver agrees with all kept steps and not
with the marked step.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any


# A line of BIG-Bench Mistake, with `input`, `steps`, `answer`, `target` and `mistake_index`.
Record = dict[str, Any]


class UnsolvableError(Exception):
    """There is no right chain for comparison. The message is the reason."""


BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def solve_dyck(record: Record) -> list[str]:
    steps = ["We should process each input one by one and keep track of the stack configuration.", "stack: empty"]
    stack: list[str] = []
    for symbol in record["input"].split():
        if symbol in BRACKETS:
            stack.append(symbol)
        elif not stack or BRACKETS[stack.pop()] != symbol:
            raise UnsolvableError("the input closes a bracket that is not open")
        steps.append(f"{symbol} ; stack: {' '.join(stack) or 'empty'}")
    popped = stack[::-1]
    closing = [BRACKETS[symbol] for symbol in popped]
    quoted, needed = (", ".join(f'"{symbol}"' for symbol in symbols) for symbols in (popped, closing))
    return [
        *steps,
        f'Now, we have reached the end. The final stack is "{" ".join(stack)}".',
        f"We will need to pop out {quoted} one by one in that order.",
        f"So, we need {needed}. So the answer is {' '.join(closing)}",
    ]


def solve_tracking(record: Record) -> list[str]:
    question, _, choices = record["input"].partition("\nOptions:")
    options = dict(re.findall(r"\(([A-Z])\) (.+?)\.?\s*(?:\n|$)", choices))
    start, _, story = question.partition("\n")
    owned = dict(
        re.findall(r"([A-Z]\w+) (?:has an?|gets|is playing|is dancing with) (.+?)(?=, (?:and )?[A-Z]\w+ |\.$)", start)
    )
    # Chains may shorten the names of people to letters, and "The Great Gatsby" to "Gatsby" or "blue ball" to "blue".
    heading = re.fullmatch(r"(At the start: )?(.+?)(\.?)", record["steps"][0])
    written = heading and dict(re.findall(r"(\w+): ([^,]+)", heading[2]))
    swap = re.search(r"^\w+ and \w+( (?:swap|switch|trade)(?: \w+)?: )", "\n".join(record["steps"]), re.MULTILINE)
    if not (heading and swap and written) or len(written) != len(owned):
        raise UnsolvableError("the steps are in another form")
    names = {name: short for name in owned for short in written if name.startswith(short)}
    if len(names) < len(owned) or any(written[names[name]].lower() not in owned[name].lower() for name in owned):
        raise UnsolvableError("the steps are in another form")

    def state() -> str:
        return ", ".join(f"{name}: {thing}" for name, thing in written.items()) + heading[3]

    steps = [f"{heading[1] or ''}{state()}"]
    for a, b in re.findall(r"(\w+) and (\w+) (?:swap|switch|trade)", story):
        one, other = names[a], names[b]
        written[one], written[other] = written[other], written[one]
        owned[a], owned[b] = owned[b], owned[a]
        steps.append(f"{one} and {other}{swap[1]}{state()}")
    asked = story.split(". ")[-1].strip()  # "At the end of the game, Alice has the"
    found = owned[asked.partition(", ")[2].split()[0]]
    letter, option = next((letter, option) for letter, option in options.items() if option == found)
    end = f"{asked} {option}. " if record["steps"][-1].startswith("At the end") else ""
    return [*steps, f"{end}So the answer is ({letter})"]


ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]


def solve_sorting(record: Record) -> list[str]:
    given = record["steps"]
    words = record["input"].split()
    if len(set(words)) < len(words):
        raise UnsolvableError("a word occurs twice")
    # Words that no letter has told apart yet are listed in the order in which the wrong chain first lists them.
    grouped = re.findall(r'"([^"]+)"', given[1]) if len(given) > 1 else []
    words.sort(key=lambda word: (grouped.index(word) if word in grouped else len(grouped), word))

    def number(word: str, place: int) -> int:
        if place >= len(word) or not "a" <= word[place] <= "z":
            raise UnsolvableError("words that no letter tells apart")
        return ord(word[place]) - 96

    def split(group: list[str], place: int) -> list[list[str]]:
        return [
            [word for word in group if number(word, place) == n]
            for n in sorted({number(word, place) for word in group})
        ]

    def spell(group: list[str]) -> str:
        quoted = " ? ".join(f'"{word}"' for word in group)
        return f"[{quoted}]" if len(group) > 1 else quoted

    def letters(group: list[str], place: int) -> str:
        return " ".join(f'"{word}": "{word[place]}" ({number(word, place)}).' for word in group)

    def numbered(groups: list[list[str]], place: int) -> str:
        return " < ".join(f"({number(group[0], place)}) {spell(group)}" for group in groups)

    state = split(words, 0)
    steps = [
        "I should start by looking at the first letter of the words in the list. The first letter: "
        f"{letters(record['input'].split(), 0)}",
        f"We now have: {numbered(state, 0)}.",
    ]
    depth = dict.fromkeys(words, 1)
    while open_groups := [group for group in state if len(group) > 1]:
        # Kept steps may sort the subparts in any order. From the marked step on, the first subpart is next.
        named = re.search(r"subpart \[(.+?)\]", given[len(steps)]) if len(steps) < record["mistake_index"] else None
        named_words = set(re.findall(r'"([^"]+)"', named[1])) if named else set()
        group = next((group for group in open_groups if set(group) == named_words), open_groups[0])
        place = depth[group[0]]
        if place >= len(ORDINALS):
            raise UnsolvableError("words that no letter tells apart")
        parts = split(group, place)
        state[state.index(group) : state.index(group) + 1] = parts
        depth.update(dict.fromkeys(group, place + 1))
        ordinal = ORDINALS[place]
        steps += [
            f"Now let's sort this subpart {spell(group)} by looking at their {ordinal} letters. "
            f"The {ordinal} letter: {letters(group, place)}",
            f"We now have: {numbered(parts, place)} for the subpart. Hence, we have {' < '.join(map(spell, state))}.",
        ]
    return [*steps, f"I have now sorted all the words. The answer is {' '.join(word for [word] in state)}"]


def calculate(expression: str) -> int | None:
    """Return the value of an expression of whole numbers with `+`, `-`, `*` and brackets; `None` for other text."""
    # Python would call a number before a bracket, and take two stars for a power.
    if not re.fullmatch(r"[-+*() 0-9]+", expression) or re.search(r"[0-9)] *\(|\*\*", expression):
        return None
    try:
        return eval(expression, {"__builtins__": {}})
    except SyntaxError:  # such as a bracket that is not closed
        return None


def work_out(expression: str) -> list[str]:
    """Return the rest of an expression after each operation: brackets first, then products, from left to right."""
    steps: list[str] = []
    while True:
        expression = re.sub(r"\((-?\d+)\)", r"\1", expression)
        if re.fullmatch(r"-?\d+", expression):
            # The last step may still have brackets around the result.
            return [*steps[:-1], expression]
        inner = re.search(r"\(([^()]+)\)", expression)
        start, end = inner.span(1) if inner else (0, len(expression))
        part = expression[start:end]
        operation = re.search(r"-?\d+ \* -?\d+", part) or re.match(r"-?\d+ [-+] -?\d+", part)
        assert operation is not None
        result = calculate(operation[0])
        expression = expression[: start + operation.start()] + str(result) + expression[start + operation.end() :]
        steps.append(expression)


def correct_expressions(expressions: Sequence[str], start: str, value: int) -> list[str]:
    """Keep the expressions before the first one with another value, and continue with right ones (or from `start`)."""
    kept = list(takewhile(lambda expression: calculate(expression) == value, expressions))
    if len(kept) < len(expressions):
        kept = kept or [start]
        if not re.fullmatch(r"-?\d+", kept[-1]):
            kept += work_out(kept[-1])
    return kept


def solve_arithmetic(record: Record) -> list[str]:
    steps, target = record["steps"], int(record["target"])
    heading = re.fullmatch(r'This equation can be written as "(.+?)", where (.+)\.', steps[0])
    if not heading:
        raise UnsolvableError("the steps are in another form")
    formula = heading[1]
    definitions = dict(re.findall(r"([A-H]) = (.+?)(?=,? and [A-H] = |, [A-H] = |$)", heading[2]))
    values = {name: calculate(expression) for name, expression in definitions.items()}
    if None in values.values() or set(re.findall("[A-H]", formula)) != values.keys():
        raise UnsolvableError("the steps are in another form")
    # A negative number after an operator is put in brackets.
    filled = re.sub(
        r"(?<=[-+*] )[A-H]", lambda name: f"({values[name[0]]})" if (values[name[0]] or 0) < 0 else name[0], formula
    )
    filled = re.sub("[A-H]", lambda name: str(values[name[0]]), filled)
    if calculate(filled) != target:
        raise UnsolvableError("the first step takes the expression apart wrongly")
    written = steps[:1]
    for step in steps[1:-1]:
        parts = step.rstrip(".").split(" = ")
        name = parts[0].removeprefix("Let's calculate ")
        if name not in values or step == parts[0]:
            raise UnsolvableError("the steps are in another form")
        value = values[name]
        assert value is not None
        written.append(" = ".join([parts[0], *correct_expressions(parts[1:], definitions[name], value)]) + ".")
    final = re.fullmatch(r"Then, the final equation is (.+?)\. So the answer is -?\d+", steps[-1])
    if not final or len(written) != len(values) + 1:
        raise UnsolvableError("the steps are in another form")
    parts = final[1].split(" = ")
    worked = correct_expressions(parts[1:], filled, target)
    return [*written, f"Then, the final equation is {' = '.join([parts[0], *worked])}. So the answer is {target}"]


SOLVERS: dict[str, Callable[[Record], list[str]]] = {
    "dyck_languages": solve_dyck,
    "tracking_shuffled_objects": solve_tracking,
    "word_sorting": solve_sorting,
    "multistep_arithmetic": solve_arithmetic,
}


def plain(step: str) -> str:
    """Remove what may differ between right chains from a step: spaces, quotes, the order of words not sorted yet."""
    step = re.sub(r"\[([^\]]*\?[^\]]*)\]", lambda group: " ".join(sorted(group[1].split(" ? "))), step)
    return " ".join(re.sub(r'["\',.]|\band\b', " ", step).lower().split())


def rectify(task: str, record: Record) -> list[str]:
    """
    Return the steps of the right chain: the steps before the marked step as they are, the other steps from the solver.

    Raises `UnsolvableError` with the reason if there is no such chain.
    """
    marked = record["mistake_index"]
    if " ".join(record["answer"].split()) == " ".join(record["target"].split()):
        raise UnsolvableError("the answer is right")
    if marked is None:
        raise UnsolvableError("no step is marked")
    solution = SOLVERS[task](record)
    answer = re.split(r"answer is ", solution[-1])[-1]
    if answer != " ".join(record["target"].split()):
        raise UnsolvableError("the solver's answer is not the target")
    for kept, solved in zip(record["steps"][:marked], solution, strict=False):
        # Some chains leave out the whole list after a subpart is sorted.
        if "Hence" not in kept:
            solved = solved.partition(" Hence")[0]
        if plain(kept) != plain(solved):
            raise UnsolvableError("a step before the marked one differs from the solver's")
    if marked >= len(solution) or plain(solution[marked]) == plain(record["steps"][marked]):
        raise UnsolvableError("the marked step agrees with the solver's")
    return [*record["steps"][:marked], *solution[marked:]]


def read_rectified(folder: Path) -> tuple[dict[str, list[tuple[Record, list[str]]]], dict[str, Counter[str]]]:
    """Return, by task, the records that can be rectified, with right steps, and the number of others by reason."""
    rectified: dict[str, list[tuple[Record, list[str]]]] = {}
    reasons: dict[str, Counter[str]] = {}
    for task in SOLVERS:
        rectified[task], reasons[task] = [], Counter()
        for line in (folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            try:
                rectified[task].append((record, rectify(task, record)))
            except UnsolvableError as error:
                reasons[task][str(error)] += 1
    return rectified, reasons
