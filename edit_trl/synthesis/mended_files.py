"""
Write the dataset of a student's own mistakes to a folder that `load_dataset` and the Hub understand.
"""

import datetime
from typing import TYPE_CHECKING

from .checks import REJECT_REASONS
from .dataset_files import card_metadata, card_sections, card_steps, check_output_dir, datasets_of, write_files
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
    datasets = datasets_of(result) | ({} if mix is None else {"mix": mix})
    return write_files(config, datasets, result.report, mended_card(result, config, datasets))


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
    student = report["student"]
    prompt = f", prompt `mend.txt` (version `{report['prompt_version']}`)" if report["prompt_version"] else ""
    cost = "" if report["cost"] is None else f" Cost at the prices given: {report['cost']:.4g}."
    usage = report["usage"]
    mix = (
        " `mix` has the pairs beside chains of the first stage, which have no rejected chain."
        if "mix" in datasets
        else ""
    )
    parts = [
        card_metadata(datasets, config.file_format),
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
        *card_steps(report, MENDING_STEPS, {**REJECT_REASONS, **MENDING_REASONS}),
        *card_sections(config),
    ]
    return "\n\n".join(parts) + "\n"
