"""
The model card of a student: what a visitor of its repository needs to know, from what the trainer knows.

The text is in `templates/model_card.md`. Beside the card, the folder gets `training.json` with the settings of the
stage, so that the card of the next stage can name them, and `training.svg` with its curves.
"""

import json
import os
import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.logging import get_logger
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .drawings import draw_curves


logger = get_logger(__name__)

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
SETTINGS_FILE, CURVES_FILE, SCORES_FILE = "training.json", "training.svg", "scores.json"

CITATION = """\
@inproceedings{dai2025capture,
    title        = {{Capture the Key in Reasoning to Enhance CoT Distillation Generalization}},
    author       = {Dai, Chengwei and Li, Kun and Zhou, Wei and Hu, Songlin},
    year         = 2025,
    booktitle    = {Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics},
    url          = {https://aclanthology.org/2025.acl-long.21},
}

@misc{dai2024beyond,
    title        = {{Beyond Imitation: Learning Key Reasoning Steps from Dual Chain-of-Thoughts
                     in Reasoning Distillation}},
    author       = {Dai, Chengwei and Li, Kun and Zhou, Wei and Hu, Songlin},
    year         = 2024,
    eprint       = {2405.19737},
    archivePrefix= {arXiv},
}"""

_PACKAGES = {
    "edit-trl": "https://pypi.org/project/edit-trl/",
    "trl": "https://github.com/huggingface/trl",
    "transformers": "https://github.com/huggingface/transformers",
    "peft": "https://github.com/huggingface/peft",
    "torch": "https://pytorch.org",
}

# The form of the prompts of a trainer, since a card is written with each checkpoint.
_FORMATS: "WeakKeyDictionary[Any, tuple[bool, str, str]]" = WeakKeyDictionary()

# Rows whose prompts are compared to find what they have in common, and points of a curve.
_NUM_PROMPTS, _NUM_POINTS = 200, 200


def base_model_id(name: str | None) -> str | None:
    """
    Find the name on the Hub of the model that a student was trained from.

    Args:
        name (`str`, *optional*):
            Name on the Hub, or a local folder. For a folder, the base model that its own model card names.

    Returns:
        `str` or `None`: Name on the Hub, or `None` if it is unknown.

    Examples:

    ```python
    >>> base_model_id("HuggingFaceTB/SmolLM2-135M-Instruct")
    'HuggingFaceTB/SmolLM2-135M-Instruct'
    >>> print(base_model_id("/a/local/folder"))
    None

    ```
    """
    if not name or not os.path.isdir(name):
        is_id = bool(name) and not os.path.isabs(str(name)) and str(name).count("/") <= 1
        return name if is_id else None
    found = _card_data(name).get("base_model")
    found = found[0] if isinstance(found, list) and found else found
    return base_model_id(found) if isinstance(found, str) and not os.path.isdir(found) else None


def base_license(name: str | None) -> str | None:
    """
    Find the licence of the model that a student was trained from, in the model card of its folder or on the Hub.

    Args:
        name (`str`, *optional*):
            Name on the Hub, or a local folder.

    Returns:
        `str` or `None`: Identifier of the licence, such as `"apache-2.0"`, or `None` if it cannot be found.
    """
    if name and os.path.isdir(name) and "license" in _card_data(name):
        return _card_data(name)["license"]
    name = base_model_id(name)
    return None if name is None else _license_on_the_hub(name)


@cache  # a card is written with each checkpoint
def _license_on_the_hub(name: str) -> str | None:
    try:
        return ModelCard.load(name).data.get("license")
    except Exception as error:  # no network, no card, no access: of many types
        logger.info(f"The licence of {name} could not be read, so the model card names none: {error}")
        return None


def _card_data(folder: str | os.PathLike) -> dict[str, Any]:
    """The metadata of the model card of a folder, empty if there is none."""
    path = Path(folder, "README.md")
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.to_dict() if path.exists() else {}
    except ValueError:
        return {}


def write_model_card(
    trainer: Any,
    model_name: str | None = None,
    dataset_name: str | None = None,
    tags: str | list[str] | None = None,
) -> None:
    """
    Write the model card of a student to the trainer's `output_dir`, with `training.json` and `training.svg`.

    If the folder has a `scores.json` of `examples/train.py`, the scores are in the card and in its metadata
    (`model-index`). If it has a folder `sft/` of the first stage, its settings are in the card.

    Args:
        trainer ([`EDITTrainer`] or [`~trl.SFTTrainer`]):
            Trainer of the student.
        model_name (`str`, *optional*):
            Name of the student. Defaults to the name of the folder.
        dataset_name (`str`, *optional*):
            Name of the dataset on the Hub.
        tags (`str` or `list[str]`, *optional*):
            Tags to add to those of the trainer.
    """
    folder = Path(trainer.args.output_dir)
    model_name = model_name or folder.resolve().name
    base = _base_name(trainer.model)
    base_id = base_model_id(base)
    is_edit = hasattr(trainer.args, "chosen_key_weight")
    adapter = _adapter(trainer.model)
    settings = stage_settings(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    stages = [*_read_json(folder / "sft" / SETTINGS_FILE), settings] if is_edit else [settings]
    curves = {f"{stage['name']}, {name}": points for stage in stages for name, points in stage["curves"].items()}
    if curves:
        (folder / CURVES_FILE).write_text(draw_curves(curves, x_label="step"), encoding="utf-8")
    scores: dict[str, dict[str, Any]] = next(iter(_read_json(folder / SCORES_FILE)), {})
    own_tags = {tags} if isinstance(tags, str) else set(tags or ())
    own_tags |= {*trainer._tag_names, *(getattr(trainer.model, "model_tags", None) or ())}
    data = ModelCardData(
        base_model=base_id,
        base_model_relation=("adapter" if adapter else "finetune") if base_id else None,
        datasets=dataset_name,
        eval_results=_eval_results(scores) or None,
        library_name="peft" if adapter else "transformers",
        license=base_license(base),
        model_name=model_name,
        pipeline_tag="text-generation",
        tags=["generated_from_trainer", *sorted(own_tags)],
    )
    if trainer not in _FORMATS:
        _FORMATS[trainer] = prompt_format(trainer)
    is_chat, prompt, described = _FORMATS[trainer]
    link = f"`{Path(base).name}`" if base else "a model without a name"
    if base_id:
        link = f"[{base_id}](https://huggingface.co/{base_id})"
        if os.path.isdir(str(base)):
            link += " (from a local copy)"
    text = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=model_name,
        hub_model_id=trainer.hub_model_id or model_name,
        is_edit=is_edit,
        is_adapter=bool(adapter),
        adapter=adapter.get("type", ""),
        base=link,
        base_is_on_hub=base_id is not None,
        data=f" ([{dataset_name}](https://huggingface.co/datasets/{dataset_name}))" if dataset_name else "",
        is_chat=is_chat,
        prompt=prompt,
        format=described,
        stages=stages,
        rows=_table_rows(stages),
        curves=CURVES_FILE if curves else "",
        scores=_score_table(scores),
        versions=[(name, version(name), address) for name, address in _PACKAGES.items()],
        citation=CITATION,
    )
    text.save(folder / "README.md")


def _base_name(model: torch.nn.Module) -> str | None:
    """The name or folder that a student was loaded from; for an adapter, that of its base model."""
    for config in (getattr(model, "peft_config", None) or {}).values():
        if config.base_model_name_or_path:
            return config.base_model_name_or_path
    return getattr(model.config, "_name_or_path", None)


def _adapter(model: torch.nn.Module) -> dict[str, Any]:
    """What an adapter is, empty for a student without one."""
    for config in (getattr(model, "peft_config", None) or {}).values():
        names = ("r", "lora_alpha", "lora_dropout")
        values = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
        modules = getattr(config, "target_modules", None)
        if modules:
            values["target_modules"] = [modules] if isinstance(modules, str) else sorted(modules)
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        return {"type": {"LORA": "LoRA"}.get(kind, kind), **values}
    return {}


def stage_settings(trainer: Any) -> dict[str, Any]:
    """
    Collect what a stage of training was, for the model card and `training.json`.

    Args:
        trainer ([`EDITTrainer`] or [`~trl.SFTTrainer`]):
            Trainer of the stage, before or after training.

    Returns:
        `dict[str, Any]`: Name, learning rate and schedule, epochs, steps, rows of the dataset, rows per step, length,
            weights of the tokens, shares of key tokens, adapter, type of the parameters, and curves as lists of
            `[step, value]`. Without folders or names of the machine.
    """
    args, state = trainer.args, trainer.state
    is_edit = hasattr(args, "chosen_key_weight")
    rows = trainer.train_dataset
    settings: dict[str, Any] = {
        "name": "stage 2: KRSL" if is_edit else "stage 1: SFT",
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "epochs": round(state.epoch, 2) if state.epoch else 0,
        "steps": state.global_step,
        "rows": len(rows) if hasattr(rows, "__len__") else None,
        "rows_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "max_length": args.max_length,
    }
    names = {"loss": "loss"}
    if is_edit:
        for name in (*_WEIGHTS, "completion_weight", "rejected_loss", "alignment_level", "tie_break"):
            settings[name] = getattr(args, name)
        for chain in ("chosen", "rejected"):
            points = _curve(state.log_history, f"edit/key_token_ratio_{chain}")
            settings[f"key_token_ratio_{chain}"] = sum(value for _, value in points) / len(points) if points else None
        names["edit/key_margin"] = "key margin (nats)"
    settings["adapter"] = _adapter(trainer.model) or None
    settings["dtype"] = str(next(trainer.model.parameters()).dtype).removeprefix("torch.")
    settings["autocast"] = "bf16" if args.bf16 else "fp16" if args.fp16 else None
    curves = {label: _curve(state.log_history, name) for name, label in names.items()}
    settings["curves"] = {label: points for label, points in curves.items() if points}
    return settings


def _curve(log_history: list[dict[str, Any]], name: str) -> list[list[float]]:
    """The logged values of a metric with their steps, of a long run some of them."""
    points = [[log["step"], log[name]] for log in log_history if name in log and "step" in log]
    stride = -(-len(points) // _NUM_POINTS) or 1
    return points[::stride] if (len(points) - 1) % stride == 0 else [*points[::stride], points[-1]]


def _read_json(path: Path) -> list[Any]:
    """The content of a JSON file as a list of one, empty if there is no such file."""
    return [json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def prompt_format(trainer: Any) -> tuple[bool, str, str]:
    """
    Tell which form the prompts of the training data have, without showing any of them.

    Args:
        trainer ([`EDITTrainer`] or [`~trl.SFTTrainer`]):
            Trainer with its prepared training data.

    Returns:
        `tuple[bool, str, str]`: Whether the prompts are messages in the tokenizer's chat template, a Python expression
            of a prompt with the variable `question`, and a sentence for the card.
    """
    tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
    texts = [tokenizer.decode(ids) for ids in islice(_prompt_ids(trainer.train_dataset), _NUM_PROMPTS)]
    if tokenizer.chat_template and texts:
        mark = "\N{SNOWMAN}"
        messages = [{"role": "user", "content": mark}]
        try:
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template may refuse anything, such as a conversation without a system message
            rendered = None
        if rendered is not None and all(text.endswith(rendered.split(mark)[-1]) for text in texts):
            return True, "", "Prompts are messages, which the tokenizer's chat template renders as in training."
    texts = [_without_bos(text, tokenizer) for text in texts]
    # Questions have words in common too: the form ends with a mark or a new line, and begins again with a space.
    start = re.match(r"(?:.*[:\n>\]] ?)?", os.path.commonprefix(texts), re.DOTALL)[0]  # type: ignore[index]
    end = os.path.commonprefix([text[len(start) :][::-1] for text in texts])[::-1]
    end = re.search(r"(?:\s.*)?$", end, re.DOTALL)[0]  # type: ignore[index]
    if len(set(texts)) < 2 or not (start or end):
        return False, "question", "The prompts of the training data had no form in common."
    parts = [*([repr(start)] if start else []), "question", *([repr(end)] if end else [])]
    sentences = [f"begin with `{start!r}`"] if start else []
    sentences += [f"end with `{end!r}`"] if end else []
    return False, " + ".join(parts), f"Prompts of the training data {' and '.join(sentences)}, as Python writes it."


def _prompt_ids(dataset: Any) -> Iterable[list[int]]:
    for row in dataset if dataset is not None else ():
        if row.get("prompt_ids") is not None:
            yield row["prompt_ids"]
        elif row.get("completion_mask") is not None:  # data of `SFTTrainer`
            yield [token for token, is_own in zip(row["input_ids"], row["completion_mask"], strict=True) if not is_own]


def _without_bos(text: str, tokenizer: Any) -> str:
    return text.removeprefix(tokenizer.bos_token) if tokenizer.bos_token else text


_WEIGHTS = {
    "chosen_key_weight": "weight of key tokens of right chains, α",
    "rejected_key_weight": "weight of key tokens of wrong chains, β",
    "chosen_other_weight": "weight of other tokens of right chains, γ",
}


def _table_rows(stages: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The rows of the table of stages: a label and one text for each stage."""

    def describe(stage: dict[str, Any]) -> dict[str, str]:
        adapter = stage["adapter"] or {}
        modules = ", ".join(f"`{name}`" for name in adapter.get("target_modules", ()))
        numbers = [name for name in ("r", "lora_alpha", "lora_dropout") if name in adapter]
        values = ", ".join(f"{name} {adapter[name]}" for name in numbers)
        shares = [stage.get(f"key_token_ratio_{chain}") for chain in ("chosen", "rejected")]
        return {
            "learning rate": f"{stage['learning_rate']:g}, `{stage['lr_scheduler_type']}`",
            "epochs": f"{stage['epochs']:g}",
            "steps": f"{stage['steps']:,}",
            "rows of the dataset": f"{stage['rows']:,}" if stage["rows"] is not None else "a stream",
            "rows per step": f"{stage['rows_per_step']:,}",
            "maximum length, tokens": f"{stage['max_length']:,}" if stage["max_length"] else "none",
            **{label: f"{stage[name]:g}" for name, label in _WEIGHTS.items() if name in stage},
            "key tokens of right and wrong chains": " and ".join(f"{x:.1%}" for x in shares if x is not None),
            "adapter": f"{adapter['type']}: {values}; {modules}" if adapter else "none: all parameters",
            "parameters": stage["dtype"] + (f", {stage['autocast']} autocast" if stage["autocast"] else ""),
        }

    described = [describe(stage) for stage in stages]
    labels = list(dict.fromkeys(label for values in reversed(described) for label in values))
    rows = [(label, [values.get(label, "") for values in described]) for label in labels]
    return [(label, values) for label, values in rows if any(values)]


def _eval_results(scores: dict[str, dict[str, Any]]) -> list[EvalResult]:
    """The scores of the last student of a `scores.json`, for the metadata."""
    if not scores:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type="accuracy",
            metric_value=round(score["accuracy"], 4),
            metric_name="accuracy of greedy answers",
            metric_args={"questions": score["num_questions"], "interval_95": [round(x, 4) for x in score["interval"]]},
        )
        for name, score in list(scores.values())[-1].items()
    ]


def _score_table(scores: dict[str, dict[str, Any]]) -> str:
    """A table of a `scores.json`, empty without scores."""
    if not scores:
        return ""
    names = list(dict.fromkeys(name for by_task in scores.values() for name in by_task))
    lines = [f"| | questions | {' | '.join(scores)} |", f"| --- | --- |{' --- |' * len(scores)}"]
    for name in names:
        found = [by_task.get(name) for by_task in scores.values()]
        cells = [
            f"{score['accuracy']:.0%} ({score['interval'][0]:.0%} to {score['interval'][1]:.0%})".replace("%", "")
            if score
            else ""
            for score in found
        ]
        number = next(score["num_questions"] for score in found if score)
        lines.append(f"| {name} | {number} | {' | '.join(cells)} |")
    return "\n".join(lines)
