"""
Tests of the file of the HTML report. `test_report_page.py` tests it in a browser.
"""

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from inspected import HOSTILE, counted, digest_of, generated, pair_of

from edit_trl.inspection import (
    InspectionConfig,
    Statistics,
    add_log_probs,
    read_pairs,
    write_html,
)


def weights_of(pieces):
    return [piece.weight for piece in pieces for _ in range(piece.num_tokens)]


class Page(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.text = path.read_text(encoding="utf-8")
        self.tags, self.scripts, self.attributes = [], [], []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag == "script":
            self.scripts.append([dict(attributes).get("id"), ""])

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts[-1][1] += data

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def data(self, name):
        return json.loads(dict(self.scripts)[f"{name}-data"])

    @property
    def pairs(self):
        return [dict(zip(self.data("summary")["columns"], row, strict=True)) for row in self.data("pairs")]


def written(tmp_path, pairs, statistics=None, **options):
    path = tmp_path / "report.html"
    write_html(pairs, statistics, path, **options)
    return Page(path)


def text_of(segments):
    return "".join(segment if isinstance(segment, str) else segment[0] for segment in segments)


class TestWriteHtml:
    def test_each_pair_is_there_with_its_texts_and_numbers(self, tmp_path, tokenizer):
        pairs, statistics = counted(generated(), tokenizer)
        page = written(tmp_path, pairs, statistics)

        assert len(page.pairs) == len(pairs)
        for shown, pair in zip(page.pairs, pairs, strict=True):
            assert shown["row"] == pair.row and shown["task"] == pair.task and shown["problems"] == pair.problems
            assert shown["prompt"] == pair.prompt and shown["answer"] == pair.example["answer"]
            for side in ("chosen", "rejected"):
                assert text_of(shown[side]) == "".join(piece.text for piece in getattr(pair, side))
                for name in (f"num_{side}", f"num_{side}_key"):
                    assert shown[name] == getattr(pair, name)
            assert shown["similarity"] == pytest.approx(pair.similarity, abs=1e-4)

    def test_key_tokens_keep_their_weights_and_edits(self, tmp_path):
        """`So` is only in the right chain: the wrong one has an empty segment in its place."""
        row = {"prompt": "Q:", "chosen": " 2 + 3 = 5. So it is 5.", "rejected": " 2 + 3 = 6. it is 6."}
        (pair,) = written(tmp_path, *counted([row])).pairs

        assert pair["chosen"] == [" 2 + 3 =", [" 5.", 1, 1, 0], [" So", 1, 1, 0], " it is", [" 5.", 1, 1, 1]]
        assert pair["rejected"] == [" 2 + 3 =", [" 6.", -0.025, 1, 0], " it is", [" 6.", -0.025, 1, 1]]

    def test_what_has_nothing_on_the_other_side_leaves_a_gap_there(self, tmp_path):
        row = {"prompt": "Q:", "chosen": " 2 + 3 is 5.", "rejected": " 2 + 3 is not 5. no"}
        (pair,) = written(tmp_path, *counted([row])).pairs

        assert pair["chosen"] == [" 2 + 3 is", ["", 0, 0, 0], " 5.", ["", 0, 0, 1]]
        assert pair["rejected"] == [" 2 + 3 is", [" not", -0.025, 1, 0], " 5.", [" no", -0.025, 1, 1]]

    def test_weight_of_other_tokens_is_kept(self, tmp_path):
        config = InspectionConfig(chosen_other_weight=0.3)
        (pair,) = written(tmp_path, *counted([pair_of("a b")], config=config)).pairs

        assert pair["chosen"][0] == [" a b gives", 0.3, 0, -1]

    @pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
    def test_data_stays_data(self, tmp_path, text):
        rows = [pair_of(text, task=text, origin=text, answer=text), pair_of("tame", task="tame")]
        page = written(tmp_path, *counted(rows), title=text)
        tame = written(tmp_path, *counted([pair_of("1"), pair_of("2", task="a", origin="b")]))

        assert [name for name, _ in page.scripts] == ["summary-data", None, "pairs-data"]
        assert dict(page.scripts)[None] == dict(tame.scripts)[None]
        shown = page.pairs[0]
        assert shown["task"] == shown["origin"] == shown["answer"] == text
        if shown["problems"] == ["unreadable"]:  # half of a character: no tokenizer takes it, and training would stop
            assert text in shown["raw"]["prompt"] and text in shown["raw"]["chosen"]
        else:
            assert text in shown["prompt"] and text.split()[0] in text_of(shown["chosen"])
        assert not [tag for tag in page.tags if tag in ("img", "b", "iframe", "object", "link")]
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]

    def test_page_asks_for_nothing_from_a_network(self, tmp_path):
        page = written(tmp_path, *counted(generated()))
        (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
        (style,) = re.findall("<style>(.*?)</style>", page.text, flags=re.DOTALL)

        assert [part.split() for part in policy.split(";")] == [
            ["default-src", "'none'"],
            ["style-src", f"'{digest_of(style)}'"],
            ["script-src", f"'{digest_of(dict(page.scripts)[None])}'"],
            ["base-uri", "'none'"],
            ["form-action", "'none'"],
        ]
        assert not [value for _, name, value in page.attributes if name in ("src", "href") and value[0] != "#"]
        assert not re.search(
            r"url\((?!#)|@import|fetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|eval\(", page.text
        )

    def test_no_place_of_the_template_is_left(self, tmp_path):
        assert "{{" not in written(tmp_path, *counted(generated())).text

    def test_numbers_are_read_when_a_generator_has_ended(self, tmp_path):
        statistics = Statistics(unit="words")

        def watch():
            for pair in read_pairs(generated()):
                statistics.add(pair)
                yield pair

        page = written(tmp_path, watch(), statistics)

        assert page.data("summary")["pairs"] == len(page.pairs) == 60

    def test_without_statistics_the_pairs_are_counted(self, tmp_path, tokenizer):
        words = written(tmp_path, read_pairs([{"prompt": "x", "chosen": "", "rejected": ""}, *generated(59)])).data(
            "summary"
        )
        tokens = written(tmp_path, read_pairs(generated(), tokenizer)).data("summary")

        assert (words["pairs"], words["unit"]) == (60, "words")
        assert (tokens["pairs"], tokens["unit"]) == (60, "tokens")

    def test_statistics_that_have_not_counted_the_pairs_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="`statistics.add\\(pair\\)`"):
            write_html(read_pairs(generated()), Statistics(), tmp_path / "report.html")
        assert not list(tmp_path.iterdir())

    def test_of_many_pairs_a_sample_is_there_and_all_are_counted(self, tmp_path):
        rows = generated(400)
        page = written(tmp_path, *counted(rows), max_pairs=40)
        summary = page.data("summary")
        shown = [pair["row"] for pair in page.pairs]

        assert (summary["pairs"], summary["sampled"], summary["embedded"]) == (400, 40, 40)
        assert shown == sorted(set(shown)) != list(range(40))
        # Of a uniform sample each quarter has 10 give or take 2.6.
        assert all(2 <= sum(start <= row < start + 100 for row in shown) <= 20 for start in range(0, 400, 100))
        assert [pair["answer"] for pair in page.pairs] == [rows[row]["answer"] for row in shown]
        assert written(tmp_path, read_pairs(rows), None, max_pairs=40).data("pairs") == page.data("pairs")
        with pytest.raises(ValueError, match="`max_pairs`"):
            write_html([], None, tmp_path / "report.html", max_pairs=-1)

    def test_each_problem_has_pairs_in_the_file(self, tmp_path):
        rows = generated(300)
        rows[123]["chosen"] = 5
        rows[250]["rejected"] = rows[250]["chosen"]
        page = written(tmp_path, *counted(rows), max_pairs=5)
        summary = page.data("summary")

        assert summary["problems"].keys() >= {"unreadable", "equal"}
        for problem, num in summary["problems"].items():
            shown = [pair["row"] for pair in page.pairs if problem in pair["problems"]]
            assert len(shown) >= min(num, summary["examples"]) > 0
        assert {123, 250} <= {pair["row"] for pair in page.pairs}
        assert summary["embedded"] == len(page.pairs) <= 5 + 5 * len(summary["problems"])

    def test_an_error_on_the_way_leaves_the_older_file(self, tmp_path):
        def fail():
            yield from read_pairs(generated(2))
            raise RuntimeError

        (tmp_path / "report.html").write_text("older")
        with pytest.raises(RuntimeError):
            write_html(fail(), None, tmp_path / "report.html")
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
        assert (tmp_path / "report.html").read_text() == "older"

    @pytest.mark.parametrize(
        "rows", [[], [{"prompt": "x", "chosen": None, "rejected": 5}]], ids=["none", "unreadable"]
    )
    def test_nothing_to_read_is_a_report_too(self, tmp_path, rows):
        page = written(tmp_path, *counted(rows))

        assert len(page.pairs) == len(rows)
        assert page.data("summary")["advice"]

    def test_unreadable_pairs_show_their_columns(self, tmp_path):
        rows = [pair_of("good"), {"prompt": "x", "chosen": 5, "rejected": "<b>" * 2_000}]
        page = written(tmp_path, *counted(rows))

        assert page.pairs[0]["raw"] is None
        raw = page.pairs[1]["raw"]
        assert (raw["prompt"], raw["chosen"]) == ("x", "5")
        assert raw["rejected"].startswith("<b>") and raw["rejected"].endswith("… (6,000 characters)")

    def test_names_of_tasks_that_are_numbers_keep_their_order(self, tmp_path):
        rows = [pair_of(f"{i}", task=task) for i, task in enumerate(["10", "b", "10", "2", "b", "10"])]
        summary = written(tmp_path, *counted(rows)).data("summary")

        assert [name for name, _ in summary["by_task"]] == ["10", "b", "2"]

    def test_numbers_of_the_plots_are_there_without_numpy(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "numpy", None)
        _, statistics = counted(generated())
        summary = written(tmp_path, [], statistics).data("summary")

        assert [sum(histogram["counts"]) for histogram in summary["histograms"]] == [60, 60, 60]
        assert len(summary["key_ratio_by_task"]) == len(summary["by_task"])

    def test_the_report_sums_them_over_the_tokens_of_a_piece(self, tmp_path, tokenizer, model):
        """An emoji is four tokens of bytes, shown as one piece."""
        pairs, statistics = counted([pair_of("is 👩 here")], tokenizer)
        (pair,) = add_log_probs(pairs, model)
        page = written(tmp_path, [pair], statistics)
        (shown,) = page.pairs

        assert page.data("summary")["has_log_probs"]
        assert [segment[0] for segment in shown["chosen"]] == [piece.text for piece in pair.chosen]
        assert sum(segment[-1] for segment in shown["chosen"]) == pytest.approx(sum(pair.log_probs[0]), abs=0.2)
        keys = [
            log_prob for log_prob, weight in zip(pair.log_probs[0], weights_of(pair.chosen), strict=True) if weight
        ]
        assert shown["key_log_prob_chosen"] == pytest.approx(sum(keys) / len(keys), abs=1e-3)

    def test_missing_ones_are_null(self, tmp_path, tokenizer):
        pairs, statistics = counted([pair_of("1")], tokenizer)
        pair = replace(
            pairs[0], log_probs=tuple([math.nan] * num for num in (pairs[0].num_chosen, pairs[0].num_rejected))
        )
        (shown,) = written(tmp_path, [pair], statistics).pairs

        assert {segment[-1] for segment in shown["chosen"]} == {None}
        assert shown["key_log_prob_chosen"] is None
