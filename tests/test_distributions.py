"""
Tests of the numbers in plots, against a slow count written here.
"""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as some
from inspected import counted, generated, pair_of

from edit_trl.inspection import InspectionConfig, Statistics
from edit_trl.inspection.distributions import histograms, key_ratio_by_task


SHARES = some.lists(some.floats(0, 1, width=32) | some.integers(0, 40).map(lambda bin: bin / 40), max_size=20)


class TestHistograms:
    @given(SHARES, SHARES, SHARES, some.floats(0, 1))
    def test_each_pair_is_counted_in_the_bin_of_its_value(self, both, similarity, shared, least):
        statistics = Statistics(InspectionConfig(min_similarity=least))
        for name, values in (("both", both), ("similarity", similarity), ("shared", shared)):
            statistics.values[name].extend(values)

        for histogram, name in zip(histograms(statistics), ("both", "similarity", "shared"), strict=True):
            edges, values = histogram.edges, statistics.values[name]
            assert len(edges) == len(histogram.counts) + 1
            for bin, count in enumerate(histogram.counts):
                is_last = bin + 1 == len(histogram.counts)
                above = edges[bin + 1] + is_last  # the last bin has both of its edges
                assert count == sum(edges[bin] <= value < above for value in values)
            assert sum(histogram.counts) == len(values)
            if histogram.marker is not None and name == "similarity":
                assert edges[0] <= histogram.marker.place <= edges[-1]

    @given(some.floats(0, 1), some.floats(0, 1))
    def test_bins_are_few_and_have_one_width_with_round_edges(self, ratio, least):
        statistics = Statistics(InspectionConfig(min_similarity=least))
        statistics.values["both"] = array("f", [ratio])

        for histogram in histograms(statistics):
            edges = histogram.edges
            assert 20 <= len(histogram.counts) <= 40
            widths = [round(b - a, 6) for a, b in zip(edges, edges[1:], strict=False)]
            assert len(set(widths)) == 1
            assert edges == [round(edge, 4) for edge in edges]
            assert (10 * edges[0]).is_integer() and (10 * edges[-1]).is_integer()

    def test_labels_and_markers(self):
        _, statistics = counted(generated(5), config=InspectionConfig(min_similarity=0.6))

        assert [(histogram.label, histogram.marker) for histogram in histograms(statistics)] == [
            ("key words of a pair", (0.047, "paper: 4.7% of tokens")),
            ("similarity", (0.6, "min_similarity: 60%")),
            ("start that both chains share", None),
        ]

    def test_no_pair_is_no_error(self):
        assert [set(histogram.counts) for histogram in histograms(Statistics())] == [{0}] * 3


class TestKeyRatioByTask:
    def test_means_are_those_of_the_summary(self):
        _, statistics = counted(generated())
        means = key_ratio_by_task(statistics)

        by_task = statistics.summary()["by_task"]
        assert dict(means) == {
            name: pytest.approx(group["key_token_ratio"], abs=1e-4) for name, group in by_task.items()
        }
        assert [mean for _, mean in means] == sorted((mean for _, mean in means), reverse=True)

    def test_those_of_the_twenty_largest_tasks_are_there(self):
        rows = [pair_of(f"{task} {i}", task=f"task {task}") for task in range(25) for i in range(task + 1)]

        names = [name for name, _ in key_ratio_by_task(counted(rows)[1])]

        assert set(names) == {f"task {task}" for task in range(5, 25)}

    def test_one_task_has_nothing_to_compare_with(self):
        rows = [pair_of("1", task="a"), {**pair_of("2", task="b"), "chosen": ""}, pair_of("3")]

        assert key_ratio_by_task(counted(rows)[1]) == []
