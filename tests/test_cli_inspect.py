"""Tests of `edit-trl inspect`: what it prints and writes, and how it fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_fixtures import own_folder_fixture, read_only_line, write_questions  # noqa: F401
from datasets import Dataset
from dual_cot_teacher import one_ssl_context, time_limit  # noqa: F401

from edit_trl import DataCollatorForDualCoT, align
from edit_trl.cli import main
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import InspectionConfig, Statistics, read_pairs


pytest.importorskip("openai")


GOOD = {
    "prompt": "Q: 2 + 3?\nA:",
    "chosen": " 2 + 3 = 5. The answer is 5.",
    "rejected": " 2 + 3 = 6. The answer is 6.",
}
PAIRS = [
    GOOD,
    {**GOOD, "prompt": "Q: Which?\nA:", "rejected": " Not at all. So it cannot be: 6."},
    {**GOOD, "chosen": "  "},
    GOOD,
    {
        "prompt": "Q: 3 + 2?\nA:",
        "chosen": " 3 + 2 = 5, so 5. The answer is 5.",
        "rejected": " 3 + 2 = 5, so 6. The answer is 6.",
    },
]


class TestInspect:
    @pytest.fixture(autouse=True)
    def pairs_file(self):
        return write_questions(PAIRS, "pairs.jsonl")

    def shown(self, capsys):
        """Numbers of the pairs shown, in order."""
        return [int(number) for number in re.findall(r"^Pair (\d+) ", capsys.readouterr().out, re.MULTILINE)]

    def test_numbers_advice_and_the_first_pairs_are_printed(self, capsys):
        assert main(["inspect", "pairs.jsonl", "--num_pairs", "2"]) == 0

        out, err = capsys.readouterr()
        assert err == ""
        assert "5 pairs, in words" in out
        assert "1 of 5 pairs would be left out by the trainer" in out
        assert re.findall(r"^Pair (\d+) ", out, re.MULTILINE) == ["0", "1"]
        assert "{+5.+} The answer is {+5.+}" in out and "[-6.-] The answer is [-6.-]" in out

    @pytest.mark.parametrize(
        ("flags", "expected"), [([], "5/5"), (["--limit", "4"], "4/4"), (["--limit", "9"], "5/5")]
    )
    def test_long_reads_show_how_far_they_are(self, flags, expected, monkeypatch, capsys):
        monkeypatch.setattr("edit_trl.cli.inspect._SILENT_SECONDS", -1.0)
        monkeypatch.setattr("edit_trl.cli.inspect._SECONDS_PER_CHANGE", -1.0)

        assert main(["inspect", "pairs.jsonl", *flags]) == 0

        assert re.search(rf"^pairs .*{re.escape(expected)}", capsys.readouterr().err)

    def test_numbers_are_those_of_python(self, capsys):
        assert main(["inspect", "pairs.jsonl", "--json", "numbers.json", "--min_similarity", "0.9"]) == 0

        config = InspectionConfig(min_similarity=0.9)
        statistics = Statistics(config, "words")
        for pair in read_pairs(PAIRS, config=config):
            statistics.add(pair)
        assert json.loads(Path("numbers.json").read_text()) == json.loads(json.dumps(statistics.summary()))

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            (["--sort", "key_token_ratio", "--num_pairs", "1"], [1, 4]),
            (["--sort", "similarity", "--num_pairs", "2"], [4, 0, 1, 0]),
            (["--sort", "length", "--num_pairs", "1"], [4, 1]),
            (["--num_pairs", "0"], []),
            (["--num_pairs", "9"], [0, 1, 2, 3, 4]),
            (["--limit", "2"], [0, 1]),
        ],
        ids=str,
    )
    def test_pairs_shown_are_those_asked_for(self, flags, expected, capsys):
        """Of pairs that are equal in what they are sorted by, the first ones."""
        assert main(["inspect", "pairs.jsonl", *flags]) == 0

        assert self.shown(capsys) == expected

    def test_truncation_keeps_the_end_where_it_is_asked_to(self, model_folder, tokenizer):
        """What is cut is what the collator cuts: of six tokens that are left, it scores all keys but a first one."""
        flags = ["--model", model_folder, "--max_length", "6", "--truncation_mode", "keep_end", "--json", "n.json"]
        assert main(["inspect", "pairs.jsonl", "--num_pairs", "0", *flags]) == 0

        rows = [row for row in PAIRS if row["chosen"].strip()]
        prepared = prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=tokenizer.eos_token)
        batch = DataCollatorForDualCoT(0, max_length=6, truncation_mode="keep_end")(list(prepared))
        chains = [(example["chosen_ids"], example["rejected_ids"]) for example in prepared]
        keys = [key for pair in chains for key in (align(*pair).chosen_key, align(*pair).rejected_key)]
        cut = json.loads(Path("n.json").read_text())["truncation"]
        assert cut["tokens"] == sum(map(len, keys)) - batch["num_completion_tokens"].sum() > 0
        num_scored = batch["scored_key"].sum() + sum(key[-6] for key in keys)
        assert cut["key_tokens"] == batch["num_key_tokens"].sum() - num_scored > 0

    def test_command_in_report_and_card_has_no_folder(self):
        """Of files that are not there yet: they are written with the report."""
        os.mkdir("mine")
        flags = ["html", "plot", "json", "card", "filter"]
        ends = {"html": "html", "plot": "svg", "json": "json", "card": "md", "filter": "jsonl"}
        main(["inspect", "pairs.jsonl", *(f"--{flag}=mine/{flag}.{ends[flag]}" for flag in flags)])

        for file in ("mine/html.html", "mine/card.md"):
            assert f"inspect pairs.jsonl {' '.join(f'--{flag} {flag}.{ends[flag]}' for flag in flags)}" in re.sub(
                r"\\(?=[_*])", "", Path(file).read_text()
            )

    def test_report_names_files_without_their_folders(self, tmp_path, capsys):
        folder = tmp_path / "private"
        folder.mkdir()
        data = folder / "mine.jsonl"
        data.write_text(Path("pairs.jsonl").read_text())

        assert main(["inspect", str(data), "--html", str(folder / "r.html"), "--max_length", "99"]) == 0

        page = (folder / "r.html").read_text()
        assert "edit-trl inspect mine.jsonl --html r.html --max_length 99" in page
        assert "none: read as words" in page and "private" not in page

    def test_good_and_bad_pairs_are_written_apart(self, capsys):
        assert main(["inspect", "pairs.jsonl", "--filter", "good.jsonl"]) == 0

        good, bad = (
            [json.loads(line) for line in Path(name).open()] for name in ("good.jsonl", "good.rejected.jsonl")
        )
        assert good == [PAIRS[0], PAIRS[4]]
        assert bad == [
            {**PAIRS[1], "problems": ["not_dual"]},
            {**PAIRS[2], "problems": ["missing"]},
            {**PAIRS[3], "problems": ["duplicate"]},
        ]
        assert "2 pairs without problems, 3 with: good.rejected.jsonl" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--json", "pairs.jsonl"], "`--json` must not be a file that is read, got 'pairs.jsonl'"),
            (["--html", "./pairs.jsonl"], "`--html` must not be a file that is read, got 'pairs.jsonl'"),
            (["--filter", "pairs.jsonl"], "`--filter` must not be a file that is read"),
            (
                ["--filter", "link.jsonl"],
                "`--filter` must not be a file that is read, got 'link.jsonl', which is 'pairs",
            ),
            (["--plot", "hard.svg"], "`--plot` must not be a file that is read, got 'hard.svg', which is"),
            (
                ["--filter", "keep.jsonl"],
                "the second file of `--filter` must not be a file that is read, got 'keep.rejected",
            ),
            (["--json", "flags.yaml"], "`--json` must not be a file that is read, got 'flags.yaml'"),
            (["--json", "/dev/full"], "`--json` must be a file, but '/dev/full' is a device"),
            (["--json", "/dev/null"], "`--json` must be a file, but '/dev/null' is a device"),
            (["--html", "pipe"], "`--html` must be a file, but 'pipe' is a device, a pipe"),
            (["--json", "folder"], "`--json` must be a file, but 'folder' is a folder"),
            (["--json", "loop"], "`--json` must be a file, got 'loop'"),
            (["--json", "one", "--html", "./one"], "`--json` and `--html` must be two files"),
        ],
    )
    def test_output_that_would_destroy_something_is_refused_before_any_work(self, flags, message, capsys):
        os.symlink("pairs.jsonl", "link.jsonl")
        os.link("pairs.jsonl", "hard.svg")
        os.link("pairs.jsonl", "keep.rejected.jsonl")
        os.symlink("loop", "loop")
        os.mkfifo("pipe")
        os.mkdir("folder")
        Path("flags.yaml").write_text("num_pairs: 1\n")
        before, content = sorted(os.listdir()), Path("pairs.jsonl").read_bytes()
        data = "keep.rejected.jsonl" if "keep.jsonl" in flags else "pairs.jsonl"

        assert main(["inspect", data, *flags, "--overwrite", "--config", "flags.yaml"]) == 1

        assert re.search(message, read_only_line(capsys))
        assert sorted(os.listdir()) == before and Path("pairs.jsonl").read_bytes() == content

    def test_file_that_exists_is_replaced_only_if_asked(self, capsys):
        """That one names it, as here, or that it is the second file of `--filter`, which nobody named."""
        for flags, name in ((["--json", "own.json"], "own.json"), (["--filter", "keep.jsonl"], "keep.rejected.jsonl")):
            Path(name).write_text("old")
            assert main(["inspect", "pairs.jsonl", *flags]) == 1
            assert f"but '{name}' exists. Pass another name, or pass `--overwrite`" in read_only_line(capsys)
            assert Path(name).read_text() == "old"

            assert main(["inspect", "pairs.jsonl", *flags, "--overwrite"]) == 0
            assert Path(name).read_text() != "old"
            capsys.readouterr()

    def test_file_on_standard_input_is_an_input(self, capsys):
        content = Path("pairs.jsonl").read_bytes()
        command = "import sys; from edit_trl.cli import main; sys.exit(main(sys.argv[1:]))"
        with open("pairs.jsonl") as file:
            done = subprocess.run(
                [sys.executable, "-c", command, "inspect", "-", "--json", "pairs.jsonl", "--overwrite"],
                stdin=file,
                capture_output=True,
                text=True,
            )
        assert done.returncode == 1 and "`--json` must not be a file that is read" in done.stderr, done.stderr
        assert Path("pairs.jsonl").read_bytes() == content

    def test_links_are_followed(self):
        os.mkdir("elsewhere")
        os.symlink("elsewhere/new.json", "link.json")

        assert main(["inspect", "pairs.jsonl", "--json", "link.json"]) == 0

        assert Path("link.json").is_symlink() and json.loads(Path("elsewhere/new.json").read_text())
        assert os.listdir("elsewhere") == ["new.json"]

    @pytest.mark.parametrize("kind", ["json", "csv", "parquet", "disk", "folder"])
    def test_pairs_may_come_in_any_container(self, kind, capsys):
        dataset = Dataset.from_list([PAIRS[0], PAIRS[1]])
        name = {"disk": "saved", "folder": "data"}.get(kind, f"pairs.{kind}")
        if kind == "json":
            Path(name).write_text(json.dumps(dataset.to_list()))
        elif kind == "csv":
            dataset.to_csv(name)
        elif kind == "disk":
            dataset.save_to_disk(name)
        else:
            Path("data").mkdir()
            dataset.to_parquet(name if kind == "parquet" else "data/train.parquet")
        capsys.readouterr()

        assert main(["inspect", name]) == 0
        assert self.shown(capsys) == [0, 1]

    def test_tokens_are_those_of_the_model(self, model_folder, tokenizer, capsys):
        assert main(["inspect", "pairs.jsonl", "--model", model_folder, "--json", "n.json", "--weights"]) == 0

        (pair,) = read_pairs([GOOD], tokenizer)
        out = capsys.readouterr().out
        assert "in tokens" in out and f"{pair.key_token_ratio:.1%} key" in out
        assert "-0.025" in out
        assert json.loads(Path("n.json").read_text())["unit"] == "tokens"

    def test_options_may_stand_in_a_file(self, capsys):
        Path("inspect.yaml").write_text("num_pairs: 1\nweights: true\nmin_similarity: 0\n")

        assert main(["inspect", "pairs.jsonl", "--config", "inspect.yaml"]) == 0
        out = capsys.readouterr().out
        assert out.count("Pair ") == 1 and "-0.025" in out and "not_dual" not in out

        Path("inspect.yaml").write_text("num_pair: 1\n")
        assert main(["inspect", "pairs.jsonl", "--config", "inspect.yaml"]) == 1
        assert "Did you mean `num_pairs`?" in read_only_line(capsys)

    @pytest.mark.parametrize(
        ("content", "flags", "message"),
        [
            (
                None,
                [],
                "`DATA` must be a JSON, JSON Lines, CSV or Parquet file, or a dataset on the Hub, got 'a.jsonl'",
            ),
            ("", [], "DATA must hold at least one pair"),
            ("no dataset", [], "line 1, column 1: Expecting value"),
            ('{"prompt": "Q"}\n[1]', [], "chosen"),
            (json.dumps(GOOD) + "\n[1]", [], "a row is not an object"),
            (json.dumps(GOOD) + '\n{"prompt', [], "line 2, column 2: Unterminated string"),
            (json.dumps({"question": "Q", "choosen": "a", "rejected": "b"}), [], "chosen"),
            (json.dumps({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}), [], "--model NAME"),
            (json.dumps(GOOD), ["--model", "nowhere"], "`--model` must be the name or folder of a tokenizer"),
            (json.dumps(GOOD), ["--sort", "beauty"], "`--sort` must be one of key_token_ratio, similarity, length"),
            (json.dumps(GOOD), ["--num_pairs", "-1"], "`--num_pairs` and `--fold` must be at least 0"),
            (json.dumps(GOOD), ["--limit", "0"], "`--limit` must be at least 1, got 0"),
            (json.dumps(GOOD), ["--log_probs"], "`--log_probs` needs `--model`"),
            (
                json.dumps(GOOD),
                ["--plot", "a/plot.png"],
                "must be an SVG file, got 'a/plot.png'. Browsers open it: pass",
            ),
            (json.dumps(GOOD), ["--filter", "good.csv"], "Pass `--filter good.jsonl`"),
            (json.dumps(GOOD), ["--html", "nowhere/report.html"], "The folder of 'nowhere/report.html' must exist"),
            (json.dumps(GOOD), ["--tie_break", "left"], "`tie_break` must be one of 'symmetric', 'reference'"),
        ],
    )
    def test_what_cannot_work_is_one_line(self, content, flags, message, capsys):
        if content is not None:
            Path("a.jsonl").write_text(content)

        assert main(["inspect", "a.jsonl", *flags]) == 1

        line = read_only_line(capsys)
        assert line.startswith("edit-trl inspect: ") and message in line
        assert not Path("good.jsonl").exists()

    def test_data_without_a_pair_leaves_files_as_they_were(self, capsys):
        Path("a.jsonl").write_text("\n")
        flags = []
        for flag, name in (("html", "a.html"), ("plot", "a.svg"), ("json", "a.json"), ("card", "a.md")):
            Path(name).write_text("before")
            flags += [f"--{flag}", name]
        for name in ("good.jsonl", "good.rejected.jsonl"):
            Path(name).write_text("before")

        assert main(["inspect", "a.jsonl", *flags, "--filter", "good.jsonl", "--overwrite"]) == 1

        assert "DATA must hold at least one pair, 'a.jsonl' has none." in read_only_line(capsys)
        names = {*flags[1::2], "good.jsonl", "good.rejected.jsonl"}
        assert {Path(name).read_text() for name in names} == {"before"}
        assert set(os.listdir()) == names | {"a.jsonl", "pairs.jsonl", "questions.jsonl"}

    def test_half_a_character_is_shown_and_written(self):
        """In a process of its own: the output of pytest takes everything."""
        bad = {**GOOD, "chosen": GOOD["chosen"] + " \ud83d.", "task": "sums \ud83d", "teacher": "me \ud83d"}
        write_questions([bad, {**GOOD, "task": "sums \ud83d"}], "half.jsonl")
        flags = ["--json", "s.json", "--html", "a.html", "--plot", "a.svg", "--card", "a.md", "--filter", "good.jsonl"]
        command = "from edit_trl.cli import main; raise SystemExit(main())"
        done = subprocess.run(
            [sys.executable, "-c", command, "inspect", "half.jsonl", *flags], capture_output=True, text=True
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(Path("s.json").read_text(encoding="utf-8"))["problems"] == {"unreadable": 1}
        assert [json.loads(line)["task"] for line in Path("good.jsonl").read_text().splitlines()] == ["sums \ud83d"]

    def test_failure_leaves_no_unfinished_files(self, capsys):
        Path("a.jsonl").write_text(json.dumps(GOOD) + "\n[1]")
        Path("good.jsonl").write_text("before")

        assert main(["inspect", "a.jsonl", "--filter", "good.jsonl"]) == 1

        assert Path("good.jsonl").read_text() == "before"
        assert sorted(os.listdir()) == ["a.jsonl", "good.jsonl", "pairs.jsonl", "questions.jsonl"]

    def test_very_long_line_is_read_and_named(self, capsys):
        """A file that has lost its line ends."""
        write_questions([GOOD, {**GOOD, "chosen": "5 " * 20_000_000}], "long.jsonl")

        assert main(["inspect", "long.jsonl", "--num_pairs", "0"]) == 0
        assert "hold a text of more than a million characters" in capsys.readouterr().out
