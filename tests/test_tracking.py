"""Tests of pairs as HTML and Markdown, and of the callback that shows them in a tracker."""

import html
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from conftest import build_model
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from test_edit_trainer import make_trainer

from edit_trl.inspection import LogPairsCallback, add_log_probs, read_pairs
from edit_trl.inspection.markup import chain_html, chain_markdown, pair_html
from edit_trl.inspection.terminal import visible


ROW = {"prompt": "Q: 2 + 3?\nA:", "chosen": " 2 + 3 = 5.\nSo <5>.", "rejected": " 2 + 3 = 6.\nSo <6>."}


def marked(markup: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<mark[^>]*>(.*?)</mark>", markup)]


class TestMarkup:
    def test_key_words_are_marked_and_text_is_escaped(self):
        (pair,) = read_pairs([ROW])
        assert marked(chain_html(pair, "chosen")) == [" 5.", " <5>."]
        assert "<5>" not in chain_html(pair, "chosen") and "\n" not in chain_html(pair, "chosen")
        assert chain_markdown(pair, "chosen") == " 2 + 3 = <strong>5.</strong> ⏎ So <strong>&lt;5&gt;.</strong>"
        table = ElementTree.fromstring(pair_html(pair).replace("<br>", "<br/>"))
        assert [row.find("th").text for row in table.iter("tr")] == ["prompt", "right", "wrong"]
        assert pair._repr_html_() == pair_html(pair)
        shown = replace(pair, replies={"after <b>": "5 < 6\n"})
        *_, row = ElementTree.fromstring(pair_html(shown).replace("<br>", "<br/>")).iter("tr")
        assert (row.find("th").text, row.find("td").text) == ("after <b>", "5 < 6")

    @given(st.text(max_size=30), st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
    def test_all_text_is_shown_and_none_is_markup(self, prompt, chosen, rejected):
        (pair,) = read_pairs([{"prompt": prompt, "chosen": chosen, "rejected": rejected}])
        for side in ("chosen", "rejected"):
            if getattr(pair, side):
                shown = re.sub(r"</?mark[^>]*>", "", chain_html(pair, side)).replace("<br>", "\n")
                assert not set(shown) & set("<>")
                assert html.unescape(shown) == visible("".join(piece.text for piece in getattr(pair, side)))
                assert "\n" not in chain_markdown(pair, side)

    @given(*[st.text(st.sampled_from("ab5. ,()“”*_`|\\<>&#~[]\n\t五"), min_size=1, max_size=20)] * 2)
    @example("2*(5)", "2*(6)").via("its own mark has no effect beside a bracket")
    def test_markdown_shows_the_text_with_key_tokens_in_bold(self, chosen, rejected):
        (pair,) = read_pairs([{"prompt": "Q", "chosen": chosen, "rejected": rejected}])
        for side in ("chosen", "rejected"):
            pieces = getattr(pair, side)
            if not pieces:
                continue
            table = f"| pair |\n| --- |\n| x{chain_markdown(pair, side)}x |\n"
            page = MarkdownIt("commonmark").enable("table").render(table)
            (cell,) = re.findall("<td>x(.*)x</td>", page)
            shown, bold = [], []
            for number, part in enumerate(re.split("</?strong>", cell)):
                shown.append(html.unescape(part))
                assert "<" not in part
                bold += [number % 2 == 1] * len(shown[-1])
            expected = [(letter, piece.is_key) for piece in pieces for letter in piece.text.replace("\n", " ⏎ ")]
            assert "".join(shown) == "".join(letter for letter, _ in expected)
            for (letter, is_key), is_bold in zip(expected, bold, strict=True):
                assert letter in " \t⏎" or is_key == is_bold

    def test_log_probabilities_of_key_tokens(self, tokenizer):
        """Those of a plain forward pass, under the mouse."""
        model = build_model()
        (pair,) = add_log_probs(read_pairs([ROW], tokenizer), model)
        ids = pair.ids["prompt_ids"] + pair.ids["chosen_ids"]
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = [place for place, piece in enumerate(pair.chosen) if piece.is_key]
        assert all(piece.num_tokens == 1 for piece in pair.chosen)
        start = len(pair.ids["prompt_ids"])
        expected = [f"{log_probs[start + place - 1, ids[start + place]]:.2f}" for place in places]
        assert re.findall(r"log-probability (-[\d.]+)", chain_html(pair, "chosen")) == expected


class TestLogPairsCallback:
    def test_tensorboard(self, tmp_path, pairs, monkeypatch):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
        trainer = make_trainer(tmp_path, pairs, report_to="tensorboard", max_steps=4, learning_rate=1e-2)
        trainer.add_callback(LogPairsCallback(trainer, num_pairs=2, freq=2))
        trainer.train()
        events = EventAccumulator(str(tmp_path / "logs"))
        events.Reload()
        logged = events.Tensors("pairs/text_summary")
        assert [event.step for event in logged] == [0, 2, 4]
        lines = logged[-1].tensor_proto.string_val[0].decode().splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines[2:]]
        assert [(row[0], row[1]) for row in rows] == [(str(step), str(pair)) for step in (0, 2, 4) for pair in (0, 1)]
        assert "<strong>42" in rows[0][3] and "<strong>43" in rows[0][4]
        (first,) = add_log_probs(read_pairs([trainer.train_dataset[0]], trainer.processing_class), trainer.model)
        key = [value for value, piece in zip(first.log_probs[0], first.chosen, strict=True) if piece.is_key]
        assert float(rows[4][5]) == pytest.approx(sum(key) / len(key), abs=2e-3)
        assert {"train/edit/key_margin", "train/loss"} <= set(events.Tags()["scalars"])

    def test_wandb_offline(self, tmp_path, pairs, monkeypatch):
        wandb = pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        trainer = make_trainer(tmp_path, pairs, report_to="wandb", max_steps=2)
        trainer.add_callback(LogPairsCallback(trainer, num_pairs=1))
        trainer.train()
        wandb.finish()
        tables = [json.loads(path.read_text()) for path in tmp_path.rglob("*.table.json")]
        assert sorted(len(table["data"]) for table in tables) == [1, 2]
        assert tables[0]["columns"][:5] == ["step", "pair", "prompt", "chosen", "rejected"]
        assert {row[0] for table in tables for row in table["data"]} == {0, 2}
        # The pages themselves go into an artifact; this file has their type.
        assert all(row[3:5] == ["Html", "Html"] for table in tables for row in table["data"])

    def test_trackio(self, tmp_path, pairs, monkeypatch):
        trackio = pytest.importorskip("trackio")
        tables = []
        monkeypatch.setattr(trackio, "init", lambda *args, **kwargs: None)
        monkeypatch.setattr(trackio, "log", lambda logs, *args, **kwargs: tables.append(logs.get("pairs")))
        trainer = make_trainer(tmp_path, pairs, report_to="none", max_steps=2)
        trainer.args.report_to = ["trackio"]
        trainer.add_callback(LogPairsCallback(trainer, num_pairs=1))
        trainer.train()
        assert isinstance(tables[0], trackio.Table)
        assert "{+42" in str(tables[0].data) and "[-43" in str(tables[0].data)

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"num_pairs": 0}, "`num_pairs` must be"), ({"freq": 0}, "`freq` must be"), ({}, "needs a tracker")],
    )
    def test_bad_options(self, tmp_path, pairs, options, message):
        with pytest.raises(ValueError, match=message):
            LogPairsCallback(make_trainer(tmp_path, pairs), **options)
