"""
Tests of the generated tasks.

`SOLVERS` answer the questions from their text alone, and `statements` checks what the chains say. Neither uses code of
the generator, so a mistake in the generator is not repeated here.
"""

import calendar
import difflib
import functools
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest

from edit_trl import tasks
from edit_trl.evaluation import extract_answer
from edit_trl.tasks import IN_DOMAIN_TASKS, LEVELS, OUT_OF_DOMAIN_TASKS, Span, generate_dual_cots


ALL_TASKS = (*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS)
KINDS = ("logical", "knowledge", "calculation")
NUM_EXAMPLES = 300

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
MEMBERS = {
    "fruits": {"apple", "banana", "orange", "plum", "pear", "grape", "lemon", "melon", "kiwi", "apricot"},
    "animals": {"dog", "cat", "rabbit", "horse", "cow", "goat", "parrot", "frog", "snail", "hamster"},
    "vegetables": {"carrot", "onion", "cabbage", "turnip", "leek", "cauliflower", "parsnip", "beetroot"},
    "musical instruments": {
        "piano", "flute", "drum", "violin", "trumpet", "guitar", "clarinet", "harp", "cello", "trombone",
    },
    "pieces of furniture": {
        "chair", "table", "bed", "sofa", "desk", "wardrobe", "bookcase", "stool", "armchair", "cupboard",
    },
}  # fmt: skip
COMPASS = ["north", "east", "south", "west"]
TURNS = {"right": 1, "around": 2, "left": 3}


@functools.cache
def examples_of(task, level):
    return generate_dual_cots(NUM_EXAMPLES, tasks=[task], level=level, seed=11)


every_task_and_level = pytest.mark.parametrize(
    ("task", "level"), list(itertools.product(ALL_TASKS, LEVELS)), ids=lambda value: str(value)
)


def solve_expression(question):
    expression = re.fullmatch(r"(?:What is|Work out|Evaluate) (.+)[?.]", question)[1]
    # The tasks have Python's order of operations.
    assert re.fullmatch(r"(?:\d|[-+*() ]|True|False|and|or|not)+", expression)
    return str(eval(expression))


def solve_object_counting(question):
    listing, kind = re.fullmatch(
        r"\w+ (?:have|has) (.+)\. How many ([\w ]+) (?:do I|does \w+) have\?", question
    ).groups()
    items = re.findall(r"(\w+) (\w+)(?:, and|,|$)", listing)
    assert len(items) == listing.count(",") + 1
    total = 0
    for number, noun in items:
        number = int(number) if number.isdigit() else NUMBERS.index(number)
        assert noun.endswith("s") == (number != 1)
        total += number if noun.removesuffix("s") in MEMBERS[kind] else 0
    return str(total)


def solve_tracking_shuffled_objects(question):
    story, target = re.fullmatch(r"(.+) Who (?:has|holds) the (\w+) at the end\?", question).groups()
    owners = dict(re.findall(r"(\w+) (?:has|holds) the (\w+)", story))
    for first, second in re.findall(r"(\w+) and (\w+) (?:swap|trade|switch)\.", story):
        owners[first], owners[second] = owners[second], owners[first]
    return next(person for person, thing in owners.items() if thing == target)


def solve_date_understanding(question):
    month, day, year = re.search(r"([A-Z][a-z]+) (\d+), (\d{4})", question).groups()
    today = date(int(year), list(calendar.month_name).index(month), int(day))
    signs = {"ago it was": 1, "it will be": -1, "from today": 1, "from now": 1, "ago in MM": -1}
    moves = re.findall(r"(\d+) (day|week)s? (ago it was|from today|from now|ago in MM|it will be)", question)
    assert 1 <= len(moves) <= 2
    for number, unit, when in moves:
        today += signs[when] * int(number) * timedelta(days=7 if unit == "week" else 1)
    return today.strftime("%m/%d/%Y")


def solve_navigate(question):
    position, heading = 0, 1j
    steer = {"forward": 1, "backward": -1, "left": 1j, "right": -1j, "around": -1, "": 1}
    for turn, number, direction in re.findall(r"Turn (\w+)\.|Take (\d+) steps?(?: (\w+))?\.", question):
        if turn:
            heading *= steer[turn]
        else:
            position += int(number) * heading * steer[direction]
    return "Yes" if position == 0 else "No"


def solve_logical_deduction(question):
    *facts, asked = re.split(r"(?<=\.) ", question)
    comparisons = []
    for fact in facts:
        person, *claims = re.fullmatch(r"(\w+) is (\w+er) than (\w+)(?: but (\w+er) than (\w+))?\.", fact).groups()
        for word, other in [claims[:2], claims[2:]]:
            if word in ("taller", "older", "faster", "richer"):
                comparisons.append((person, other))
            elif word in ("shorter", "younger", "slower", "poorer"):
                comparisons.append((other, person))
    second, word = re.fullmatch(r"(?:Who|Which of them) is the (second )?(\w+est)\?", asked).groups()
    rank = 1 if second else 0
    rank = rank if word in ("tallest", "oldest", "fastest", "richest") else -1 - rank
    people = sorted({person for pair in comparisons for person in pair})
    found = set()
    for order in itertools.permutations(people):
        places = {person: place for place, person in enumerate(order)}
        if all(places[ahead] < places[behind] for ahead, behind in comparisons):
            found.add(order[rank])
    (answer,) = found
    return answer


def solve_word_sorting(question):
    return " ".join(sorted(re.fullmatch(r".+: (.+)\.", question)[1].split(", ")))


SOLVERS = {
    "multistep_arithmetic": solve_expression,
    "object_counting": solve_object_counting,
    "boolean_expressions": solve_expression,
    "tracking_shuffled_objects": solve_tracking_shuffled_objects,
    "date_understanding": solve_date_understanding,
    "navigate": solve_navigate,
    "logical_deduction": solve_logical_deduction,
    "word_sorting": solve_word_sorting,
}


def statements(chain):
    """Whether each equation and each fact that a chain states is true, for all tasks."""
    truths = []
    for expression, result in re.findall(r"(-?\d+ [-+*] -?\d+) (?:=|is|gives) (-?\d+)", chain):
        truths.append(eval(expression) == int(result))
    truth = "(?:True|False)"
    for expression, result in re.findall(rf"((?:{truth} (?:and|or)|not) {truth}) (?:=|is|gives) ({truth})", chain):
        truths.append(str(eval(expression)) == result)
    for noun, verb, kind in re.findall(r"(\w+)s (are not|do not count as|are|count as) ([a-z ]+):", chain):
        truths.append((noun.lower() in MEMBERS[kind]) == ("not" not in verb))
    for month, year, days in re.findall(r"([A-Z][a-z]+)(?: (\d{4}))? has (\d+) days", chain):
        # Only February needs a year.
        length = calendar.monthrange(int(year or 2001), list(calendar.month_name).index(month))[1]
        truths.append(int(days) == length and bool(year) == (month == "February"))
    for letter, number in re.findall(r"\b([a-z]) is (\d+)", chain):
        truths.append("abcdefghijklmnopqrstuvwxyz".index(letter) + 1 == int(number))
    headings = re.findall(r"facing (\w+)", chain)
    for turn, before, after in zip(re.findall(r"Turn (\w+):", chain), headings, headings[1:], strict=False):
        truths.append(COMPASS[(COMPASS.index(before) + TURNS[turn]) % 4] == after)
    return truths


def cut(text, spans):
    """The text without its spans."""
    for span in reversed(spans):
        text = text[: span.start] + text[span.end :]
    return text


def word_difference(example):
    """Share of the words of a pair that the other chain lacks."""
    chosen, rejected = example.chosen.split(), example.rejected.split()
    blocks = difflib.SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks()
    return 1 - 2 * sum(block.size for block in blocks) / (len(chosen) + len(rejected))


class TestAnswers:
    @every_task_and_level
    def test_an_independent_solver_agrees(self, task, level):
        for example in examples_of(task, level):
            assert SOLVERS[task](example.question) == example.answer, example.question

    @every_task_and_level
    def test_chains_end_in_the_two_answers(self, task, level):
        for example in examples_of(task, level):
            assert example.answer != example.wrong_answer
            assert example.chosen.endswith(f". Therefore, the answer is {example.answer}.")
            assert extract_answer(example.chosen) == example.answer
            assert extract_answer(example.rejected) == example.wrong_answer

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize(("task", "answers"), [("boolean_expressions", "True False"), ("navigate", "Yes No")])
    def test_no_answer_of_two_is_rare(self, task, answers, level):
        counts = Counter(example.answer for example in examples_of(task, level))
        assert set(counts) == set(answers.split())
        assert min(counts.values()) > 0.25 * NUM_EXAMPLES


class TestMistakes:
    @every_task_and_level
    def test_right_chains_state_nothing_false(self, task, level):
        for example in examples_of(task, level):
            assert all(statements(example.chosen)), example.chosen

    @every_task_and_level
    def test_wrong_chains_state_one_falsehood_unless_logical(self, task, level):
        """A wrong fact or sum is false once; what follows is worked out right. Logical mistakes say nothing false."""
        for example in examples_of(task, level):
            num_false = statements(example.rejected).count(False)
            assert num_false == (0 if example.mistake_kind == "logical" else 1), example.rejected

    def test_statements_are_found(self):
        """The two tests above would pass on chains without statements."""
        for task in set(ALL_TASKS) - {"tracking_shuffled_objects", "logical_deduction"}:
            assert all(statements(example.chosen) for example in examples_of(task, 1))

    @pytest.mark.parametrize("level", LEVELS)
    def test_every_kind_has_a_good_share(self, level):
        kinds = Counter(example.mistake_kind for task in IN_DOMAIN_TASKS for example in examples_of(task, level))
        assert set(kinds) == set(KINDS)
        assert min(kinds.values()) > 0.15 * kinds.total()

    @pytest.mark.parametrize("task", sorted(set(ALL_TASKS) - {"tracking_shuffled_objects", "logical_deduction"}))
    def test_tasks_have_several_kinds(self, task):
        assert len({example.mistake_kind for example in examples_of(task, 1)}) > 1


class TestSpans:
    @every_task_and_level
    def test_without_spans_both_chains_are_equal(self, task, level):
        for example in examples_of(task, level):
            assert cut(example.chosen, example.chosen_spans) == cut(example.rejected, example.rejected_spans)

    @every_task_and_level
    def test_spans_are_ordered_and_in_range(self, task, level):
        for example in examples_of(task, level):
            for chain, spans in [(example.chosen, example.chosen_spans), (example.rejected, example.rejected_spans)]:
                borders = [border for span in spans for border in (span.start, span.end)]
                assert borders == sorted(borders)
                assert all(span.start < span.end and span.role in ("mistake", "consequence") for span in spans)
                assert borders[0] >= 0 and borders[-1] <= len(chain)

    @every_task_and_level
    def test_the_mistake_comes_before_its_consequences(self, task, level):
        for example in examples_of(task, level):
            roles = [[span.role for span in spans] for spans in (example.chosen_spans, example.rejected_spans)]
            assert "mistake" in roles[0] + roles[1]
            assert all(side == sorted(side, reverse=True) for side in roles)
            # Up to the mistake the chains are equal.
            start = example.chosen_spans[0].start
            assert example.chosen[:start] == example.rejected[:start]

    @every_task_and_level
    def test_the_answer_is_a_consequence(self, task, level):
        for example in examples_of(task, level):
            for chain, spans in [(example.chosen, example.chosen_spans), (example.rejected, example.rejected_spans)]:
                assert spans[-1].role == "consequence"
                assert spans[-1].start >= chain.rindex("the answer is ") + len("the answer is ")

    @every_task_and_level
    def test_what_a_wrong_chain_forgets_is_a_whole_step(self, task, level):
        for example in examples_of(task, level):
            if all(span.role == "consequence" for span in example.rejected_spans):
                (span,) = [span for span in example.chosen_spans if span.role == "mistake"]
                assert example.mistake_kind == "logical"
                assert span.start == 0 or example.chosen[: span.start].endswith((". ", ": "))
                assert example.chosen[: span.end].endswith(". ")

    def test_a_wrong_sum_is_the_mistake_and_later_sums_are_consequences(self):
        """`3 + 4 = 7. 7 + 4 = 11.` against `3 + 4 = 6. 6 + 4 = 10.`: the first result, then all that depends on it."""
        example = generate_dual_cots(1, tasks=["multistep_arithmetic"], seed=8)[0]
        assert example.rejected == "3 + 4 = 6. 6 + 4 = 10. Therefore, the answer is 10."
        assert example.rejected_spans == (
            Span(8, 9, "mistake"),
            Span(11, 12, "consequence"),
            Span(19, 21, "consequence"),
            Span(48, 50, "consequence"),
        )


class TestText:
    @every_task_and_level
    def test_numbers_and_spaces_are_in_order(self, task, level):
        for example in examples_of(task, level):
            for text in (example.question, example.chosen, example.rejected):
                assert text == " ".join(text.split())
                assert not re.search(r"\b(?:1|one) (?!is\b|gives\b)[a-z]+s\b", text), text
                assert not re.search(r"\{|\}|[.,]{2}|\bNone\b", text)

    @every_task_and_level
    def test_most_words_are_shared(self, task, level):
        """Measured: 5 % (word sorting, level 3) to 28 % (arithmetic, level 1)."""
        examples = examples_of(task, level)[:100]
        assert 0.02 < sum(map(word_difference, examples)) / len(examples) < 0.35

    @pytest.mark.parametrize("task", ALL_TASKS)
    def test_chains_grow_with_the_level(self, task):
        lengths = [sum(len(example.chosen) for example in examples_of(task, level)) for level in LEVELS]
        assert lengths[0] * 1.15 < lengths[1] and lengths[1] * 1.15 < lengths[2]

    def test_level_one_is_short(self):
        """A word, a digit or a punctuation mark is about one token of a small model."""
        for task in ALL_TASKS:
            for example in examples_of(task, 1):
                assert len(re.findall(r"[A-Za-z]+|\d|[^\w\s]", example.question)) <= 50
                assert len(re.findall(r"[A-Za-z]+|\d|[^\w\s]", example.chosen)) <= 80


class TestGenerateDualCoTs:
    def test_domains_are_disjoint(self):
        assert not set(IN_DOMAIN_TASKS) & set(OUT_OF_DOMAIN_TASKS)
        assert len(set(IN_DOMAIN_TASKS)) >= 6 and len(set(OUT_OF_DOMAIN_TASKS)) == 2

    def test_same_seed_same_examples(self):
        assert generate_dual_cots(50, seed=3) == generate_dual_cots(50, seed=3)
        assert generate_dual_cots(50, seed=3) != generate_dual_cots(50, seed=4)

    def test_hash_seed_does_not_matter(self):
        code = (
            "from edit_trl.tasks import *\n"
            "names = (*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS)\n"
            "print([generate_dual_cots(24, tasks=names, level=level) for level in LEVELS])"
        )
        root = str(Path(tasks.__file__).parents[1])
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for hash_seed in ("1", "2")
        }
        assert len(outputs) == 1 and len(outputs.pop()) > 10_000

    @every_task_and_level
    def test_questions_are_distinct(self, task, level):
        assert len({example.question for example in examples_of(task, level)}) == NUM_EXAMPLES

    def test_tasks_have_even_shares_in_mixed_order(self):
        examples = generate_dual_cots(100, tasks=ALL_TASKS)
        counts = Counter(example.task for example in examples)
        assert set(counts) == set(ALL_TASKS)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert [example.task for example in examples[:8]] != list(ALL_TASKS)

    def test_default_tasks_are_in_domain(self):
        assert {example.task for example in generate_dual_cots(12)} == set(IN_DOMAIN_TASKS)

    def test_questions_of_a_task_do_not_depend_on_other_tasks(self):
        alone = {example.question for example in generate_dual_cots(10, tasks=["navigate"])}
        together = {example.question for example in generate_dual_cots(20, tasks=["navigate", "word_sorting"])}
        assert alone < together

    def test_no_examples(self):
        assert generate_dual_cots(0) == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tasks": ["navigation"]}, r"got 'navigation'. Did you mean 'navigate'\?.*word_sorting"),
            ({"tasks": []}, "at least one task"),
            ({"level": 4}, r"`level` must be one of \(1, 2, 3\), got 4"),
            ({"num_examples": -2}, r"got -2.*Pass `num_examples=2`"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            generate_dual_cots(**{"num_examples": 1, **arguments})

    def test_a_string_is_not_a_sequence_of_tasks(self):
        with pytest.raises(TypeError, match=r"Pass `tasks=\['navigate'\]`"):
            generate_dual_cots(1, tasks="navigate")

    def test_running_out_of_questions_is_an_error(self, monkeypatch):
        """Level 1 has 3 wordings of 128 expressions of three terms and 640 of four: 2304 questions."""
        monkeypatch.setattr(tasks, "_MAX_FAILED_DRAWS", 20)
        with pytest.raises(ValueError, match="needs more questions than 'boolean_expressions' has at level 1: after "):
            generate_dual_cots(2305, tasks=["boolean_expressions"])


class TestToPair:
    def test_pair_is_a_preference_example(self):
        example = generate_dual_cots(1)[0]
        assert example.to_pair() == {
            "prompt": f"Q: {example.question}\nA:",
            "chosen": f" {example.chosen}",
            "rejected": f" {example.rejected}",
            "answer": example.answer,
            "task": example.task,
            "mistake_kind": example.mistake_kind,
        }
