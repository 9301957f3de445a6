"""
Tests of the files that are written and pushed: datasets, report and card.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from dual_cot_teacher import (
    DUAL_COTS,
    ERRING,
    WRONG,
    one_ssl_context,  # noqa: F401
    questions,
    run,
    run_one,
    teach,
    teach_but,
)
from teacher import (
    Teacher,
    client_for,
    time_limit,  # noqa: F401
)

from edit_trl.cli import main
from edit_trl.synthesis import SynthesisConfig, dataset_files, push_to_hub, save_dual_cots, synthesize
from edit_trl.synthesis.checks import REJECT_REASONS
from edit_trl.synthesis.dataset_files import check_output_dir
from edit_trl.synthesis.results import public_name, public_url


pytest.importorskip("openai")


def metadata_of(card):
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head), body


def reply_with_dates(request, number):
    """Right with a hint, and a day too early without."""
    content = request["messages"][-1]["content"]
    (date,) = set(re.findall(r"Which day is ([\d-]+)\?", content))
    if "\nH: " not in content:
        date = date.replace("02", "01").replace("24", "23")
    return f"The question itself names the day, {date}, and asks for no other. Therefore, the answer is {date}."


@pytest.fixture(scope="module")
def mixed():
    """A run with rejected replies, stopped by its budget: 16 + 8 requests, one more for an attempt, 5 of 8."""
    script = teach_but({("rectify", ERRING.question): [ERRING.rejected] * 3})
    return run(script, DUAL_COTS, {"max_requests": 31})[0]


@pytest.fixture(scope="module")
def folders(mixed, tmp_path_factory):
    """A folder of each format."""
    folders = {name: str(tmp_path_factory.mktemp(name) / "new" / "dual_cots") for name in ("jsonl", "parquet")}
    for file_format, folder in folders.items():
        files = save_dual_cots(mixed, SynthesisConfig(output_dir=folder, file_format=file_format))
        names = [
            *(f"{name}.{file_format}" for name in ("dual_cots", "sft", "rejected")),
            "report.json",
            "README.md",
        ]
        assert files == [str(Path(folder, name)) for name in names]
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted(names)
    return folders


class TestFiles:
    @pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
    def test_datasets_load_by_name(self, file_format, folders, mixed, tmp_path):
        saved = {"dual_cots": mixed.pairs, "sft": mixed.sft, "rejected": mixed.rejected}
        for name, expected in saved.items():
            loaded = load_dataset(folders[file_format], name, split="train", cache_dir=str(tmp_path))

            assert len(loaded) > 0
            assert loaded.to_list() == expected.to_list()
            assert loaded.features == expected.features
        default = load_dataset(folders[file_format], split="train", cache_dir=str(tmp_path))
        assert default.to_list() == mixed.pairs.to_list()

    @pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
    def test_folder_without_rejected_rows_loads_as_well(self, file_format, made, tmp_path):
        """No file of JSON Lines without a line can be read by `load_dataset`."""
        folder = str(tmp_path / "dual_cots")
        save_dual_cots(made[0], SynthesisConfig(output_dir=folder, file_format=file_format))

        for name in ("dual_cots", "sft"):
            assert len(load_dataset(folder, name, split="train", cache_dir=str(tmp_path / "cache"))) == 16

    def test_text_that_looks_like_something_else_stays_text(self, tmp_path):
        """Answers that are all dates, and no row with a task: of JSON Lines, `load_dataset` would guess the types."""
        answers = ["2030-01-02", "2031-12-24"]
        with Teacher(reply_with_dates) as teacher:
            rows = [{"question": f"Which day is {answer}?", "answer": answer} for answer in answers]
            result = synthesize(rows, client_for(teacher))
        save_dual_cots(result, SynthesisConfig(output_dir=str(tmp_path / "dates")))

        loaded = load_dataset(str(tmp_path / "dates"), split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["answer"][:] == answers
        assert loaded["task"][:] == [None, None]

    def test_kinds_of_mistakes_are_kept(self, made, tmp_path):
        pairs = made[0].pairs.select(range(3)).add_column("mistake_kinds", [["logical"], None, ["logical", "other"]])
        folder = str(tmp_path / "dual_cots")
        save_dual_cots(replaced(made[0], pairs=pairs), SynthesisConfig(output_dir=folder))

        loaded = load_dataset(folder, "dual_cots", split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["mistake_kinds"][:] == [["logical"], None, ["logical", "other"]]

    @pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
    def test_card_takes_the_part_of_the_inspection(self, file_format, mixed, tmp_path):
        config = SynthesisConfig(output_dir=str(tmp_path), file_format=file_format)
        save_dual_cots(mixed, config)
        card = (tmp_path / "README.md").read_text()
        assert main(["inspect", f"{tmp_path}/dual_cots.{file_format}", "--card", f"{tmp_path}/inspection.md"]) == 0

        save_dual_cots(mixed, config)

        section = (tmp_path / "inspection.md").read_text()
        assert (tmp_path / "README.md").read_text() == f"{card}\n{section}"
        assert "## The pairs" in section and len(section) > 1_000

    def test_report_is_the_one_of_the_run(self, folders, mixed):
        assert json.loads(Path(folders["jsonl"], "report.json").read_text()) == mixed.report

    def test_card_begins_with_metadata(self, folders):
        for file_format, folder in folders.items():
            metadata, _ = metadata_of(Path(folder, "README.md").read_text())
            assert metadata == {
                "tags": ["trl", "edit", "preference"],
                "configs": [
                    {"config_name": "dual_cots", "data_files": f"dual_cots.{file_format}", "default": True},
                    {"config_name": "sft", "data_files": f"sft.{file_format}"},
                    {"config_name": "rejected", "data_files": f"rejected.{file_format}"},
                ],
            }

    def test_card_has_the_counts_by_origin_reason_and_task(self, folders):
        """
        One of 8 chains could not be rectified, in 3 attempts: 16 + 7 + 3 requests. Of 31, 5 are left to corrupt right
        chains with.
        """
        _, body = metadata_of(Path(folders["jsonl"], "README.md").read_text())

        assert "- Pairs: 12 (7 rectified, 5 corrupted)." in body
        assert "| extract: answer the question | 16 | 16 | - |\n" in body
        assert (
            "| rectify: answer again after a wrong chain, with the right answer as a hint | 8 | 7 | 1 still_wrong |\n"
            in body
        )
        assert "| corrupt: write a wrong response close to a right chain | 8 | 5 | 3 not_asked |\n" in body
        assert f"- `still_wrong`: {REJECT_REASONS['still_wrong']}\n" in body
        assert f"- `not_asked`: {REJECT_REASONS['not_asked']}\n" in body
        assert "`unparsed`" not in body
        origins = Counter((cot.task, cot.question in WRONG) for cot in DUAL_COTS if cot is not ERRING)
        rows = dict(re.findall(r"^\| (\w+) \| 2 \| (\d \| \d) \|$", body, re.MULTILINE))
        assert rows.keys() == {cot.task for cot in DUAL_COTS}
        assert all(int(row[0]) == origins[task, True] for task, row in rows.items())
        assert sum(int(row[-1]) for row in rows.values()) == 5
        assert "Not finished: `max_requests=31` is reached." in body
        assert "- 31 requests, 620 tokens in, 310 tokens out.\n" in body
        assert "- Teacher: `teacher` (temperature 0.2, max_tokens 2048), the prompts cot.txt, answer_hint.txt" in body

    def test_card_of_a_run_without_pairs_can_be_written(self):
        result, _ = run(lambda *_: "I do not know.", cots=DUAL_COTS[:2])

        metadata, body = metadata_of(dataset_files.dataset_card(result, SynthesisConfig(file_format="jsonl")))

        assert [config["config_name"] for config in metadata["configs"]] == ["rejected"]
        assert "- Pairs: 0 (none)." in body

    def test_tasks_cannot_break_the_table(self):
        rows = [{**row, "task": "a|b"} for row in questions(DUAL_COTS[:2])]
        with Teacher(teach) as teacher:
            result = synthesize(rows, client_for(teacher))

        assert "| a&#124;b | 2 | 1 | 1 |" in dataset_files.dataset_card(result, SynthesisConfig())

    def test_failure_leaves_the_files_as_they_were(self, made, tmp_path, monkeypatch):
        """All are written before the first is replaced."""
        config = SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl")
        save_dual_cots(made[0], config)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setattr(dataset_files, "json", FullDisk(after=10))

        with pytest.raises(OSError, match="No space left"):
            save_dual_cots(replaced(made[0], pairs=made[0].pairs.select([0])), config)

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_files_are_text_that_can_be_read(self, tmp_path):
        """Characters are not escaped, and separators inside of texts end no line."""
        question = "Wie heißt 2 + 3\u2028auf Deutsch? 🎈"
        wrong, right = (f"2 + 3 = {n}. Therefore, the answer is {word}." for n, word in ((6, "sechs"), (5, "fünf")))
        result = run_one(question, "fünf", wrong, right)
        save_dual_cots(result, SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl"))

        text = (tmp_path / "dual_cots.jsonl").read_text(encoding="utf-8")
        assert question in text
        assert json.loads(text)["prompt"] == f"Q: {question}\nA:"


class TestFilesOfOthers:
    def test_file_that_no_synthesis_wrote_is_kept(self, made, tmp_path):
        """A README of the user's, in a folder that is used for the first time."""
        config = SynthesisConfig(output_dir=str(tmp_path))
        (tmp_path / "README.md").write_text("Mine.")

        with pytest.raises(FileExistsError, match="'README.md' in `output_dir` must be a new file.*`overwrite`"):
            save_dual_cots(made[0], config)

        assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
        save_dual_cots(made[0], config, overwrite=True)
        save_dual_cots(made[0], config)  # now they are of a synthesis
        assert (tmp_path / "README.md").read_text() != "Mine."

    def test_questions_are_not_replaced_by_what_is_made_of_them(self, made, tmp_path):
        """Such as a second run on what a first one rejected."""
        config = SynthesisConfig(output_dir=str(tmp_path))
        save_dual_cots(made[0], config)

        with pytest.raises(ValueError, match="'rejected.parquet' in `output_dir` must not be a file that is read"):
            check_output_dir(config, [tmp_path / "rejected.parquet"], overwrite=True)
        check_output_dir(config, [tmp_path / "questions.jsonl"])


class FullDisk:
    """Replaces `json` and fails after some calls."""

    def __init__(self, after):
        self.left = after

    loads = staticmethod(json.loads)

    def dumps(self, *args, **options):
        self.left -= 1
        if self.left < 0:
            raise OSError("No space left on device")
        return json.dumps(*args, **options)


def replaced(result, **fields):
    return type(result)(**{**vars(result), **fields})


class FakeHub:
    """Replaces `HfApi` and records its calls."""

    calls: list

    def create_repo(self, name, **options):
        from huggingface_hub import RepoUrl

        self.calls.append(("create_repo", name, options))
        return RepoUrl(f"https://huggingface.co/datasets/somebody/{name.split('/')[-1]}")

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options))


class TestPushToHub:
    @pytest.fixture
    def calls(self, monkeypatch):
        monkeypatch.setattr(FakeHub, "calls", [], raising=False)
        monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
        return FakeHub.calls

    def test_files_of_the_dataset_are_pushed_and_replies_are_not(self, made, calls, tmp_path):
        from huggingface_hub.utils import filter_repo_objects

        config = SynthesisConfig(output_dir=str(tmp_path / "dual_cots"), hub_private_repo=True)
        save_dual_cots(made[0], config)
        others = [
            "replies.sqlite",
            "replies.sqlite-wal",
            "questions.jsonl",
            "tmp1/dual_cots.parquet",
            "sft.jsonl",
            ".env",
        ]

        url = push_to_hub(config)

        assert url == "https://huggingface.co/datasets/somebody/dual_cots"
        create, upload = calls
        assert create == ("create_repo", "dual_cots", {"repo_type": "dataset", "private": True, "exist_ok": True})
        options = upload[1]
        assert (options["repo_id"], options["repo_type"]) == ("somebody/dual_cots", "dataset")
        assert options["folder_path"] == config.output_dir
        files = [path.name for path in Path(config.output_dir).iterdir()]
        pushed = filter_repo_objects([*files, *others], allow_patterns=options["allow_patterns"])
        assert sorted(pushed) == sorted(files)

    def test_name_and_format_are_those_of_the_config(self, calls, tmp_path):
        push_to_hub(SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl", hub_dataset_id="lab/cots"))

        (_, name, _), (_, options) = calls
        assert (name, options["repo_id"]) == ("lab/cots", "somebody/cots")
        assert {"dual_cots.jsonl", "sft.jsonl", "rejected.jsonl"} <= set(options["allow_patterns"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("http://127.0.0.1:8000/v1", "private"),
        ("http://10.0.0.7:8000/v1", "private"),
        ("http://[::1]:8000/v1", "private"),
        ("http://localhost:8000/v1", "private"),
        ("http://gpu-7.cluster.internal/v1", "private"),
        ("http://gpu-7/v1", "private"),
        ("vllm", "vllm"),
        (None, None),
    ],
)
def test_addresses_of_ones_own_are_not_published(url, expected):
    assert public_url(url) == expected


def test_folders_of_ones_own_are_not_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert public_name(str(tmp_path / "models" / "mine")) == public_name("models/mine") == "mine"
    assert public_name("owner/name") == "owner/name"
