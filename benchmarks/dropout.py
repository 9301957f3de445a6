"""
Measure whether dropout should stay on in stage 2 of EDIT: train students in both stages, with and without it.

`SFTTrainer` leaves dropout as the model or adapter has it, and so does `EDITTrainer`. `DPOTrainer` turns it off. Here
each student is trained on the right chains first (stage 1, with its usual dropout), and from there once for each arm:
stage 2 with dropout off, and on at the given rates. Everything else is equal: pairs, their order, learning rate. With
`--control`, stage 1 is also continued in each arm, to tell what belongs to EDIT and what to any further training.

There are two students. By default it is a GPT-2 of 0.5M parameters that starts from random weights; its dropout is
that of attention, residuals and embeddings. With `--model`, it is a model with a LoRA adapter (r 16, all linear
layers); its dropout is that of the adapter.

    python benchmarks/dropout.py --output dropout.jsonl --seeds 0 1 2 3 4
    python benchmarks/dropout.py --output dropout.jsonl --seeds 0 1 2 --model SmolLM2-135M-Instruct
    python benchmarks/dropout.py --output dropout.jsonl --seeds    # only the tables of what is there

On held-back questions and pairs, which differ by seed, the benchmark measures the accuracy of greedy answers, how
often the right token is preferred at the first difference (key-step accuracy, and the margin in nats), and the drift
of other tokens: the mean negative log-likelihood of the right chains.

It also compares gradients of one batch at the start of stage 2, at the highest rate, with the gradient without
dropout, in shared rows (one row per pair, where both chains have the same noise in their common start) and in padded
rows (where all noise is independent); for the default weights, and for the contrast alone, where right and wrong key
tokens have equal weights.

Each finished run is a line of `--output`; runs that are there already are skipped. The tables are of all seeds there
with the same settings. Differences between arms are paired by seed; their 95 % intervals are Student's t over seeds.
Each seed has its own questions, so this includes the noise of both. The last column of the differences has Tango's
interval over all questions, which tells these students apart, but not other students of other seeds.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from key_steps_chains import build_tokenizers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from reporting import describe_machine, markdown_table
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from edit_trl import EDITConfig, EDITTrainer
from edit_trl.answers import answers_match, extract_answer
from edit_trl.evaluation import LocalStudent, compare_students
from edit_trl.key_steps import key_step_accuracy
from edit_trl.scoring import eval_mode, score_tokens
from edit_trl.tasks import DualCoT, generate_dual_cots


# What differs between the two students. All of it can be set with flags.
SMALL = {
    "tasks": ["object_counting", "multistep_arithmetic"],
    "num_pairs": 400,
    "num_questions": 1000,
    "sft_learning_rate": 2e-3,
    "sft_num_train_epochs": 20.0,
    "learning_rates": [2e-4],
    "num_train_epochs": 2.0,
    "batch_size": 16,
    "sft_dropout": 0.1,  # GPT-2's default
    "num_draws": 8,
}
ADAPTED = {
    "tasks": ["multistep_arithmetic", "boolean_expressions"],
    "num_pairs": 64,
    "num_questions": 96,
    "sft_learning_rate": 5e-4,
    "sft_num_train_epochs": 2.0,
    "learning_rates": [3e-5],
    "num_train_epochs": 1.0,
    "batch_size": 4,
    "sft_dropout": 0.05,  # the paper's
    "num_draws": 3,
}
GPT2_DROPOUT = ("attn_pdrop", "resid_pdrop", "embd_pdrop")
READ_OUTS = ("accuracy", "key_step_accuracy", "key_step_margin", "nll")
GRADIENT_READ_OUTS = ("cosine", "cosine_of_mean", "noise")
Record = dict[str, Any]


# Students


def start_student(args: argparse.Namespace, texts: Sequence[str], seed: int) -> tuple[Any, PreTrainedTokenizerBase]:
    """The student before stage 1, and its tokenizer."""
    set_seed(seed)
    if args.model is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        lora = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=args.sft_dropout, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        return get_peft_model(base, lora), tokenizer
    tokenizer = build_tokenizers(texts)["bpe"]
    tokenizer.pad_token = tokenizer.unk_token
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=128,
        n_layer=2,
        n_head=4,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **dict.fromkeys(GPT2_DROPOUT, args.sft_dropout),
    )
    return GPT2LMHeadModel(config), tokenizer


def load_student(args: argparse.Namespace, folder: Path, dropout: float) -> Any:
    """The student after stage 1, with a dropout for stage 2."""
    if args.model is None:
        return GPT2LMHeadModel.from_pretrained(folder, **dict.fromkeys(GPT2_DROPOUT, dropout))
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = PeftConfig.from_pretrained(folder)
    config.lora_dropout = dropout
    return PeftModel.from_pretrained(base, folder, config=config, is_trainable=True)


def set_dropout(model: Any, rate: float) -> None:
    """Change the rate of every dropout layer. A rate of zero leaves no noise."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


# Training


def train_options(args: argparse.Namespace, folder: str, seed: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": args.batch_size,
        "warmup_steps": 5,
        "max_length": None,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def train_sft(
    args: argparse.Namespace,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[dict[str, str]],
    seed: int,
    **options: Any,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(**train_options(args, folder, seed), **options)
        rows = Dataset.from_list([{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs])
        SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train()


def stage_2_trainer(
    args: argparse.Namespace,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[dict[str, str]],
    seed: int,
    folder: str,
    **options: Any,
) -> EDITTrainer:
    config = EDITConfig(**train_options(args, folder, seed), **options)
    return EDITTrainer(model=model, args=config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)


# Measuring


def measure(
    args: argparse.Namespace, model: Any, tokenizer: PreTrainedTokenizerBase, examples: Sequence[DualCoT]
) -> Record:
    """Accuracy, key-step accuracy and drift of a student on held-back examples."""
    if args.model is not None:
        model.merge_adapter()
    model.config.use_cache = True
    pairs = [example.to_pair() for example in examples]
    completions = [tokenizer(pair["prompt"] + pair["chosen"] + tokenizer.eos_token)["input_ids"] for pair in pairs]
    starts = [len(tokenizer(pair["prompt"])["input_ids"]) for pair in pairs]
    longest = max(len(ids) - start for ids, start in zip(completions, starts, strict=True))
    student = LocalStudent(model, tokenizer, max_new_tokens=longest + 16)
    order = sorted(range(len(pairs)), key=lambda i: starts[i])
    right = [False] * len(pairs)
    for batch in (order[i : i + args.eval_batch_size] for i in range(0, len(order), args.eval_batch_size)):
        replies = student([pairs[i]["prompt"] for i in batch], [0] * len(batch))
        for i, reply in zip(batch, replies, strict=True):
            right[i] = answers_match(extract_answer(reply.text), pairs[i]["answer"])
    with eval_mode(model):
        targets = [
            [(place - 1, ids[place]) for place in range(start, len(ids))]
            for ids, start in zip(completions, starts, strict=True)
        ]
        scores = score_tokens(model, completions, targets, args.eval_batch_size)
    key_steps = key_step_accuracy(model, Dataset.from_list(pairs), tokenizer, batch_size=args.eval_batch_size)
    return {
        "right": "".join(str(int(verdict)) for verdict in right),
        "accuracy": sum(right) / len(right),
        "key_step_accuracy": key_steps.accuracy,
        "key_step_margin": key_steps.mean_margin,
        "nll": -torch.cat([score.log_probs for score in scores]).mean().item(),
    }


def gradient(trainer: EDITTrainer, model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Gradient of the loss of a batch, as one vector."""
    model.zero_grad(set_to_none=True)
    trainer.compute_loss(model, dict(batch)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def measure_gradients(
    args: argparse.Namespace,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[dict[str, str]],
    seed: int,
) -> list[Record]:
    """
    Compare gradients with the highest dropout to the gradient without, on the first pairs.

    `cosine` is the mean over draws of the noise, `cosine_of_mean` the cosine of the mean of the draws; `noise` is the
    variance of the draws divided by the squared length of the gradient without dropout.
    """
    records = []
    rate = max(args.dropouts)
    for loss, options in (("default", {}), ("contrast", {"rejected_key_weight": 1.0})):
        for layout in ("shared_prefix", "padded"):
            with tempfile.TemporaryDirectory() as folder:
                options = {**options, "shared_prefix": layout == "shared_prefix"}
                trainer = stage_2_trainer(args, model, tokenizer, pairs, seed, folder, **options)
            rows = [trainer.train_dataset[i] for i in range(min(2 * args.batch_size, len(pairs)))]
            batch = trainer.data_collator(rows)
            if (batch["layout"] == "padded") != (layout == "padded"):
                raise SystemExit(f"The rows must be {layout!r}, got {batch['layout']!r}. Choose another model.")
            model.train()
            set_dropout(model, 0.0)
            without = gradient(trainer, model, batch)
            set_dropout(model, rate)
            set_seed(seed)
            draws = torch.stack([gradient(trainer, model, batch) for _ in range(args.num_draws)])
            mean = draws.mean(dim=0)
            noise = (draws - mean).square().sum() / (args.num_draws - 1) / without.square().sum()
            similarity = torch.nn.functional.cosine_similarity
            records.append(
                {
                    "loss": loss,
                    "layout": layout,
                    "dropout": rate,
                    "cosine": similarity(draws, without[None], dim=1).mean().item(),
                    "cosine_of_mean": similarity(mean, without, dim=0).item(),
                    "noise": noise.item(),
                }
            )
    return records


# Runs


class Runs:
    """The finished runs of a file of JSON lines with the settings of this call."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records = [record for record in map(json.loads, lines) if record["settings"] == settings]

    def find(self, **labels: Any) -> Record | None:
        return next((record for record in self.records if labels.items() <= record.items()), None)

    def add(self, labels: Record, results: Record) -> None:
        record = {**labels, **results, "settings": self.settings}
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps({**labels, **{name: x for name, x in results.items() if name != "right"}}), flush=True)


def run_seed(args: argparse.Namespace, runs: Runs, seed: int) -> None:
    """Train and measure one student in all arms that are not finished."""
    arms: list[Record] = [{"seed": seed, "run": "stage 1"}]
    if args.num_draws:
        arms.append({"seed": seed, "run": "gradients", "dropout": max(args.dropouts), "num_draws": args.num_draws})
    arms += [
        {"seed": seed, "run": run, "learning_rate": learning_rate, "dropout": rate}
        for run in (["stage 2", "control"] if args.control else ["stage 2"])
        for learning_rate in args.learning_rates
        for rate in args.dropouts
    ]
    missing = [arm for arm in arms if runs.find(**arm) is None]
    if not missing:
        return
    examples = generate_dual_cots(args.num_pairs + args.num_questions, tasks=args.tasks, level=1, seed=seed)
    held_back = examples[args.num_pairs :]
    pairs = [
        {name: example.to_pair()[name] for name in ("prompt", "chosen", "rejected")}
        for example in examples[: args.num_pairs]
    ]
    texts = [text for example in examples for text in list(example.to_pair().values())[:3]]
    with tempfile.TemporaryDirectory() as folder:
        # Trained again when a run continues: the same seed gives the same student.
        model, tokenizer = start_student(args, texts, seed)
        options = {"learning_rate": args.sft_learning_rate, "num_train_epochs": args.sft_num_train_epochs}
        train_sft(args, model, tokenizer, pairs, seed, **options)
        model.save_pretrained(folder)
        for arm in missing:
            if arm["run"] == "gradients":
                model = load_student(args, Path(folder), args.sft_dropout)
                results: Record = {"gradients": measure_gradients(args, model, tokenizer, pairs, seed)}
            else:
                if arm["run"] != "stage 1":
                    model = load_student(args, Path(folder), arm["dropout"])
                    options = {"learning_rate": arm["learning_rate"], "num_train_epochs": args.num_train_epochs}
                    if arm["run"] == "control":
                        train_sft(args, model, tokenizer, pairs, seed, **options)
                    else:
                        with tempfile.TemporaryDirectory() as unused:
                            stage_2_trainer(args, model, tokenizer, pairs, seed, unused, **options).train()
                results = measure(args, model, tokenizer, held_back)
            runs.add(arm, results)


# Reporting


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval by Student's t. One value has no interval."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def t_quantile(degrees: int) -> float:
    """The value that Student's t exceeds with a probability of 2.5 %."""
    x = np.linspace(0, 20, 200_001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi * degrees)
    density = scale * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    middles = (density[1:] + density[:-1]) / 2
    return float(x[1 + np.searchsorted(np.cumsum(middles) * (x[1] - x[0]), 0.475)])


def summarize(records: Sequence[Record], dropouts: Sequence[float]) -> list[Record]:
    """
    Means over seeds after stage 1 and in each arm, and the differences of the arms with dropout to the arm without.

    For each kind of run and learning rate only the seeds count of which all arms are finished. Each value is
    `(mean, low, high)`.
    """
    starts = {record["seed"]: record for record in records if record["run"] == "stage 1"}
    cases = {(record["run"], record["learning_rate"]) for record in records if record["run"] in ("stage 2", "control")}
    rows = []
    for run, learning_rate in sorted(cases, key=lambda case: (case[1], case[0] == "control")):
        by_seed = {seed: {None: start} for seed, start in sorted(starts.items())}
        for record in records:
            if (record["run"], record.get("learning_rate")) == (run, learning_rate) and record["seed"] in by_seed:
                by_seed[record["seed"]][record["dropout"]] = record
        complete = [arms for arms in by_seed.values() if {None, *dropouts} <= arms.keys()]
        for arm in (None, *dropouts) if complete else ():
            row: Record = {"run": run, "learning_rate": learning_rate, "dropout": arm, "num_seeds": len(complete)}
            for name in READ_OUTS:
                row[name] = t_interval([arms[arm][name] for arms in complete])
                if arm and 0.0 in dropouts:
                    row[f"{name}_difference"] = t_interval([arms[arm][name] - arms[0.0][name] for arms in complete])
            if arm and 0.0 in dropouts:
                verdicts = [[mark == "1" for arms in complete for mark in arms[rate]["right"]] for rate in (arm, 0.0)]
                row["questions"] = compare_students(*verdicts)
            rows.append(row)
    return rows


def summarize_gradients(records: Iterable[Record]) -> list[Record]:
    """For each loss, layout and rate the means over seeds, as `(mean, low, high)`."""
    by_case: dict[tuple[str, str, float], list[Record]] = {}
    for record in records:
        for case in record.get("gradients", ()):
            by_case.setdefault((case["loss"], case["layout"], case["dropout"]), []).append(case)
    return [
        {
            **dict(zip(("loss", "layout", "dropout"), case, strict=True)),
            "num_seeds": len(found),
            **{name: t_interval([entry[name] for entry in found]) for name in GRADIENT_READ_OUTS},
        }
        for case, found in by_case.items()
    ]


def write(values: Sequence[float], factor: float, digits: int, sign: str = "") -> str:
    """A mean with its interval, if it has one."""
    mean, *ends = [f"{factor * value:{sign}.{digits}f}" for value in values]
    return mean if math.isnan(values[1]) else f"{mean} ({' to '.join(ends)})"


def print_tables(records: Sequence[Record], dropouts: Sequence[float]) -> None:
    """Print the tables of the finished seeds."""
    formats = {"accuracy": (100, 1), "key_step_accuracy": (100, 1), "key_step_margin": (1, 2), "nll": (1, 4)}
    rows, differences = [], []
    for row in summarize(records, dropouts):
        labels = [row["run"], f"{row['learning_rate']:g}", str(row["num_seeds"])]
        labels.append("after stage 1" if row["dropout"] is None else f"{row['dropout']:g}")
        rows.append([*labels, *[write(row[name], *formats[name]) for name in READ_OUTS]])
        if "questions" in row:
            comparison = row["questions"]
            pooled = write([comparison["difference"], *comparison["interval"]], 100, 1, "+")
            cells = [write(row[f"{name}_difference"], *formats[name], "+") for name in READ_OUTS]
            differences.append([*labels[:-1], f"{labels[-1]} - 0", *cells, pooled])
    if not rows:
        print("No seed is finished in all arms, so there is no table yet.")
    else:
        header = ["run", "learning rate", "seeds", "dropout", "accuracy, %", "key-step accuracy, %"]
        header += ["key-step margin, nats", "NLL of right chains, nats"]
        print("\nMeans (95 % interval over seeds)\n")
        print(markdown_table(header, rows))
    if differences:
        print("\nDifferences, paired by seed; the last column is of these students, over all questions\n")
        print(markdown_table([*header, "accuracy, these students"], differences))
    cases = [
        [case["loss"], case["layout"], f"{case['dropout']:g}"]
        + [write(case[name], 1, 3) for name in GRADIENT_READ_OUTS]
        for case in summarize_gradients(records)
    ]
    if cases:
        print("\nGradient of a batch with dropout, compared with the gradient without\n")
        print(markdown_table(["loss", "rows", "dropout", "cosine", "cosine of the mean", "noise / signal"], cases))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file of JSON lines, one for each finished run")
    parser.add_argument("--model", help="folder or name of a model for a LoRA adapter (default: a small GPT-2)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="(default: 0 1 2 3 4)")
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.0, 0.05, 0.1], help="(default: 0 0.05 0.1)")
    helps = {
        "tasks": "tasks of `edit_trl.tasks`, level 1",
        "num_pairs": "pairs to train on, in both stages",
        "num_questions": "held-back questions and pairs",
        "sft_learning_rate": "learning rate of stage 1",
        "sft_num_train_epochs": "epochs of stage 1",
        "learning_rates": "learning rates of stage 2, each of them an arm",
        "num_train_epochs": "epochs of stage 2",
        "batch_size": "rows or pairs of a step; twice as many for the gradients",
        "sft_dropout": "dropout of stage 1",
        "num_draws": "gradients with dropout of a batch; 0 leaves the gradients out",
    }
    for name, text in helps.items():
        both = [values[name] if isinstance(values[name], list) else [values[name]] for values in (SMALL, ADAPTED)]
        shown = [" ".join(map(str, values)) for values in both]
        parser.add_argument(
            f"--{name}",
            type=type(both[0][0]),
            nargs="+" if isinstance(SMALL[name], list) else None,
            help=f"{text} (default: {shown[0]}; with `--model`: {shown[1]})",
        )
    parser.add_argument(
        "--control", action="store_true", help="also continue stage 1 (SFT) in each arm, for as many epochs as stage 2"
    )
    parser.add_argument("--eval_batch_size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, value in (SMALL if args.model is None else ADAPTED).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if any(not 0 <= rate < 1 for rate in [*args.dropouts, args.sft_dropout]):
        parser.error(f"Dropout must be at least 0 and below 1, got {args.dropouts} and {args.sft_dropout}.")
    if args.num_draws < 0 or args.num_draws == 1:
        parser.error(f"`--num_draws` must be 0 or at least 2, got {args.num_draws}. One draw has no noise to measure.")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    settings = {"model": "small GPT-2" if args.model is None else Path(args.model).name}
    settings |= {name: getattr(args, name) for name in SMALL if name not in ("learning_rates", "num_draws")}
    runs = Runs(args.output, settings)
    machine = describe_machine("torch", "transformers", "trl", "peft")
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for seed in args.seeds:
        run_seed(args, runs, seed)
    print_tables(runs.records, args.dropouts)


if __name__ == "__main__":
    main()
