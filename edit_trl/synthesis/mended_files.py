"""
Write the dataset of a student's own mistakes to a folder that `load_dataset` and the Hub understand.
"""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import written_aside
from .checks import REJECT_REASONS
from .dataset_files import card_sections, check_output_dir
from .mending import MENDING_REASONS, MendingConfig
from .results import MENDING_STEPS, SynthesisResult


if TYPE_CHECKING:
    from datasets import Dataset


def save_mended(
    result: SynthesisResult, config: MendingConfig, mix: "Dataset | None" = None, overwrite: bool = False
) -> list[str]:
    """
    Write pairs, mended chains, rejected records, the mix if there is one, report and dataset card to
    `config.output_dir`.

    Old files are replaced only after all new files are written.

    Args:
        result ([`SynthesisResult`]):
            Result of [`mend_mistakes`].
        config ([`MendingConfig`]):
            Options. `output_dir`, `file_format` and those that the card names are used.
        mix ([`~datasets.Dataset`], *optional*):
            Result of [`mix_with_replay`].
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to replace files that [`save_mended`] did not write.

    Returns:
        `list[str]`: Paths of the files.

    Raises:
        FileExistsError: If a file exists that [`save_mended`] did not write, and `overwrite` is false.
    """
    check_output_dir(config, overwrite=overwrite, more_datasets=() if mix is None else ("mix",))
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    datasets = {"dual_cots": result.pairs, "sft": result.sft, "rejected": result.rejected}
    if mix is not None:
        datasets["mix"] = mix
    texts = {
        "report.json": json.dumps(result.report, indent=2, ensure_ascii=False) + "\n",
        "README.md": mended_card(result, config, datasets),
    }
    files = [*(f"{name}.{config.file_format}" for name in datasets), *texts]
    with written_aside(*(folder / name for name in files)) as paths:
        for path, dataset in zip(paths, datasets.values(), strict=False):
            if config.file_format == "parquet":
                dataset.to_parquet(path)
            else:
                with open(path, "w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in dataset)
        for path, text in zip(paths[len(datasets) :], texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    return [str(folder / name) for name in files]


def mended_card(result: SynthesisResult, config: MendingConfig, datasets: "dict[str, Dataset]") -> str:
    """
    Write the text of the dataset card.

    Args:
        result ([`SynthesisResult`]):
            Result of [`mend_mistakes`].
        config ([`MendingConfig`]):
            Its options.
        datasets (`dict[str, Dataset]`):
            The datasets of the folder, by the names of their files.

    Returns:
        `str`: Markdown, with the Hub's metadata at the start.
    """
    report = result.report
    metadata = ["---", "tags:", "- trl", "- edit", "- preference", "configs:"]
    for name, dataset in datasets.items():
        if config.file_format == "jsonl" and not len(dataset):
            continue  # `load_dataset` fails on an empty JSON Lines file
        metadata += [f"- config_name: {name}", f"  data_files: {name}.{config.file_format}"]
        if name == "dual_cots":
            metadata.append("  default: true")
    student = report["student"]
    rows = ["| step | chains | kept | rejected |", "| --- | --- | --- | --- |"]
    for name, step in report["steps"].items():
        counts = ", ".join(f"{num} {reason}" for reason, num in step["rejected"].items()) or "-"
        rows.append(f"| {name}: {MENDING_STEPS[name]} | {step['chains']} | {step['kept']} | {counts} |")
    reasons = {**REJECT_REASONS, **MENDING_REASONS}
    used = sorted({reason for step in report["steps"].values() for reason in step["rejected"]})
    prompt = f", prompt `mend.txt` (version `{report['prompt_version']}`)" if report["prompt_version"] else ""
    cost = "" if report["cost"] is None else f" Cost at the prices given: {report['cost']:.4g}."
    usage = report["usage"]
    mix = (
        " `mix` has the pairs beside chains of the first stage, which have no rejected chain."
        if "mix" in datasets
        else ""
    )
    parts = [
        "\n".join([*metadata, "---"]),
        "# A student's own mistakes, mended",
        "Pairs of a right (`chosen`) and a wrong (`rejected`) chain of thought for one question. The wrong chain is a "
        "reply of a student, the right one is the same chain with its first mistake put right and the rest continued "
        "from there. Made for `EDITTrainer` of `edit_trl` (the EDIT "
        "[paper](https://huggingface.co/papers/2405.19737)) or any preference trainer of TRL. `sft` holds the mended "
        f"chains for supervised fine-tuning, `rejected` what was not used, and why.{mix}",
        f"- Replies of the student: {student['replies']} to {student['questions']} questions: {student['right']} "
        f"right, {student['wrong']} wrong, {student['repeated']} wrong and repeated, {student['unusable']} unusable.\n"
        f"- Pairs: {report['pairs']}. Mended by `{report['teacher']}`{prompt}, {datetime.date.today().isoformat()}.\n"
        f"- {usage['requests']} requests, {usage['prompt_tokens']} tokens in, {usage['completion_tokens']} tokens "
        f"out.{cost}",
        *([f"Not finished: {report['stopped']}."] if report["stopped"] else []),
        "## Steps",
        "\n".join(rows),
        *(["\n".join(f"- `{reason}`: {reasons[reason]}" for reason in used)] if used else []),
        *card_sections(config),
    ]
    return "\n\n".join(parts) + "\n"
