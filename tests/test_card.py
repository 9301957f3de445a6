"""Tests of the part of a dataset card that `edit-trl inspect --card` writes, as a Markdown renderer reads it."""

import json
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from inspected import HOSTILE, counted, pair_of
from markdown_it import MarkdownIt

from edit_trl.cli import main
from edit_trl.inspection import card_section


DATA = Path(__file__).parents[1] / "examples" / "data" / "qwen_dual_cots"


class Rendered(HTMLParser):
    """Headings, tables (as lists of rows of texts), bold texts and tags of rendered Markdown."""

    def __init__(self, markdown):
        super().__init__(convert_charrefs=True)
        self.tags, self.headings, self.tables, self.bold, self.inside = set(), [], [], [], []
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h2", "h3"):
            self.headings.append("")
        elif tag == "strong":
            self.bold.append("")

    def handle_endtag(self, tag):
        while self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if {"td", "th"} & set(self.inside):
            self.tables[-1][-1][-1] += data
        if {"h2", "h3"} & set(self.inside):
            self.headings[-1] += data
        if "strong" in self.inside:
            self.bold[-1] += data


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "inspection.md"
    assert main(["inspect", str(DATA / "dual_cots.jsonl"), "--card", str(path)]) == 0
    return path.read_text()


class TestRealPairs:
    ROWS = [json.loads(line) for line in (DATA / "dual_cots.jsonl").read_text().splitlines()]
    REPORT = json.loads((DATA / "report.json").read_text())

    def test_numbers_are_those_of_the_data(self, card):
        numbers = {row[0]: row[1:] for row in Rendered(card).tables[0]}

        assert f"{self.REPORT['pairs']} pairs of a right" in card
        for label, column in (("prompt", "prompt"), ("right chain", "chosen"), ("wrong chain", "rejected")):
            lengths = sorted(len(row[column].split()) for row in self.ROWS)
            mean, _, median, _ = (int(number) for number in numbers[f"words of the {label}"])
            assert mean == pytest.approx(statistics.fmean(lengths), abs=0.51)
            assert lengths[87] <= median <= lengths[90]  # of 178

    def test_origins_tasks_and_teacher_are_those_of_the_synthesis(self, card):
        _, origins, tasks, teachers, _ = Rendered(card).tables

        assert {row[0]: int(row[1]) for row in origins[1:]} == self.REPORT["origin"]
        made = {name: row["rectified"] + row["corrupted"] for name, row in self.REPORT["tasks"].items()}
        assert {row[0]: int(row[1]) for row in tasks[1:]} == made
        assert teachers[1:] == [[self.REPORT["teacher"], self.REPORT["prompt_version"], "178"]]

    def test_example_is_a_pair_with_its_differences_in_bold(self, card):
        rendered = Rendered(card)
        shown = dict(rendered.tables[-1][1:])
        chains = {"right": self.ROWS[0]["chosen"], "wrong": self.ROWS[0]["rejected"]}

        assert shown["prompt"] == self.ROWS[0]["prompt"].replace("\n", " ⏎ ")
        assert {name: shown[name] for name in chains} == {name: text.strip() for name, text in chains.items()}
        # 5 + 9 gives 14. 14 + 6 gives 20. 14 + 9 gives 23. ... 29. | 5 + 9 = 14. 14 + 6 = 20. 20 + 9 = 39. ... 39.
        assert rendered.bold == ["gives", "gives", "14", "gives 23.", "29.", "=", "=", "20", "= 39.", "39."]

    def test_headings_are_below_that_of_a_card(self, card):
        assert Rendered(card).headings == ["The pairs", "Problems", "An example", "How this was counted"]
        assert not re.search("^(# |---$)", card, re.MULTILINE)


class TestCard:
    @pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
    def test_data_stays_data(self, text):
        columns = {"task": text, "origin": text, "teacher": text, "prompt_version": text}
        pairs, numbers = counted([pair_of(text, **columns), pair_of("tame")])
        rendered = Rendered(card_section(numbers.summary(), pairs[0] if pairs[0].chosen else None, {"Data": text}))

        assert not rendered.tags & {"script", "img", "svg", "style"}
        assert rendered.tags <= {*("h2", "h3", "p", "a", "code", "table", "thead", "tbody", "tr", "th", "td")} | {
            *("ul", "li", "strong")
        }
        for table in rendered.tables:
            assert len({len(row) for row in table}) == 1

    def test_problems_are_listed(self):
        rows = [pair_of("1"), pair_of("1"), {**pair_of("2"), "chosen": ""}]
        _, numbers = counted(rows)
        card = card_section(numbers.summary())

        (problems,) = [table for table in Rendered(card).tables if table[0][0] == "problem"]
        assert {row[0]: row[2] for row in problems[1:]} == {"missing": "1", "duplicate": "1"}
        assert "Rows with a problem: 2." in card and "An example" not in card

    def test_no_pair_is_a_card_too(self):
        _, numbers = counted([{"prompt": "x", "chosen": 5, "rejected": ""}])

        assert "No pair can be read." in card_section(numbers.summary())

    def test_nothing_private_is_named(self, tmp_path, model_folder, capsys):
        folder = tmp_path / "private"
        folder.mkdir()
        rows = [pair_of(f"{number}", teacher=f"{folder}/my-model") for number in range(3)]
        (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
        names = [str(folder / name) for name in ("mine.jsonl", "card.md", "plot.svg")]
        command = ["inspect", names[0], "--model", str(model_folder), "--card", names[1], "--plot", names[2]]

        assert main(command) == 0

        card = (folder / "card.md").read_text()
        assert "private" not in card and str(Path(model_folder).parent) not in card
        assert "| my-model | - | 3 |" in card
        assert "(plot.svg)" in card and (folder / "plot.svg").exists()
        name = Path(model_folder).name
        assert f"`edit-trl inspect mine.jsonl --model {name} --plot plot.svg --card card.md`" in card

    def test_example_is_short_if_there_is_a_short_one(self, tmp_path, capsys):
        """Pairs with problems are never the example, and of long pairs it is the shortest."""
        path, card = tmp_path / "data.jsonl", tmp_path / "card.md"
        for lengths, expected in (([300, 5, 3], 1), ([300, 200, 250], 1), ([4, 3, 300], 0)):
            rows = [pair_of("step " * length + f"{row}") for row, length in enumerate(lengths)]
            path.write_text("\n".join(map(json.dumps, [{**rows[0], "chosen": ""}, *rows])))
            assert main(["inspect", str(path), "--card", str(card), "--overwrite"]) == 0
            assert f"Row {expected + 1}, with" in card.read_text()
