"""
Tests of the solvers of the key-step benchmark: they write right chains in the form of the wrong chains.
"""

import re
from pathlib import Path

import pytest
from benchmark_pairs import RECORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from key_steps_solvers import (
    UnsolvableError,
    calculate,
    correct_expressions,
    read_rectified,
    rectify,
    solve_sorting,
    work_out,
)


REAL = Path(__file__).parents[2] / "shared" / "data" / "big_bench_mistake"


RECTIFIED = {
    "dyck_languages": [
        "{ ; stack: ( {",
        'Now, we have reached the end. The final stack is "( {".',
        'We will need to pop out "{", "(" one by one in that order.',
        'So, we need "}", ")". So the answer is } )',
    ],
    "tracking_shuffled_objects": [
        "Bob and Cy swap: Ann: blue, Bob: green, Cy: red.",
        "At the end of the game, Bob has the green ball. So the answer is (C)",
    ],
    "word_sorting": [
        'We now have: (5) "pear" < (12) "plum" for the subpart. Hence, we have "apple" < "pear" < "plum".',
        "I have now sorted all the words. The answer is apple pear plum",
    ],
    "multistep_arithmetic": [
        "Let's calculate B = (4 - -2) = 6.",
        "Then, the final equation is A - B = 7 - 6 = 1. So the answer is 1",
    ],
}


class TestRectify:
    @pytest.mark.parametrize("task", list(RECORDS))
    def test_steps_before_the_marked_one_are_kept_and_the_rest_is_solved(self, task):
        record = RECORDS[task]
        kept = record["steps"][: record["mistake_index"]]

        assert rectify(task, record) == kept + RECTIFIED[task]

    @pytest.mark.parametrize(
        ("task", "changes", "reason"),
        [
            ("dyck_languages", {"answer": "}  )"}, "the answer is right"),
            ("dyck_languages", {"mistake_index": None}, "no step is marked"),
            ("dyck_languages", {"target": ") )"}, "the solver's answer is not the target"),
            ("dyck_languages", {"mistake_index": 6}, "a step before the marked one differs from the solver's"),
            ("dyck_languages", {"mistake_index": 4}, "the marked step agrees with the solver's"),
            ("dyck_languages", {"input": "( ]"}, "the input closes a bracket that is not open"),
            ("tracking_shuffled_objects", {"steps": ["Ann has red."] * 4}, "the steps are in another form"),
            ("word_sorting", {"input": "pea pear"}, "words that no letter tells apart"),
            ("word_sorting", {"input": "pear pear"}, "a word occurs twice"),
            ("multistep_arithmetic", {"target": "2"}, "the first step takes the expression apart wrongly"),
        ],
    )
    def test_what_cannot_be_rectified_has_a_reason(self, task, changes, reason):
        with pytest.raises(UnsolvableError, match=re.escape(reason)):
            rectify(task, {**RECORDS[task], **changes})

    def test_subparts_are_sorted_from_the_first_one_on(self):
        """Equal second letters send `bea` and `bet` to their third ones before the next subpart."""
        record = {"input": "bea bet pear plum", "steps": ["", ""], "mistake_index": 1}
        steps = solve_sorting(record)

        subparts = [re.search(r"subpart (\[.+?\]) by looking at their (\w+)", step) for step in steps[2::2]]
        assert [found.groups() for found in subparts if found] == [
            ('["bea" ? "bet"]', "second"),
            ('["bea" ? "bet"]', "third"),
            ('["pear" ? "plum"]', "second"),
        ]
        assert steps[-1] == "I have now sorted all the words. The answer is bea bet pear plum"

    @pytest.mark.parametrize(
        ("expression", "steps"),
        [
            ("(2 * 3 + 1)", ["(6 + 1)", "7"]),
            ("(4 - -2)", ["6"]),
            ("(12 - 54) * (-8 + 16)", ["(-42) * (-8 + 16)", "-42 * (8)", "-336"]),
            ("2 - 3 * -4 * 5", ["2 - -12 * 5", "2 - -60", "62"]),
            ("9 - 5 - 3", ["4 - 3", "1"]),
        ],
    )
    def test_expressions_are_worked_out_an_operation_at_a_time(self, expression, steps):
        assert work_out(expression) == steps

    def test_right_start_of_a_calculation_is_kept(self):
        """The third expression is the first wrong one."""
        expressions = ["(5 + 3 - -2 * 2)", "(5 + 3 + 4)", "(8 + 2)", "10"]
        kept = expressions[:2]

        assert correct_expressions(expressions, "(5 + 3 - -2 * 2)", 12) == [*kept, "(8 + 4)", "12"]
        assert correct_expressions(["9", "9"], "(8 + 4)", 12) == ["(8 + 4)", "12"]
        assert correct_expressions([*kept, "12"], "", 12) == [*kept, "12"]
        assert correct_expressions([*kept, "12", "13"], "", 12) == [*kept, "12"]

    @settings(deadline=None, max_examples=200)
    @given(
        st.recursive(
            st.integers(-9, 9).map(str),
            lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})"),
            max_leaves=7,
        )
    )
    def test_every_step_has_the_value_of_the_expression(self, expression):
        value = calculate(expression)

        steps = work_out(expression)

        assert {calculate(step) for step in steps} <= {value}
        assert not steps or steps[-1] == str(value)

    @pytest.mark.parametrize("text", ["__import__('os')", "(1 + 2", "1 (2)", "2 ** 3", "A + 1", ""])
    def test_text_that_is_not_an_expression_has_no_value(self, text):
        assert calculate(text) is None

    @pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
    def test_most_real_chains_can_be_rectified(self):
        rectified, reasons = read_rectified(REAL)
        for task, pairs in rectified.items():
            # Of the wrong chains with a marked step, most can be rectified.
            others = {reason: number for reason, number in reasons[task].items() if "right" not in reason}
            assert len(pairs) > 2 * sum(others.values())
            for record, steps in pairs:
                marked = record["mistake_index"]
                assert steps[:marked] == record["steps"][:marked]
                assert steps[marked] != record["steps"][marked]
                assert steps[-1].endswith(f"answer is {' '.join(record['target'].split())}")

    @pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
    def test_every_equation_of_real_arithmetic_holds(self):
        for _, steps in read_rectified(REAL)[0]["multistep_arithmetic"]:
            for step in steps[1:]:
                expressions = step.split(". So the answer")[0].rstrip(".").split(" = ")[1:]
                assert len({calculate(expression) for expression in expressions}) == 1
