"""
What works with `EDITTrainer`, as a table: each feature is supported, refused or open.

Supported features name the test that trains with them. Refused features have a function that provokes their error, and
the part of the error that says why or what to do instead. Open features have a reason. `test_features.py` checks the
table, and `page.py` makes the page of the docs from it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from accelerate.parallelism_config import ParallelismConfig
from datasets import Dataset
from peft import LoraConfig
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration


class Feature(NamedTuple):
    """
    A feature of TRL, transformers or PEFT.

    Args:
        name (`str`): What a user looks for, in Markdown.
        test (`str`): If it is supported, the file and the name of a test, such as `"test_a.py::TestB::test_c"`.
        error (`str`): If it is refused, a part of the error.
        provoke (`Callable`): If it is refused, a function that raises the error. It gets the fixture `build` of
            `test_supported_surface.py`, which makes a trainer from options of the config and arguments.
        reason (`str`): If it is open, the reason.
        note (`str`): If it is supported, what a user has to know.
    """

    name: str
    test: str = ""
    error: str = ""
    provoke: Callable[[Callable], Any] | None = None
    reason: str = ""
    note: str = ""

    @property
    def status(self) -> str:
        return "supported" if self.test else "refused" if self.error else "open"


def option(name: str, error: str, **options: Any) -> Feature:
    """An option of the config that is refused."""
    return Feature(name, error=error, provoke=lambda build: build(options))


def images(build: Callable) -> None:
    build(train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c", "images": []}]))


def encoder_decoder(build: Callable) -> None:
    build(model=T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)))


def bidirectional(build: Callable) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    build(model=BertLMHeadModel(BertConfig(vocab_size=400, initializer_range=0.5, **sizes)))


def transform(build: Callable) -> None:
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    build(train_dataset=Dataset.from_list([pair]).with_transform(lambda batch: batch))


DATA = "test_data_utils.py"
SURFACE = "test_supported_surface.py"
TRAINER = "test_edit_trainer.py"
LAYOUTS = "test_edit_trainer_layouts.py"
CHECK = "test_layout_check.py"
ARGUMENTS = "test_trainer_arguments.py"
CALLBACKS = "test_callbacks.py"
SHAPES = "compat/test_data.py::test_trains_on_every_shape"
FEATURES = "compat/test_trainer_features.py"
MODELS = "compat/test_models.py"

AREAS: dict[str, list[Feature]] = {
    "Data": [
        Feature(
            "plain text with `prompt`",
            SHAPES,
        ),
        Feature("conversational", SHAPES),
        Feature("implicit prompt (no `prompt` column)", SHAPES),
        Feature("`from` / `value` messages", SHAPES),
        Feature("`tools`", SHAPES),
        Feature("`chat_template_kwargs`", SHAPES),
        Feature(
            "same tokens as `DPOTrainer`", f"{DATA}::TestSameTokensAsTRL::test_dpo_trainer_prepares_the_same_tokens"
        ),
        Feature(
            "tokenized (`prompt_ids`, …), with weights",
            f"{SURFACE}::TestDataOptions::test_skip_prepare_dataset_with_weights",
        ),
        Feature(
            "`IterableDataset`, streaming",
            f"{TRAINER}::TestStreaming::test_an_iterable_dataset_trains_like_a_map_style_one",
        ),
        Feature("several evaluation datasets", f"{TRAINER}::TestEvaluate::test_several_datasets_and_a_fresh_one"),
        Feature("`dataset_num_proc`", f"{SURFACE}::TestDataOptions::test_dataset_num_proc"),
        Feature(
            "`Dataset.with_transform()` on token IDs",
            f"{ARGUMENTS}::TestDataThatCannotWork::test_transform_works_as_the_message_says",
            note="with `skip_prepare_dataset`",
        ),
        Feature("`Dataset.with_transform()` on text", error="apply it with `Dataset.map()` first", provoke=transform),
        Feature("images", error="must hold text alone", provoke=images),
        Feature(
            "rows with `prompt` and `completion`, beside pairs or alone",
            test="test_completions.py::TestTraining::test_loss_and_gradients_are_those_of_a_plain_computation",
            note="with `completion_weight` or `chosen_other_weight`",
        ),
        Feature(
            "the same without a weight",
            error="Pass `completion_weight=1.0`",
            provoke=lambda build: build(train_dataset=Dataset.from_list([{"prompt": "a", "completion": "b"}])),
        ),
        option("`packing`", "Set `packing=False`", packing=True),
        option("`padding_free`", "Set `padding_free=False`", padding_free=True),
        option("`assistant_only_loss`", "Set `assistant_only_loss=False`", assistant_only_loss=True),
        option("`completion_only_loss=False`", "Set `completion_only_loss=None`", completion_only_loss=False),
        Feature(
            "`formatting_func`",
            error="give the columns `prompt`, `chosen` and `rejected`",
            provoke=lambda build: build(formatting_func=len),
        ),
    ],
    "Training": [
        Feature("gradient accumulation", f"{TRAINER}::TestDenominator::test_accumulated_batches_are_one_batch"),
        Feature(
            "a run that is killed while it writes a checkpoint",
            "test_checkpoints.py::TestKilled::test_while_a_file_is_written",
        ),
        Feature(
            "SIGTERM, as schedulers send it",
            "test_interrupts.py::TestSigterm::test_two_processes",
            note="with `InterruptCallback`",
        ),
        option("`enable_jit_checkpoint`", "pass `callbacks=[InterruptCallback()]`", enable_jit_checkpoint=True),
        Feature("gradient checkpointing, reentrant or not", f"{LAYOUTS}::TestOptions::test_gradient_checkpointing"),
        Feature(
            "bf16, as autocast or as weights", f"{LAYOUTS}::TestOptions::test_bf16_gives_the_same_in_every_layout"
        ),
        Feature("fp16", reason="needs an accelerator; not tried"),
        Feature(
            "`resume_from_checkpoint`", f"{TRAINER}::TestResume::test_an_interrupted_run_ends_with_the_same_parameters"
        ),
        Feature(
            "`resume_from_checkpoint` of an adapter",
            f"{FEATURES}::TestEvaluationAndCheckpoints::test_resume_with_an_adapter",
        ),
        Feature(
            "every `eval_strategy`, `eval_on_start`, `eval_delay`",
            f"{FEATURES}::TestEvaluationAndCheckpoints::test_eval_strategy",
        ),
        Feature(
            "every `save_strategy`, `save_total_limit`, `save_only_model`",
            f"{FEATURES}::TestEvaluationAndCheckpoints::test_save_strategy",
        ),
        Feature(
            "`load_best_model_at_end` by our metrics",
            f"{FEATURES}::TestEvaluationAndCheckpoints::test_load_best_model_at_end",
        ),
        Feature(
            "`predict()`",
            f"{TRAINER}::TestEvaluate::test_predict_takes_raw_pairs_and_gives_metrics_alone",
            note="metrics and no predictions",
        ),
        Feature(
            "`compute_metrics`, `preprocess_logits_for_metrics`",
            error="read the metrics under `eval_edit/`",
            provoke=lambda build: build(compute_metrics=len),
        ),
        Feature(
            "`compute_loss_func`",
            error="subclass `EDITTrainer` and override `compute_loss`",
            provoke=lambda build: build(compute_loss_func=len),
        ),
        option("`loss_type`", 'Set `loss_type="nll"` instead', loss_type="dft"),
        option("`label_smoothing_factor`", "Set `label_smoothing_factor=0.0`", label_smoothing_factor=0.1),
        Feature("callbacks", f"{SURFACE}::TestTrainingOptions::test_callbacks"),
        Feature("`EarlyStoppingCallback`", f"{FEATURES}::TestEvaluationAndCheckpoints::test_early_stopping"),
        Feature("TRL's `BEMACallback`", f"{FEATURES}::TestCallbacks::test_bema"),
        Feature("TRL's `RichProgressCallback`", f"{FEATURES}::TestCallbacks::test_rich_progress"),
        Feature(
            "`report_to`, trackers",
            f"{FEATURES}::TestCallbacks::test_report_to_tensorboard",
            note="TensorBoard, where it is installed",
        ),
        Feature(
            "a table of pairs with marked key tokens in Weights & Biases, TensorBoard and trackio",
            "test_tracking.py::TestLogPairsCallback::test_tensorboard",
            note="`edit_trl.inspection.LogPairsCallback`, where the tracker is installed",
        ),
        Feature("`optimizers`, `optimizer_cls_and_kwargs`", f"{SURFACE}::TestTrainingOptions::test_optimizers"),
        Feature("`optim`: AdamW, Adafactor, RMSProp, Adagrad, SGD", f"{FEATURES}::TestMemoryAndSpeed::test_optim"),
        Feature(
            "`optim`: GaLore, APOLLO",
            f"{FEATURES}::TestMemoryAndSpeed::test_optim_of_low_rank",
            note="where their packages are installed",
        ),
        Feature("`optim`: 8-bit and paged optimizers", reason="need an accelerator; not tried"),
        Feature("learning-rate schedules", f"{SURFACE}::TestTrainingOptions::test_lr_scheduler_kwargs"),
        Feature(
            '`lr_scheduler_type="reduce_lr_on_plateau"`',
            f"{FEATURES}::TestEvaluationAndCheckpoints::test_reduce_lr_on_plateau",
        ),
        Feature("`neftune_noise_alpha`", f"{FEATURES}::TestMemoryAndSpeed::test_neftune"),
        Feature(
            "`torch_compile`",
            f"{FEATURES}::TestMemoryAndSpeed::test_torch_compile",
            note='with `torch_compile_backend="eager"`; Inductor is not tried',
        ),
        Feature("`auto_find_batch_size`", f"{FEATURES}::TestMemoryAndSpeed::test_auto_find_batch_size"),
        Feature('`train_sampling_strategy="group_by_length"`', f"{SURFACE}::TestDataOptions::test_group_by_length"),
        Feature("`dataloader_num_workers`", f"{CHECK}::TestCheck::test_batches_of_workers_are_taken_apart"),
        Feature(
            "`include_num_input_tokens_seen`", f"{FEATURES}::TestMemoryAndSpeed::test_include_num_input_tokens_seen"
        ),
        Feature("`activation_offloading`", reason="needs an accelerator; not tried"),
        Feature("`push_to_hub`, `hub_strategy`", f"{FEATURES}::TestHub::test_hub_strategy"),
        Feature(
            "model card, with settings, curves, scores and citation",
            "test_hub.py::TestModelCard::test_of_a_trained_adapter",
        ),
    ],
    "Student": [
        Feature("by name, or as a model", f"{SURFACE}::TestModelOptions::test_model_by_name"),
        Feature("`model_init_kwargs`: `dtype`", f"{MODELS}::TestLoading::test_dtype"),
        Feature("`model_init_kwargs`: `device_map`", f"{MODELS}::TestLoading::test_device_map", note="on one device"),
        Feature("`model_init_kwargs`: `attn_implementation`", f"{SURFACE}::TestModelOptions::test_model_init_kwargs"),
        Feature("FlashAttention", reason="needs a GPU: `test_gpu.py`; its batches are tested on a CPU"),
        Feature("`trust_remote_code`", f"{SURFACE}::TestModelOptions::test_trust_remote_code"),
        Feature("tied embeddings", f"{MODELS}::TestEmbeddings::test_tied"),
        Feature("new tokens, resized embeddings", f"{MODELS}::TestEmbeddings::test_resized"),
        Feature("frozen parts", f"{FEATURES}::TestMemoryAndSpeed::test_parameters_may_be_frozen"),
        Feature(
            "mixture of experts, `router_aux_loss_coef`", f"{SURFACE}::TestModelOptions::test_router_aux_loss_coef"
        ),
        Feature(
            "8-bit and 4-bit weights by bitsandbytes, with an adapter",
            f"{MODELS}::TestQuantized::test_adapter_on_quantized_weights",
            note="where bitsandbytes is installed; on a CPU, do not evaluate a 4-bit student while it trains",
        ),
        Feature("other quantization", reason="not tried"),
        Feature("Liger kernels", reason="need their package and an accelerator; not tried"),
        option(
            "Liger's fused loss",
            'Set `liger_kernel_config={"fused_linear_cross_entropy": False}`',
            liger_kernel_config={"fused_linear_cross_entropy": True},
        ),
        Feature(
            "vision-language models, on text",
            f"{MODELS}::TestVisionLanguage::test_trains_on_text",
            note="LLaVA, Gemma 3, Qwen2-VL",
        ),
        Feature("encoder-decoder models", error="pass a decoder-only student", provoke=encoder_decoder),
        Feature(
            "models that attend to later tokens (XLNet; BERT and XLM as encoders)",
            error="attends to later tokens",
            provoke=bidirectional,
        ),
        Feature("CPM-Ant", reason="expects its padding on the left and as token 0, and is wrong with other padding"),
    ],
    "Several processes": [
        Feature("DDP", f"{TRAINER}::TestDenominator::test_two_processes_are_one_batch"),
        Feature(
            "FSDP2",
            "test_accelerate_configs.py::test_both_stages_are_those_of_one_process",
            note="tried with two processes on CPUs, checkpoints in one file or in shards; not on a GPU",
        ),
        Feature(
            "DeepSpeed, ZeRO-2 and ZeRO-3",
            "test_checkpoints.py::TestDeepSpeed::test_two_processes_are_one_batch",
            note="tried with two processes on CPUs, not on a GPU; the test is skipped without the package",
        ),
        Feature("tensor parallelism", reason="the number of pairs is divided by its ranks; not tried"),
        Feature(
            "sequence and context parallelism",
            error="Set `sp_size=1 and cp_size=1`",
            provoke=lambda build: build({"parallelism_config": ParallelismConfig(cp_size=2)}),
        ),
    ],
    "Adapters": [
        Feature(
            "new adapter: `peft_config`",
            f"{TRAINER}::TestLoRA::test_only_the_adapter_trains_and_it_reloads_and_merges",
        ),
        Feature("trained adapter goes on training", f"{TRAINER}::TestLoRA::test_a_trained_adapter_goes_on_training"),
        Feature(
            "trained head, `modules_to_save`", "test_model_families.py::TestWrapped::test_lora_with_a_trained_head"
        ),
        Feature(
            "adapter on `lm_head`",
            error="adapter to `lm_head` is not supported",
            provoke=lambda build: build(peft_config=LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM")),
        ),
    ],
}
