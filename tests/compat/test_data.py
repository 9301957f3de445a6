"""
Tests that a student trains on every shape of preference data: its loss is that of token IDs made by hand, by rendering
and tokenizing the chains as texts.
"""

import os

import pytest
from conftest import build_model
from datasets import Dataset, IterableDataset
from test_edit_trainer import make_trainer


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error:::edit_trl")]

QUESTIONS = ((12, 30), (3, 4), (20, 19), (8, 6))
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]


def chains(a: int, b: int) -> tuple[str, str, str]:
    """Question, right and wrong chain."""
    return f"What is {a} + {b}?", f"First, {a} + {b} = {a + b}. It is {a + b}.", f"First, {a} + {b} = {a}. It is {a}."


def messages(role: str, text: str, names=("role", "content")) -> list[dict[str, str]]:
    return [dict(zip(names, (role, text), strict=True))]


def conversation(a: int, b: int, names=("role", "content")) -> dict:
    question, chosen, rejected = chains(a, b)
    return {
        "prompt": messages("user", question, names),
        "chosen": messages("assistant", chosen, names),
        "rejected": messages("assistant", rejected, names),
    }


def plain(a: int, b: int) -> dict:
    question, chosen, rejected = chains(a, b)
    return {"prompt": f"{question}\n", "chosen": chosen, "rejected": rejected}


def without_prompt(row: dict) -> dict:
    return {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}


# Rows of each shape, and the arguments of the template that reach it, if it is one of messages.
SHAPES = {
    "plain": (plain, None),
    "plain, implicit prompt": (lambda a, b: without_prompt(plain(a, b)), None),
    "conversational": (conversation, {}),
    "conversational, implicit prompt": (lambda a, b: without_prompt(conversation(a, b)), {}),
    "from and value": (lambda a, b: conversation(a, b, ("from", "value")), {}),
    "tools": (lambda a, b: {**conversation(a, b), "tools": TOOLS}, {"tools": TOOLS}),
    "chat_template_kwargs": (
        lambda a, b: {**conversation(a, b), "chat_template_kwargs": {"shout": True}},
        {"shout": True},
    ),
}


def tokens_by_hand(shape: str, tokenizer) -> list[dict[str, list[int]]]:
    _, template = SHAPES[shape]
    rows = []
    for a, b in QUESTIONS:
        if template is None:
            row = plain(a, b)
            prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
            if "implicit" in shape:
                # TRL splits where the texts part, before a space if there is one.
                prompt = os.path.commonprefix([prompt + chosen, prompt + rejected]).removesuffix(" ")
            full = [row["prompt"] + chain + tokenizer.eos_token for chain in (chosen, rejected)]
        else:
            row = conversation(a, b)
            options = {"tokenize": False, **template}
            prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)
            full = [
                tokenizer.apply_chat_template(row["prompt"] + row[side], **options) for side in ("chosen", "rejected")
            ]
        prompt_ids = tokenizer(prompt)["input_ids"]
        chain_ids = [tokenizer(text)["input_ids"] for text in full]
        assert all(ids[: len(prompt_ids)] == prompt_ids for ids in chain_ids)
        rows.append(
            {
                "prompt_ids": prompt_ids,
                "chosen_ids": chain_ids[0][len(prompt_ids) :],
                "rejected_ids": chain_ids[1][len(prompt_ids) :],
            }
        )
    return rows


@pytest.mark.parametrize(
    ("shape", "kind"),
    [*((shape, "dataset") for shape in SHAPES), ("plain", "iterable"), ("conversational", "iterable")],
)
@pytest.mark.filterwarnings("ignore:.*implicit prompt.*")
def test_trains_on_every_shape(shape, kind, tmp_path, tokenizer):
    rows = [SHAPES[shape][0](a, b) for a, b in QUESTIONS]
    losses = []
    for data in (rows, tokens_by_hand(shape, tokenizer)):
        is_lazy = kind == "iterable" and data is rows
        dataset = IterableDataset.from_generator(lambda data=data: iter(data)) if is_lazy else Dataset.from_list(data)
        trainer = make_trainer(
            tmp_path, dataset, build_model(), tokenizer, eval_dataset=Dataset.from_list(data), max_steps=2,
            per_device_train_batch_size=4,
        )  # fmt: skip
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        losses[-1].append(trainer.evaluate()["eval_loss"])
    assert len(losses[0]) == 3 and losses[0][0] != losses[0][1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
