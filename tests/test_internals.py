"""
Tests of every private or undocumented part of TRL and transformers that edit_trl uses, by name.

A failure here says which of them moved in a new release and where edit_trl uses it, before anything else breaks in a
less readable way. The last test keeps the table complete: an import of a submodule that is not listed fails.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import accelerate
import pytest
import torch
import transformers
import transformers.masking_utils
import transformers.modeling_flash_attention_utils
import transformers.trainer_callback
import trl
from conftest import build_model
from datasets import Dataset
from transformers import AttentionInterface, MistralConfig, PreTrainedModel, Trainer
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

import edit_trl
from edit_trl.shared_attention import segment_inputs


# TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

PACKAGE = Path(edit_trl.__file__).parent


class Internal(NamedTuple):
    """A name, the parameters it is called with, in order and by name, and who uses it for what."""

    path: str
    parameters: tuple[str, ...] | None
    used: str


IMPORTS = [
    Internal(
        "trl.data_utils._tokenize",
        ("processing_class", "input", "apply_chat_template_kwargs"),
        "`data_utils.tokenize_pair`, for the same tokens as `DPOTrainer`",
    ),
    Internal(
        "trl.data_utils.common_prefix_length",
        ("ids", "other_ids"),
        "`data_utils.tokenize_pair`, for where the prompt ends, and `layouts.join_chains`",
    ),
    Internal(
        "trl.data_utils.extract_prompt", ("example",), "`data_utils.tokenize_pair`, for data without a prompt column"
    ),
    Internal("trl.data_utils.is_conversational", ("example",), "`data_utils.tokenize_pair`, text or messages"),
    Internal(
        "trl.data_utils.maybe_convert_to_chatml", ("example",), "`data_utils.tokenize_pair`, for from/value messages"
    ),
    Internal(
        "trl.data_utils.prepare_multimodal_messages",
        ("messages",),
        "`data_utils.tokenize_pair`, to render messages as `_tokenize` does",
    ),
    Internal(
        "trl.data_utils.get_dataset_column_names",
        ("dataset",),
        "`data_utils.prepare_dual_cots` and `trainer_arguments.check_datasets`, for lazy datasets too",
    ),
    Internal(
        "trl.trainer.base_config._BaseConfig", None, "`trainer_arguments.as_edit_config`, to know another config"
    ),
    Internal("accelerate.utils.gather", ("tensor",), "`InterruptCallback`, whose processes agree on a step"),
    Internal(
        "trl.trainer.utils.pad",
        ("tensors", "padding_value", "padding_side", "pad_to_multiple_of"),
        "`DataCollatorForDualCoT` and `scoring.score_tokens`",
    ),
    Internal(
        "trl.trainer.utils.get_config_model_id",
        ("config",),
        "`trainer_arguments` and `edit_trainer`, to name output folder and card",
    ),
    Internal(
        "trl.trainer.utils.global_then_local_main_first",
        (),
        "`EDITTrainer._prepare_dataset`, so that processes share the cache",
    ),
    Internal(
        "trl.trainer.utils.selective_log_softmax_and_entropy",
        ("logits", "index", "entropy_requires_grad"),
        "`EDITTrainer.compute_loss`",
    ),
    Internal(
        "transformers.integrations.flash_attention.flash_attention_forward",
        ("module", "query", "key", "value", "attention_mask"),
        "`shared_attention.takes_segments`, to know what calls a kernel of FlashAttention",
    ),
    Internal("transformers.data.data_collator.DataCollatorMixin", None, "base of `DataCollatorForDualCoT`"),
    Internal("transformers.trainer_utils.EvalLoopOutput", None, "`EDITTrainer.evaluation_loop`"),
    Internal("transformers.trainer_utils.PredictionOutput", None, "`EDITTrainer.predict`"),
    Internal(
        "transformers.trainer_utils.rotate_checkpoints",
        ("output_dir", "save_total_limit", "best_model_checkpoint", "use_mtime"),
        "`WholeCheckpoints`, once a checkpoint is in its place",
    ),
    Internal("transformers.trainer_utils.HubStrategy", None, "`PublicPushes`"),
    Internal("transformers.utils.PushInProgress", None, "`PublicPushes`"),
    Internal("transformers.utils.cached_file", ("path_or_repo_id", "filename"), "`evaluation.identity`, for a commit"),
    Internal("accelerate.utils.DistributedType", None, "`trainer_arguments.check_engine`"),
    Internal("accelerate.utils.gather_object", ("object",), "`scripts.train`, for the answers of all processes"),
    Internal("accelerate.commands.launch.launch_command", ("args",), "`edit-trl train --accelerate_config`"),
    Internal("accelerate.commands.launch.launch_command_parser", (), "`edit-trl train --accelerate_config`"),
    Internal("accelerate.utils.is_peft_model", ("model",), "`scoring.without_adapter`, to look inside a `PeftModel`"),
    Internal("accelerate.logging.get_logger", ("name",), "all modules that log"),
]

# Methods that `EDITTrainer` overrides or calls, with the parameters that it relies on, in order.
METHODS = [
    Internal(
        "trl.SFTTrainer._prepare_dataset",
        ("self", "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"),
        "overridden: `SFTTrainer.__init__` and `evaluate` call it with positional arguments",
    ),
    Internal("trl.SFTTrainer._set_signature_columns_if_needed", ("self",), "overridden, to keep our columns"),
    Internal(
        "trl.SFTTrainer.compute_loss",
        ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
        "overridden, with the KRSL loss",
    ),
    Internal(
        "trl.SFTTrainer.prediction_step",
        ("self", "model", "inputs", "prediction_loss_only", "ignore_keys"),
        "overridden, as there are no predictions",
    ),
    Internal("trl.SFTTrainer.log", ("self", "logs", "start_time"), "overridden, to add our metrics"),
    Internal(
        "trl.SFTTrainer.create_model_card",
        ("self", "model_name", "dataset_name", "tags"),
        "overridden, with a card of our own; `SFTTrainer` calls it before each checkpoint",
    ),
    Internal(
        "transformers.Trainer._get_train_sampler",
        ("self", "train_dataset"),
        "overridden, to add the lengths of the rows; called with and without a dataset",
    ),
    Internal(
        "transformers.Trainer._get_eval_sampler",
        ("self", "eval_dataset"),
        "overridden, to add the lengths of the rows",
    ),
    Internal(
        "transformers.Trainer._get_num_items_in_batch",
        ("self", "batch_samples", "device"),
        "overridden, to count pairs",
    ),
    Internal(
        "transformers.Trainer.evaluation_loop",
        ("self", "dataloader", "description", "prediction_loss_only", "ignore_keys", "metric_key_prefix"),
        "overridden; the prefix may come as the fifth positional argument",
    ),
    Internal(
        "transformers.Trainer.training_step",
        ("self", "model", "inputs", "num_items_in_batch"),
        "hands the number of pairs to `compute_loss`",
    ),
    Internal("transformers.Trainer.train", ("self", "resume_from_checkpoint"), "overridden, in `WholeCheckpoints`"),
    Internal("transformers.Trainer._get_output_dir", ("self", "trial"), "overridden, in `WholeCheckpoints`"),
    Internal("transformers.Trainer._save_checkpoint", ("self", "model", "trial"), "overridden, in `WholeCheckpoints`"),
    Internal(
        "transformers.Trainer._push_from_checkpoint",
        ("self", "checkpoint_folder"),
        "overridden, in `WholeCheckpoints` and `PublicPushes`",
    ),
    Internal(
        "transformers.Trainer.push_to_hub",
        ("self", "commit_message", "blocking", "token", "revision"),
        "overridden, in `PublicPushes`",
    ),
    Internal("transformers.Trainer.init_hf_repo", ("self", "token"), "`PublicPushes.push_to_hub`"),
    Internal("transformers.Trainer._finish_current_push", ("self",), "`PublicPushes.push_to_hub`"),
    Internal("transformers.Trainer.get_tp_size", ("self",), "`KeyStepAccuracyCallback`, whose ranks share the pairs"),
    Internal("transformers.PreTrainedModel.get_output_embeddings", ("self",), "the head that the hook sits on"),
    Internal("accelerate.Accelerator.unwrap_model", ("self", "model"), "`EDITTrainer._score`"),
    Internal("accelerate.Accelerator.gather_for_metrics", ("self", "input_data"), "`EDITTrainer._count`"),
    Internal(
        "torch.nn.Module.register_forward_pre_hook",
        ("self", "hook", "prepend", "with_kwargs"),
        "`scoring.scored_positions_only`",
    ),
]

# What the source of a function must contain, as a regular expression.
SOURCES = [
    (SFTTrainer.__init__, r"self\._metrics = \{\"train\": ", "`EDITTrainer.log` adds its metrics to `_metrics`"),
    (SFTTrainer.__init__, r"self\._total_train_tokens = 0", "`EDITTrainer._count` adds tokens to it"),
    (SFTTrainer.__init__, r"self\._tp_size = ", "`EDITTrainer` divides by the number of tensor-parallel ranks"),
    (SFTTrainer.__init__, r"self\.aux_loss_enabled = ", "`EDITTrainer.compute_loss` adds the router's loss"),
    (SFTTrainer.__init__, r"self\.router_aux_loss_coef = ", "`EDITTrainer.compute_loss` adds the router's loss"),
    (SFTTrainer.__init__, r"self\._tokenizer = ", "`EDITTrainer` takes its pad and end-of-sequence tokens"),
    (SFTTrainer.__init__, r"self\._tokenizer\.pad_token = ", "settles the pad token when `data_collator` is None"),
    (SFTTrainer.__init__, r"self\._tokenizer\.eos_token = args\.eos_token", "settles the end-of-sequence token"),
    (
        SFTTrainer.__init__,
        r"self\._prepare_dataset\(\s*train_dataset, processing_class, args, args\.packing, formatting_func, \"train\"",
        "calls the overridden method while the trainer is built",
    ),
    (SFTTrainer.__init__, r"self\._skip_prepare_dataset = ", "`dataset_kwargs` decides whether data is prepared"),
    (SFTTrainer.__init__, r"isinstance\(model\.get_output_embeddings\(\), BaseTunerLayer\)", "refuses the adapter"),
    (
        SFTTrainer.__init__,
        r"outputs=\(\"log_probs\", \"entropy\", \"is_top1\"\)",
        "`EDITTrainer._score_in_chunks` takes these three from it",
    ),
    (
        trl.trainer.utils.add_fused_lm_head,
        r"labels = shift_labels\n",
        "`EDITTrainer._score_in_chunks` passes labels that need no shift",
    ),
    (
        transformers.masking_utils._preprocess_mask_arguments,
        r"isinstance\(attention_mask, \(torch\.Tensor, BlockMask\)\) and len\(attention_mask\.shape\) == 4:"
        r"\s+return True, attention_mask",
        "`layouts.attention_masks`: a mask of four dimensions goes to the layers as it is",
    ),
    (
        transformers.modeling_flash_attention_utils._flash_attention_forward,
        r"if is_fa_with_varlen_kwargs:[\s\S]*?flash_varlen_fn\(q, k, v, cu_seqlens_q=cu_seq_lens_q, "
        r"cu_seqlens_k=cu_seq_lens_k, ",
        "`shared_attention` passes other lengths of keys than of queries",
    ),
    (SFTTrainer.log, r"self\._metrics\[mode\]\.items\(\)", "logs what `EDITTrainer.log` puts in `_metrics`"),
    (SFTTrainer.log, r"self\._metrics\[mode\]\.clear\(\)", "forgets what it has logged"),
    (SFTTrainer.evaluate, r"self\._prepare_dataset\(", "prepares a dataset that is passed to `evaluate`"),
    (Trainer.training_step, r"if self\.loss_is_scaled_for_ga is not None", "`EDITTrainer.loss_is_scaled_for_ga`"),
    (Trainer._remove_unused_columns, r"self\._set_signature_columns_if_needed\(\)", "asks the overridden method"),
    (Trainer._remove_unused_columns, r"self\._signature_columns", "reads what the overridden method sets"),
    (Trainer.__init__, r"self\._signature_columns = None", "lets the overridden method set it"),
    (Trainer._get_train_sampler, r"self\.args\.length_column_name", '`train_sampling_strategy="group_by_length"`'),
    (
        Trainer.get_batch_samples,
        r"self\._get_num_items_in_batch\(batch_samples, device\)",
        "asks the overridden method",
    ),
    (
        Trainer._run_epoch,
        r"self\.current_gradient_accumulation_steps = len\(batch_samples\)",
        "`EDITTrainer.compute_loss` divides the router's loss by it",
    ),
    (
        Trainer._inner_training_loop,
        r"for epoch in [\s\S]*self\._run_epoch\([\s\S]*if self\.control\.should_training_stop:\s+break",
        "`WholeCheckpoints` leaves out an epoch in which there is nothing to train, and ends training",
    ),
    (
        Trainer._save_checkpoint,
        r"f\"\{PREFIX_CHECKPOINT_DIR\}-\{self\.state\.global_step\}\"[\s\S]*run_dir = self\._get_output_dir\("
        r"[\s\S]*self\.state\.save_to_json\([\s\S]*self\._push_from_checkpoint\(output_dir\)"
        r"[\s\S]*rotate_checkpoints\(\s*output_dir=run_dir",
        "`WholeCheckpoints` gives it another folder; the state is written last, then it pushes and removes old ones",
    ),
    (
        Trainer.push_to_hub,
        r"self\.save_model\(_internal_call=True\)[\s\S]*self\.create_model_card\([\s\S]*self\._finish_current_push\(\)"
        r"[\s\S]*upload_folder\([\s\S]*ignore_patterns=\[\"_\*\", f\"\{PREFIX_CHECKPOINT_DIR\}-\*\"\]",
        "`PublicPushes.push_to_hub` does the same with fewer files",
    ),
    (
        Trainer._push_from_checkpoint,
        r"hub_always_push[\s\S]*\"last-checkpoint\" if self\.args\.hub_strategy == HubStrategy\.CHECKPOINT"
        r"[\s\S]*self\.push_in_progress = PushInProgress\(push_jobs\)",
        "`PublicPushes` does the same with fewer files",
    ),
    (Trainer.evaluation_loop, r"self\.prediction_step\(\s*model, inputs, prediction_loss_only", "calls the override"),
    (
        SFTTrainer.log,
        r"mode = \"train\" if self\.model\.training else \"eval\"",
        "`KeyStepAccuracyCallback` logs in evaluation mode, so that the next training log keeps its metrics",
    ),
    (
        transformers.trainer_callback.CallbackHandler.on_log,
        r"control\.should_log = False",
        "`KeyStepAccuracyCallback` puts it back, so that the training log of the same step is not lost",
    ),
    (
        Trainer.evaluate,
        r"on_evaluate\(self\.args, self\.state, self\.control, output\.metrics\)[\s\S]*return output\.metrics",
        "`KeyStepAccuracyCallback` adds its metrics to them, for `metric_for_best_model`",
    ),
    (trl.trainer.utils.get_config_model_id, r"_name_or_path", "the name that transformers gives a loaded model"),
]


def resolve(path: str):
    """Object at a dotted path, through modules and classes."""
    parts = path.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        for name in parts[stop:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def name_of(value) -> str:
    return value.path if isinstance(value, Internal) else getattr(value, "__qualname__", "")


class TestInternals:
    @pytest.mark.parametrize("internal", [*IMPORTS, *METHODS], ids=name_of)
    def test_exists_and_takes_what_we_pass(self, internal):
        try:
            found = resolve(internal.path)
        except (ModuleNotFoundError, AttributeError) as error:
            pytest.fail(f"`{internal.path}` is gone ({error}). Used by: {internal.used}.")
        if internal.parameters is None:
            assert inspect.isclass(found), f"`{internal.path}` is no class any more. Used by: {internal.used}."
            return
        parameters = tuple(inspect.signature(found).parameters)
        assert parameters[: len(internal.parameters)] == internal.parameters, (
            f"`{internal.path}` now takes {parameters}. Used by: {internal.used}."
        )

    @pytest.mark.parametrize("internal", [i for i in (*IMPORTS, *METHODS) if i.parameters is not None], ids=name_of)
    def test_asks_for_nothing_new(self, internal):
        """A new parameter without a default would make our calls fail."""
        required = [
            name
            for name, parameter in inspect.signature(resolve(internal.path)).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        new = set(required) - set(internal.parameters)
        assert not new, f"`{internal.path}` now needs {sorted(new)}. Used by: {internal.used}."

    @pytest.mark.parametrize(
        ("function", "pattern", "reason"), SOURCES, ids=[f"{row[0].__qualname__}-{row[1]}" for row in SOURCES]
    )
    def test_source_does_what_we_rely_on(self, function, pattern, reason):
        source = inspect.getsource(function)
        assert re.search(pattern, source), (
            f"`{function.__qualname__}` no longer has /{pattern}/. It matters: {reason}."
        )


class TestBehaviour:
    """Internals whose signature says too little."""

    def test_recurrent_models_say_so(self):
        """`layouts.choose_layouts` asks the class."""
        assert PreTrainedModel._is_stateful is False
        assert transformers.MambaForCausalLM._is_stateful is transformers.FalconH1ForCausalLM._is_stateful is True

    def test_kernels_for_cpus_take_a_mask_and_give_the_log_sum_exp(self):
        """`shared_attention` calls them, since SDPA does not return the log-sum-exp that a backward pass needs."""
        names = {
            "_scaled_dot_product_flash_attention_for_cpu": (
                *("query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale"),
            ),
            "_scaled_dot_product_flash_attention_for_cpu_backward": (
                *("grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal"),
                *("attn_mask", "scale"),
            ),
        }
        for name, parameters in names.items():
            schema = getattr(torch.ops.aten, name).default._schema
            assert tuple(argument.name for argument in schema.arguments) == parameters
        forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default._schema
        assert [value.name for value in forward.returns] == ["output", "logsumexp"]

    @pytest.mark.parametrize("implementation", ["sdpa", "flash_attention_2"])
    @pytest.mark.parametrize("make_mask", [create_causal_mask, create_sliding_window_causal_mask])
    def test_mask_of_four_dimensions_stays_as_it_is(self, implementation, make_mask):
        """The list of keys of a packed row is one, of integers."""
        config = MistralConfig(sliding_window=2)
        config._attn_implementation = implementation
        keys = segment_inputs([(2, 1, 2)])["attention_mask"]
        assert keys.ndim == 4 and keys.dtype == torch.int64
        # Some releases call the cache otherwise.
        required = {n for n, p in inspect.signature(make_mask).parameters.items() if p.default is p.empty}
        options = dict.fromkeys(required) | {"config": config, "attention_mask": keys}
        assert make_mask(**options | {"inputs_embeds": torch.zeros(1, 5, 8)}) is keys

    @pytest.mark.parametrize("kwargs", [None, {"use_reentrant": False}, {"use_reentrant": True}], ids=str)
    def test_keyword_arguments_of_a_model_reach_its_attention(self, kwargs, monkeypatch):
        """Through gradient checkpointing too. `shared_attention` gets the borders of segments in this way."""
        seen = []

        def attend(module, query, key, value, attention_mask, **kwargs):
            seen.append({"attention_mask": attention_mask, **kwargs})
            return query.transpose(1, 2), None

        mapping = {**AttentionInterface._global_mapping, "sdpa": attend}
        monkeypatch.setattr(AttentionInterface, "_global_mapping", mapping)
        model = build_model().train()
        if kwargs is not None:
            model.gradient_checkpointing_enable(kwargs)
            model.enable_input_require_grads()
        inputs = segment_inputs([(2, 1, 2)])
        model(torch.arange(5)[None], use_cache=False, **inputs).logits.sum().backward()
        assert len(seen) == (2 if kwargs is None else 4)
        for arguments in seen:
            assert all(arguments[name] is value for name, value in inputs.items())

    def test_models_keep_the_name_of_their_attention(self):
        """`layouts.choose_layouts` and `attention_masks` ask the config."""
        model = build_model(attn_implementation="eager")
        assert model.config.get_text_config()._attn_implementation == "eager"
        assert build_model().config._attn_implementation == "sdpa"

    def test_overridden_methods_keep_their_parameters(self):
        """Whoever calls `SFTTrainer`'s method may call ours with the same arguments."""
        for name in (
            "_prepare_dataset",
            "_set_signature_columns_if_needed",
            "_get_train_sampler",
            "_get_eval_sampler",
            "_get_num_items_in_batch",
            "compute_loss",
            "prediction_step",
            "log",
        ):
            ours, theirs = (
                list(inspect.signature(getattr(trainer, name)).parameters)
                for trainer in (edit_trl.EDITTrainer, SFTTrainer)
            )
            assert ours == theirs, name

    def test_every_override_overrides_something(self):
        """A method that TRL or transformers renames would silently become dead code."""
        own = {
            "_check_layouts",
            "_count",
            "_in_right_layout",
            "_is_exact",
            "_make_data_collator",
            "_model_inputs",
            "_pop_metrics",
            "_score",
            "_score_at_once",
            "_has_fused_head",
            "_score_in_chunks",
            "_without_router_loss",
            "_warn_of_padding",
            "_with_lengths",
        }
        for name, value in vars(edit_trl.EDITTrainer).items():
            if name.startswith("__") and name != "__init__" or name in own:
                continue
            assert hasattr(SFTTrainer, name), f"`{name}` is no longer part of `SFTTrainer` ({value})"

    def test_loss_is_scaled_for_ga_is_an_attribute_of_the_class(self):
        assert Trainer.loss_is_scaled_for_ga is None
        assert edit_trl.EDITTrainer.loss_is_scaled_for_ga is True

    def test_training_step_does_not_divide_a_scaled_loss(self, trainer):
        """One pair, loss 3, four accumulation steps: 3 as it is, or 3 / 4."""
        trainer.current_gradient_accumulation_steps = 4
        trainer.optimizer = None
        trainer.compute_loss = lambda model, inputs, num_items_in_batch=None: next(model.parameters()).sum() * 0 + 3.0
        inputs, losses = {"input_ids": torch.zeros(1, 1)}, {}
        for is_scaled in (True, False):
            trainer.loss_is_scaled_for_ga = is_scaled
            losses[is_scaled] = trainer.training_step(trainer.model, inputs, num_items_in_batch=torch.tensor(1)).item()
        assert losses == {True: 3.0, False: 0.75}

    def test_eval_loop_output_is_a_named_tuple(self):
        assert EvalLoopOutput._fields == ("predictions", "label_ids", "metrics", "num_samples")
        assert EvalLoopOutput(None, None, {}, 3)._replace(num_samples=2).num_samples == 2

    def test_attributes_that_the_trainer_reads(self, trainer):
        assert trainer._metrics.keys() == {"train", "eval"}
        assert trainer._total_train_tokens == 0
        assert trainer._tp_size == 1
        assert trainer.aux_loss_enabled is False
        assert trainer.router_aux_loss_coef == 0.0
        assert trainer._tokenizer is trainer.processing_class
        assert trainer.accelerator.parallelism_config is None

    def test_collator_is_set_before_it_is_used(self, trainer):
        """`Trainer` reads `data_collator` when a dataloader is built, not before."""
        assert isinstance(trainer.data_collator, edit_trl.DataCollatorForDualCoT)
        assert "self.data_collator" in inspect.getsource(Trainer._get_dataloader)

    def test_signature_columns_are_ours(self, trainer):
        trainer._signature_columns = None
        trainer._set_signature_columns_if_needed()
        assert trainer._signature_columns == [
            "prompt_ids",
            "chosen_ids",
            "rejected_ids",
            "completion_ids",
            "chosen_weights",
            "rejected_weights",
            "length",
        ]

    def test_selective_log_softmax_and_entropy(self):
        """Logits log(1), log(3): probabilities 1/4, 3/4; entropy log(4) - 3/4 * log(3)."""
        logits = torch.tensor([[[1.0, 3.0]]]).log()
        log_probs, entropy = trl.trainer.utils.selective_log_softmax_and_entropy(
            logits, torch.tensor([[1]]), entropy_requires_grad=False
        )
        torch.testing.assert_close(log_probs, torch.tensor([[0.75]]).log())
        torch.testing.assert_close(entropy, torch.tensor([[4.0]]).log() - 0.75 * torch.tensor(3.0).log())

    def test_other_configs_are_base_configs(self):
        base = resolve("trl.trainer.base_config._BaseConfig")
        for name in ("SFTConfig", "DPOConfig", "KTOConfig", "GRPOConfig", "RewardConfig"):
            assert issubclass(getattr(trl, name), base), name

    def test_to_dict_masks_every_token(self, tmp_path):
        """`trainer_arguments.as_edit_config` restores what is masked."""
        config = trl.SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False)
        masked = {name for name, value in config.to_dict().items() if value == f"<{name.upper()}>"}
        assert masked == {"hub_token", "eos_token", "pad_token"}

    def test_output_embeddings_of_a_causal_model_are_its_head(self, model):
        assert model.get_output_embeddings() is model.lm_head
        assert PreTrainedModel.get_output_embeddings is not None


@pytest.fixture
def trainer(tmp_path, model, tokenizer, pairs):
    return edit_trl.EDITTrainer(
        model=model,
        args=edit_trl.EDITConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )


def imported_names(module: Path) -> set[str]:
    """Dotted names that a module imports from submodules of TRL, transformers and accelerate."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module and "." in node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if "." in alias.name}
    return {name for name in names if name.split(".")[0] in ("accelerate", "transformers", "trl")}


class TestTable:
    @pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_lists_every_import_from_a_submodule(self, module):
        """What is exported at the top level is public; the rest may move without notice."""
        assert imported_names(module) <= {internal.path for internal in IMPORTS}

    def test_lists_nothing_that_is_not_imported(self):
        imported = set().union(*(imported_names(module) for module in PACKAGE.rglob("*.py")))
        assert {internal.path for internal in IMPORTS} <= imported

    def test_names_imported_from_the_top_level_are_exported(self):
        for module in PACKAGE.rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module in ("trl", "transformers", "accelerate"):
                    package = {"trl": trl, "transformers": transformers, "accelerate": accelerate}[node.module]
                    for alias in node.names:
                        assert hasattr(package, alias.name) and not alias.name.startswith("_"), alias.name
