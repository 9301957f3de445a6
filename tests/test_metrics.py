"""
Tests of the metrics against slow computations of their definitions: roots by search, sums of binomials, enumerated
sets, and how often intervals hold the true value.
"""

import itertools
import math
import random
import subprocess
import sys
import textwrap
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from edit_trl.evaluation import answers_match
from edit_trl.evaluation.metrics import (
    accuracy,
    bootstrap_interval,
    compare_students,
    majority_vote,
    mcnemar_p_value,
    pass_at_k,
    wilson_interval,
)


LEVELS = [0.5, 0.9, 0.95, 0.99]

verdict = st.sampled_from([True, False, None])
verdicts = st.lists(verdict, min_size=1, max_size=40)


def z_of(level):
    """The number of standard deviations, from the error function by search."""
    low, high = 0.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < level else (low, middle)
    return low


def search(is_inside, inside, outside):
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return inside


def counts():
    return st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


class TestWilsonInterval:
    @given(counts(), st.sampled_from(LEVELS))
    @example((0, 1), 0.95)
    @example((7, 7), 0.95)
    def test_ends_where_the_test_of_a_share_begins_to_reject(self, count, level):
        """A share p is rejected if |observed - p| exceeds z * sqrt(p (1 - p) / n)."""
        num_right, total = count
        observed, z = num_right / total, z_of(level)

        def is_kept(share):
            return (observed - share) ** 2 <= z * z * share * (1 - share) / total

        low, high = wilson_interval(num_right, total, level)

        assert low == pytest.approx(0.0 if num_right == 0 else search(is_kept, observed, 0.0), abs=1e-9)
        assert high == pytest.approx(1.0 if num_right == total else search(is_kept, observed, 1.0), abs=1e-9)

    @given(counts())
    def test_swapping_right_and_wrong_mirrors_it(self, count):
        num_right, total = count
        low, high = wilson_interval(num_right, total)
        assert wilson_interval(total - num_right, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)

    def test_none_and_all_right_end_exactly_at_zero_and_one(self):
        for total in range(1, 200):
            low, high = wilson_interval(0, total)
            assert low == 0.0 < high < 1.0
            low, high = wilson_interval(total, total)
            assert 0.0 < low < 1.0 == high

    def test_known_value(self):
        """Newcombe 1998, Statistics in Medicine 17: 81 of 263 gives 0.2553 to 0.3662."""
        assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)

    @pytest.mark.parametrize(("num_right", "total"), [(0, 0), (-1, 5), (6, 5)])
    def test_impossible_counts_are_refused(self, num_right, total):
        with pytest.raises(ValueError, match="There must be at least one|`num_right` must lie between 0 and 5"):
            wilson_interval(num_right, total)

    @pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
    def test_impossible_confidence_level_is_refused(self, level):
        with pytest.raises(ValueError, match="`confidence_level` must lie between 0 and 1"):
            wilson_interval(1, 2, level)


class TestBootstrapInterval:
    def test_agrees_with_drawing_indices(self):
        """The textbook's loop: draw as many values with replacement, take their mean, take quantiles."""
        values = [1, 1, 1, 0, 0, 4, 2.5, 1, 0, 0, 3, 1]
        drawn = random.Random(1)
        means = [sum(drawn.choices(values, k=len(values))) / len(values) for _ in range(20_000)]

        low, high = bootstrap_interval(values, confidence_level=0.9, num_resamples=20_000)

        assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), abs=0.06)

    def test_groups_are_drawn_apart_and_weigh_the_same(self):
        """Two of two and ninety of a hundred: (1 + 0.9) / 2, and only the second group varies, at half its weight."""
        values = [1.0] * 2 + [1.0] * 90 + [0.0] * 10
        groups = ["small"] * 2 + ["large"] * 100
        drawn = random.Random(2)
        means = [(1 + sum(drawn.choices(values[2:], k=100)) / 100) / 2 for _ in range(20_000)]

        low, high = bootstrap_interval(values, groups)

        assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.006)
        assert low < 0.95 < high

    @pytest.mark.parametrize("level", [0.8, 0.95])
    def test_holds_the_true_macro_average_as_often_as_it_says(self, level):
        """Three tasks of unequal size, 400 draws: the standard error of the coverage is at most 0.02."""
        shares, sizes = [0.7, 0.4, 0.5], [60, 30, 100]
        generator = np.random.default_rng(0)
        groups = [name for name, size in zip("abc", sizes, strict=True) for _ in range(size)]
        num_held = 0
        for _ in range(400):
            values = np.concatenate([generator.random(n) < p for p, n in zip(shares, sizes, strict=True)])
            low, high = bootstrap_interval(values, groups, level, num_resamples=1000)
            num_held += low <= sum(shares) / 3 <= high

        assert num_held / 400 == pytest.approx(level, abs=0.06)

    def test_many_distinct_values_are_drawn_in_parts(self, monkeypatch):
        values = [math.sin(number) for number in range(300)]
        error = np.std(values) / math.sqrt(300)

        monkeypatch.setattr("edit_trl.evaluation.metrics._MAX_DRAWN", 100_000)
        low, high = bootstrap_interval(values)

        assert (low, high) == pytest.approx(
            (np.mean(values) - 1.96 * error, np.mean(values) + 1.96 * error), abs=0.006
        )

    @settings(max_examples=30)
    @given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab")), min_size=1, max_size=30), st.randoms())
    def test_order_does_not_matter(self, rows, shuffler):
        shuffled = shuffler.sample(rows, len(rows))

        first = bootstrap_interval(*zip(*rows, strict=True), num_resamples=100)

        assert bootstrap_interval(*zip(*shuffled, strict=True), num_resamples=100) == first

    def test_seed_decides(self):
        values = [0.0, 1.0, 2.0, 4.5, 7.1] * 5
        assert bootstrap_interval(values) == bootstrap_interval(values, seed=42)
        assert bootstrap_interval(values) != bootstrap_interval(values, seed=43)

    def test_equal_values_leave_no_doubt(self):
        assert bootstrap_interval([3.0] * 5) == (3.0, 3.0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"values": []}, "`values` must hold at least one number and nothing else, got none"),
            ({"values": [1.0, math.nan]}, "got NaN or infinity"),
            ({"values": [1.0, 2.0], "groups": ["a"]}, "a task or group for each question, got 1 for 2"),
            ({"values": [1.0], "confidence_level": 95}, "`confidence_level` must lie between 0 and 1"),
            ({"values": [1.0], "num_resamples": 0}, "`num_resamples` must be at least 1"),
        ],
    )
    def test_impossible_arguments_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(**arguments)


class TestAccuracy:
    def test_counts_by_task(self):
        """
        Sums: 2 of 3, one unparsed. Dates: 0 of 1. Micro 2 / 4, macro (2/3 + 0) / 2. In the bootstrap the date is
        always wrong; of three sums 0 to 3 come out right, at half the weight: 0, 1/6, 1/3, 1/2 with chances 1/27,
        6/27, 12/27, 8/27.
        """
        scores = accuracy([True, False, True, None], ["sums", "dates", "sums", "sums"])

        sums = {"accuracy": 2 / 3, "unparsed_rate": 1 / 3, "num_questions": 3, "num_right": 2}
        dates = {"accuracy": 0.0, "unparsed_rate": 0.0, "num_questions": 1, "num_right": 0}
        assert scores == {
            "accuracy": 0.5,
            "interval": list(wilson_interval(2, 4)),
            "unparsed_rate": 0.25,
            "num_questions": 4,
            "num_right": 2,
            "macro_accuracy": pytest.approx(1 / 3),
            "macro_interval": pytest.approx([0.0, 0.5]),
            "tasks": {
                "dates": {**dates, "interval": list(wilson_interval(0, 1))},
                "sums": {**sums, "interval": list(wilson_interval(2, 3))},
            },
        }
        assert list(scores["tasks"]) == ["dates", "sums"]

    def test_confidence_level_goes_to_every_interval(self):
        wide, narrow = (accuracy([True, False] * 20, ["a", "b", "b", "b"] * 10, level) for level in (0.99, 0.5))

        for scores, level in ((wide, 0.99), (narrow, 0.5)):
            assert scores["interval"] == list(wilson_interval(20, 40, level))
            assert scores["tasks"]["b"]["interval"] == list(wilson_interval(10, 30, level))
        assert wide["macro_interval"][0] < narrow["macro_interval"][0]
        assert wide["macro_interval"][1] > narrow["macro_interval"][1]

    @pytest.mark.parametrize("tasks", [None, ["sums"] * 5])
    def test_one_task_has_equal_averages_and_intervals(self, tasks):
        scores = accuracy([True] * 5, tasks)

        assert scores["macro_accuracy"] == scores["accuracy"] == 1.0
        assert scores["macro_interval"] == scores["interval"] == list(wilson_interval(5, 5))
        assert list(scores["tasks"]) == ([] if tasks is None else ["sums"])

    def test_questions_without_a_task_are_a_task(self):
        scores = accuracy([True, False, False], ["sums", None, None])

        assert {task: score["num_questions"] for task, score in scores["tasks"].items()} == {"no task": 2, "sums": 1}
        assert scores["macro_accuracy"] == 0.5

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(verdict, st.sampled_from(["a", "b", None])), min_size=1, max_size=20), st.randoms())
    def test_tasks_add_up_and_order_does_not_matter(self, rows, shuffler):
        scores = accuracy(*zip(*rows, strict=True))

        tasks = scores["tasks"].values()
        for name in ("num_questions", "num_right"):
            assert sum(task[name] for task in tasks) == scores[name]
        weighted = [task["unparsed_rate"] * task["num_questions"] for task in tasks]
        assert sum(weighted) / len(rows) == pytest.approx(scores["unparsed_rate"])
        assert scores["accuracy"] + scores["unparsed_rate"] <= 1
        assert scores["macro_accuracy"] == pytest.approx(sum(task["accuracy"] for task in tasks) / len(tasks))
        assert accuracy(*zip(*shuffler.sample(rows, len(rows)), strict=True)) == scores

    def test_no_verdicts_are_refused(self):
        with pytest.raises(ValueError, match="There must be at least one question"):
            accuracy([])

    def test_missing_tasks_are_refused(self):
        with pytest.raises(ValueError, match="a task or group for each question, got 1 for 2"):
            accuracy([True, False], ["sums"])


def likeliest_share(num_alone, num_other_alone, total, difference):
    """
    Share of questions that only the other has right, given the difference, by golden-section search of the likelihood
    num_alone * log(q + difference) + num_other_alone * log(q) + others * log(1 - 2 q - difference).
    """

    def log_likelihood(share):
        terms = [
            (num_alone, share + difference),
            (num_other_alone, share),
            (total - num_alone - num_other_alone, 1 - 2 * share - difference),
        ]
        return sum(count * math.log(max(chance, 1e-300)) for count, chance in terms if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(70):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (left, high) if log_likelihood(left) < log_likelihood(right) else (low, right)
    return (low + high) / 2


def tables():
    """Questions that the one, the other, and both or neither got right."""
    return st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60)).filter(any)


def verdicts_of(table):
    num_alone, num_other_alone, num_rest = table
    one = [True] * num_alone + [False] * num_other_alone + [True] * num_rest
    other = [False] * num_alone + [True] * num_other_alone + [True] * num_rest
    return one, other


class TestCompareStudents:
    @settings(max_examples=40, deadline=None)
    @given(tables(), st.sampled_from(LEVELS))
    @example((0, 0, 50), 0.95)
    @example((3, 0, 0), 0.95)
    @example((0, 1, 0), 0.5)
    def test_interval_ends_where_the_score_test_begins_to_reject(self, table, level):
        """
        Under a difference d with the likeliest shares p = q + d and q, the variance of the observed difference is
        (p + q - d^2) / n. Differences are kept within z standard deviations.
        """
        num_alone, num_other_alone, _ = table
        total, z = sum(table), z_of(level)
        observed = (num_alone - num_other_alone) / total

        def is_kept(difference):
            share = likeliest_share(num_alone, num_other_alone, total, difference)
            variance = (2 * share + difference - difference**2) / total
            return (observed - difference) ** 2 <= z * z * max(variance, 0.0) + 1e-13

        low, high = compare_students(*verdicts_of(table), level)["interval"]

        assert low == pytest.approx(search(is_kept, observed, -1.0), abs=1e-5)
        assert high == pytest.approx(search(is_kept, observed, 1.0), abs=1e-5)

    @given(tables(), st.sampled_from(LEVELS))
    def test_interval_leaves_out_zero_where_the_asymptotic_test_rejects(self, table, level):
        """McNemar's test: (b - c)^2 / (b + c) above z^2."""
        num_alone, num_other_alone, _ = table
        statistic = (num_alone - num_other_alone) ** 2 / max(num_alone + num_other_alone, 1)
        assume(abs(statistic - z_of(level) ** 2) > 1e-6)

        low, high = compare_students(*verdicts_of(table), level)["interval"]

        assert (low > 0 or high < 0) == (statistic > z_of(level) ** 2)

    @given(tables())
    def test_swapping_the_students_mirrors_everything(self, table):
        one, other = verdicts_of(table)
        comparison, swapped = compare_students(one, other), compare_students(other, one)

        assert swapped["difference"] == -comparison["difference"]
        assert swapped["interval"] == pytest.approx([-end for end in reversed(comparison["interval"])], abs=1e-9)
        assert swapped["p_value"] == comparison["p_value"]
        assert swapped["num_right_alone"] == comparison["num_other_right_alone"]

    @given(st.lists(st.tuples(verdict, verdict), min_size=1, max_size=40))
    def test_difference_is_that_of_the_accuracies(self, rows):
        one, other = zip(*rows, strict=True)
        comparison = compare_students(one, other)

        low, high = comparison["interval"]
        difference = accuracy(one)["accuracy"] - accuracy(other)["accuracy"]
        assert comparison["difference"] == pytest.approx(difference, abs=1e-12)
        assert -1 <= low <= comparison["difference"] <= high <= 1
        assert low < high
        assert comparison["num_questions"] == len(rows)

    def test_known_value(self):
        """One and seven discordant pairs of 21: -0.517 to -0.026 (Fagerland, Lydersen and Laake 2014)."""
        assert compare_students(*verdicts_of((1, 7, 13)))["interval"] == pytest.approx([-0.517, -0.026], abs=5e-4)

    def test_interval_holds_the_true_difference_as_often_as_it_says(self):
        """
        Forty questions, right alone with chances 0.2 and 0.05: the chances of all intervals that hold 0.15, summed.
        Since counts are whole numbers, the sum is near the confidence level, not equal to it.
        """
        total, chances = 40, (0.2, 0.05)
        covered = 0.0
        for num_alone, num_other_alone in itertools.product(range(26), range(12)):
            if num_alone + num_other_alone > total:
                continue
            rest = total - num_alone - num_other_alone
            ways = math.comb(total, num_alone) * math.comb(total - num_alone, num_other_alone)
            chance = ways * chances[0] ** num_alone * chances[1] ** num_other_alone * (1 - sum(chances)) ** rest
            low, high = compare_students(*verdicts_of((num_alone, num_other_alone, rest)))["interval"]
            covered += chance * (low <= 0.15 <= high)

        assert covered == pytest.approx(0.95, abs=0.02)

    def test_agrees_with_the_paired_bootstrap_on_many_questions(self):
        one, other = verdicts_of((300, 240, 1460))
        differences = [float(a) - float(b) for a, b in zip(one, other, strict=True)]

        interval = compare_students(one, other)["interval"]

        assert interval == pytest.approx(bootstrap_interval(differences), abs=0.002)

    def test_unequal_lengths_are_refused(self):
        with pytest.raises(ValueError, match="asked the same questions, got 2 and 1 verdicts"):
            compare_students([True, False], [True])

    def test_no_questions_are_refused(self):
        with pytest.raises(ValueError, match="There must be at least one question"):
            compare_students([], [])

    def test_impossible_confidence_level_is_refused(self):
        with pytest.raises(ValueError, match="`confidence_level` must lie between 0 and 1"):
            compare_students([True], [True], 1.0)


class TestMcNemarPValue:
    @given(st.integers(0, 60), st.integers(0, 60))
    def test_is_the_chance_of_counts_at_least_as_unequal(self, num_alone, num_other_alone):
        """Of n questions each student is alone with k in C(n, k) of 2^n equally likely cases."""
        total = num_alone + num_other_alone
        gap = abs(num_alone - num_other_alone)
        chances = [Fraction(math.comb(total, k), 2**total) for k in range(total + 1) if abs(2 * k - total) >= gap]

        assert mcnemar_p_value(num_alone, num_other_alone) == pytest.approx(float(sum(chances)), rel=1e-12)

    def test_large_counts(self):
        """The normal distribution with continuity correction: z = (|b - c| - 1) / sqrt(b + c)."""
        z = (5200 - 4800 - 1) / math.sqrt(10_000)
        assert mcnemar_p_value(5200, 4800) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=5e-3)
        assert mcnemar_p_value(3000, 0) == 0.0  # below the smallest float

    def test_negative_counts_are_refused(self):
        with pytest.raises(ValueError, match="Counts must be positive or zero, got 3 and -1"):
            mcnemar_p_value(3, -1)


class TestPassAtK:
    @pytest.mark.parametrize("num_samples", range(1, 8))
    def test_is_the_share_of_sets_with_a_right_one(self, num_samples):
        for num_right, k in itertools.product(range(num_samples + 1), range(1, num_samples + 1)):
            sets = list(itertools.combinations([True] * num_right + [False] * (num_samples - num_right), k))
            assert pass_at_k(num_samples, num_right, k) == pytest.approx(sum(map(any, sets)) / len(sets), rel=1e-15)

    def test_does_not_lose_digits_in_large_samples(self):
        """One right of ten million: k over ten million, which 1 minus a product would lose."""
        assert pass_at_k(10**7, 1, 3) == 3e-7
        product = math.prod(Fraction(1) - Fraction(100, i) for i in range(2000 - 30 + 1, 2001))
        assert pass_at_k(2000, 30, 100) == pytest.approx(float(1 - product), rel=1e-15)

    def test_is_unbiased(self):
        """Weighted by the chance of each count, the estimates add up to 1 - (1 - p)^k."""
        share, num_samples = 0.3, 9
        for k in range(1, num_samples + 1):
            expected = sum(
                math.comb(num_samples, c) * share**c * (1 - share) ** (num_samples - c) * pass_at_k(num_samples, c, k)
                for c in range(num_samples + 1)
            )
            assert expected == pytest.approx(1 - (1 - share) ** k, rel=1e-12)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((4, 5, 1), "`num_right` must lie between 0 and 4, got 5"),
            ((4, -1, 1), "`num_right` must lie between 0 and 4, got -1"),
            ((0, 0, 1), "There must be at least one question or sample"),
            ((4, 1, 0), "`k` must lie between 1 and `num_samples=4`, got 0"),
            ((4, 1, 5), "`k` must lie between 1 and `num_samples=4`, got 5"),
        ],
    )
    def test_impossible_counts_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pass_at_k(*arguments)


# Some match, some do not, and "50%" matches two that do not match each other.
ANSWERS = ["50%", "50", "0.5", "1/2", "(A)", "A", "yes", "Yes", "42 km", "42", "42 miles", "12.0", "12", None, " "]


class TestMajorityVote:
    @pytest.mark.parametrize(
        ("answers", "expected"),
        [
            (["7", "12", "12.0"], "12"),
            (["(B)", "B", "C", "C", "b)"], "(B)"),
            (["no", "yes"], "no"),
            (["yes", "no", "no", "Yes"], "yes"),  # a tie: the first
            (["1", "2", "3"], "1"),
            ([None, None, None, "5"], "5"),
            ([None, "  ", ""], None),
            ([], None),
            (["50", "50%", "0.5"], "50%"),  # the one that both others match
            (["0.5", "50", "50", "50%"], "50%"),  # four votes, the "50"s have three
            (["42 km", "42 miles", "42"], "42"),
        ],
    )
    def test_answer_with_most_votes_wins(self, answers, expected):
        assert majority_vote(answers) == expected

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(ANSWERS), max_size=10))
    def test_winner_is_the_first_that_most_answers_match(self, answers):
        said = [answer for answer in answers if answer and answer.strip()]
        votes = [sum(answers_match(other, answer) for other in said) for answer in said]

        assert majority_vote(answers) == (said[votes.index(max(votes))] if said else None)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=8), st.randoms())
    def test_order_decides_ties_alone(self, answers, shuffler):
        def num_votes(winner):
            return sum(answers_match(other, winner) for other in answers)

        winner = majority_vote(answers)
        shuffled = majority_vote(shuffler.sample(answers, len(answers)))

        assert (winner is None) == (shuffled is None)
        assert winner is None or num_votes(winner) == num_votes(shuffled)

    def test_pairs_are_compared_once(self, monkeypatch):
        compared = []
        monkeypatch.setattr("edit_trl.evaluation.metrics.answers_match", lambda *pair: compared.append(pair) or False)

        majority_vote(["1", "2", "1", "3", "2"])

        assert compared == [("1", "2"), ("1", "3"), ("2", "3")]


def test_importing_the_functions_does_not_load_the_library():
    code = """
    import sys
    import edit_trl.evaluation.metrics
    print([name for name in ("evaluate", "datasets", "torch") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "[]"
