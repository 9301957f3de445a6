"""
Tests of the figure that matplotlib draws.
"""

import os
import re
import sys
from types import SimpleNamespace

import pytest
from inspected import counted, generated, pair_of

from edit_trl.inspection import InspectionConfig, Statistics, plot_statistics
from edit_trl.install_hint import install_hint


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
        with pytest.raises(ImportError, match=re.escape(install_hint("plot"))):
            plot_statistics(Statistics())

    def test_fonts_are_found_for_letters_that_the_default_does_not_have(self, monkeypatch, tmp_path):
        """The fonts and their characters are made up. Sans comes first, boxes and cursive letters never."""
        from matplotlib import font_manager

        fonts = {
            "Chinese Serif": ("算术题", "normal"),
            "Last Resort High-Efficiency": ("算术题目", "normal"),
            "Chinese Cursive Sans": ("算术题目", "italic"),
            "Chinese Sans": ("算术", "normal"),
            "Thai Sans": ("โจทย์", "normal"),
        }
        entries = []
        for name, (_, style) in fonts.items():
            (tmp_path / name).touch()
            entries.append(SimpleNamespace(name=name, style=style, weight=400, fname=str(tmp_path / name)))
        default = font_manager.findfont(font_manager.FontProperties())

        def get_font(path):
            name = os.path.basename(path)
            known = "task ab1" if path == default else fonts[name][0]
            return SimpleNamespace(get_charmap=lambda: {ord(character): 1 for character in known})

        monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
        monkeypatch.setattr(font_manager, "get_font", get_font)
        rows = [pair_of(f"{i}", task=task) for i, task in enumerate(["算术题目", "a 1"])]
        axes = plot_statistics(counted(rows)[1]).axes[-1]

        for label in axes.get_yticklabels():
            assert label.get_fontfamily()[1:] == ["Chinese Sans", "Chinese Serif"]
