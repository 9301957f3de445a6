"""Tests of arguments, models and datasets made for other trainers: converted or refused before training starts."""

import dataclasses

import pytest
import torch
import transformers
from accelerate.parallelism_config import ParallelismConfig
from datasets import Dataset, DatasetDict, IterableDataset
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from test_supported_surface import TOKENIZED, build, dataset, options, train  # noqa: F401
from transformers import (
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, SFTConfig

from edit_trl import DataCollatorForDualCoT, EDITConfig, EDITTrainer


pytestmark = [
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]


class TestArgumentsOfOtherTrainers:
    @pytest.mark.parametrize(
        ("name", "instead"),
        [
            ("ref_model", "leave it out. .* set `chosen_other_weight` in `EDITConfig`"),
            ("beta", "set `rejected_key_weight` in `EDITConfig`"),
            ("tokenizer", "pass it as `processing_class`"),
        ],
    )
    @pytest.mark.parametrize("value", [None, 1])
    def test_names_what_does_their_work(self, build, name, instead, value):
        with pytest.raises(ValueError, match=rf"^`EDITTrainer` does not take `{name}`: .*{instead}"):
            build(**{name: value})

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [("train_data", "train_dataset"), ("peft_conf", "peft_config"), ("callback", "callbacks"), ("arg", "args")],
    )
    def test_unknown_argument_names_the_nearest(self, build, name, nearest):
        with pytest.raises(TypeError, match=rf"`EDITTrainer` has no argument `{name}`. Did you mean `{nearest}`\?"):
            build(**{name: 1})

    def test_unknown_argument_like_no_other_lists_all(self, build):
        with pytest.raises(TypeError, match="has no argument `xyzzy`. It takes model, args, data_collator, "):
            build(xyzzy=1)

    def test_model_in_the_place_of_the_arguments_is_refused(self, build, model):
        """`DPOTrainer(model, ref_model, args)` of older releases."""
        with pytest.raises(
            TypeError, match="got `LlamaForCausalLM`. `DPOTrainer` takes its `ref_model` second; .*leave it"
        ):
            EDITTrainer(model, model)

    @pytest.mark.parametrize("config", [DPOConfig, KTOConfig, GRPOConfig, RewardConfig])
    def test_config_of_another_trainer_is_refused(self, build, options, config):
        with pytest.raises(
            TypeError, match=rf"^`args` must be an `EDITConfig`, got a `{config.__name__}`.*EDITConfig\("
        ):
            build(args=config(**{**options, "per_device_train_batch_size": 8}))

    @pytest.mark.parametrize("args", [{"output_dir": "x"}, "x"], ids=str)
    def test_arguments_of_another_type_are_refused(self, build, args):
        with pytest.raises(TypeError, match=rf"^`args` must be an `EDITConfig`, got `{type(args).__name__}`"):
            build(args=args)


def values_of(args: TrainingArguments, config: type) -> dict:
    """Values of all options of a config. Left to itself, `EDITConfig` turns `dispatch_batches` off."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config) if field.init}
    values["accelerator_config"] = dataclasses.replace(values["accelerator_config"], dispatch_batches=False)
    return values


class TestKinds:
    """An argument in the place of another is told so before a model is loaded."""

    def test_order_of_the_dpo_trainer(self, build, model, options, dataset):
        """`DPOTrainer(model, ref_model, args, ...)`: the configuration would be taken for a collator."""
        with pytest.raises(
            TypeError, match="`data_collator` must be .*got `EDITConfig`. A configuration is the second"
        ):
            EDITTrainer(model, None, EDITConfig(**options), None, dataset)

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("model", 7, "the name of a model or a model, got `int`"),
            ("data_collator", {}, "a data collator, .* got `dict`"),
            ("processing_class", "gpt2", "a tokenizer or a processor, got `str`"),
            ("callbacks", TrainerCallback(), "a list of callbacks, got `TrainerCallback`"),
            ("callbacks", ["early"], "a list of callbacks, got `list`"),
            ("optimizers", [None, None], "a tuple of an optimizer and a learning-rate scheduler, .* got `list`"),
            (
                "optimizer_cls_and_kwargs",
                torch.optim.SGD,
                "a tuple of an optimizer class and a dictionary, got `type`",
            ),
            ("peft_config", {"r": 8}, "a `PeftConfig` such as `LoraConfig`, got `dict`"),
        ],
    )
    def test_value_of_another_kind(self, build, name, value, expected):
        with pytest.raises(TypeError, match=f"^`{name}` must be {expected}"):
            build(**{name: value})

    def test_predict_takes_one_dataset(self, build, dataset):
        with pytest.raises(TypeError, match="`test_dataset` must be .* got `dict`.*one after the other"):
            build().predict({"easy": dataset})

    def test_batch_of_another_collator(self, build):
        trainer = build(data_collator=lambda examples: {"input_ids": torch.zeros(1, 2), "labels": torch.zeros(1, 2)})
        with pytest.raises(
            ValueError, match=r"got \['input_ids', 'labels'\]: `position_ids`, .*leave `data_collator` out"
        ):
            trainer.train()

    def test_batch_that_has_lost_its_layout(self, build):
        """A shared row read as a padded one would train wrongly without a word."""

        class TensorsAlone(DataCollatorForDualCoT):
            def torch_call(self, examples):
                batch = super().torch_call(examples)
                return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}

        trainer = build(data_collator=TensorsAlone(pad_token_id=3, layout="shared_prefix"))
        with pytest.raises(ValueError, match="`layout` is missing"):
            trainer.train()


class TestOtherConfigs:
    VALUES = (
        ("learning_rate", 3e-4),
        ("max_length", 77),
        ("hub_token", "hf_secret"),
        ("seed", 7),
        ("optim", "sgd"),
        ("warmup_steps", 3),
        ("logging_steps", 5),
        ("eos_token", "<|im_end|>"),
        ("pad_to_multiple_of", 8),
        ("model_init_kwargs", {"dtype": torch.float32}),
        ("lr_scheduler_type", "cosine_with_restarts"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}),
        ("accelerator_config", {"even_batches": False}),
        ("eval_on_start", True),
    )

    def test_values_stay(self, build, options, dataset):
        args = SFTConfig(**{**options, **dict(self.VALUES), "gradient_checkpointing": True})
        converted = build(args=args, eval_dataset=dataset).args
        assert type(converted) is EDITConfig
        for name, value in values_of(args, SFTConfig).items():
            if name != "model_init_kwargs":
                assert getattr(converted, name) == value, name
        assert converted.model_init_kwargs["dtype"] in (torch.float32, "float32")
        assert converted.rejected_key_weight == 0.025

    def test_unset_tokens_stay_unset(self, build, options):
        converted = build(args=SFTConfig(**options)).args
        assert (converted.eos_token, converted.pad_token, converted.hub_token) == (None, None, None)

    def test_arguments_of_transformers_are_converted(self, build, options):
        args = TrainingArguments(**{**options, "learning_rate": 3e-4, "hub_token": "hf_secret", "seed": 7})
        trainer = build(args=args)
        assert type(trainer.args) is EDITConfig
        for name, value in values_of(args, TrainingArguments).items():
            assert getattr(trainer.args, name) == value, name
        assert trainer.args.max_length == 1024
        train(trainer)

    def test_parallelism_stays(self, build, options):
        parallelism_config = ParallelismConfig(dp_replicate_size=1)
        converted = build(args=SFTConfig(**options, parallelism_config=parallelism_config)).args
        assert converted.parallelism_config is not None

    def test_given_config_is_not_changed(self, build, options):
        args = SFTConfig(**options, model_init_kwargs={"dtype": torch.float32})
        before = dict(args.model_init_kwargs)
        build(args=args)
        assert type(args) is SFTConfig
        assert args.model_init_kwargs == before

    def test_rate_that_came_along_is_logged(self, build, options, caplog):
        """It is that of another method, so it is said."""
        build(args=SFTConfig(**options))
        assert "`EDITConfig` with the same values, including its learning rate of 2e-05" in caplog.text

    def test_edit_config_is_taken_as_it_is(self, build, options):
        args = EDITConfig(**options)
        assert build(args=args).args is args

    def test_config_with_fields_of_its_own_is_converted_or_refused(self, build, options):
        """The error must not be about `EDITConfig.__init__()`, which the user did not call."""
        args = Seq2SeqTrainingArguments(**options)
        try:
            assert type(build(args=args).args) is EDITConfig
        except TypeError as error:
            assert str(error).startswith("`args` must be an `EDITConfig`, got a `Seq2SeqTrainingArguments`")


class TestDefaultArguments:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_output_folder_has_the_name_of_the_model(self, build, model_folder):
        trainer = build(model=model_folder, args=None, processing_class=None)
        assert trainer.args.output_dir == "tiny-llama-EDIT"

    def test_output_folder_has_the_name_of_a_loaded_model(self, build, model_folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
        assert build(model=model, args=None).args.output_dir == "tiny-llama-EDIT"

    def test_are_those_of_edit(self, build, model_folder):
        args = build(model=model_folder, args=None, processing_class=None).args
        assert type(args) is EDITConfig
        assert (args.learning_rate, args.rejected_key_weight) == (5e-6, 0.025)


@pytest.fixture
def t5_folder(tmp_path, tokenizer) -> str:
    folder = str(tmp_path / "tiny-t5")
    build_t5().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


class TestModelsThatCannotWork:
    @pytest.mark.parametrize("kind", ["model", "path"])
    def test_encoder_decoder_is_refused(self, build, t5_folder, kind):
        with pytest.raises(
            ValueError, match="must be a causal .* got the encoder-decoder `t5`.*pass a decoder-only student"
        ):
            build(model=build_t5() if kind == "model" else t5_folder)

    def test_prompt_learning_is_refused(self, build):
        config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4)
        with pytest.raises(ValueError, match="prompt learning, got `PromptTuningConfig`.*pass a `LoraConfig`"):
            build(peft_config=config)

    def test_prompt_learning_around_the_model_is_refused(self, build, model):
        wrapped = get_peft_model(model, PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4))
        with pytest.raises(ValueError, match="prompt learning, got `PromptTuningConfig`.*pass a `LoraConfig`"):
            build(model=wrapped)

    def test_adapter_on_the_head_is_refused(self, build):
        """TRL's own error."""
        config = LoraConfig(target_modules=["lm_head"], task_type=TaskType.CAUSAL_LM)
        with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
            build(peft_config=config)

    def test_adapter_for_an_adapted_model_is_refused(self, build, model):
        """TRL's own error."""
        config = LoraConfig(target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM)
        with pytest.raises(ValueError, match="You passed a `PeftModel` instance together with a `peft_config`"):
            build(model=get_peft_model(model, config), peft_config=config)

    def test_frozen_adapter_is_refused(self, build, model, tmp_path):
        """`PeftModel.from_pretrained` freezes the adapter unless told otherwise."""
        wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM))
        wrapped.save_pretrained(tmp_path / "adapter")
        frozen = PeftModel.from_pretrained(wrapped.unload(), tmp_path / "adapter")
        with pytest.raises(ValueError, match="must require gradients, got none.*is_trainable=True"):
            build(model=frozen)

    def test_frozen_model_is_refused(self, build, model):
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="must require gradients, got none"):
            build(model=model)


class TestDataThatCannotWork:
    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_images_are_refused(self, build, dataset, argument):
        dataset = dataset.add_column("images", [[] for _ in range(len(dataset))])
        with pytest.raises(ValueError, match="dataset must hold text alone, got the column `images`"):
            build(**{argument: dataset})

    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_empty_dataset_is_refused(self, build, dataset, argument):
        with pytest.raises(
            ValueError, match=f"{argument.split('_')[0]} dataset must have at least one pair, got none"
        ):
            build(**{argument: dataset.select([])})

    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_empty_iterable_dataset_is_refused(self, build, argument):
        empty = IterableDataset.from_generator(lambda: iter(()))
        with pytest.raises(
            ValueError, match=f"{argument.split('_')[0]} dataset must have at least one pair, got none"
        ):
            build(**{argument: empty})

    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_list_is_refused(self, build, pairs, argument):
        with pytest.raises(
            TypeError, match=f"`{argument}` must be a `datasets.Dataset` or .*, got `list`.*load_dataset"
        ):
            build(**{argument: pairs})

    def test_none_is_refused(self, build):
        with pytest.raises(TypeError, match="`train_dataset` must be a `datasets.Dataset` or .*, got `NoneType`"):
            build(train_dataset=None)

    def test_dataset_dict_instead_of_its_split_is_refused(self, build, dataset):
        with pytest.raises(TypeError, match=r"`train_dataset` must be .*, got `DatasetDict`.*split='train'"):
            build(train_dataset=DatasetDict(train=dataset))

    @pytest.mark.parametrize(
        ("column", "misspelt"),
        [("prompt", "promt"), ("chosen", "choosen"), ("rejected", "reject"), ("prompt", "prompts")],
    )
    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_misspelt_column_is_refused(self, build, dataset, argument, column, misspelt):
        dataset = dataset.rename_column(column, misspelt)
        with pytest.raises(ValueError, match=rf"`{column}` is missing.*rename `{misspelt}` to `{column}`"):
            build(**{argument: dataset})

    @pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset"])
    def test_data_of_sft_needs_a_weight(self, build, argument):
        dataset = Dataset.from_list([{"prompt": "1 + 1 =", "completion": " 2"}])
        with pytest.raises(ValueError, match=r"Pass `completion_weight=1.0` .* or use `trl.SFTTrainer`"):
            build(**{argument: dataset})

    def test_transform_is_refused(self, build, dataset):
        with pytest.raises(ValueError, match=r"must not use `Dataset.with_transform\(\)`.*skip_prepare_dataset"):
            build(train_dataset=dataset.with_transform(lambda batch: batch))

    @pytest.mark.parametrize("columns", [("prompt", "chosen", "rejected"), ("question", "right", "wrong")], ids=str)
    def test_transform_works_as_the_message_says(self, build, dataset, columns):
        """The columns under the transform are the user's own affair."""
        with pytest.raises(ValueError, match="with_transform") as error:
            build(train_dataset=dataset.with_transform(lambda batch: batch))
        config = {"dataset_kwargs": {"skip_prepare_dataset": True}}
        if "remove_unused_columns=False" in str(error.value):
            config["remove_unused_columns"] = False

        def tokenize(batch):
            rows = [TOKENIZED[0]] * len(batch[columns[0]])
            return {name: [row[name] for row in rows] for name in TOKENIZED[0]}

        dataset = dataset.rename_columns(dict(zip(("prompt", "chosen", "rejected"), columns, strict=True)))
        train(build(config, train_dataset=dataset.with_transform(tokenize)))
