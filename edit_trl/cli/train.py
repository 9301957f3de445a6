"""
The command `edit-trl train`: train a student with the two stages of EDIT, on one device or through accelerate.

Its flags are those of the script `scripts/train.py`, more than two hundred. They are read by TRL's parser, which takes
seconds to load, so `--help` reads the docstrings of the most used ones without it.
"""

import argparse
import ast
import functools
import runpy
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any

from ..option_help import Option, options_in


_PACKAGE = Path(__file__).parents[1]
SCRIPT = "edit_trl.scripts.train"

# What `--help` shows of the options of `EDITConfig`, which has TRL's and transformers' too.
_TRL_OPTIONS = {
    "model_name_or_path": "Student: model on the Hub, or folder of a model or of a trained adapter. By default the "
    "demo's",
    "output_dir": "Folder of the student; stage 1 is in its folder 'sft'. By default 'trainer_output', or that of the "
    "demo",
    "num_train_epochs, max_steps": "Of stage 2",
    "per_device_train_batch_size": "Pairs at once on a device",
    "gradient_accumulation_steps": "Batches of a step",
    "use_peft": "Train an adapter. By default all weights are trained; then lower both learning rates",
    "lora_r": "Rank of the adapter",
    "lora_alpha": "Scale of the adapter, divided by its rank",
    "lora_target_modules": "Layers of the adapter",
    "load_in_4bit": "Quantize the base model, for QLoRA",
    "save_steps": "Steps between checkpoints, with 'save_strategy' 'steps'",
    "resume_from_checkpoint": "'true' continues from the newest complete checkpoint",
    "push_to_hub": "Push the student with its model card",
    "hub_model_id": "Name of the student on the Hub",
    "report_to": "Tracker: 'tensorboard', 'wandb', 'trackio'",
    "config": "YAML file with any of these flags, such as those in examples/configs",
}
_LAUNCH_OPTIONS = {
    "accelerate_config": "Config of accelerate, for several devices: a YAML file, or the name of one that TRL has, "
    "such as 'multi_gpu', 'fsdp2' or 'zero3'",
    "num_processes": "Number of processes, with 'accelerate_config'",
    "help_all": "Show all flags, with those of TRL and transformers",
}
# Flags whose values are files or folders.
_PATHS = ("dataset_name", "model_name_or_path", "output_dir", "config", "accelerate_config")


def add_parser(commands: Any) -> None:
    """Add this command to the list of the `commands`. [`run_script`] reads its flags."""
    commands.add_parser(
        "train",
        help="train a student with both stages of EDIT",
        description="Train a student: supervised fine-tuning on right chains, then EDIT on pairs. Without a dataset, "
        "the demo is run, and what no flag sets is as in `edit_trl/scripts/demo.yaml`. `edit-trl train --help_all` "
        "shows all flags, with those of TRL and transformers.",
        add_help=False,
    )


def add_shown_flags(parser: argparse.ArgumentParser) -> None:
    """
    Add the flags that `--help` shows to the `parser` of this command, for completion and the docs. It reads no values.
    """
    for title, options in _groups().items():
        group = parser.add_argument_group(title)
        for names, option in options.items():
            for name in names.split(", "):
                is_path, is_switch = name in _PATHS, option.default in ("true", "false")
                group.add_argument(
                    f"--{name}",
                    nargs=None if is_path else "?",  # TRL's may be switches, too, which need no value
                    metavar="FILE" if is_path else "true|false" if is_switch else "VALUE",
                    default=option.default,
                    help=option.text.replace("%", "%%"),
                )
    parser.add_argument("--help", action="store_true", help="show this text")


def run_script(argv: list[str]) -> int:
    """
    Run this command.

    Args:
        argv (`list[str]`):
            Its flags.

    Returns:
        `int`: Exit status. The script itself ends the process.

    Raises:
        FileNotFoundError: If there is no such config of accelerate.
        ValueError: If there is a number of processes without a config.
        SystemExit: At the end of the script.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--help_all", "--help-all", action="store_true")
    parser.add_argument("--accelerate_config", "--accelerate-config")
    parser.add_argument("--num_processes", "--num-processes")
    own, others = parser.parse_known_args(argv)
    if own.help:
        print(_help())
        return 0
    if own.help_all:
        others = ["--help"]
    if own.accelerate_config is None and own.num_processes is not None:
        raise ValueError(
            f"`--num_processes` needs `--accelerate_config`, got {own.num_processes} processes and no config. Pass "
            "`--accelerate_config multi_gpu`."
        )
    if own.accelerate_config is None or own.help_all:
        sys.argv = ["edit-trl train", *others]
        try:
            runpy.run_module(SCRIPT, run_name="__main__", alter_sys=False)
        except (ImportError, OSError, ValueError):  # what other commands show in one line may be a fault in training
            traceback.print_exc()
            return 1
        return 0
    from accelerate.commands.launch import launch_command, launch_command_parser

    flags = ["--config_file", _accelerate_config(own.accelerate_config)]
    flags += ["--num_processes", own.num_processes] if own.num_processes else []
    launch_command(launch_command_parser().parse_args([*flags, "-m", SCRIPT, *others]))
    return 0


def _accelerate_config(name: str) -> str:
    """The path of a config of accelerate: a file, or one of TRL's."""
    if Path(name).is_file():
        return name
    import trl

    folder = Path(trl.__file__).parent / "accelerate_configs"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise FileNotFoundError(
            f"`--accelerate_config` must be a file or one of {', '.join(names)}, got {name!r}. `accelerate config` "
            "writes a file."
        )
    return str(folder / f"{name}.yaml")


def _help() -> str:
    """The help text: the start of the script's docstring, its own flags, and the most used others."""
    about = (ast.get_docstring(_parsed("scripts/train.py")) or "").split("\n\n")[0]
    about += "\nWithout a dataset, the demo is run: its own defaults are in edit_trl/scripts/demo.yaml."
    lines = [
        "usage: edit-trl train [--dataset_name DATA] [--model_name_or_path MODEL] [--config FILE] [...]",
        "",
        about,
    ]
    for title, options in _groups().items():
        lines += ["", f"{title}:"]
        for names, option in options.items():
            flags = ", ".join(f"--{name}" for name in names.split(", "))
            text = option.text.rstrip(".") + (f" (default: {option.default})" if option.default else "")
            lines += textwrap.wrap(flags, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
            lines += textwrap.wrap(text, 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _groups() -> dict[str, dict[str, Option]]:
    """The flags that the help shows, by the title of their group. A key may have several names."""
    return {
        "this recipe": _described(_parsed("scripts/train.py"), "RecipeArguments"),
        "EDIT, in stage 2": _described(_parsed("edit_config.py"), "EDITConfig"),
        "TRL and transformers, some of them": {names: Option(text) for names, text in _TRL_OPTIONS.items()},
        "launching": {names: Option(text) for names, text in _LAUNCH_OPTIONS.items()},
    }


@functools.cache
def _parsed(file: str) -> ast.Module:
    return ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))


def _described(module: ast.Module, name: str) -> dict[str, Option]:
    """The options that the docstring of a class describes."""
    node = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return {key: option for key, option in options_in(ast.get_docstring(node) or "").items() if key in fields}
