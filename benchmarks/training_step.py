"""
Measure the cost of a training step on pairs, by layout: time, tokens, projected positions and, if wanted, memory; and
the time to collate and align the pairs.

A step is the forward and backward pass of one batch, in full fine-tuning, without the optimizer. The layouts take
turns on each batch, in an order that rotates, so that a slower machine affects all of them. Losses are compared too:
all layouts of EDIT compute the same loss.

- `full_logits`: two padded rows per pair and fp32 logits of all positions, the authors' way.
- `padded`: `EDITTrainer` on two padded rows per pair.
- `shared_prefix`: on one row per pair that has the common start once, with a mask. Long rows too, which the trainer
  computes as padded rows.
- `packed`: on one row for all pairs, each with the common start once, with attention in segments.
- `padding_free`: on one row for all chains in full.
- `sft`: TRL's `SFTTrainer` on the right chains alone, completion-only loss. Without Triton, for example on a CPU, its
  head projects all positions, and again in the backward pass.
- `sft_compact`: the same loss with only the completions projected, as TRL's head does on a GPU, and without metrics.
- `dpo`: TRL's `DPOTrainer` on the pairs. The log-probabilities of the reference are in the batch, so only the policy
  is measured; its head is the same as in `sft`.

Examples:

    python benchmarks/training_step.py --model tiny
    python benchmarks/training_step.py --model HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --memory
    python benchmarks/training_step.py --vocab_size 32000 --threads 1 --memory --grid grid.jsonl --plot grid.svg

Seconds belong to one machine. Ratios depend on it less, but still on vocabulary, lengths, threads and model.
"""

import argparse
import ctypes
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import timeit
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import reporting
import torch
import training_step_grid
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from training_step_report import EDIT_LAYOUTS, format_report, plot_report
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from edit_trl import DataCollatorForDualCoT, EDITConfig, EDITTrainer, align, krsl_loss
from edit_trl.data_utils import ID_COLUMNS, TEXT_COLUMNS, prepare_dual_cots
from edit_trl.scoring import scored_positions_only


LAYOUTS = (*EDIT_LAYOUTS, "sft", "sft_compact", "dpo")
MIB = 2**20

Batch = dict[str, Any]


@dataclass
class Layout:
    """A way to compute the gradients of a batch, and its measurements."""

    name: str
    batches: list[Batch]
    compute_loss: Callable[[PreTrainedModel, Batch], torch.Tensor]
    # TRL's trainers replace the `forward` of their model. Here they share one model, so each keeps its own.
    forward: Callable
    trainer: Any
    collate_seconds: float  # of processor time, of all batches
    num_pairs: list[int]  # by batch
    losses: tuple[float, ...] = ()  # by batch
    wall: list[float] = field(default_factory=list)  # seconds of all batches, by repeat
    cpu: list[float] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Of all pairs."""
        return float(np.average(self.losses, weights=self.num_pairs))


def build_layout(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: list[list[dict]],
    args: argparse.Namespace,
) -> Layout:
    """Trainer and collated batches of a layout."""
    vars(model).pop("forward", None)  # that of the layout before
    options = {
        "output_dir": args.output_dir,
        "max_length": None,
        "bf16": args.autocast,
        "use_cpu": args.device == "cpu",
        "gradient_checkpointing": args.gradient_checkpointing,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
    }
    inputs, trainer = batches, None
    if name == "full_logits":
        collate = DataCollatorForDualCoT(
            tokenizer.pad_token_id, chosen_other_weight=args.chosen_other_weight, pad_to_multiple_of=args.pad_to
        )
    elif name in EDIT_LAYOUTS:
        trainer = EDITTrainer(
            model=model,
            args=EDITConfig(shared_prefix=name != "padded", chosen_other_weight=args.chosen_other_weight, **options),
            train_dataset=Dataset.from_list(batches[0]),
            processing_class=tokenizer,
        )
        if name != "padded":
            # It must be this layout, even if the trainer prefers another one or thinks that padded rows are cheaper.
            trainer._layouts, trainer._num_parameters = (name,), 10**18
            trainer._layout = trainer.data_collator.layout = name
    elif name == "dpo":
        # The trainer prepares texts, which generated pairs do not have. It gets another dataset, and the pairs go to
        # its collator. With `precompute_ref_log_probs` the batch has the reference's log-probabilities.
        stand_in = Dataset.from_list([{"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"}])
        config = DPOConfig(precompute_ref_log_probs=True, **options)
        trainer = DPOTrainer(model=model, args=config, train_dataset=stand_in, processing_class=tokenizer)
    else:
        inputs = [[_as_sft(pair) for pair in pairs] for pairs in batches]
        config = SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **options)
        dataset = Dataset.from_list(inputs[0])
        trainer = SFTTrainer(model=model, args=config, train_dataset=dataset, processing_class=tokenizer)
    if trainer is not None:
        collate = trainer.data_collator

    collate_seconds = min(timeit.repeat(lambda: [collate(pairs) for pairs in inputs], time.process_time, number=1))
    collated = []
    for pairs in inputs:
        batch = {key: x.to(args.device) if torch.is_tensor(x) else x for key, x in collate(pairs).items()}
        if name == "dpo":
            batch["ref_chosen_logps"], batch["ref_rejected_logps"] = trainer.compute_ref_log_probs(model, batch)
        collated.append(batch)
    by_hand = {"full_logits": full_logits_loss, "sft_compact": sft_compact_loss}
    compute_loss = by_hand[name] if name in by_hand else trainer.compute_loss
    model.train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return Layout(
        name, collated, compute_loss, model.forward, trainer, collate_seconds, [len(pairs) for pairs in batches]
    )


def _as_sft(pair: dict[str, list[int]]) -> dict[str, list[int]]:
    prompt, completion = pair["prompt_ids"], pair["chosen_ids"]
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def full_logits_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Compute the KRSL loss from the fp32 logits of all positions."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    log_probs = logits.float().log_softmax(dim=-1)
    log_probs = log_probs[batch["scored_rows"], batch["scored_positions"], batch["scored_ids"]]
    num_completion_tokens = batch["num_completion_tokens"]
    return krsl_loss(
        log_probs[:, None],
        batch["scored_weights"][:, None],
        num_completion_tokens[batch["scored_chains"]],
        len(num_completion_tokens) // 2,
        rejected_nll_threshold=EDITConfig.rejected_nll_threshold,
    )


def sft_compact_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Compute the mean negative log-likelihood of the labelled tokens. Only their positions are projected."""
    labels = batch["labels"][:, 1:]
    rows, positions = (labels != -100).nonzero(as_tuple=True)
    with scored_positions_only(model.get_output_embeddings(), rows, positions):
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return torch.nn.functional.cross_entropy(outputs.logits[0].float(), labels[rows, positions])


# Model and pairs


def load_model(args: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the student, on the device and without dropout because losses are compared, and its tokenizer."""
    torch.manual_seed(args.seed)
    options = {"dtype": getattr(torch, args.dtype)}
    if args.attn_implementation is not None:
        options["attn_implementation"] = args.attn_implementation
    if args.model != "tiny":
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_pretrained(args.model, **options)
    else:
        names = ["<eos>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        of_bytes = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
        of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_bytes, eos_token="<eos>", pad_token="<pad>")
        # Tied embeddings and, by default, the vocabulary of SmolLM2, on a body that is so small that the head takes
        # most of the time.
        config = LlamaConfig(
            vocab_size=args.vocab_size,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            initializer_range=0.2,  # large enough for a wrong mask to show in the loss
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = AutoModelForCausalLM.from_config(config, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    disable_dropout_in_model(model)
    return model.to(args.device), tokenizer


def load_pairs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace) -> list[dict]:
    """Tokenized pairs."""
    if args.data is None:
        ids = sorted(set(range(model.config.get_text_config().vocab_size)) - set(tokenizer.all_special_ids))
        rng = random.Random(args.seed)
        return [generate_pair(rng, ids, args) for _ in range(args.pairs)]
    records = [json.loads(line) for line in Path(args.data).read_text(encoding="utf-8").splitlines() if line]
    texts = Dataset.from_list([{name: record[name] for name in TEXT_COLUMNS} for record in records])
    prepared = prepare_dual_cots(texts, tokenizer, eos_token=tokenizer.eos_token).select_columns(list(ID_COLUMNS))
    pairs = [pair for pair in prepared if key_ratio(pair) < args.max_key_ratio][: args.limit]
    if not pairs:
        raise SystemExit(
            f"`--data` must have pairs of whose tokens less than {args.max_key_ratio:.0%} are key, got none among "
            f"{len(records)}, so there is nothing to measure. Raise `--max_key_ratio`."
        )
    return pairs


def key_ratio(pair: dict[str, list[int]]) -> float:
    """Share of the tokens of both chains that are key."""
    alignment = align(pair["chosen_ids"], pair["rejected_ids"])
    is_key = alignment.chosen_key + alignment.rejected_key
    return sum(is_key) / len(is_key)


def make_batches(name: str, pairs: list[dict], args: argparse.Namespace) -> list[list[dict]]:
    """Pairs in batches of similar row length in a layout, as `group_by_length` makes them, so that few are padded."""
    layout = name if name in ("shared_prefix", "packed", "padding_free") else "padded"
    row_length = DataCollatorForDualCoT(pad_token_id=0, layout=layout).row_length
    if name.startswith("sft"):
        pairs = [{**pair, "rejected_ids": []} for pair in pairs]
    pairs = sorted(pairs, key=row_length)
    return [pairs[i : i + args.pairs] for i in range(0, len(pairs), args.pairs)]


def generate_pair(rng: random.Random, ids: list[int], args: argparse.Namespace) -> dict[str, list[int]]:
    """
    Pair of random tokens whose chains share exactly their start and differ in exactly the key tokens.

    There the wrong chain has tokens that the right chain has nowhere, so no other script is as short.
    """
    start, num_key = round(args.share * args.chain), max(1, round(args.key_ratio * args.chain))
    prompt, chosen = rng.choices(ids, k=args.prompt), rng.choices(ids, k=args.chain)
    others = sorted(set(ids) - set(chosen))
    rejected = list(chosen)
    for place in [start, *rng.sample(range(start + 1, args.chain), num_key - 1)]:
        rejected[place] = rng.choice(others)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def describe_pairs(pairs: list[dict]) -> dict[str, Any]:
    """Size of the pairs; share of key tokens and of the common start among all completion tokens."""
    batch = DataCollatorForDualCoT(pad_token_id=0)(pairs)
    num_completion_tokens = int(batch["num_completion_tokens"].sum())
    align_seconds = min(
        timeit.repeat(
            lambda: [align(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs], time.process_time, number=1
        )
    )
    common = [len(os.path.commonprefix([pair["chosen_ids"], pair["rejected_ids"]])) for pair in pairs]
    return {
        "num_pairs": len(pairs),
        "mean_prompt_tokens": sum(len(pair["prompt_ids"]) for pair in pairs) / len(pairs),
        "mean_chain_tokens": num_completion_tokens / len(pairs) / 2,
        "key_ratio": int(batch["num_key_tokens"].sum()) / num_completion_tokens,
        "common_start": 2 * sum(common) / num_completion_tokens,
        "align_seconds": align_seconds,
    }


# Measuring


def run_step(
    layout: Layout, batch: Batch, model: PreTrainedModel, args: argparse.Namespace
) -> tuple[float, float, float]:
    """Loss, wall seconds and seconds of processor time of one forward and backward pass."""
    synchronize = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    model.zero_grad(set_to_none=True)
    model.forward = layout.forward
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.autocast):
        loss = layout.compute_loss(model, dict(batch))  # a copy, since `SFTTrainer` adds to it
    loss.backward()
    synchronize()
    return loss.item(), time.perf_counter() - wall, time.process_time() - cpu


def measure_times(layouts: list[Layout], model: PreTrainedModel, args: argparse.Namespace) -> None:
    """Run all layouts on all batches, in turns, and note losses and seconds."""
    turn = 0
    for repeat in range(-args.warmup, args.repeats):
        results: dict[str, list[tuple[float, float, float]]] = {layout.name: [] for layout in layouts}
        for i in range(len(layouts[0].batches)):
            for layout in layouts[turn % len(layouts) :] + layouts[: turn % len(layouts)]:
                results[layout.name].append(run_step(layout, layout.batches[i], model, args))
            turn += 1
        for layout in layouts:
            layout.losses, wall, cpu = zip(*results[layout.name], strict=True)
            if repeat >= 0:
                layout.wall.append(sum(wall))
                layout.cpu.append(sum(cpu))
            if getattr(layout.trainer, "_layout", layout.name) != layout.name:
                raise SystemExit(
                    f"`{layout.name}` cannot be measured: `EDITTrainer` chose {layout.trainer._layout!r} for this "
                    "model, for the reason in its warning if there is one. Leave it out of `--layouts`, or choose "
                    "another `--attn_implementation`."
                )
        print("warm-up done" if repeat < 0 else f"repeat {repeat + 1} of {args.repeats} done", file=sys.stderr)


def compare_losses(layouts: list[Layout], args: argparse.Namespace) -> float | None:
    """Largest difference between the layouts of EDIT. In fp32 it must be rounding."""
    losses = {layout.name: layout.mean_loss for layout in layouts if layout.name in EDIT_LAYOUTS}
    if len(losses) < 2:
        return None
    difference = max(losses.values()) - min(losses.values())
    if not difference < 1e-4 and args.dtype == "float32" and not args.autocast:
        raise SystemExit(f"The layouts of EDIT must have the same loss, got {losses}. One of them is wrong.")
    return difference


def measure_memory(layout: Layout, model: PreTrainedModel, args: argparse.Namespace) -> dict[str, float]:
    """Peak memory of the second step of this process. What the first one loads and checks is not part of it."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with suppress(OSError, AttributeError):
        # glibc keeps freed memory, the more the larger the tensors were. With a fixed threshold (M_MMAP_THRESHOLD is
        # -3), it returns large tensors at once, and repeated measurements differ by less than 1 %.
        ctypes.CDLL("libc.so.6").mallopt(-3, 128 * 1024)
    run_step(layout, layout.batches[0], model, args)
    model.zero_grad(set_to_none=True)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):  # Linux: forget the peak of the first step
            Path("/proc/self/clear_refs").write_text("5")
        before = psutil.Process().memory_info().rss
    run_step(layout, layout.batches[0], model, args)
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else _peak_rss()
    return {"peak_mib": peak / MIB, "growth_mib": (peak - before) / MIB, "weights_mib": weights / MIB}


def _peak_rss() -> int:
    # On Linux `ru_maxrss` is inherited from the process that started this one.
    with suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _measure_memory_apart(name: str, argv: list[str]) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), *argv, "--memory_of", name]
    completed = subprocess.run(command, capture_output=True, text=True)
    if completed.returncode != 0:
        raise SystemExit(f"The memory of `{name}` could not be measured:\n{completed.stderr[-2000:]}")
    return json.loads(completed.stdout.splitlines()[-1])


def measure_grid(args: argparse.Namespace) -> None:
    """Measure the cells of the grid that its file does not have yet, and report all cells of the file."""
    done = {training_step_grid.identity(cell) for cell in training_step_grid.read_cells(args.grid)}
    missing = [cell for cell in training_step_grid.cells(args) if training_step_grid.identity(cell) not in done]
    model, tokenizer = load_model(args) if missing else (None, None)
    names_of_layouts = training_step_grid.layouts_to_compare(args.attn_implementation)
    for cell in missing:
        options = argparse.Namespace(**{**vars(args), **cell})
        # These are all options that change a step and its pairs.
        names = ("model", "vocab_size", "pairs", "prompt", "chain", "share", "key_ratio", "dtype", "seed", "device")
        argv = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
        argv += [f"--{name}" for name in ("autocast", "gradient_checkpointing") if getattr(args, name)]
        argv += ["--threads", str(torch.get_num_threads())]
        if args.attn_implementation is not None:
            argv += ["--attn_implementation", args.attn_implementation]
        batches = [load_pairs(model, tokenizer, options)]
        with tempfile.TemporaryDirectory() as options.output_dir:
            layouts = [build_layout(name, model, tokenizer, batches, options) for name in names_of_layouts]
            measure_times(layouts, model, options)
        difference = compare_losses(layouts, options)
        result = {
            name: {
                "tokens_with_padding": layout.batches[0]["input_ids"].numel(),
                "loss": layout.mean_loss,
                "wall_seconds": layout.wall,
                "cpu_seconds": layout.cpu,
            }
            for name, layout in zip(names_of_layouts, layouts, strict=True)
        }
        if args.memory:
            for name, entry in result.items():
                entry["memory"] = _measure_memory_apart(name, argv)
        line = {name: cell[name] for name in training_step_grid.IDENTITY}
        line.update(model=Path(args.model).name, largest_loss_difference=difference, machine=describe_machine(args))
        training_step_grid.append_cell(args.grid, {**line, "layouts": result})
    measured = training_step_grid.read_cells(args.grid)
    print(training_step_grid.format_cells(measured))
    if args.plot:
        training_step_grid.plot_cells(measured, args.plot)


# Reporting


def summarize(layouts: list[Layout], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What was measured, by layout. Counts and seconds are sums over all batches."""
    by_name = {layout.name: layout for layout in layouts}
    report = {}
    for layout in layouts:
        # Rows without padding have no mask, or something else in its place.
        masks = [torch.ones_like(batch["input_ids"]) for batch in layout.batches]
        if layout.name not in ("packed", "padding_free"):
            masks = [batch["attention_mask"] for batch in layout.batches]
        report[layout.name] = {
            "loss": layout.mean_loss,
            "num_batches": len(layout.batches),
            "collate_seconds": layout.collate_seconds,
            "tokens": sum(int(mask.sum()) for mask in masks),
            "tokens_with_padding": sum(mask.numel() for mask in masks),
            "projected_positions": sum(count_projected(layout.name, batch, args) for batch in layout.batches),
        }
        for kind in ("wall", "cpu"):
            seconds = getattr(layout, kind)
            lower, median, upper = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
            quartiles = {"median": median, "lower_quartile": lower, "upper_quartile": upper}
            report[layout.name][f"{kind}_seconds"] = {**quartiles, "by_repeat": seconds}
            for base in {"full_logits", "sft"} & by_name.keys():
                of_base = np.array(getattr(by_name[base], kind))
                report[layout.name][f"{kind}_ratio_to_{base}"] = {
                    "of_medians": float(median / np.median(of_base)),
                    "median_of_repeats": float(np.median(np.array(seconds) / of_base)),
                }
    return report


def count_projected(name: str, batch: Batch, args: argparse.Namespace) -> int:
    """Positions of a batch that go through the language-model head."""
    if name == "full_logits":
        return batch["input_ids"].numel()
    if name in EDIT_LAYOUTS:
        return len(batch["scored_ids"])
    is_compact = args.device == "cuda" or name == "sft_compact"  # TRL's fused head is, where Triton runs
    is_scored = batch["completion_mask"][:, 1:] == 1 if name == "dpo" else batch["labels"][:, 1:] != -100
    return int(is_scored.sum()) if is_compact else is_scored.numel()


def describe_machine(args: argparse.Namespace) -> dict[str, Any]:
    """Processor, accelerator, threads and versions."""
    return {
        **reporting.describe_machine("torch", "transformers", "trl"),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if args.device == "cuda" else None,
    }


# Command line


def parse_args(argv: list[str]) -> argparse.Namespace:
    description, examples = __doc__.split("Examples:\n")
    parser = argparse.ArgumentParser(
        description=description, epilog="Examples:\n" + examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="tiny", help="Name or folder of the student. 'tiny', the default, builds a random one.")
    default_layouts = "all but 'padding_free', or, with flash attention, all but 'shared_prefix'; with --grid, three"
    vocab_help = "Tokens in the vocabulary of the tiny model. Default: %(default)s, as SmolLM2 has."
    add("--vocab_size", type=int, default=49152, metavar="N", help=vocab_help)
    add("--layouts", nargs="+", choices=LAYOUTS, help=f"What to measure. Default: {default_layouts}.")
    add("--pairs", type=int, default=4, help="Pairs per step. Default: %(default)s.")
    add("--prompt", type=int, default=150, help="Tokens of a generated prompt. Default: %(default)s.")
    add("--chain", type=int, default=150, help="Tokens of a generated completion. Default: %(default)s.")
    add("--share", type=float, default=0.4, help="Share of it before the chains part. Default: %(default)s.")
    add("--key_ratio", type=float, default=0.06, help="Share of it that is key tokens. Default: %(default)s.")
    add("--data", metavar="FILE", help="Real pairs instead: JSON lines with `prompt`, `chosen` and `rejected`.")
    key_help = "Keep pairs of whose tokens less than this share is key. Default: %(default)s."
    add("--max_key_ratio", type=float, default=0.15, help=key_help)
    add("--limit", type=int, metavar="N", help="Keep the first N of these.")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="Of the weights. Default: %(default)s.")
    add("--autocast", action="store_true", help="Compute in bf16 autocast, as `bf16=True` does in training.")
    add("--gradient_checkpointing", action="store_true", help="Recompute activations in the backward pass.")
    attention_help = (
        "'sdpa', 'eager', which takes no 'packed' rows, or, on a GPU, 'flash_attention_2' (not measured yet), which "
        "takes no 'shared_prefix'. Default: that of transformers."
    )
    add("--attn_implementation", metavar="NAME", help=attention_help)
    gamma_help = "Weight of the right chain's other tokens (γ). Above 0 they are projected too. Default: %(default)s."
    add("--chosen_other_weight", type=float, default=0.0, help=gamma_help)
    add("--pad_to", type=int, metavar="N", help="Pad rows of 'full_logits' to N tokens. The authors' code: 1024.")
    add("--repeats", type=int, default=5, help="Timed rounds. Default: %(default)s.")
    add("--warmup", type=int, default=1, help="Rounds before, in which EDIT checks its layout. Default: %(default)s.")
    add("--threads", type=int, help="Threads of torch on the CPU. Other processes slow several down most.")
    add("--seed", type=int, default=0, help="Of generated pairs and of the tiny model. Default: %(default)s.")
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cpu", "cuda"), default=accelerator, help="Default: the accelerator if there is one.")
    memory_help = (
        "Measure the peak memory of a step too, on the longest full batch, each layout in a process of its own. The "
        "growth is what the step adds, gradients included; the peak also holds the weights and, on a CPU, Python and "
        "its libraries."
    )
    add("--memory", action="store_true", help=memory_help)
    add("--memory_of", choices=LAYOUTS, help=argparse.SUPPRESS)
    grid_help = (
        "Measure 'padded', 'packed' and 'shared_prefix' (with flash attention: 'padding_free') on generated pairs of "
        "several lengths and shares instead, and add a line for each to this JSON lines file. Cells that are in the "
        "file are not measured again. At the end, all cells of the file are printed, and drawn with --plot."
    )
    add("--grid", metavar="FILE", help=grid_help)
    lengths_help = "Tokens of the chains of the grid, with a prompt of one token. Default: %(default)s."
    add("--lengths", type=int, nargs="+", default=[150, 500, 1500, 4000], metavar="N", help=lengths_help)
    shared_help = "Shares of these chains that are common. Default: %(default)s."
    add("--shared", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.9], metavar="SHARE", help=shared_help)
    tokens_help = "Fewer than --pairs are in a step of the grid if it has more tokens than this. Default: %(default)s."
    add("--tokens_per_step", type=int, default=6000, metavar="N", help=tokens_help)
    add("--json", metavar="FILE", help="Write everything that was measured.")
    add("--plot", metavar="FILE", help="Draw the seconds, as a bar chart or, of the grid, as lines.")
    args = parser.parse_args(argv)
    if args.layouts is None:
        left_out = {"eager": {"packed", "padding_free"}}.get(args.attn_implementation, {"padding_free"})
        if "flash" in (args.attn_implementation or ""):
            left_out = {"shared_prefix"}
        args.layouts = [name for name in LAYOUTS if name not in left_out]
    if min(args.pairs, args.prompt, args.chain, args.repeats, args.warmup + 1) < 1:
        parser.error("`--pairs`, `--prompt`, `--chain` and `--repeats` must be at least 1, `--warmup` at least 0")
    if not 0 <= round(args.share * args.chain) <= args.chain - max(1, round(args.key_ratio * args.chain)):
        parser.error("a completion must have room for its common start and its key tokens: lower `--share`")
    if args.grid and (args.data or args.json):
        parser.error("`--grid` measures generated pairs and writes its own file: leave out `--data` and `--json`")
    if args.grid and min(args.lengths) < 20:
        parser.error(f"`--lengths` must be at least 20 tokens, got {min(args.lengths)}: pass longer chains")
    if args.grid and not 0 <= min(args.shared) <= max(args.shared) < 0.99 - args.key_ratio:
        parser.error(f"`--shared` must be from 0 to less than 0.99 minus `--key_ratio`, got {args.shared}: lower it")
    return args


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.plot and not args.memory_of:
        reporting.import_pyplot()  # fails now rather than after everything has been measured

    if args.grid:
        measure_grid(args)
        return

    memory = {name: _measure_memory_apart(name, argv) for name in args.layouts if args.memory and not args.memory_of}
    model, tokenizer = load_model(args)
    pairs = load_pairs(model, tokenizer, args)
    with tempfile.TemporaryDirectory() as args.output_dir:
        if args.memory_of:
            longest = max(reversed(make_batches(args.memory_of, pairs, args)), key=len)
            layout = build_layout(args.memory_of, model, tokenizer, [longest], args)
            print(json.dumps(measure_memory(layout, model, args)))
            return
        layouts = [
            build_layout(name, model, tokenizer, make_batches(name, pairs, args), args)
            for name in dict.fromkeys(args.layouts)
        ]
        measure_times(layouts, model, args)

    own = ("output_dir", "memory_of", "json", "plot", "grid", "lengths", "shared", "tokens_per_step")
    settings = {name: value for name, value in vars(args).items() if name not in own}
    # Folders belong to one machine.
    settings.update(model=Path(args.model).name, data=args.data and Path(args.data).name)
    report = {
        "machine": describe_machine(args),
        "settings": settings,
        "pairs": describe_pairs(pairs),
        "largest_loss_difference": compare_losses(layouts, args),
        "layouts": summarize(layouts, args),
    }
    for name, entry in memory.items():
        report["layouts"][name]["memory"] = entry
    print(format_report(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot_report(report, args.plot)


if __name__ == "__main__":
    main()
