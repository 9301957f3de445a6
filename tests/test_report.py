"""
Tests of plots, log-probabilities and the HTML report: of the file as it is written, and of the page in a headless
Chromium where there is one.
"""

import base64
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from conftest import build_model

from edit_trl.inspection import InspectionConfig, Statistics, read_pairs, report
from edit_trl.inspection.log_probs import add_log_probs
from edit_trl.inspection.pairs import PROBLEMS
from edit_trl.inspection.report import plot_statistics, write_html
from edit_trl.tasks import generate_dual_cots


pytest.importorskip("matplotlib")

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

HOSTILE = {
    "script": "<script>document.title = 'hacked'</script> </script><!-- <![CDATA[ --><script>",
    "image": "<img src=x onerror=\"document.title = 'hacked'\"> <svg onload=\"document.title = 'hacked'\">",
    "quotes": "'single' \"double\" `tick` ${1} &amp; &lt; \\ \\u003c {{title}} {{pairs}}",
    "control": "NUL \0 escape \x1b[31m delete \x7f next line \x85",
    "separators": "line \u2028 paragraph \u2029 mark \ufeff",
    "surrogates": "high \ud83d and low \ude00 halves",
    "direction": "override \u202eabc\u202c isolate \u2066abc\u2069",
    "right to left": "שלום עולם, 2 + 3. مرحبا",
    "emoji": "👩‍👩‍👧 🏴 e\u0301\u0323 Z\u0351\u036b",
}


def pair_of(text, **columns):
    return {
        "prompt": f"Q: {text}\nA:",
        "chosen": f" {text} gives 5. The answer is 5.",
        "rejected": f" {text} gives 6. The answer is 6.",
        **columns,
    }


def generated(num=60, **options):
    return [cot.to_pair() for cot in generate_dual_cots(num, **options)]


def counted(rows, tokenizer=None, config=None):
    """Pairs, and the statistics of them."""
    statistics = Statistics(config, unit="tokens" if tokenizer else "words")
    pairs = list(read_pairs(rows, tokenizer, config))
    for pair in pairs:
        statistics.add(pair)
    return pairs, statistics


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
        assert text in shown["prompt"] and text.split()[0] in text_of(shown["chosen"])
        assert not [tag for tag in page.tags if tag in ("img", "b", "iframe", "object", "link")]
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]

    def test_page_asks_for_nothing_from_a_network(self, tmp_path):
        page = written(tmp_path, *counted(generated()))
        (policy,) = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
        script = dict(page.scripts)[None]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

        assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}';" in policy
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

    def test_pairs_beyond_the_limit_are_counted_and_left_out(self, tmp_path):
        page = written(tmp_path, *counted(generated()), max_pairs=10)
        summary = page.data("summary")

        assert (summary["pairs"], summary["embedded"], len(page.pairs)) == (60, 10, 10)
        with pytest.raises(ValueError, match="`max_pairs`"):
            write_html([], None, tmp_path / "report.html", max_pairs=-1)

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

    def test_without_matplotlib_the_page_says_so(self, tmp_path, monkeypatch):
        pairs, statistics = counted(generated())
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        page = written(tmp_path, pairs, statistics)

        assert "pip install &#x27;edit-trl[plot]&#x27;" in page.text and "svg" not in page.tags

    def test_plots_have_the_colours_of_the_theme(self, tmp_path):
        """And IDs of their own, since all are in one page."""
        page = written(tmp_path, *counted(generated()))
        ids = [value for _, name, value in page.attributes if name == "id"]

        assert page.tags.count("svg") == 4
        assert len(set(ids)) == len(ids)
        for sentinel, color in zip(report._SENTINELS, report._THEME, strict=True):
            assert sentinel not in page.text and f"fill: {color}" in page.text + "stroke"


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


def slow_log_probs(model, prompt, completion):
    """One token at a time, each from a forward pass of its own."""
    scores = []
    for place, token in enumerate(completion):
        before = prompt + completion[:place]
        if not before:
            scores.append(math.nan)
            continue
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before])).logits[0, -1].double()
        scores.append(torch.log_softmax(logits, dim=-1)[token].item())
    return scores


class TestLogProbs:
    def test_they_are_those_of_one_token_at_a_time(self, pairs, tokenizer, model):
        read = list(read_pairs(pairs[:3], tokenizer))
        scored = list(add_log_probs(read, model, batch_size=2))

        assert [pair.row for pair in scored] == [0, 1, 2]
        for pair in scored:
            for log_probs, name in zip(pair.log_probs, ("chosen_ids", "rejected_ids"), strict=True):
                expected = slow_log_probs(model.eval(), pair.ids["prompt_ids"], pair.ids[name])
                assert log_probs == pytest.approx(expected, abs=1e-4)
        assert all(pair.log_probs is None for pair in read)

    @pytest.mark.parametrize("max_logits", [1, 400 * 300])
    def test_they_do_not_depend_on_the_batches(self, pairs, tokenizer, model, monkeypatch, max_logits):
        expected = [pair.log_probs for pair in add_log_probs(read_pairs(pairs, tokenizer), model)]
        monkeypatch.setattr("edit_trl.inspection.log_probs._MAX_LOGITS", max_logits)
        scored = [pair.log_probs for pair in add_log_probs(read_pairs(pairs, tokenizer), model, batch_size=3)]

        for one, other in zip(expected, scored, strict=True):
            for a, b in zip(one, other, strict=True):
                assert a == pytest.approx(b, abs=1e-4)

    def test_a_model_that_computes_all_logits_gives_the_same(self, pairs, tokenizer, model):
        class Plain(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner, self.config, self.device = model, model.config, model.device

            def forward(self, input_ids, attention_mask, use_cache):
                return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

        (one,) = add_log_probs(read_pairs(pairs[:1], tokenizer), model)
        (other,) = add_log_probs(read_pairs(pairs[:1], tokenizer), Plain())

        assert one.log_probs[0] == pytest.approx(other.log_probs[0], abs=1e-5)

    def test_a_first_token_without_prompt_has_none(self, tokenizer, model):
        row = {"prompt_ids": [], "chosen_ids": [5, 6, 7], "rejected_ids": [5, 8, 7]}
        (pair,) = add_log_probs(read_pairs([row], tokenizer), model)

        for log_probs, name in zip(pair.log_probs, ("chosen_ids", "rejected_ids"), strict=True):
            assert math.isnan(log_probs[0])
            assert log_probs[1:] == pytest.approx(slow_log_probs(model.eval(), [], row[name])[1:], abs=1e-4)

    def test_tokens_beyond_the_positions_of_the_model_have_none(self, tokenizer):
        """Three positions: two of the prompt, one of each chain."""
        row = {"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [7, 9]}
        (pair,) = add_log_probs(read_pairs([row], tokenizer), build_model(max_position_embeddings=3))

        assert [[math.isnan(number) for number in side] for side in pair.log_probs] == [
            [False, True, True],
            [False, True],
        ]

    def test_training_mode_is_left_as_it_was(self, pairs, tokenizer, model):
        model.train()
        list(add_log_probs(read_pairs(pairs[:1], tokenizer), model))
        assert model.training

    def test_unreadable_pairs_pass(self, tokenizer, model):
        rows = [pair_of("1"), {"prompt": "x", "chosen": "", "rejected": "y"}]
        scored = list(add_log_probs(read_pairs(rows, tokenizer), model))

        assert [pair.log_probs is None for pair in scored] == [False, True]

    def test_what_cannot_work_is_refused(self, tokenizer, model):
        with pytest.raises(ValueError, match="`batch_size`"):
            add_log_probs([], model, batch_size=0)
        with pytest.raises(ValueError, match="tokenizer of the model"):
            list(add_log_probs(read_pairs([pair_of("1")]), model))
        with pytest.raises(ValueError, match="has token 4[0-9]*, and the model 40 tokens|has token .*40 tokens"):
            list(add_log_probs(read_pairs([pair_of("1")], tokenizer), build_model(vocab_size=40)))

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


def weights_of(pieces):
    return [piece.weight for piece in pieces for _ in range(piece.num_tokens)]


# In a browser

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=10000",
]

# Waits for the pairs, runs the steps of a test, and leaves what they return in the page.
DRIVER = """
const wait = (time = 50) => new Promise(resolve => setTimeout(resolve, time));
const go = async hash => { location.hash = hash; await wait(); };
const rows = () => [...document.querySelectorAll("#rows a")].map(link => Number(link.textContent));
const press = (key, target = document.body) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const choose = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("input", { bubbles: true })); };
const texts = selector => [...document.querySelectorAll(selector)].map(element => element.textContent);
addEventListener("load", async () => {
  let result;
  try {
    while (byId("pairs-data")) await wait();
    await wait();
    result = await (async () => { STEPS })();
  } catch (error) { result = String(error); }
  const pre = document.createElement("pre");
  pre.id = "result";
  pre.textContent = JSON.stringify(result ?? null);
  document.body.append(pre);
});
"""


def drive(tmp_path, steps, fragment="", *flags):
    """What the steps return in the page, and the page as it then is."""
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    script = DRIVER.replace("STEPS", steps)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    page = page.replace("</body>", f"<script>{script}</script>\n</body>")
    path = tmp_path / "driven.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    run = subprocess.run(
        [*command, f"{path.as_uri()}{fragment}"], capture_output=True, text=True, timeout=120, check=True
    )
    (result,) = re.findall('<pre id="result">(.*?)</pre>', run.stdout, flags=re.DOTALL)
    return json.loads(html.unescape(result)), run.stdout


def screenshot(tmp_path, path, fragment="", *flags):
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={path}"]
    page = (tmp_path / "report.html").as_uri()
    subprocess.run([*command, f"{page}{fragment}"], capture_output=True, timeout=120, check=True)


@needs_chromium
class TestInBrowser:
    def test_nothing_from_the_data_runs_and_all_of_it_is_shown(self, tmp_path):
        rows = [pair_of(text, task=text, origin=text, answer=text) for text in HOSTILE.values()]
        rows.append({"prompt": HOSTILE["image"], "chosen": None, "rejected": HOSTILE["script"]})
        write_html(read_pairs(rows), None, tmp_path / "report.html", title=HOSTILE["script"])
        steps = """
            const seen = [];
            for (let row = 0; row < pairs.length; row++) { await go(`#pair=${row}`); seen.push(texts("#texts .data")); }
            const shown = document.querySelectorAll("main img, main iframe, main script").length;
            for (const column of tableColumns) byId(`sort-${column.name}`).click();
            await go("#pairs");
            // Chromium cannot print a page that holds halves of characters, as the values of these do.
            for (const select of document.querySelectorAll("select")) select.replaceChildren();
            return [document.title, seen, shown];
        """
        (title, seen, shown), page = drive(tmp_path, steps)

        assert title == HOSTILE["script"] and shown == 0
        replaced = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
        for text, shown_texts in zip(HOSTILE.values(), seen, strict=False):
            visible = replaced.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)
            assert shown_texts == [
                f"Q: {visible}\nA:",
                f"{visible} gives 5. The answer is 5.",
                f"{visible} gives 6. The answer is 6.",
            ]
        assert seen[-1] == [HOSTILE["image"], "", HOSTILE["script"]]
        assert "\u202e" not in page

    def test_policy_stops_a_script_that_is_not_the_page_s(self, tmp_path):
        write_html(read_pairs([pair_of("1")]), None, tmp_path / "report.html", title="tame")
        steps = """
            const script = document.createElement("script");
            script.textContent = "document.title = 'hacked'";
            document.body.append(script);
            const image = document.createElement("img");
            image.setAttribute("onerror", "document.title = 'hacked'");
            image.src = "data:,x";
            document.body.append(image);
            await wait(500);
            return document.title;
        """
        assert drive(tmp_path, steps)[0] == "tame"

    def test_filters_and_search(self, tmp_path):
        rows = generated(120)
        rows[7]["chosen"] += " Zebra"
        rows[9]["rejected"] = rows[9]["chosen"]
        write_html(read_pairs(rows), None, tmp_path / "report.html")
        steps = """
            await go("#pairs");
            const result = { all: byId("found").textContent, page: rows() };
            choose("search", "zebra");
            result.search = rows();
            byId("filters").reset(); await wait();
            result.reset = byId("found").textContent;
            choose("problem", "equal");
            result.problem = rows();
            byId("filters").reset(); await wait();
            choose("task", "navigate");
            result.task = rows();
            result.found = byId("found").textContent;
            choose("search", "no such text");
            result.none = rows();
            await go("#overview");
            [...document.querySelectorAll("#problems button")][0].click();
            await wait();
            result.from_overview = [location.hash, byId("problem").value, rows()];
            return result;
        """
        result, _ = drive(tmp_path, steps)
        navigate = [number for number, row in enumerate(rows) if row["task"] == "navigate"]

        assert result["all"] == "120 pairs" and result["page"] == list(range(50))
        assert result["search"] == [7] and result["reset"] == "120 pairs"
        assert result["problem"] == [9]
        assert result["task"] == navigate and result["found"] == f"{len(navigate)} of 120 pairs"
        assert result["none"] == []
        assert result["from_overview"][0] == "#pairs" and result["from_overview"][1] in PROBLEMS

    def test_sorting_and_pages(self, tmp_path):
        rows = generated(120)
        rows[3]["chosen"] = None
        read = list(read_pairs(rows))
        write_html(iter(read), None, tmp_path / "report.html")
        steps = """
            await go("#pairs");
            const result = {};
            for (const name of ["key_token_ratio", "similarity", "num_chosen", "task"]) {
              byId(`sort-${name}`).click();
              result[name] = order;
              byId(`sort-${name}`).click();
              result[`${name} again`] = order;
            }
            result.aria = document.querySelector("[aria-sort=ascending], [aria-sort=descending]").textContent;
            byId("sort-row").click();
            const press_page = label => [...byId("pages").querySelectorAll("button")].find(b => b.textContent === label).click();
            press_page("Last");
            result.last = rows();
            press_page("Previous");
            result.previous = rows();
            return result;
        """
        result, _ = drive(tmp_path, steps)

        for name, reverse in (("key_token_ratio", True), ("similarity", False), ("num_chosen", True)):
            for key, is_reversed in ((name, reverse), (f"{name} again", not reverse)):
                values = [getattr(read[row], name) for row in result[key] if read[row].chosen or name == "num_chosen"]
                assert [round(value, 4) for value in values] == sorted(
                    (round(v, 4) for v in values), reverse=is_reversed
                )
                assert name == "num_chosen" or result[key][-1] == 3
        tasks = [read[row].task for row in result["task"]]
        assert tasks == sorted(tasks)
        assert result["aria"] == "Task ▼"
        assert result["last"] == list(range(100, 120)) and result["previous"] == list(range(50, 100))

    def test_pair_view_shows_counterpart_and_weight(self, tmp_path):
        row = {"prompt": "Q: x", "chosen": " 2 + 3 = 5. So it is 5.", "rejected": " 2 + 3 = 6. it is not 6."}
        write_html(read_pairs([row]), None, tmp_path / "report.html")
        steps = """
            const result = { keys: [texts(".right .key"), texts(".wrong .key")].map(side => side.slice(0, -1)) };
            const edits = document.querySelectorAll(".chains .right .edit");
            edits[0].focus();
            result.first = [texts(".chains .active .key"), texts("#edit p")];
            document.querySelectorAll(".chains .wrong .edit")[1].dispatchEvent(new MouseEvent("mouseenter"));
            result.second = [texts(".chains .active .key"), texts("#edit p")];
            return result;
        """
        result, _ = drive(tmp_path, steps, "#pair=0")

        assert result["first"] == [
            ["5.", "So", "6."],
            ["Right: “ 5.” weight 1“ So” weight 1", "Wrong: “ 6.” weight −0.025"],
        ]
        assert result["second"] == [
            ["5.", "not", "6."],
            ["Right: “ 5.” weight 1", "Wrong: “ not” weight −0.025“ 6.” weight −0.025"],
        ]

    def test_keys_and_links_lead_from_pair_to_pair(self, tmp_path):
        write_html(read_pairs(generated(60)), None, tmp_path / "report.html", max_pairs=50)
        steps = """
            const result = [];
            const seen = () => { result.push(`${location.hash} ${byId("pair-title").textContent} ${byId("place").textContent}`); };
            seen();
            for (const key of ["j", "ArrowRight", "k", "ArrowLeft", "ArrowLeft"]) { press(key); await wait(); seen(); }
            press("Escape"); await wait();
            result.push(location.hash, document.activeElement.textContent);
            press("j", document.activeElement);
            result.push(document.activeElement.textContent);
            choose("task", "navigate");
            const [first, second] = rows();
            await go(`#pair=${first}`);
            byId("next").click(); await wait();
            result.push(location.hash === `#pair=${second}`, byId("previous").disabled);
            byId("search").focus();
            await go("#pair=55");
            result.push(byId("texts").textContent);
            return result;
        """
        result, _ = drive(tmp_path, steps, "#pair=3")

        assert result[:6] == [f"#pair={row} Pair {row} {row + 1} of 50" for row in (3, 4, 5, 4, 3, 2)]
        assert result[6:11] == ["#pairs", "2", "3", True, False]
        assert result[11] == "This pair is not in this file, which holds the first 50 of 60."

    def test_shared_text_folds_and_unfolds(self, tmp_path):
        long = " ".join(f"step{i}" for i in range(60))
        row = {"prompt": "Q:", "chosen": f" 5 {long} 6", "rejected": f" 7 {long} 8"}
        write_html(read_pairs([row]), None, tmp_path / "report.html")
        steps = """
            const text = () => document.querySelector(".right .chain").textContent;
            const full = text();
            byId("fold").click();
            const folded = text();
            document.querySelector(".right .fold").click();
            return [full, folded, text()];
        """
        (full, folded, unfolded), _ = drive(tmp_path, steps, "#pair=0")

        assert full == f"5 {long} 6" == unfolded
        assert re.fullmatch(r"5 step0 .{10,40}… \d+ characters ….{10,45} step59 6", folded)

    def test_log_probs_shade_the_tokens(self, tmp_path, tokenizer, model):
        pairs, statistics = counted([pair_of("2 + 3")], tokenizer)
        write_html(add_log_probs(pairs, model), statistics, tmp_path / "report.html")
        steps = """
            const num = () => document.querySelectorAll(".chains .shaded").length;
            const result = [num()];
            for (const mode of ["all", "none"]) { choose("shade", mode); result.push(num()); }
            document.querySelector(".right .edit").focus();
            return [...result, byId("edit").textContent, byId("shade-label").hidden];
        """
        result, _ = drive(tmp_path, steps, "#pair=0")
        num_keys = sum(piece.is_key for side in (pairs[0].chosen, pairs[0].rejected) for piece in side)

        assert result[:3] == [num_keys, len(pairs[0].chosen) + len(pairs[0].rejected), 0]
        assert re.search(r"weight 1, log p −\d+\.\d\d \(\d+\.\d%\)", result[3]) and result[4] is False

    def test_themes_follow_the_system_and_the_button(self, tmp_path):
        write_html(read_pairs(generated(20)), None, tmp_path / "report.html")
        steps = """
            const luminance = color => color.match(/\\d+/g).slice(0, 3).map(Number).map(v => v / 255)
              .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
            const behind = element => {
              const color = getComputedStyle(element).backgroundColor;
              return color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color;
            };
            // The least contrast of a text with what is behind it.
            const least = () => Math.min(...[...document.querySelectorAll("main *, header *")]
              .filter(element => element.checkVisibility() && !element.closest("svg") && !element.matches(":disabled")
                && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
              .map(element => [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => b - a))
              .map(([high, low]) => (high + 0.05) / (low + 0.05)));
            const result = [];
            for (let i = 0; i < 3; i++) {
              const contrasts = [];
              for (const hash of ["#overview", "#pairs", "#pair=0"]) {
                await go(hash);
                if (hash === "#pair=0") document.querySelector(".right .edit").focus();
                contrasts.push(least());
              }
              result.push([byId("theme").textContent, getComputedStyle(document.body).backgroundColor, Math.min(...contrasts)]);
              byId("theme").click();
            }
            return result;
        """
        light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
        for system, flag in ((light, "1"), (dark, "0")):
            result, _ = drive(tmp_path, steps, "", f"--blink-settings=preferredColorScheme={flag}")

            assert [line[:2] for line in result] == [
                ["Theme: as the system", system],
                ["Theme: light", light],
                ["Theme: dark", dark],
            ]
            assert min(line[2] for line in result) >= 4.5

    def test_edit_stays_in_view_beside_a_long_chain(self, tmp_path):
        long = "\n".join(f"step {i}" for i in range(200))
        row = {"prompt": "Q:", "chosen": f" 5 {long} 6", "rejected": f" 7 {long} 8"}
        write_html(read_pairs([row]), None, tmp_path / "report.html")
        steps = """
            document.querySelector(".right .edit").focus();
            await wait();
            const box = byId("edit").getBoundingClientRect();
            return [box.top > 0, box.bottom <= innerHeight, box.height];
        """
        result, _ = drive(tmp_path, steps, "#pair=0", "--window-size=1400,900")

        assert result[:2] == [True, True] and result[2] > 40

    @pytest.mark.parametrize("size", ["1400,900", "400,900"])
    def test_pages_are_painted(self, tmp_path, size):
        write_html(read_pairs(generated(20)), None, tmp_path / "report.html")
        for fragment in ("", "#pairs", "#pair=0"):
            path = tmp_path / "page.png"
            screenshot(tmp_path, path, fragment, f"--window-size={size}")
            assert path.stat().st_size > 10_000
            path.unlink()

    def test_nothing_is_wider_than_a_narrow_window(self, tmp_path):
        rows = [pair_of("w" * 300, task="t" * 300), *generated(20)]
        write_html(read_pairs(rows), None, tmp_path / "report.html", title="T" * 300)
        steps = """
            const widths = [];
            for (const hash of ["#overview", "#pairs", "#pair=0"]) {
              await go(hash);
              widths.push(document.documentElement.scrollWidth - innerWidth);
            }
            return widths;
        """
        assert max(drive(tmp_path, steps, "", "--window-size=500,900")[0]) <= 0
