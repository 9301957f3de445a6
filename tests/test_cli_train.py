"""Tests of `edit-trl train`: its help, and how it starts the recipe, whose own tests are in `test_recipe.py`."""

import re
import sys

import pytest
from test_package import loaded_by

from edit_trl import EDITConfig
from edit_trl.cli import main
from edit_trl.option_help import described_options


class TestHelp:
    def test_it_is_short_and_describes_the_options_of_the_recipe_and_of_edit(self, capsys):
        assert main(["train", "--help"]) == 0
        text = capsys.readouterr().out
        flags = set(re.findall(r"--(\w+)", text))
        assert {"dataset_name", "stages", "sft_learning_rate", "demo_level", "use_peft", "accelerate_config"} <= flags
        own = {"chosen_key_weight", "rejected_key_weight", "chosen_other_weight", "alignment_level", "rejected_loss"}
        assert own <= flags & set(described_options(EDITConfig))
        shown = " ".join(text.split())
        assert described_options(EDITConfig)["tie_break"].rstrip(".") in shown
        assert len(text.splitlines()) < 120 and max(map(len, text.splitlines())) <= 119

    def test_defaults_are_those_of_the_code(self, capsys):
        """Each default that the help shows, read by TRL's parser, is the one that the script uses without it."""
        from trl import TrlParser

        from edit_trl.scripts.train import RecipeArguments

        main(["train", "--help"])
        own = " ".join(capsys.readouterr().out.split("TRL and transformers, some")[0].split())
        shown = re.findall(r"--(\w+) (?:(?! --).)*?\(default: ([^)]*)\)", own)
        assert len(shown) > 15
        parser = TrlParser((RecipeArguments, EDITConfig))
        flags = [word for name, value in shown for word in (f"--{name}", *value.split())]
        plain, given = (parser.parse_args_and_config(args) for args in ([], flags))
        for name, _ in shown:
            values = [next(getattr(part, name) for part in parts if hasattr(part, name)) for parts in (plain, given)]
            assert values[0] == values[1], name

    def test_it_loads_neither_torch_nor_transformers(self):
        assert loaded_by("from edit_trl.cli import main\nassert main(['train', '--help']) == 0") == set()

    def test_named_options_exist(self, capsys):
        """Those that the help names without a docstring of ours."""
        from trl import ModelConfig, SFTConfig

        main(["train", "--help"])
        text = capsys.readouterr().out
        others = text.split("TRL and transformers, some of them:")[1].split("launching:")[0]
        for name in set(re.findall(r"--(\w+)", others)) - {"config"}:
            assert name in SFTConfig.__dataclass_fields__ or name in ModelConfig.__dataclass_fields__, name


class TestLaunch:
    @pytest.fixture
    def launched(self, monkeypatch):
        from accelerate.commands import launch

        calls = []
        monkeypatch.setattr(launch, "launch_command", calls.append)
        return calls

    def test_through_accelerate(self, launched, tmp_path):
        config = tmp_path / "two.yaml"
        config.write_text("num_processes: 2\n")
        flags = ["--dataset_name", "pairs.jsonl", "--num-processes", "3", "--stages", "2"]
        assert main(["train", *flags, "--accelerate_config", str(config)]) == 0
        (args,) = launched
        assert (args.config_file, args.num_processes, args.module) == (str(config), 3, True)
        assert args.training_script == "edit_trl.scripts.train"
        assert args.training_script_args == ["--dataset_name", "pairs.jsonl", "--stages", "2"]

    def test_configs_of_trl_by_name(self, launched):
        assert main(["train", "--accelerate_config", "zero2"]) == 0
        assert launched[0].config_file.endswith("accelerate_configs/zero2.yaml")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--accelerate_config", "zero9"], "`--accelerate_config` must be a file or one of"),
            (["--num_processes", "2"], "`--num_processes` needs `--accelerate_config`"),
        ],
    )
    def test_bad_flags_are_one_line(self, launched, flags, message, capsys):
        assert main(["train", *flags]) == 1
        assert capsys.readouterr().err.startswith(f"edit-trl train: {message}")
        assert not launched

    def test_flags_go_to_the_script(self, monkeypatch, capsys):
        """In this process, with an error of the recipe as one line."""
        monkeypatch.setattr(sys, "argv", sys.argv)
        with pytest.raises(SystemExit, match="^edit-trl train: .*Did you mean `rejected_key_weight`?"):
            main(["train", "--rejected_key_wight", "0.1"])

    def test_faults_keep_their_traceback(self, monkeypatch, capsys):
        def fail(*args, **kwargs):
            raise ValueError("in the middle of training")

        monkeypatch.setattr("runpy.run_module", fail)
        monkeypatch.setattr(sys, "argv", sys.argv)
        assert main(["train"]) == 1
        assert "Traceback" in (shown := capsys.readouterr().err) and "in the middle of training" in shown
