"""
Write a synthesized dataset to a folder that `load_dataset` and the Hub understand: data, card, report.
"""

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_folder, check_outputs, written_aside
from .checks import REJECT_REASONS
from .config import SynthesisConfig
from .mending import MendingConfig
from .results import STEPS, SynthesisResult


if TYPE_CHECKING:
    from datasets import Dataset

_DATASETS = ("dual_cots", "sft", "rejected")
_USED_PROMPTS = ("cot.txt", "answer_hint.txt", "contrastive_cot.txt")


# Files of `edit-trl inspect` in the folder: a page that is pushed with the dataset, and a part of its card.
REPORT_PAGE = "report.html"
CARD_SECTION = "inspection.md"


def check_output_dir(
    config: SynthesisConfig,
    inputs: Iterable[str | os.PathLike] = (),
    overwrite: bool = False,
    more_datasets: Sequence[str] = (),
) -> None:
    """
    Refuse a folder in which [`save_dual_cots`] would replace files that are not of a synthesis. Writes nothing.

    Args:
        config ([`SynthesisConfig`]):
            Options. `output_dir` and `file_format` are used.
        inputs (`Iterable[str or os.PathLike]`, *optional*):
            Files and folders that are read, such as the file of questions.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether files that exist may be replaced. Those of an earlier run of the same kind ([`synthesize`] or
            [`mend_mistakes`]), which left its `report.json` in the folder, always may; inputs never.
        more_datasets (`Sequence[str]`, *optional*):
            Names of datasets that are written besides those of [`save_dual_cots`].

    Raises:
        FileExistsError: If a file exists and may not be replaced.
        ValueError: If a file is one of the inputs, or cannot be written.
    """
    folder = Path(config.output_dir)
    check_folder("`output_dir`", folder)
    if not folder.is_dir():
        return  # `save_dual_cots` makes it
    names = [*_file_names(config), *(f"{name}.{config.file_format}" for name in more_datasets)]
    check_outputs(
        {f"{name!r} in `output_dir`": folder / name for name in names},
        inputs,
        overwrite or _is_own(folder / "report.json", isinstance(config, MendingConfig)),
        "pass `overwrite` to replace it",
    )


def _is_own(report: Path, is_mending: bool) -> bool:
    """Tell whether a file is the report of a synthesis, or of a mending."""
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_report = isinstance(content, dict) and {"pairs", "steps", "prompt_version"} <= set(content)
    return is_report and ("student" in content) == is_mending


def save_dual_cots(result: SynthesisResult, config: SynthesisConfig, overwrite: bool = False) -> list[str]:
    """
    Write pairs, stage-1 data, rejected records, report and dataset card to `config.output_dir`.

    Old files are replaced only after all new files are written, and only if [`save_dual_cots`] wrote them.

    Args:
        result ([`SynthesisResult`]):
            Result of [`synthesize`].
        config ([`SynthesisConfig`]):
            Options. `output_dir` and `file_format` are used.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace files that [`save_dual_cots`] did not write.

    Returns:
        `list[str]`: Paths of the files.

    Raises:
        FileExistsError: If a file exists that [`save_dual_cots`] did not write, and `overwrite` is false.
    """
    check_output_dir(config, overwrite=overwrite)
    return write_files(config, datasets_of(result), result.report, dataset_card(result, config))


def datasets_of(result: SynthesisResult) -> "dict[str, Dataset]":
    """Return the datasets of a `result` by the names of their files."""
    return dict(zip(_DATASETS, (result.pairs, result.sft, result.rejected), strict=True))


def write_files(
    config: SynthesisConfig, datasets: "Mapping[str, Dataset]", report: dict[str, Any], card: str
) -> list[str]:
    """
    Write datasets, report and card to `config.output_dir`. All are written before the first is replaced.

    Args:
        config ([`SynthesisConfig`]):
            Options. `output_dir` and `file_format` are used.
        datasets (`Mapping[str, Dataset]`):
            The datasets by the names of their files.
        report (`dict[str, Any]`):
            Content of `report.json`.
        card (`str`):
            Content of `README.md`.

    Returns:
        `list[str]`: Paths of the files.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n", "README.md": card}
    names = [*(f"{name}.{config.file_format}" for name in datasets), *texts]
    with written_aside(*(folder / name for name in names)) as paths:
        for path, dataset in zip(paths, datasets.values(), strict=False):
            if config.file_format == "parquet":
                dataset.to_parquet(path)
            else:
                with open(path, "w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in dataset)
        for path in paths[len(datasets) :]:
            path.write_text(texts[path.name], encoding="utf-8")
    return [str(folder / name) for name in names]


def push_to_hub(config: SynthesisConfig, more_files: Sequence[str] = ()) -> str:
    """
    Push the files of `config.output_dir`, without the store of replies, to the Hub as a dataset. If there is a
    `report.html`, which `edit-trl inspect` writes, it is pushed too.

    Args:
        config ([`SynthesisConfig`]):
            Options. `output_dir`, `file_format`, `hub_dataset_id` and `hub_private_repo` are used.
        more_files (`Sequence[str]`, *optional*):
            Names of more files of the folder to push.

    Returns:
        `str`: URL of the dataset.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    name = config.hub_dataset_id or Path(config.output_dir).resolve().name
    repo = api.create_repo(name, repo_type="dataset", private=config.hub_private_repo, exist_ok=True)
    api.upload_folder(
        repo_id=repo.repo_id,
        repo_type="dataset",
        folder_path=config.output_dir,
        allow_patterns=[*_file_names(config), REPORT_PAGE, *more_files],
        commit_message="Dual chains-of-thought",
    )
    return str(repo)


def dataset_card(result: SynthesisResult, config: SynthesisConfig) -> str:
    """
    Write the text of the dataset card: the content of the files, how they were made, and what was left out.

    Args:
        result ([`SynthesisResult`]):
            Result of [`synthesize`].
        config ([`SynthesisConfig`]):
            Options of the synthesis.

    Returns:
        `str`: Markdown, with the Hub's metadata at the start.
    """
    report = result.report
    tasks = [
        [task or "-", counts.get("chains", 0), counts.get("rectified", 0), counts.get("corrupted", 0)]
        for task, counts in report["tasks"].items()
    ]
    origins = ", ".join(f"{num} {origin}" for origin, num in report["origin"].items())
    sampling = ", ".join(f"{name} {value}" for name, value in report["sampling"].items() if value is not None)
    cost = "" if report["cost"] is None else f" Cost at the prices given: {report['cost']:.4g}."
    usage = report["usage"]
    unit = report["counted_in"]
    ratio = "-" if report["key_token_ratio"] is None else f"{report['key_token_ratio']:.1%}"
    mean_similarity = "-" if report["similarity"] is None else f"{report['similarity']:.2f}"
    own = "the prompts of a folder of its own" if config.template_dir else f"the prompts {', '.join(_USED_PROMPTS)}"
    parts = [
        card_metadata(datasets_of(result), config.file_format),
        "# Dual chains-of-thought",
        "Pairs of a right (`chosen`) and a wrong (`rejected`) chain of thought for one question that share most of "
        "their reasoning, made by the recipe of the EDIT [paper](https://huggingface.co/papers/2405.19737), to train "
        "a student with `EDITTrainer` of `edit_trl` or with any preference trainer of TRL. `sft` holds the right "
        "chains for supervised fine-tuning before that, `rejected` what was not used, and why.",
        f"- Pairs: {report['pairs']} ({origins or 'none'}). Rectified: the teacher was wrong, and right when told the "
        "answer. Corrupted: the teacher was right, and wrote a wrong response when asked for one.\n"
        f"- Teacher: `{report['teacher']}` ({sampling or 'sampling left to the endpoint'}), {own} (version "
        f"`{report['prompt_version']}`), {datetime.date.today().isoformat()}.\n"
        f"- {usage['requests']} requests, {usage['prompt_tokens']} tokens in, {usage['completion_tokens']} "
        f"tokens out.{cost}\n"
        f"- On average {ratio} of the {unit} of a pair are key, and {mean_similarity} of the longer chain needs no "
        "edit.",
        *card_steps(report, STEPS, REJECT_REASONS),
        "## Tasks",
        _table(["task", "chains", "rectified", "corrupted"], tasks),
        *card_sections(config),
    ]
    return "\n\n".join(parts) + "\n"


def card_metadata(datasets: "Mapping[str, Dataset]", file_format: str) -> str:
    """
    Write the Hub's metadata of a card: tags, and the file of each dataset.

    Args:
        datasets (`Mapping[str, Dataset]`):
            The datasets by the names of their files.
        file_format (`str`):
            `"parquet"` or `"jsonl"`.

    Returns:
        `str`: YAML, between its marks.
    """
    lines = ["---", "tags:", "- trl", "- edit", "- preference", "configs:"]
    for name, dataset in datasets.items():
        if file_format == "jsonl" and not len(dataset):
            continue  # `load_dataset` fails on an empty JSON Lines file
        lines += [f"- config_name: {name}", f"  data_files: {name}.{file_format}"]
        if name == "dual_cots":
            lines.append("  default: true")
    return "\n".join([*lines, "---"])


def card_steps(report: dict[str, Any], steps: Mapping[str, str], reasons: Mapping[str, str]) -> list[str]:
    """
    Write the part of a card about the steps: why the run stopped, its notes, and what each step rejected.

    Args:
        report (`dict[str, Any]`):
            Report of the run.
        steps, reasons (`Mapping[str, str]`):
            What the steps do, and what the reasons mean, by their names.

    Returns:
        `list[str]`: Paragraphs of Markdown.
    """
    rows = [
        [
            f"{name}: {steps[name]}",
            step["chains"],
            step["kept"],
            ", ".join(f"{num} {reason}" for reason, num in step["rejected"].items()) or "-",
        ]
        for name, step in report["steps"].items()
    ]
    used = sorted({reason for step in report["steps"].values() for reason in step["rejected"]})
    return [
        *([f"Not finished: {report['stopped']}."] if report["stopped"] else []),
        *report["notes"],
        *report["refused_fields"],
        "## Steps",
        _table(["step", "chains", "kept", "rejected"], rows),
        *(["\n".join(f"- `{reason}`: {reasons[reason]}" for reason in used)] if used else []),
    ]


def card_sections(config: SynthesisConfig) -> list[str]:
    """
    Return the part of the card that `edit-trl inspect --card` has written to `inspection.md` in the folder.

    Args:
        config ([`SynthesisConfig`]):
            Options. `output_dir` is used.

    Returns:
        `list[str]`: One text, or none if there is no such file.
    """
    path = Path(config.output_dir, CARD_SECTION)
    return [path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def _file_names(config: SynthesisConfig) -> list[str]:
    return [*(f"{name}.{config.file_format}" for name in _DATASETS), "report.json", "README.md"]


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
