"""Tests of the sample of rows that a report shows."""

import math
import weakref
from collections import Counter

import pytest

from edit_trl.inspection.sampling import NUM_EXAMPLES, Sample


def sampled(num_rows, size, seed=0, labels=lambda row: ()):
    sample = Sample(size, seed)
    for row in range(num_rows):
        sample.add(row, lambda row=row: f"text {row}", labels(row))
    texts = sample.texts()
    assert texts == {row: f"text {row}" for row in texts}
    return list(texts)


class Text(str):
    """A text that can be watched."""


class TestSample:
    def test_each_row_is_equally_likely(self):
        """Of 4,000 samples of 10 of 40 rows, each row is in 1,000, give or take five standard deviations."""
        counts = Counter(row for seed in range(4_000) for row in sampled(40, 10, seed))

        deviation = math.sqrt(4_000 * 0.25 * 0.75)
        assert len(counts) == 40
        assert all(abs(count - 1_000) < 5 * deviation for count in counts.values()), counts

    def test_each_pair_of_rows_is_equally_likely(self):
        """A step through the rows from a random start, for example, would draw each row as often, but not each two."""
        counts = Counter(tuple(sampled(6, 2, seed)) for seed in range(15_000))

        assert len(counts) == 15
        assert all(abs(count - 1_000) < 5 * math.sqrt(15_000 / 15 * 14 / 15) for count in counts.values()), counts

    @pytest.mark.parametrize(("num_rows", "size"), [(0, 5), (3, 5), (5, 5), (6, 5), (1_000, 5), (5, 0)])
    def test_rows_come_in_order_and_once(self, num_rows, size):
        rows = sampled(num_rows, size)

        assert len(rows) == min(num_rows, size)
        assert rows == sorted(set(rows)) and set(rows) <= set(range(num_rows))

    def test_a_seed_is_a_sample(self):
        assert sampled(1_000, 50, 1) == sampled(1_000, 50, 1) != sampled(1_000, 50, 2)

    def test_each_label_has_examples_beside_the_sample(self):
        """Of a rare label all rows are there, of a frequent one as many as examples are asked for, from anywhere."""

        def labels(row):
            return [*(["rare"] if row in (77, 4_321) else []), *(["frequent"] if row % 3 == 0 else [])]

        plain, rows = sampled(9_000, 30), sampled(9_000, 30, labels=labels)

        assert set(plain) < set(rows) and {77, 4_321} <= set(rows)
        examples = [row for row in rows if row % 3 == 0]
        assert NUM_EXAMPLES <= len(examples) <= NUM_EXAMPLES + len(plain)
        assert max(examples) > 6_000
        assert len(rows) <= 30 + NUM_EXAMPLES + 2

    def test_only_chosen_rows_are_written_and_kept(self):
        """Row number n is chosen with probability 50 / n: of 20,000 rows about 50 * (1 + ln(20000 / 50)) = 350."""
        sample, written = Sample(50), []

        def write(row):
            text = Text(row)
            written.append(weakref.ref(text))
            return text

        for row in range(20_000):
            sample.add(row, lambda row=row: write(row))

        assert 250 < len(written) < 450
        assert sum(text() is not None for text in written) == 50
