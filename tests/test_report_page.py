"""
Tests of the page of the HTML report, in a headless Chromium.
"""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import version

import pytest
import regex
import script_pairs
from inspected import HOSTILE, counted, digest_of, generated, pair_of

from edit_trl.inspection import InspectionConfig, add_log_probs, read_pairs, write_html
from edit_trl.inspection.distributions import histograms, key_ratio_by_task
from edit_trl.inspection.pairs import PROBLEMS


CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

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
const press = (key, target = document.body) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const choose = (id, value) => {
  byId(id).value = value;
  byId(id).dispatchEvent(new Event("input", { bubbles: true }));
};
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
    page = page.replace("script-src ", f"script-src '{digest_of(script)}' ", 1)
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


@pytest.mark.slow
class TestInBrowser:
    def test_nothing_from_the_data_runs_and_all_of_it_is_shown(self, tmp_path):
        rows = [pair_of(text, task=text, origin=text, answer=text) for text in HOSTILE.values()]
        rows.append({"prompt": HOSTILE["image"], "chosen": None, "rejected": HOSTILE["script"]})
        write_html(read_pairs(rows), None, tmp_path / "report.html", title=HOSTILE["script"])
        steps = """
            const seen = [];
            for (let row = 0; row < pairs.length; row++) {
              await go(`#pair=${row}`);
              seen.push(texts("#texts .data"));
            }
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
            # Texts with halves of characters are shown as they are, with the space at their start.
            assert [shown_text.strip(" ") for shown_text in shown_texts] == [
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

    def test_bars_and_markers_have_the_sizes_of_their_numbers(self, tmp_path):
        rows = [pair_of("x" * (1 + i % 3), task="abc"[i % 3]) for i in range(30)] + generated(30)
        pairs, statistics = counted(rows, config=InspectionConfig(min_similarity=0.6))
        write_html(pairs, statistics, tmp_path / "report.html")
        steps = """
            const box = element => element.getBoundingClientRect();
            return [...document.querySelectorAll(".histogram")].map(plot => {
              const area = box(plot.querySelector(".bins"));
              const bins = [...plot.querySelectorAll(".bins > div")];
              const marker = plot.querySelector(".marker");
              return {
                heights: bins.map(bin => bin.firstChild ? box(bin.firstChild).height / area.height : 0),
                bottoms: [...plot.querySelectorAll(".bar")].map(bar => Math.abs(box(bar).bottom - area.bottom)),
                titles: bins.map(bin => bin.title),
                scale: [...plot.querySelectorAll(".heights span")].map(tick => Number(tick.textContent)),
                shares: [...plot.querySelectorAll(".shares span")].map(tick =>
                  [tick.textContent, ((box(tick).left + box(tick).right) / 2 - area.left) / area.width]),
                marker: marker && [(box(marker).left - area.left) / area.width, marker.textContent],
                label: [plot.getAttribute("role"), plot.getAttribute("aria-label")],
                caption: plot.parentElement.querySelector("figcaption").textContent,
              };
            });
        """
        shown, _ = drive(tmp_path, steps, "", "--window-size=1400,900")

        assert len(shown) == 3
        for plot, (label, edges, counts, marker) in zip(shown, histograms(statistics), strict=True):
            top = plot["scale"][-1]
            assert top >= max(counts) and 2 <= len(plot["scale"]) <= 5
            assert plot["heights"] == pytest.approx([count / top for count in counts], abs=0.02)
            assert max(plot["bottoms"]) < 1.5
            assert all(title.endswith(f": {count} pairs") for title, count in zip(plot["titles"], counts, strict=True))
            width = edges[-1] - edges[0]
            for text, place in plot["shares"]:
                assert place == pytest.approx((float(text[:-1]) / 100 - edges[0]) / width, abs=0.02)
            if marker is None:
                assert plot["marker"] is None
            else:
                assert plot["marker"] == [pytest.approx((marker.place - edges[0]) / width, abs=0.02), marker.name]
            role, name = plot["label"]
            assert role == "img"
            assert name.startswith("Histogram of 60 pairs between ") and f"the most ({max(counts)}) from " in name
            assert marker is None or name.endswith(f"Marked: {marker.name}.")
            assert plot["caption"] == label

    def test_bars_of_tasks_are_as_long_as_their_means(self, tmp_path):
        _, statistics = counted(generated(60))
        write_html([], statistics, tmp_path / "report.html")
        steps = """
            return [...document.querySelectorAll(".task-bars li")].map(line =>
              [line.firstChild.textContent, line.querySelector(".bar").getBoundingClientRect().width,
                line.lastChild.textContent]);
        """
        shown, _ = drive(tmp_path, steps)

        means = key_ratio_by_task(statistics)
        assert [(name, text) for name, _, text in shown] == [(name, f"{mean:.1%}") for name, mean in means]
        assert [width / shown[0][1] for _, width, _ in shown] == pytest.approx(
            [mean / means[0][1] for _, mean in means], abs=0.02
        )

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            ([], [3, 0, 3, 0]),
            ([pair_of("1", task="a")], [3, 0, 0, 3]),
            ([pair_of(f"{i}", task=f"t{i}") for i in range(25)], [3, 20, 0, 3]),
        ],
        ids=["none", "one", "many tasks"],
    )
    def test_plots_of_few_pairs_and_many_tasks(self, tmp_path, rows, expected):
        """Histograms, bars of tasks, histograms that say that there is nothing, and ones with bars."""
        write_html(*counted(rows), tmp_path / "report.html")
        steps = """
            const num = selector => document.querySelectorAll(selector).length;
            return [[num(".histogram"), num(".task-bars li"), num(".histogram .area p"), num(".bins:has(.bar)")],
              texts("figcaption")];
        """
        (numbers, captions), _ = drive(tmp_path, steps)

        assert numbers == expected
        assert captions[3:] == (["key words by task, the 20 with most pairs"] if len(rows) == 25 else [])

    def test_overview_says_what_it_is_of_and_shows_a_pair(self, tmp_path):
        rows = [{**pair_of("1 + 1"), "chosen": ""}, *(pair_of(f"2 + {number}") for number in range(3))]
        write_html(read_pairs(rows), None, tmp_path / "report.html", provenance={"Data": "pairs.jsonl"})
        steps = """
            return [texts("#example .right .key"), texts("#example .wrong .key"), texts("#example a"),
              texts("#provenance dt"), texts("#provenance dd"), texts("#pair .chain")];
        """
        (right, wrong, links, names, values, others), _ = drive(tmp_path, steps)

        assert (right, wrong, links, others) == (["5.", "5."], ["6.", "6."], ["pair 1"], [])
        assert names == ["Data", "Made by", "Date"]
        assert values[:2] == ["pairs.jsonl", f"edit_trl {version('edit-trl')}"]

    def test_replies_are_below_the_chains(self, tmp_path):
        read = [
            replace(
                pair, replies={"after: <i>right</i>": " It is\n<b>5</b>.", "10": "", "2": "Zebra"} if row else None
            )
            for row, pair in enumerate(read_pairs([pair_of("1"), pair_of("2")]))
        ]
        write_html(read, None, tmp_path / "report.html")
        steps = """
            const shown = () => [texts("#texts .reply h3"), texts("#texts .reply .data")];
            const result = [texts("#example .reply").length];
            await go("#pair=0");
            result.push(shown());
            await go("#pair=1");
            const box = id => document.querySelector(id).getBoundingClientRect();
            result.push(shown(), box("#texts .reply").top >= box("#texts .wrong").bottom,
              document.documentElement.scrollWidth <= innerWidth);
            choose("search", "zebra");
            result.push(rows());
            return result;
        """
        for size in ("1400,900", "390,900"):
            result, _ = drive(tmp_path, steps, "", f"--window-size={size}")
            headings = ["after: <i>right</i>", "10", "2"]
            assert result == [0, [[], []], [headings, ["It is\n<b>5</b>.", "(empty)", "Zebra"]], True, True, [1]]

    def test_table_leaves_out_the_description_of_a_task(self, tmp_path):
        task = "Sort these words in the order of the alphabet, please.\n"
        rows = [pair_of(text, task="sort") for text in ("pear fig", "plum nut")]
        rows = [{**row, "prompt": task + row["prompt"]} for row in rows] + [pair_of("2 + 3", task="add")]
        write_html(read_pairs(rows), None, tmp_path / "report.html")
        excerpts, _ = drive(tmp_path, 'await go("#pairs"); return texts("#rows .excerpt");')

        assert excerpts == ["… Q: pear fig\nA:", "… Q: plum nut\nA:", "Q: 2 + 3\nA:"]

    @pytest.mark.parametrize("size", ["1400,900", "390,900"])
    def test_all_columns_are_in_the_window(self, tmp_path, size):
        """With every problem in one row, and long prompts."""
        rows = [{**pair_of("w " * 200), "answer": "6", "task": "t" * 30, "origin": "rectified"}] * 2
        rows += [{**rows[0], "rejected": "Quite other words. The answer is 5."}]
        write_html(read_pairs(rows), None, tmp_path / "report.html")
        steps = """
            await go("#pairs");
            return [texts("#rows .problem").length, [...document.querySelectorAll("#rows td, #rows td *")]
              .map(cell => cell.getBoundingClientRect()).filter(box => box.right > innerWidth).length];
        """
        (num_problems, num_outside), _ = drive(tmp_path, steps, "", f"--window-size={size}")

        assert num_problems >= 6 and num_outside == 0

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
            const turn = label =>
              [...byId("pages").querySelectorAll("button")].find(button => button.textContent === label).click();
            turn("Last");
            result.last = rows();
            turn("Previous");
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
        write_html(read_pairs(generated(60)), None, tmp_path / "report.html")
        steps = """
            const result = [];
            const seen = () => {
              result.push([location.hash, ...["pair-title", "place"].map(id => byId(id).textContent)].join(" "));
            };
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
            await go("#pair=60");
            result.push(byId("texts").textContent);
            return result;
        """
        result, _ = drive(tmp_path, steps, "#pair=3")

        assert result[:6] == [f"#pair={row} Pair {row} {row + 1} of 60" for row in (3, 4, 5, 4, 3, 2)]
        assert result[6:11] == ["#pairs", "2", "3", True, False]
        assert result[11] == "There is no such pair."

    def test_sample_says_that_it_is_one_and_has_pairs_of_each_problem(self, tmp_path):
        rows = generated(200)
        for row, task in enumerate(["first", "second", "third"]):
            rows[row]["task"] = task
        rows[150]["rejected"] = rows[150]["chosen"]
        write_html(read_pairs(rows), None, tmp_path / "report.html", max_pairs=30)
        steps = """
            const held = new Set(pairs.map(pair => pair.row));
            const missing = [0, 1, 2].find(row => !held.has(row));
            const press = name => [...document.querySelectorAll("#overview button")].find(button =>
              button.textContent === name).click();
            const result = { notice: texts("#notices p"), held: [...held], missing };
            press("equal"); await wait();
            result.equal = [rows(), byId("found").textContent];
            await go("#overview");
            press(["first", "second", "third"][missing]); await wait();
            result.task = [rows(), byId("found").textContent];
            await go(`#pair=${missing}`);
            result.pair = byId("texts").textContent;
            return result;
        """
        result, _ = drive(tmp_path, steps)

        num = len(result["held"])
        sample = "a random sample of 30, in which each row was equally likely, and up to 20 of each problem"
        assert result["notice"] == [f"The numbers are of all 200 rows. Pairs are shown of a part of them: {sample}."]
        assert result["equal"] == [[150], f"1 of {num} pairs in this file"]
        assert result["task"] == [[], f"0 of {num} pairs in this file"]
        assert result["pair"] == f"This pair is not in this file. Of 200 rows it holds {sample}."

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

    def test_text_without_spaces_folds_between_words(self, tmp_path):
        """Chinese and Thai: some text is left on both sides, and no letter is torn from its marks."""
        for long in ("小明有一些苹果然后" * 20, "ดังนั้นคำตอบคือน้ำ" * 20, "👩\u200d👩\u200d👧" * 40):
            row = {"prompt": "Q:", "chosen": f"5 {long} 6", "rejected": f"7 {long} 8"}
            write_html(read_pairs([row]), None, tmp_path / "report.html")
            steps = """
                byId("fold").click();
                const [head, button, tail] = [...document.querySelector(".right .shared").childNodes];
                return [head.textContent, tail.textContent, button.textContent];
            """
            (head, tail, button), _ = drive(tmp_path, steps, "#pair=0")
            assert 5 <= len(head) <= 40 and 5 <= len(tail) <= 40 and "characters" in button
            assert long.startswith(head.strip()) and long.endswith(tail.strip())
            assert regex.fullmatch(r"\X+", head) and not regex.match(r"[\p{M}\u200d]", tail)
            assert len(regex.findall(r"\X", long)) > len(regex.findall(r"\X", head + tail))

    @pytest.mark.parametrize("name", script_pairs.PAIRS)
    @pytest.mark.parametrize("size", ["1200,900", "390,900"], ids=["desktop", "phone"])
    def test_pairs_of_every_script_are_shown(self, tmp_path, name, size):
        """Key words are coloured as a whole, in the direction of the script, and nothing is wider than the page."""
        row = script_pairs.PAIRS[name]
        write_html(read_pairs([row]), None, tmp_path / "report.html")
        steps = """
            const chain = document.querySelector(".right .chain");
            const broken = [...document.querySelectorAll(".key")].filter(key => key.getClientRects().length > 1);
            return [chain.textContent, getComputedStyle(chain).direction, texts(".chains .right .key"), broken.length,
              document.documentElement.scrollWidth <= innerWidth];
        """
        (text, direction, keys, num_broken, fits), _ = drive(tmp_path, steps, "#pair=0", f"--window-size={size}")
        (pair,) = read_pairs([row])
        assert text == row["chosen"]
        assert direction == ("rtl" if name in script_pairs.RIGHT_TO_LEFT else "ltr")
        assert [key.strip() for key in keys] == [piece.text.strip() for piece in pair.chosen if piece.is_key]
        assert num_broken == 0 and fits

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
            const luminance = color => color.match(/\\d+/g).slice(0, 3).map(v => Number(v) / 255)
              .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
              .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const behind = element => {
              const color = getComputedStyle(element).backgroundColor;
              return color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color;
            };
            // The least contrast of a text with what is behind it.
            const least = () => Math.min(...[...document.querySelectorAll("main *, header *")]
              .filter(element => element.checkVisibility() && !element.matches(":disabled")
                && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
              .map(element => [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => b - a))
              .map(([high, low]) => (high + 0.05) / (low + 0.05)));
            const result = [];
            for (let i = 0; i < 3; i++) {
              const contrasts = [];
              for (const hash of ["#overview", "#pairs", "#pair=0"]) {
                await go(hash);
                if (hash === "#pair=0") document.querySelector("#pair .right .edit").focus();
                contrasts.push(least());
              }
              const { backgroundColor } = getComputedStyle(document.body);
              result.push([byId("theme").textContent, backgroundColor, Math.min(...contrasts)]);
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
