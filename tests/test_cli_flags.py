"""Tests of flags, of their values, and of the YAML file that may set them."""

import argparse
import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from cli_fixtures import command, own_folder_fixture, read_only_line, rows_of, teacher_fixture  # noqa: F401
from dual_cot_teacher import one_ssl_context, steps_of, time_limit  # noqa: F401

from edit_trl.chat import ChatClient
from edit_trl.cli import COMMANDS, main
from edit_trl.cli.flags import add_flag
from edit_trl.cli.reference import MARK, flag_tables, write_reference
from edit_trl.evaluation import EvaluationConfig
from edit_trl.inspection import InspectionConfig
from edit_trl.synthesis import SynthesisConfig


pytest.importorskip("openai")


class TestHelp:
    def test_every_option_of_client_and_recipe_is_a_flag_with_its_help(self, capsys):
        with pytest.raises(SystemExit) as end:
            main(["synthesize", "--help"])

        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for field in [*fields(ChatClient), *fields(SynthesisConfig)]:
            assert f"--{field.name} " in text
            if field.name == "store":
                assert "By default 'replies.sqlite' in 'output_dir' --temperature" in text
                continue  # in Python, replies without a store are in memory
            assert field.metadata["help"].rstrip(".").replace("'None'", "'none'") in text
        assert "The default is the paper's. 'none' uses the default of the endpoint (default: 0.2)" in text

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
    def test_values_are_named_as_one_types_them(self, command):
        """`none`, not `None`."""
        commands = argparse.ArgumentParser().add_subparsers()
        command.add_parser(commands)
        (parser,) = commands.choices.values()

        assert not re.search(r"\b(None|True|False)\b", parser.format_help())

    def test_defaults_of_zero_are_shown(self, capsys):
        with pytest.raises(SystemExit):
            main(["evaluate", "--help"])

        assert "Zero means greedy decoding (default: 0.0)" in " ".join(capsys.readouterr().out.split())

    def test_percent_sign_is_shown(self, capsys):
        """argparse formats help texts, and would take the sign for the beginning of a field."""
        parser = argparse.ArgumentParser()
        add_flag(parser, "share", float, "Share in % of all")

        parser.print_help()

        assert "Share in % of all" in capsys.readouterr().out


class TestReference:
    """The tables of flags in `docs/cli.md`."""

    PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

    def test_page_is_up_to_date(self):
        page = self.PAGE.read_text(encoding="utf-8")

        assert page.partition(MARK)[2].lstrip() == flag_tables(), "docs/cli.md is stale. Run `make docs-cli`."

    def test_every_flag_has_a_row_of_four_cells(self):
        rows = [line for line in flag_tables().splitlines() if line.startswith("| `")]

        assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)
        flags = [row.split("`")[1].removeprefix("--") for row in rows]
        names = [
            field.name
            for cls in (ChatClient, SynthesisConfig, InspectionConfig, EvaluationConfig)
            for field in fields(cls)
        ]
        assert set(names) < set(flags)
        what = "Print the expected requests, tokens and cost; send nothing"
        assert f"| `--dry_run` | `true` or `false` | `false` | {what} |" in rows
        assert any(
            row.startswith("| `--api_key_env` | `TEXT` | `OPENAI_API_KEY` | ") and "`none` for" in row for row in rows
        )

    def test_text_of_the_page_stays(self, tmp_path):
        page = tmp_path / "cli.md"
        page.write_text("# Title\n\nText.\n\n" + MARK + "\n\n| old |\n", encoding="utf-8")

        write_reference(page)
        write_reference(page)

        assert page.read_text(encoding="utf-8") == f"# Title\n\nText.\n\n{MARK}\n\n{flag_tables()}"


class TestValues:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--temperature", "warm"], "argument --temperature: must be a number, got 'warm'"),
            (["--num_samples", "2.5"], "argument --num_samples: must be a whole number, got '2.5'"),
            (["--num_samples", "none"], "argument --num_samples: must be a whole number, got 'none'"),
            (["--limit", "ten"], "argument --limit: must be a whole number, got 'ten'"),
            (["--push_to_hub", "maybe"], "argument --push_to_hub: must be 'true' or 'false', got 'maybe'"),
            (["--extra_body", "{thinking}"], "argument --extra_body: must be a JSON object, got '{thinking}'"),
            (["--extra_body", "[1]"], "argument --extra_body: must be a JSON object, got '[1]'"),
            (["--output_dir", "none"], "argument --output_dir: must be a text, got 'none'"),
            (["--temperature"], "argument --temperature: expected one argument"),
        ],
    )
    def test_values_of_another_type_are_refused(self, flags, message, teacher, capsys):
        """One line after the usage."""
        with pytest.raises(SystemExit) as end:
            main(command(teacher, *flags))

        assert end.value.code == 2
        assert capsys.readouterr().err == (
            "usage: edit-trl synthesize --questions DATA --model TEXT [--config FILE] [...]\n"
            f"edit-trl synthesize: error: {message}\n"
        )


class TestNames:
    """TRL's commands take dashes for underscores."""

    @pytest.mark.parametrize("flag", ["--num-examples=0", "--num_examples=0", "--num-examples 0"])
    def test_dashes_and_underscores_are_the_same(self, flag, teacher, capsys):
        arguments = [argument.replace("_", "-") for argument in command(teacher)[:-2]]
        assert main([*arguments, "--output-dir", "out_of-it", "--dry-run", *flag.split()]) == 0
        assert not capsys.readouterr().err.startswith("edit-trl")

    def test_values_keep_their_dashes(self, teacher, capsys):
        assert (
            main(command(teacher, "--limit", "2", "--hub-dataset-id", "my-lab/my_cots-1", output_dir="my-out_1")) == 0
        )
        assert sorted(os.listdir("my-out_1"))


class TestConfigFile:
    def write(self, teacher, **values):
        common = {"questions": "questions.jsonl", "model": "teacher", "api_key_env": None, "base_url": teacher.url}
        Path("run.yaml").write_text(yaml.safe_dump({**common, **values}))
        return ["synthesize", "--config", "run.yaml"]

    def test_it_may_hold_any_flag(self, teacher):
        argv = self.write(
            teacher,
            output_dir="from_file",
            limit=2,
            temperature=None,
            seed=7,
            extra_body={"top_k": 20, "stop": ["Q:"]},
            file_format="parquet",
            classify_mistakes=True,
        )

        assert main(argv) == 0

        assert "dual_cots.parquet" in os.listdir("from_file")
        assert steps_of(teacher.requests) == {"extract": 2, "rectify": 1, "corrupt": 1, "classify": 2}
        names = {"model", "messages", "max_tokens", "seed", "top_k", "stop"}
        assert all(request.keys() == names for request in teacher.requests)  # no temperature

    def test_flags_win_over_it_wherever_they_stand(self, teacher):
        argv = self.write(teacher, limit=9, output_dir="from_file", temperature=0.9, dry_run=True)

        assert main([*argv, "--limit", "2", "--dry_run", "false", "--output_dir=typed"]) == 0
        (name, *config) = argv
        assert main([name, "--limit", "3", "--dry_run", "false", "--output_dir", "again", *config]) == 0

        assert sorted(os.listdir()) == ["again", "questions.jsonl", "run.yaml", "typed"]
        assert {request["temperature"] for request in teacher.requests} == {0.9}
        assert [len(rows_of(f"{folder}/dual_cots.parquet")) for folder in ("typed", "again")] == [2, 3]

    def test_values_of_text_flags_need_no_quotes(self, teacher):
        """YAML takes these for a date, a number and a truth value."""
        Path("run.yaml").write_text(
            f"questions: questions.jsonl\nmodel: 4.5\nbase_url: {teacher.url}\napi_key_env: none\n"
            "output_dir: 2030-01-02\nlimit: 2\n"
        )

        assert main(["synthesize", "--config", "run.yaml"]) == 0

        assert Path("2030-01-02", "dual_cots.parquet").is_file()
        assert {request["model"] for request in teacher.requests} == {"4.5"}

    @pytest.mark.parametrize(("name", "nearest"), [("temprature", "temperature"), ("num-samples", "num_samples")])
    def test_unknown_key_names_the_nearest(self, name, nearest, teacher, capsys):
        assert main(self.write(teacher, **{name: 1})) == 1

        assert read_only_line(capsys) == (
            f"edit-trl: 'run.yaml' must have the names of flags as its keys, got `{name}`. Did you mean `{nearest}`?"
        )

    @pytest.mark.parametrize("name", ["config", "run", "command", "help"])
    def test_what_is_no_option_is_no_key(self, name, teacher, capsys):
        assert main(self.write(teacher, **{name: "x"})) == 1

        assert f"got `{name}`" in read_only_line(capsys)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"model: [teacher", "`--config` must be a YAML file, got 'run.yaml': while parsing"),
            (b"model: a: b", "`--config` must be a YAML file, got 'run.yaml': mapping values"),
            (b"\xff\xfe\x00", "`--config` must be a YAML file, got 'run.yaml': "),
            (
                b"- model\n- teacher\n",
                "must be a YAML file of flags and values, and 'run.yaml' is not: ['model', 'teacher'].",
            ),
            (b"", "must be a YAML file of flags and values, and 'run.yaml' is not: None."),
            (None, "`--config` must be a YAML file, got 'run.yaml': [Errno 2]"),
            (b"1: 2", "must have the names of flags as its keys, got `1`"),
            (b"questions:\nmodel: teacher", "`--questions` is needed"),
        ],
    )
    def test_bad_file_is_one_line(self, content, message, capsys):
        if content is not None:
            Path("run.yaml").write_bytes(content)

        assert main(["synthesize", "--config", "run.yaml"]) == 1

        assert message in read_only_line(capsys)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"temperature": "warm"}, "argument --temperature: must be a number, got 'warm'"),
            ({"temperature": True}, "argument --temperature: must be a number, got 'true'"),
            ({"temperature": [0.2]}, "argument --temperature: must be a number, got '[0.2]'"),
            ({"num_samples": True}, "argument --num_samples: must be a whole number, got 'true'"),
            ({"num_samples": None}, "argument --num_samples: must be a whole number, got 'none'"),
            ({"num_samples": 2.0}, "argument --num_samples: must be a whole number, got '2.0'"),
            ({"push_to_hub": 1}, "argument --push_to_hub: must be 'true' or 'false', got '1'"),
            ({"extra_body": "text"}, "argument --extra_body: must be a JSON object, got 'text'"),
            ({"output_dir": None}, "argument --output_dir: must be a text, got 'none'"),
            ({"task_description": None}, "argument --task_description: must be a text, got 'none'"),
        ],
    )
    def test_values_of_another_type_are_refused(self, values, message, teacher, capsys):
        with pytest.raises(SystemExit) as end:
            main(self.write(teacher, **values))

        assert end.value.code == 2
        assert capsys.readouterr().err.endswith(f"edit-trl synthesize: error: {message}\n")
        assert teacher.requests == []
