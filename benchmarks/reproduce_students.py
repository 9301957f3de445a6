"""
Students of `reproduce.py`: a small Llama from random weights, its training with real trainers, its replies and scores.
"""

import copy
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from reproduce_tasks import Problem, build_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PrinterCallback,
    set_seed,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from edit_trl import EDITConfig, EDITTrainer
from edit_trl.answers import answers_match, extract_answer
from edit_trl.evaluation import majority_vote, pass_at_k
from edit_trl.key_steps import key_step_accuracy
from edit_trl.scoring import eval_mode, score_tokens


# Lengths of prompts up to which each has batches of its own, and prompts in a batch with padding.
_MAX_LENGTHS, _PADDED_BATCH = 12, 64
TRAINERS = {"sft": (SFTTrainer, SFTConfig), "edit": (EDITTrainer, EDITConfig), "dpo": (DPOTrainer, DPOConfig)}


def build_student(
    hidden_size: int, num_layers: int, seed: int, name: str | None = None, lora: bool = False
) -> tuple[Any, PreTrainedTokenizerBase]:
    """
    Make a student and its tokenizer: a Llama with random weights, or the model `name`, trained in full or with an
    adapter.
    """
    set_seed(seed)
    if name is not None:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        if torch.accelerator.is_available():
            model.to(torch.accelerator.current_accelerator())
        if lora:
            model = get_peft_model(
                model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            )
        return model, tokenizer
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config), tokenizer


def train(
    trainer_name: str,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    folder: str,
    trainer_class: type | None = None,
    bf16: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """
    Train a student on rows in the order given, `batch_size` rows a step, and return the tokens and the time it took.

    The rate rises over a twentieth of the steps and then falls to zero, in every arm.
    """
    if len(rows) != steps * batch_size:
        raise ValueError(f"{steps} steps of {batch_size} rows need {steps * batch_size} rows, got {len(rows)}.")
    start = time.process_time()
    default_class, config_class = TRAINERS[trainer_name]
    config = config_class(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, steps // 20),
        train_sampling_strategy="sequential",
        max_length=None,
        seed=seed,
        use_cpu=not torch.accelerator.is_available(),
        bf16=bf16 or torch.accelerator.is_available(),
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    # `Dataset.from_list` takes the columns of the first row.
    columns = dict.fromkeys(name for row in rows for name in row)
    dataset = Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])
    # The reference is the student after stage 1. With an adapter, `DPOTrainer` keeps a copy of the adapter for it.
    has_copy = trainer_name == "dpo" and not isinstance(model, PeftModel)
    reference = {"ref_model": copy.deepcopy(model)} if has_copy else {}
    trainer = (trainer_class or default_class)(
        model=model, args=config, train_dataset=dataset, processing_class=tokenizer, **reference
    )
    if len(trainer.train_dataset) != len(rows):
        raise RuntimeError(f"The trainer must keep all {len(rows)} rows, kept {len(trainer.train_dataset)}.")
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if isinstance(model, PeftModel) and "ref" in model.peft_config:
        model.delete_adapter("ref")
    if trainer.state.global_step != steps:
        raise RuntimeError(f"The trainer must take {steps} steps, took {trainer.state.global_step}.")
    return {"steps": steps, "chains": len(rows), "seconds": round(time.process_time() - start, 1)}


def count_tokens(tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Count the tokens of the right and of the wrong chains of some rows, with the one that ends each of them."""
    lengths: dict[str, int] = {}

    def length(row: dict[str, Any], name: str) -> int:
        if row.get(f"{name}_ids"):
            return len(row[f"{name}_ids"])
        text = row.get(name)
        if not text:
            return 0
        if text not in lengths:
            lengths[text] = len(tokenizer(text)["input_ids"]) + 1
        return lengths[text]

    return {
        "right_tokens": sum(length(row, "chosen") + length(row, "completion") for row in rows),
        "wrong_tokens": sum(length(row, "rejected") for row in rows),
    }


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Copies of the weights that are trained, by name."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def set_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Set the weights that [`trained_weights`] returned."""
    for name, weight in model.named_parameters():
        if name in weights:
            weight.copy_(weights[name])


@contextmanager
def weights_kept(model: Any) -> Any:
    """Give the model back its weights at the end."""
    kept = trained_weights(model)
    try:
        yield
    finally:
        set_weights(model, kept)


@contextmanager
def scored_in(model: Any, bf16: bool) -> Any:
    """
    Compute in bfloat16 until the end of the block, if asked. Nothing may be trained meanwhile.

    On a CPU, PyTorch casts frozen weights again at every step, and copies those of the output layer for each row of a
    batch. So the frozen weights of a student with an adapter count as trained here.
    """
    frozen = [weight for weight in model.parameters() if bf16 and not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    batch_size: int = 1000,
) -> list[str]:
    """
    Return a reply to each prompt. Prompts of equal length share a batch, so no batch has padding. Prompts of more than
    a few lengths, as those of real words have, are sorted by length and padded on the left.
    """
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    end = tokenizer.eos_token_id
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(ids):
        by_length.setdefault(len(prompt), []).append(number)
    groups = list(by_length.values())
    if len(groups) > _MAX_LENGTHS:
        groups, batch_size = [sorted(range(len(ids)), key=lambda number: len(ids[number]))], _PADDED_BATCH
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    replies = [""] * len(ids)
    model.config.use_cache = True
    with eval_mode(model):
        for numbers in groups:
            for batch in (numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)):
                width = max(len(ids[number]) for number in batch)
                padding = [[tokenizer.pad_token_id] * (width - len(ids[number])) for number in batch]
                inputs = torch.tensor([p + ids[number] for p, number in zip(padding, batch, strict=True)])
                mask = torch.tensor([[0] * len(p) + [1] * (width - len(p)) for p in padding])
                output = model.generate(
                    inputs.to(model.device),
                    attention_mask=mask.to(model.device),
                    max_new_tokens=max_new_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=end,
                    **sampling,
                )
                texts = tokenizer.batch_decode(output[:, inputs.shape[1] :], skip_special_tokens=True)
                for number, text in zip(batch, texts, strict=True):
                    replies[number] = f" {text.strip()}"
    return replies


def longest_chain(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> int:
    """Most tokens of a right chain, and five more: the one that ends it, and some for a chain that is longer."""
    return 5 + max(len(tokenizer(problem.chosen)["input_ids"]) for problem in problems)


def verdicts(
    model: Any, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]
) -> tuple[list[bool], list[str]]:
    """Return whether the greedy answer to each problem is right, and the replies."""
    replies = generate(model, tokenizer, [problem.prompt for problem in problems], longest_chain(tokenizer, problems))
    pairs = zip(replies, problems, strict=True)
    return [answers_match(extract_answer(reply), problem.answer) for reply, problem in pairs], replies


def sample(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    num_samples: int,
    seed: int,
    temperature: float,
    top_p: float = 1.0,
) -> list[list[str]]:
    """Return some sampled replies to each problem."""
    set_seed(seed)
    prompts = [problem.prompt for problem in problems for _ in range(num_samples)]
    replies = generate(
        model,
        tokenizer,
        prompts,
        longest_chain(tokenizer, problems),
        temperature=temperature,
        top_p=top_p,
        batch_size=2000,
    )
    return [replies[i : i + num_samples] for i in range(0, len(replies), num_samples)]


def measure_samples(
    model: Any, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], num_samples: int, seed: int
) -> dict[str, Any]:
    """Measure pass@k and self-consistency with k paths, sampled as in the paper (temperature 0.7, top-p 0.95)."""
    passed, agreed = [], []
    for problem, replies in zip(
        problems, sample(model, tokenizer, problems, num_samples, seed, 0.7, 0.95), strict=True
    ):
        answers = [extract_answer(reply) for reply in replies]
        num_right = sum(answers_match(answer, problem.answer) for answer in answers)
        passed.append(pass_at_k(num_samples, num_right, num_samples) > 0)
        agreed.append(answers_match(majority_vote(answers), problem.answer))
    return {"pass": pack(passed), "self_consistency": pack(agreed)}


def measure_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> dict[str, float]:
    """Key-step accuracy on held-back pairs, and the mean NLL of their right chains in nats (drift)."""
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in problems]
    key_steps = key_step_accuracy(model, Dataset.from_list(rows), tokenizer, batch_size=100)
    chains = [tokenizer(p.prompt + p.chosen + tokenizer.eos_token)["input_ids"] for p in problems]
    starts = [len(tokenizer(p.prompt)["input_ids"]) for p in problems]
    targets = [
        [(place - 1, ids[place]) for place in range(start, len(ids))]
        for ids, start in zip(chains, starts, strict=True)
    ]
    with eval_mode(model):
        scores = score_tokens(model, chains, targets, 100)
    nll = -torch.cat([score.log_probs for score in scores]).mean().item()
    return {"key_step_accuracy": round(key_steps.accuracy, 5), "nll": round(nll, 5)}


def pack(marks: Sequence[bool]) -> str:
    """Write verdicts as hexadecimal digits, four a digit. The last digit is filled with zeros."""
    bits = "".join("01"[bool(mark)] for mark in marks)
    bits += "0" * (-len(bits) % 4)
    return f"{int(bits, 2):0{len(bits) // 4}x}" if bits else ""


def unpack(text: str, number: int) -> list[bool]:
    """Read `number` verdicts that [`pack`] wrote."""
    bits = "".join(f"{int(digit, 16):04b}" for digit in text)
    return [bit == "1" for bit in bits[:number]]
