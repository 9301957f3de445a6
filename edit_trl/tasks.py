"""
Generate small reasoning tasks with dual chains-of-thought whose mistakes are known, for demos, tests and benchmarks.

Each task draws a question like the questions of BIG-Bench Hard and writes a dual chain-of-thought for it: a right
chain, and a wrong chain that makes one mistake and continues from there to a wrong answer. The program makes the
mistake, so its position is known: the spans of a pair say which characters differ because of the mistake itself and
which because of its consequences. The key tokens that an alignment finds can be compared with them.

The kinds of mistakes are those of the EDIT paper. Logical: a wrong step of reasoning, such as a forgotten item, a
wrong order of operations or a swap of the wrong pair. Knowledge: a wrong fact, such as a month with too many days,
"True and False is True" or a carrot counted as a fruit. Calculation: a wrong sum or product.

One function writes both chains; it is called twice. It writes the chain in steps, each a wording with slots for
values, and lists the mistakes that could be made. The second call makes one of them. The two chains are compared step
by step and slot by slot:

- The mistaken step is the first step written after the mistake was made. Its slots whose content differs are the
  mistake, so a wrong result belongs to the mistake in the same way as a wrong operand. Slots that differ in later
  steps, including the final answer, are consequences. Slots with equal content have no span.
- A slot is marked as a whole, for example both digits of 12 and 13. A slot that is empty in one chain has no span
  there.
- If a step has different wordings in the two chains, it is marked as a whole in both, with the space after it. This
  includes a step that the wrong chain forgets: it is marked in the right chain, and the wrong chain has no mistake
  span.

Without all spans, the two chains are equal. But the spans are not a minimum edit script: after a forgotten step or a
wrong order of operations, the same text may occur in the spans of both chains, and an alignment may match it.

The caller makes tokens, prompts and datasets. Calls with different seeds may draw the same question, so generate
training and test questions in one call and split the list.

Paper: https://huggingface.co/papers/2405.19737
"""

import calendar
import difflib
import operator
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar


LEVELS = (1, 2, 3)

# After this many draws in a row without a new question, a task is considered to have no more questions.
_MAX_FAILED_DRAWS = 2000

_T = TypeVar("_T")


class Span(NamedTuple):
    """Characters `[start, end)` of a chain. Their `role` is `"mistake"` or `"consequence"`."""

    start: int
    end: int
    role: str


@dataclass(frozen=True)
class DualCoT:
    """
    A question with a right and a wrong chain of thought.

    Args:
        task (`str`):
            Name of the task.
        level (`int`):
            Difficulty, one of `LEVELS`.
        question (`str`):
            The question, without a prompt around it.
        answer (`str`):
            The right answer.
        wrong_answer (`str`):
            The answer that the mistake leads to.
        chosen (`str`):
            The right chain. Ends with `"Therefore, the answer is {answer}."`.
        rejected (`str`):
            The wrong chain. Ends with `"Therefore, the answer is {wrong_answer}."`.
        mistake_kind (`str`):
            `"logical"`, `"knowledge"` or `"calculation"`.
        chosen_spans (`tuple[Span, ...]`):
            The characters of `chosen` that the mistake changes, in order and without overlap.
        rejected_spans (`tuple[Span, ...]`):
            The characters of `rejected` that the mistake changes, in order and without overlap.
    """

    task: str
    level: int
    question: str
    answer: str
    wrong_answer: str
    chosen: str
    rejected: str
    mistake_kind: str
    chosen_spans: tuple[Span, ...]
    rejected_spans: tuple[Span, ...]

    def to_pair(self) -> dict[str, str]:
        """
        Return the pair as a preference example of TRL.

        Both completions start with a space. Spans are positions in the chain without this space: character `start` of
        the chain is character `start + 1` of the completion.

        Returns:
            `dict[str, str]`: `prompt`, `chosen` and `rejected`; for evaluation, `answer`, `task` and `mistake_kind`.
        """
        return {
            "prompt": f"Q: {self.question}\nA:",
            "chosen": f" {self.chosen}",
            "rejected": f" {self.rejected}",
            "answer": self.answer,
            "task": self.task,
            "mistake_kind": self.mistake_kind,
        }


# The chain writer


class _Mistake(NamedTuple):
    place: int  # number of the call of `choose` that makes the mistake
    kind: str
    value: Any  # the wrong value that this call returns


class _Step(NamedTuple):
    wording: str
    slots: tuple[str, ...]
    mistaken: bool

    def pieces(self) -> list[str]:
        """Return parts of the wording and slots in turn. A step that is not empty ends with a space."""
        fixed = f"{self.wording} ".split("{}") if self.wording else [""]
        return [piece for pair in zip(fixed, (*self.slots, ""), strict=True) for piece in pair]


class _Chain:
    """Records one chain. Lists the mistakes that could be made in it and makes at most one of them."""

    def __init__(self, mistake: _Mistake | None = None):
        self.mistake = mistake
        self.steps: list[_Step] = []
        self.mistakes: list[_Mistake] = []  # the mistakes that could be made
        self.answer = ""
        self._num_choices = 0
        self._mistaken = False

    def choose(self, right: _T, **wrong: Iterable[_T]) -> _T:
        """Return the right value, or a wrong value if the mistake is made here. `wrong` has wrong values by kind."""
        place = self._num_choices
        self._num_choices += 1
        if self.mistake is None:
            self.mistakes += [_Mistake(place, kind, v) for kind, values in wrong.items() for v in values if v != right]
        if self.mistake is None or self.mistake.place != place:
            return right
        self._mistaken = True
        return self.mistake.value

    def write(self, wording: str, *slots: object) -> None:
        """Add a step. Both chains have the same number of steps: a step that is left out has an empty wording."""
        self.steps.append(_Step(wording, tuple(map(str, slots)) if wording else (), self._mistaken))
        self._mistaken = False

    def forgets(self) -> bool:
        """Tell whether the mistake is to leave out the next step. If so, write an empty step."""
        forgets = self.choose(False, logical=[True])
        if forgets:
            self.write("")
        return forgets

    def conclude(self, wording: str, *slots: object) -> None:
        """Set the answer and write the last step."""
        self.answer = wording.format(*slots)
        self.write(f"Therefore, the answer is {wording}.", *slots)


_Reason = Callable[[_Chain], None]
_Task = Callable[[random.Random, int], tuple[str, _Reason]]


def _compare(chosen: _Chain, rejected: _Chain) -> tuple[list[str], list[tuple[Span, ...]]]:
    """Return the texts of the two chains and their spans."""
    texts = ["", ""]
    spans: list[list[Span]] = [[], []]
    for steps in zip(chosen.steps, rejected.steps, strict=True):
        role = "mistake" if steps[1].mistaken else "consequence"
        pieces = [step.pieces() for step in steps]
        if steps[0].wording != steps[1].wording:
            pieces = [["".join(step)] for step in pieces]
        for pair in zip(*pieces, strict=True):
            for side, piece in enumerate(pair):
                if piece and pair[0] != pair[1]:
                    spans[side].append(Span(len(texts[side]), len(texts[side]) + len(piece), role))
                texts[side] += piece
    return [text.rstrip() for text in texts], [tuple(side) for side in spans]


# Words and numbers

_NAMES = "Alice Bob Claire Dave Eve Fred Gina Hugo Iris Jack Kate Liam Maya Noah"
_OBJECTS = "ball key hat book cup pen coin lamp map ring bell kite"
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
_THINGS = {
    "fruits": "apple banana orange plum pear grape lemon melon kiwi apricot",
    "animals": "dog cat rabbit horse cow goat parrot frog snail hamster",
    "vegetables": "carrot onion cabbage turnip leek cauliflower parsnip beetroot",
    "musical instruments": "piano flute drum violin trumpet guitar clarinet harp cello trombone",
    "pieces of furniture": "chair table bed sofa desk wardrobe bookcase stool armchair cupboard",
}
_WORDS = (
    "apple arrow autumn basket bird bottle bridge candle castle chair circle cloud copper dance desert dragon eagle "
    "earth engine fabric field flower forest garden ginger glass harbor hill honey island iron jacket jewel juice "
    "kettle knight ladder lemon light lunar marble meadow mirror needle night number ocean olive orange paper pencil "
    "piano planet quiet rabbit river rocket salt shadow silver spoon stone table temple thunder tiger uncle valley "
    "velvet violin water window winter yellow zebra"
)


def _series(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])}, and {items[-1]}"


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _blanks(number: int, separator: str) -> str:
    return separator.join(["{}"] * number)


def _near(value: int, low: int = -(10**6), high: int = 10**6) -> list[int]:
    """Return wrong results of the same sign: off by one, off by ten, two digits swapped."""
    near = [value - 1, value + 1]
    if abs(value) >= 10:
        near += [value - 10, value + 10]
    if 10 < abs(value) < 100 and value % 10:
        near.append(int(str(abs(value))[::-1]) * (1 if value > 0 else -1))
    return [number for number in near if low <= number <= high and number * value >= 0]


# Expressions. Truth values are numbers in Python, so one function computes arithmetic and Boolean expressions.

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
}
_MISREAD = {"+": "-", "-": "+", "*": "+", "and": "or", "or": "and"}
# The question, the words before a result, and the words before the rest of the expression.
_WORDINGS = [
    ("What is {}?", "is", "which leaves"),
    ("Work out {}.", "=", "leaving"),
    ("Evaluate {}.", "gives", "so we have"),
]


def _mix(values: Sequence[object], operators: Sequence[str]) -> list[object]:
    """Return the values and the operators between them, in turn."""
    return [values[0], *(item for pair in zip(operators, values[1:], strict=True) for item in pair)]


def _wrong_results(left: int, sign: str, right: int) -> dict[str, list[int]]:
    result = _OPERATORS[sign](left, right)
    if sign in ("and", "or"):
        return {"knowledge": [not result]}
    wrong = {"calculation": _near(result)}
    if sign == "*":
        wrong["calculation"] += [left * (right + 1), left * (right - 1)]
    # A mistake in a rule for signs is a mistake of knowledge and not of calculation.
    if sign == "*" and min(left, right) < 0:
        wrong["knowledge"] = [-result]
    if sign == "-" and right < 0:
        wrong["knowledge"] = [left + right]
    return wrong


def _reduce(chain: _Chain, values: Sequence[int], operators: Sequence[str], equals: str, leaving: str) -> int:
    """Compute an expression without brackets, one operator per step. Steps show the rest unless `leaving` is empty."""
    values, operators = list(values), list(operators)
    while operators:
        # A step that shows the rest would show that a term is missing, so only chains without the rest forget one.
        if not leaving and chain.forgets():
            del values[1], operators[0]
            continue
        strong = [place for place, sign in enumerate(operators) if sign in ("*", "and")]
        # `_draw_dual_cot` never uses an order that gives the right answer, because a mistake must change the answer.
        place = chain.choose(strong[0] if strong else 0, logical=range(len(operators)))
        left, sign, right = values[place], operators[place], values[place + 1]
        sign = chain.choose(sign, logical=[_MISREAD[sign]])
        result = chain.choose(_OPERATORS[sign](left, right), **_wrong_results(left, sign, right))
        values[place : place + 2] = [result]
        del operators[place]
        rest = _mix(values, operators) if leaving and operators else []
        wording = f"{{}} {{}} {{}} {equals} {{}}" + (f", {leaving} {_blanks(len(rest), ' ')}." if rest else ".")
        chain.write(wording, left, sign, right, result, *rest)
    return values[0]


def _multistep_arithmetic(rng: random.Random, level: int) -> tuple[str, _Reason]:
    question, equals, leaving = rng.choice(_WORDINGS)
    groups = []
    for _ in range(2 if level == 3 else 1):
        values = [rng.randint(1, 9) for _ in range(rng.randint(*[(3, 4), (4, 5), (3, 4)][level - 1]))]
        operators = [rng.choice("+-" if level > 1 else "+") for _ in values[1:]]
        if level > 1:
            operators[rng.randrange(len(operators))] = "*"
        if level == 3:
            values = [value * rng.choice([1, 1, -1]) for value in values]
        groups.append((values, operators))
    joint = [rng.choice("+-") for _ in groups[1:]]
    texts = [" ".join(map(str, _mix(*group))) for group in groups]
    if level == 3:
        texts = [" ".join(map(str, _mix([f"({text})" for text in texts], joint)))]

    def reason(chain: _Chain) -> None:
        rest = leaving if level > 1 else ""
        results = []
        for heading, group in zip(["The first bracket:", "The second bracket:"], groups, strict=False):
            chain.write(heading if level == 3 else "")
            results.append(_reduce(chain, *group, equals, rest))
        chain.write("Together:" if level == 3 else "")
        chain.conclude("{}", _reduce(chain, results, joint, equals, rest))

    return question.format(texts[0]), reason


def _boolean_expressions(rng: random.Random, level: int) -> tuple[str, _Reason]:
    question, equals, leaving = rng.choice(_WORDINGS)

    def draw(size: int, num_nots: int) -> tuple[list[bool], list[str], list[str]]:
        values = [rng.random() < 0.5 for _ in range(size)]
        nots = rng.sample(["not "] * num_nots + [""] * (size - num_nots), size)
        return values, nots, [rng.choice(["and", "or"]) for _ in values[1:]]

    def spell(values: Sequence[object], nots: list[str], operators: list[str]) -> str:
        return " ".join(map(str, _mix([f"{n}{value}" for n, value in zip(nots, values, strict=True)], operators)))

    def solve(chain: _Chain, values: Sequence[bool], nots: list[str], operators: list[str]) -> bool:
        values = list(values)
        for place, value in enumerate(values):
            if nots[place] and not chain.forgets():
                values[place] = chain.choose(not value, knowledge=[value])
                chain.write(f"not {{}} {equals} {{}}.", value, values[place])
        rest = _mix(values, operators)
        chain.write(f"This leaves {_blanks(len(rest), ' ')}." if any(nots) else "", *rest)
        return bool(_reduce(chain, values, operators, equals, leaving))

    outer = draw(rng.randint(3, 4) + (level == 3), rng.randint(0, 1) if level == 1 else level - 1)
    brackets = [draw(rng.randint(2, 3), rng.randint(0, 1)) for _ in range(level - 1)]
    places = sorted(rng.sample(range(len(outer[0])), len(brackets)))
    items: list[object] = list(outer[0])
    for place, bracket in zip(places, brackets, strict=True):
        items[place] = f"( {spell(*bracket)} )"

    def reason(chain: _Chain) -> None:
        values, nots, operators = list(outer[0]), *outer[1:]
        headings = ["The first bracket:", "The second bracket:"] if level == 3 else ["The bracket:"]
        for heading, place, bracket in zip(headings, places, brackets, strict=False):
            chain.write(heading)
            values[place] = solve(chain, *bracket)
        together = spell(["{}"] * len(values), nots, ["{}"] * len(operators))
        chain.write(f"Together: {together}." if brackets else "", *_mix(values, operators))
        chain.conclude("{}", solve(chain, values, nots, operators))

    return question.format(spell(items, *outer[1:])), reason


# Tasks with a running state


def _object_counting(rng: random.Random, level: int) -> tuple[str, _Reason]:
    kind = rng.choice(["fruits", "animals"] if level == 1 else list(_THINGS))
    counted = rng.sample(_THINGS[kind].split(), [3, rng.randint(4, 5), 6][level - 1])
    others = [noun for other in _THINGS if other != kind for noun in _THINGS[other].split()]
    nouns = counted + rng.sample(others, rng.randint(level - 1, level))
    rng.shuffle(nouns)
    numbers = [rng.randint(1, [5, 9, 12][level - 1]) for _ in nouns]
    spelled = [str(number) if level == 1 else _NUMBERS.split()[number] for number in numbers]
    listing = _series([f"{s} {_plural(n, noun)}" for s, n, noun in zip(spelled, numbers, nouns, strict=True)])
    name = rng.choice(_NAMES.split())
    owner, asked, yes, no = rng.choice(
        [("I have", "do I", "are", "are not"), (f"{name} has", f"does {name}", "count as", "do not count as")]
    )

    def reason(chain: _Chain) -> None:
        total = 0
        for noun, number in zip(nouns, numbers, strict=True):
            if chain.forgets():
                continue
            belongs = chain.choose(noun in counted, knowledge=[noun not in counted])
            # The logical mistake is to read the number of another item.
            added = chain.choose(number, logical=numbers) if belongs else 0
            result = chain.choose(total + added, calculation=_near(total + added, low=total))
            wording = f"{noun.capitalize()}s {{}} {kind}: {{}} + {{}} = {{}}."
            chain.write(wording, yes if belongs else no, total, added, result)
            total = result
        chain.conclude("{}", total)

    return f"{owner} {listing}. How many {kind} {asked} have?", reason


def _tracking_shuffled_objects(rng: random.Random, level: int) -> tuple[str, _Reason]:
    size = [3, 4, rng.randint(5, 6)][level - 1]
    people, things = sorted(rng.sample(_NAMES.split(), size)), rng.sample(_OBJECTS.split(), size)
    swaps = [rng.sample(people, 2)]
    while len(swaps) < 2 * level:
        pair = rng.sample(people, 2)
        # Swapping the same pair again would undo the last swap.
        if set(pair) != set(swaps[-1]):
            swaps.append(pair)
    target = rng.choice(things)
    has, swap = rng.choice([("has", "swap"), ("holds", "trade"), ("has", "switch")])
    start = _series([f"{person} {has} the {thing}" for person, thing in zip(people, things, strict=True)])
    story = " Then ".join(f"{a} and {b} {swap}." for a, b in swaps)
    state = ", ".join(f"{person} {{}}" for person in people)

    def reason(chain: _Chain) -> None:
        holder = dict(zip(people, things, strict=True))
        chain.write(f"Start: {state}.", *things)
        for a, b in swaps:
            if chain.forgets():
                continue
            others = [person for person in people if person not in (a, b)]
            a, b = chain.choose((a, b), logical=[pair for other in others for pair in [(a, other), (other, b)]])
            holder[a], holder[b] = holder[b], holder[a]
            chain.write(f"{{}} and {{}} {swap}: {state}.", a, b, *holder.values())
        owner = chain.choose(next(person for person in people if holder[person] == target), logical=people)
        chain.write(f"{{}} {has} the {target}.", owner)
        chain.conclude("{}", owner)

    return f"{start}. {story} Who {has} the {target} at the end?", reason


# Months are counted from January of the year 0, so that the next month is the number plus one.


def _month_name(month: int) -> str:
    return calendar.month_name[month % 12 + 1]


def _month_length(month: int) -> int:
    return calendar.monthrange(month // 12, month % 12 + 1)[1]


def _shift_date(chain: _Chain, month: int, day: int, sign: int, days: int) -> tuple[int, int]:
    """Move a date by at most 28 days: add the days, recall the length of the month, continue in the next month."""
    low, high = (1, _month_length(month) + 28) if sign > 0 else (-27, 28)
    total = chain.choose(day + sign * days, calculation=_near(day + sign * days, low, high))
    chain.write("{} {} {} = {}.", day, "+" if sign > 0 else "-", days, total)
    # To go back, the length of the month before is needed.
    ending = month if sign > 0 else month - 1
    length = _month_length(ending)
    length = chain.choose(length, knowledge={28: [29, 30], 29: [28, 30], 30: [31], 31: [30]}[length])
    leaves = total > length if sign > 0 else total < 1
    name = f"February {ending // 12}" if ending % 12 == 1 else _month_name(ending)
    chain.write("{} has {} days." if sign > 0 or leaves else "", name, length)
    if not leaves:
        chain.write("")
        return month, total
    day = chain.choose(total - sign * length, calculation=_near(total - sign * length, 1, 28))
    chain.write("{} {} {} = {}.", total, "-" if sign > 0 else "+", length, day)
    # The logical mistakes are to stay in the month, or in the year.
    return chain.choose(month + sign, logical=[month, month // 12 * 12 + (month + sign) % 12]), day


def _date_understanding(rng: random.Random, level: int) -> tuple[str, _Reason]:
    # Chains of level 1 leave out the year, so the date stays in the same year.
    month = rng.randint(1990, 2039) * 12 + rng.randint(0, 10 if level == 1 else 11)
    signs = [1 if level == 1 else rng.choice([1, -1]) for _ in range(2 if level == 3 else 1)]
    # The latest of three days for a move forward, the earliest for a move back, so that more than half of the moves
    # leave the month.
    day = (max if signs[0] > 0 else min)(rng.randint(1, _month_length(month)) for _ in range(3))
    units = ["day" if level == 1 else rng.choice(["day", "week"]) for _ in signs]
    numbers = [rng.randint(1, 4) if unit == "week" else rng.randint(2, 20) for unit in units]
    amounts = [f"{number} {_plural(number, unit)}" for number, unit in zip(numbers, units, strict=True)]
    date = f"{_month_name(month)} {day}, {month // 12}"
    today, landing = rng.choice([(f"Today is {date}.", "So the date is"), (f"It is {date} today.", "That is")])
    if level == 3:
        today = f"{amounts[0]} ago it was {date}." if signs[0] > 0 else f"In {amounts[0]} it will be {date}."
    asked, when = rng.choice([("is", "from today"), ("will be", "from now")]) if signs[-1] > 0 else ("was", "ago")
    landings = ["So today is", landing] if level == 3 else [landing]

    def reason(chain: _Chain) -> None:
        now = month, day
        for sign, number, unit, amount, wording in zip(signs, numbers, units, amounts, landings, strict=True):
            days = number
            if unit == "week":
                days = chain.choose(number * 7, calculation=_near(number * 7, 1, 28))
                chain.write(f"{amount} {'is' if number == 1 else 'are'} {number} * 7 = {{}} days.", days)
            now = _shift_date(chain, *now, sign, days)
            year = [now[0] // 12] if level > 1 else []
            chain.write(f"{wording} {{}} {{}}{', {}' if year else ''}.", _month_name(now[0]), now[1], *year)
        chain.conclude("{}/{}/{}", f"{now[0] % 12 + 1:02}", f"{now[1]:02}", now[0] // 12)

    return f"{today} What {asked} the date {amounts[-1]} {when} in MM/DD/YYYY?", reason


_COMPASS = ("north", "east", "south", "west")
_TURNS = {1: "Turn right", 2: "Turn around", 3: "Turn left"}
_DIRECTIONS = (("right", "left"), ("forward", "backward"))


def _draw_walk(rng: random.Random, axes: Sequence[int], num_moves: int) -> list[tuple[int, int]]:
    """Draw moves (axis, signed steps) that lead back to the start, or that would do so without one change."""
    moves = [(rng.choice(axes), rng.choice([1, -1]) * rng.randint(1, 5)) for _ in range(num_moves)]
    for axis in axes:
        moves.append((axis, -sum(steps for other, steps in moves if other == axis)))
    moves = [move for move in moves if move[1]]
    rng.shuffle(moves)
    if rng.random() < 0.5:
        # With this change, one mistake leads back to the start. Both answers become about equally frequent.
        place = rng.randrange(len(moves))
        axis, steps = moves[place]
        longer, added = (steps + 1, rng.randint(1, 5)) if steps > 0 else (steps - 1, -rng.randint(1, 5))
        changed = rng.choice([[(axis, longer)], [(axis, -steps)], [(axis, steps), (axis, added)]])
        moves[place : place + 1] = changed
    return moves


def _navigate(rng: random.Random, level: int) -> tuple[str, _Reason]:
    moves = _draw_walk(rng, [rng.randint(0, 1)] if level == 1 else [0, 1], rng.randint(2, 3) + (level == 3))
    orders, turns, heading = [] if level == 3 else ["Always face forward."], [], 0
    for axis, steps in moves:
        turn = (1 - axis + 2 * (steps < 0) - heading) % 4 if level == 3 else 0
        heading += turn
        turns.append(turn)
        orders += [f"{_TURNS[turn]}."] if turn else []
        direction = "" if level == 3 else f" {_DIRECTIONS[axis][steps < 0]}"
        orders.append(f"Take {abs(steps)} {_plural(abs(steps), 'step')}{direction}.")
    question = rng.choice(
        ["If you follow these instructions, do you return to the starting point? {}", "{} Are you back at the start?"]
    )

    def reason(chain: _Chain) -> None:
        position, heading = [0, 0], 0
        chain.write(["Start at 0.", "Start at (0, 0).", "Start at (0, 0), facing north."][level - 1])
        for (axis, steps), turn in zip(moves, turns, strict=True):
            if turn:
                heading = chain.choose((heading + turn) % 4, knowledge=[(heading + other) % 4 for other in _TURNS])
                chain.write(f"{_TURNS[turn]}: facing {{}}.", _COMPASS[heading])
            if chain.forgets():
                continue
            number, sign, direction = abs(steps), 1 if steps > 0 else -1, _DIRECTIONS[axis][steps < 0]
            if level == 3:
                axis, sign, direction = 1 - heading % 2, 1 if heading < 2 else -1, _COMPASS[heading]
            # The logical mistake is to move the other way.
            sign = chain.choose(sign, logical=[-sign])
            start, end = position[axis], position[axis] + sign * number
            position[axis] = chain.choose(end, calculation=_near(end))
            wording = f"{number} {_plural(number, 'step')} {{}}: {{}} {{}} {number} = {{}}"
            wording += "." if level == 1 else ", now at ({}, {})."
            here = position if level > 1 else []
            chain.write(wording, direction, start, "+" if sign > 0 else "-", position[axis], *here)
        back = position == [0, 0]
        here = position if level > 1 else [sum(position)]
        chain.write(f"{'{}' if level == 1 else '({}, {})'} {{}} the start.", *here, "is" if back else "is not")
        chain.conclude("{}", "Yes" if back else "No")

    return question.format(" ".join(orders)), reason


# Tasks held back as out-of-domain

_COMPARISONS = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("richer", "poorer", "richest", "poorest"),
)


def _logical_deduction(rng: random.Random, level: int) -> tuple[str, _Reason]:
    more, less, most, least = rng.choice(_COMPARISONS)
    size = [3, 4, 6][level - 1]
    ranking = rng.sample(_NAMES.split(), size)
    people = rng.sample(ranking, size)
    # To place a person between two others takes two comparisons, which is too long for level 1.
    while level == 1 and people[2] == ranking[1]:
        rng.shuffle(people)
    facts = []
    for num_placed, person in enumerate(people[1:], start=1):
        line = sorted(people[: num_placed + 1], key=ranking.index)
        place = line.index(person)
        if 0 < place < num_placed:
            facts.append(f"{person} is {less} than {line[place - 1]} but {more} than {line[place + 1]}")
        else:
            ahead, behind = line[max(place - 1, 0) :][:2]
            facts.append(rng.choice([f"{ahead} is {more} than {behind}", f"{behind} is {less} than {ahead}"]))
    ranks = {0: most, -1: least} if level == 1 else {0: most, 1: f"second {most}", -2: f"second {least}", -1: least}
    rank = rng.choice(list(ranks))
    told = rng.sample(facts, len(facts)) if level == 3 else facts
    asked = rng.choice(["Who", "Which of them"])

    def reason(chain: _Chain) -> None:
        line = [people[0]]
        for fact, person in zip(facts, people[1:], strict=True):
            place = sum(ranking.index(other) < ranking.index(person) for other in line)
            line.insert(chain.choose(place, logical=range(len(line) + 1)), person)
            chain.write(f"{fact}: {_blanks(len(line), ', ')}.", *line)
        # The logical mistake is to count from the wrong end.
        found = chain.choose(line[rank], logical=[line[-1 - rank]])
        chain.write(f"The {ranks[rank]} is {{}}.", found)
        chain.conclude("{}", found)

    return f"{'. '.join(told)}. {asked} is the {ranks[rank]}?", reason


def _word_sorting(rng: random.Random, level: int) -> tuple[str, _Reason]:
    # The words of a short list differ in their first letter, the words of a longer list in their first two letters.
    num_letters = 1 if level == 1 else 2
    pool = {word[:num_letters]: word for word in rng.sample(_WORDS.split(), len(_WORDS.split()))}
    words = rng.sample(sorted(pool.values()), rng.randint(*[(3, 4), (5, 6), (7, 9)][level - 1]))
    question = rng.choice(["Sort these words alphabetically: {}.", "Put these words in alphabetical order: {}."])

    def reason(chain: _Chain) -> None:
        taken = {ord(letter) - 96 for word in words for letter in word[:num_letters]}
        keys: dict[str, list[int]] = {}
        for word in words:
            keys[word] = []
            for letter in word[:num_letters]:
                number = ord(letter) - 96
                # A wrong number belongs to a letter that is not among the first letters of the words, so no words tie.
                wrong = set(range(max(number - 4, 1), min(number + 4, 26) + 1)) - taken
                keys[word].append(chain.choose(number, knowledge=sorted(wrong)))
            chain.write(f"{word}: {', '.join(f'{letter} is {{}}' for letter in word[:num_letters])}.", *keys[word])
        order = sorted(words, key=keys.__getitem__)
        swaps = [[*order[:n], order[n + 1], order[n], *order[n + 2 :]] for n in range(len(order) - 1)]
        order = chain.choose(order, logical=swaps)
        items = [item for word in order for item in ("-".join(map(str, keys[word])), word)]
        chain.write(f"In order: {', '.join(['{} {}'] * len(order))}.", *items)
        chain.conclude(_blanks(len(order), " "), *order)

    return question.format(", ".join(words)), reason


_TASKS: dict[str, _Task] = {
    "multistep_arithmetic": _multistep_arithmetic,
    "object_counting": _object_counting,
    "boolean_expressions": _boolean_expressions,
    "tracking_shuffled_objects": _tracking_shuffled_objects,
    "date_understanding": _date_understanding,
    "navigate": _navigate,
    "logical_deduction": _logical_deduction,
    "word_sorting": _word_sorting,
}
OUT_OF_DOMAIN_TASKS: tuple[str, ...] = ("logical_deduction", "word_sorting")
IN_DOMAIN_TASKS: tuple[str, ...] = tuple(task for task in _TASKS if task not in OUT_OF_DOMAIN_TASKS)


def _draw_dual_cot(task: str, level: int, rng: random.Random, seen: set[str]) -> DualCoT | None:
    """Draw one example, or `None` if its question is not new or no mistake changes its answer."""
    question, reason = _TASKS[task](rng, level)
    if question in seen:
        return None
    chosen = _Chain()
    reason(chosen)
    # A kind is drawn first, then a place, then a value, so that kinds with many values are not drawn more often. Early
    # places are more likely than late ones, because their mistakes have more consequences.
    kinds = {kind: rng.random() for kind in sorted({mistake.kind for mistake in chosen.mistakes})}
    places = {place: rng.random() * (place + 3) for place in sorted({mistake.place for mistake in chosen.mistakes})}
    mistakes = rng.sample(chosen.mistakes, len(chosen.mistakes))
    for mistake in sorted(mistakes, key=lambda mistake: (kinds[mistake.kind], places[mistake.place])):
        rejected = _Chain(mistake)
        reason(rejected)
        if rejected.answer != chosen.answer:
            (chosen_text, rejected_text), spans = _compare(chosen, rejected)
            answers = chosen.answer, rejected.answer
            return DualCoT(task, level, question, *answers, chosen_text, rejected_text, mistake.kind, *spans)
    return None


def generate_dual_cots(
    num_examples: int, *, tasks: Sequence[str] = IN_DOMAIN_TASKS, level: int = 1, seed: int = 0
) -> list[DualCoT]:
    """
    Generate dual chains-of-thought whose mistakes are known.

    The same arguments give the same list in every process. All questions of a list are different.

    Args:
        num_examples (`int`):
            Number of examples, spread evenly over the tasks and shuffled.
        tasks (`Sequence[str]`, *optional*, defaults to `IN_DOMAIN_TASKS`):
            Names from `IN_DOMAIN_TASKS` and `OUT_OF_DOMAIN_TASKS`.
        level (`int`, *optional*, defaults to `1`):
            Difficulty, one of `LEVELS`. Higher levels have longer chains.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.

    Returns:
        `list[DualCoT]`: The examples.

    Raises:
        TypeError: If `tasks` is a string.
        ValueError: If there is no task, a task or the level is unknown, `num_examples` is negative, or a task has
            fewer different questions than asked for.

    Examples:

    ```python
    >>> example = generate_dual_cots(1, tasks=["multistep_arithmetic"], seed=8)[0]
    >>> example.chosen
    '3 + 4 = 7. 7 + 4 = 11. Therefore, the answer is 11.'
    >>> example.rejected
    '3 + 4 = 6. 6 + 4 = 10. Therefore, the answer is 10.'
    >>> [(example.rejected[span.start : span.end], span.role) for span in example.rejected_spans]
    [('6', 'mistake'), ('6', 'consequence'), ('10', 'consequence'), ('10', 'consequence')]
    ```
    """
    known = f"The tasks are: {', '.join(_TASKS)}."
    if isinstance(tasks, str):
        raise TypeError(f"`tasks` must be a sequence of names, got the string {tasks!r}. Pass `tasks=[{tasks!r}]`.")
    if not tasks:
        raise ValueError(f"`tasks` must name at least one task, got none. There is nothing to draw from. {known}")
    for task in tasks:
        if task not in _TASKS:
            nearest = difflib.get_close_matches(task, _TASKS, n=1, cutoff=0.0)[0]
            raise ValueError(f"`tasks` must be names of tasks, got {task!r}. Did you mean {nearest!r}? {known}")
    if level not in LEVELS:
        raise ValueError(
            f"`level` must be one of {LEVELS}, got {level!r}. It is the difficulty of the questions. Pass `level=1` "
            "for the easiest ones."
        )
    if num_examples < 0:
        raise ValueError(
            f"`num_examples` must be positive or zero, got {num_examples}. It is the length of the list. Pass "
            f"`num_examples={-num_examples}` for that many examples."
        )
    # Each task has its own generator, so that its questions do not depend on the other tasks. A seed that is a string
    # gives the same draws in every process.
    generators = {task: random.Random(f"{seed}/{level}/{task}") for task in tasks}
    seen: set[str] = set()
    examples: list[DualCoT] = []
    for index in range(num_examples):
        task = tasks[index % len(tasks)]
        draws = (_draw_dual_cot(task, level, generators[task], seen) for _ in range(_MAX_FAILED_DRAWS))
        example = next((draw for draw in draws if draw is not None), None)
        if example is None:
            num_found = sum(found.task == task for found in examples)
            raise ValueError(
                f"`num_examples={num_examples}` needs more questions than {task!r} has at level {level}: after "
                f"{num_found} questions, {_MAX_FAILED_DRAWS} draws gave no new one, and a list repeats no question. "
                "Pass fewer examples, more tasks or a higher level."
            )
        seen.add(example.question)
        examples.append(example)
    random.Random(f"{seed}/{level}").shuffle(examples)
    return examples
