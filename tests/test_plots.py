"""Tests of the picture of the statistics: its shapes are read back into numbers."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import pytest
from inspected import HOSTILE, counted, generated, pair_of

from edit_trl.drawings import draw_distributions
from edit_trl.inspection import InspectionConfig, Statistics, plot_statistics
from edit_trl.inspection.distributions import histograms


SVG = "{http://www.w3.org/2000/svg}"
LEFT, RIGHT, TOP, BOTTOM = 62, 312, 30, 180  # of the axes within a plot


def read(image):
    """The plots of an image, from left to right, and the bars below."""
    root = ElementTree.fromstring(image)
    return root.findall(f"{SVG}g")


def texts(part, anchor=None):
    return [text.text for text in part.iter(f"{SVG}text") if anchor is None or text.get("text-anchor") == anchor]


def scale(part):
    """Values at the left, right, bottom and top of a plot, from the numbers at its axes."""
    shares = [float(text[:-1]) / 100 for text in texts(part, "middle") if text.endswith("%")]
    counts = [float(text) for text in texts(part, "end") if text.isdigit()]
    return shares[0], shares[-1], counts[0], counts[-1]


def bars_of(part):
    """`{start of a bin: number of pairs}`, measured."""
    low, high, least, most = scale(part)
    assert least == 0
    found = {}
    for rect in part.findall(f"{SVG}rect"):
        x, y, height = (float(rect.get(name)) for name in ("x", "y", "height"))
        assert y + height == pytest.approx(BOTTOM, abs=0.01)
        found[round(low + (x - LEFT) / (RIGHT - LEFT) * (high - low), 3)] = height / (BOTTOM - TOP) * most
    return found


class TestPlots:
    def test_histograms_hold_all_pairs_and_the_borders(self):
        _, statistics = counted(generated(), config=InspectionConfig(min_similarity=0.6))
        *plots, _ = read(plot_statistics(statistics))

        assert [texts(plot)[0] for plot in plots] == [
            "key words of a pair",
            "similarity",
            "start that both chains share",
        ]
        for plot, histogram in zip(plots, histograms(statistics), strict=True):
            expected = {edge: num for edge, num in zip(histogram.edges, histogram.counts, strict=False) if num}
            assert bars_of(plot) == pytest.approx(expected, abs=0.05)
            assert sum(bars_of(plot).values()) == pytest.approx(60, abs=0.5)
            titles = [title.text for title in plot.iter(f"{SVG}title")]
            assert [int(title.split(": ")[1].split()[0]) for title in titles] == list(expected.values())
        for plot, place in zip(plots, (0.047, 0.6), strict=False):
            (line,) = [path.get("d") for path in plot.iter(f"{SVG}path") if path.get("stroke-dasharray")]
            low, high, _, _ = scale(plot)
            x = float(re.match(r"M([\d.]+)", line)[1])
            assert low + (x - LEFT) / (RIGHT - LEFT) * (high - low) == pytest.approx(place, abs=1e-3)

    def test_bars_are_the_means_of_the_tasks(self):
        _, statistics = counted(generated())
        by_task = {name: group["key_token_ratio"] for name, group in statistics.summary()["by_task"].items()}
        bars = read(plot_statistics(statistics))[-1]
        names = texts(bars, "end")
        widths = [float(rect.get("width")) for rect in bars.iter(f"{SVG}rect")]

        assert names == sorted(by_task, key=by_task.get, reverse=True)
        assert [width / widths[0] for width in widths] == pytest.approx(
            [by_task[name] / by_task[names[0]] for name in names], abs=1e-3
        )
        assert texts(bars)[2::2] == [f"{by_task[name]:.1%}" for name in names]

    def test_one_task_has_no_plot_by_task(self):
        assert len(read(plot_statistics(counted([pair_of("1", task="a")])[1]))) == 3

    def test_names_of_any_letters_are_texts_within_the_picture(self):
        """Long names are cut; a Chinese letter takes the place of two, and a bar begins behind the longest name."""
        names = ["$\\frac", "a\0b", "x" * 200, "<b>", "算术题目" * 9, *HOSTILE.values()]
        names = [name for name in names if name != HOSTILE["surrogates"]]
        bars = read(plot_statistics(counted([pair_of(f"{i}", task=task) for i, task in enumerate(names)])[1]))[-1]

        shown = texts(bars, "end")
        assert {"$\\frac", "a␀b", "x" * 29 + "…", "<b>"} <= set(shown) and max(map(len, shown)) == 30
        ends = {float(text.get("x")) for text in bars.iter(f"{SVG}text") if text.get("text-anchor") == "end"}
        assert min(ends) > 59 * 6
        assert {float(rect.get("x")) for rect in bars.iter(f"{SVG}rect")} == {ends.pop() + 6}

    def test_nothing_to_draw_is_said(self):
        plots = read(plot_statistics(Statistics()))

        assert len(plots) == 3 and all("no pair could be read" in texts(plot) for plot in plots)

    @pytest.mark.parametrize("num", [1, 2, 3, 7, 99, 12_345])
    def test_counts_have_whole_numbers_at_their_axis(self, num):
        (plot,) = read(draw_distributions([("a", [0.0, 0.5, 1.0], [num, 0], None)]))

        ticks = [text for text in texts(plot, "end") if text != "pairs"]
        assert 2 <= len(ticks) <= 6 and all(tick.isdigit() for tick in ticks) and int(ticks[-1]) >= 1.15 * num
        assert bars_of(plot) == {0.0: pytest.approx(num, rel=1e-3)}

    def test_notebooks_show_statistics_as_the_picture(self):
        _, statistics = counted(generated())

        image = ElementTree.fromstring(statistics._repr_html_())
        kind, _, data = image.get("src").partition(",")
        assert (image.tag, kind) == ("img", "data:image/svg+xml;base64")
        assert base64.b64decode(data).decode() == plot_statistics(statistics)
