"""
Tests of the figure that matplotlib draws.
"""

import sys

import pytest
from inspected import counted, generated, pair_of

from edit_trl.inspection import InspectionConfig, Statistics, plot_statistics


pytest.importorskip("matplotlib")


class TestPlots:
    def test_histograms_hold_all_pairs_and_the_borders(self):
        _, statistics = counted(generated(), config=InspectionConfig(min_similarity=0.6))
        axes = {part.get_xlabel(): part for part in plot_statistics(statistics).axes}

        assert list(axes) == ["key words of a pair", "similarity", "start that both chains share", "key words by task"]
        for label in list(axes)[:3]:
            (steps,) = axes[label].patches
            assert sum(steps.get_data().values) == 60
        for label, place in (("key words of a pair", 0.047), ("similarity", 0.6)):
            (line,) = axes[label].lines
            assert set(line.get_xdata()) == {place}

    def test_bars_are_the_means_of_the_tasks(self):
        _, statistics = counted(generated())
        by_task = statistics.summary()["by_task"]
        axes = plot_statistics(statistics).axes[-1]
        bars = {
            label.get_text(): bar.get_width() for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
        }

        assert bars == {name: pytest.approx(group["key_token_ratio"], abs=1e-4) for name, group in by_task.items()}

    def test_one_task_has_no_plot_by_task(self):
        assert len(plot_statistics(counted([pair_of("1", task="a")])[1]).axes) == 3

    @pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
    @pytest.mark.parametrize("suffix", ["png", "svg"])
    def test_figures_are_written(self, tmp_path, suffix):
        rows = [pair_of(f"{i}", task=task) for i, task in enumerate(["$\\frac", "a\0b", "x" * 200, "<b>"])]
        path = tmp_path / f"plot.{suffix}"
        plot_statistics(counted(rows)[1]).savefig(path)

        assert path.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")

    def test_nothing_to_draw_is_said(self):
        axes = plot_statistics(Statistics()).axes

        assert all("no pair could be read" in [text.get_text() for text in part.texts] for part in axes)

    def test_without_matplotlib_it_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match="edit-trl\\[plot\\]"):
            plot_statistics(Statistics())
