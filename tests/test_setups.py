"""Tests of set-ups of TRL, transformers and PEFT that failed when they were tried."""

import copy
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import build_model, build_tokenizer
from datasets import Dataset, IterableDataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from tokenizers import normalizers
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig

from edit_trl import EDITConfig, EDITTrainer, InterruptCallback, KeyStepAccuracyCallback
from edit_trl.callbacks import Interrupted
from edit_trl.key_steps import key_step_accuracy


pytestmark = pytest.mark.slow

PAIRS = [
    {"prompt": f"Q: {a} + {b}?\nA:", "chosen": f" It is {a + b}.", "rejected": f" It is {a + b + 1}."}
    for a, b in ((1, 2), (3, 4), (5, 6), (2, 2))
]
IDS = {"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": [7, 9]}
WEIGHTS = {"chosen_weights": [0.0, 1.0], "rejected_weights": [0.0, -0.1]}


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def conversations(*before: dict[str, str]) -> Dataset:
    rows = [
        {
            "prompt": [*before, said("user", pair["prompt"])],
            "chosen": [said("assistant", pair["chosen"])],
            "rejected": [said("assistant", pair["rejected"])],
        }
        for pair in PAIRS
    ]
    return Dataset.from_list(rows)


@pytest.fixture
def build(tmp_path):
    """A trainer on `PAIRS` with two steps, or with other data, a model, a tokenizer, callbacks and options."""

    def make(data=None, model=None, tokenizer=None, callbacks=None, eval_dataset=None, config=EDITConfig, **options):
        options = {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, **options}
        args = config(output_dir=str(tmp_path / "student"), use_cpu=True, bf16=False, **options)
        return EDITTrainer(
            model=model or build_model(),
            args=args,
            train_dataset=Dataset.from_list(PAIRS) if data is None else data,
            eval_dataset=eval_dataset,
            processing_class=tokenizer or build_tokenizer(),
            callbacks=callbacks,
        )

    return make


class TestTemplates:
    """The chat template decides what of a conversation is rendered."""

    @staticmethod
    def tokenizer(template: str):
        tokenizer = copy.deepcopy(build_tokenizer())
        tokenizer.chat_template = template
        return tokenizer

    @pytest.mark.parametrize("is_chat", [True, False])
    def test_template_that_refuses_a_lone_question_costs_no_checkpoint(self, is_chat, build, tmp_path):
        refusal = "{% if messages[0]['role'] != 'system' %}{{ raise_exception('No system message.') }}{% endif %}"
        data = conversations(said("system", "You are helpful.")) if is_chat else None
        tokenizer = self.tokenizer(refusal + build_tokenizer().chat_template)
        build(data, tokenizer=tokenizer, save_strategy="steps", save_steps=1).train()
        assert {"checkpoint-1", "checkpoint-2", "README.md"} <= set(os.listdir(tmp_path / "student"))

    @pytest.mark.parametrize("kind", ["thinking dropped", "system dropped", "system moved"])
    def test_prepared_rows_can_be_prepared_again(self, kind, build):
        whole = build_tokenizer().chat_template
        thinking = "{{ message['content'].split('</think>')[-1] if not loop.last else message['content'] }}"
        template = {
            "thinking dropped": whole.replace("{{ message['content'] }}", thinking),
            "system dropped": whole.replace("in messages %}", "in messages if message['role'] != 'system' %}"),
            "system moved": "{% for message in messages if message['role'] != 'system' %}<|im_start|>"
            "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n{% endif %}"
            "{{ message['content'] }}<|im_end|>{% endfor %}",
        }[kind]
        tokenizer = self.tokenizer(template)
        data = conversations(
            said("system", "You are helpful."), said("user", "1 + 1?"), said("assistant", "<think>So</think>It is 2.")
        )
        trainer = build(data, tokenizer=tokenizer, eval_dataset=data)
        assert trainer.evaluate(trainer.eval_dataset)["eval_loss"] == trainer.evaluate()["eval_loss"]
        KeyStepAccuracyCallback(trainer)
        assert len(build(trainer.train_dataset, tokenizer=tokenizer).train_dataset) == len(PAIRS)

    def test_ids_of_another_question_are_still_refused(self, build):
        trainer = build(conversations())
        rows = trainer.train_dataset.to_list()
        rows[0]["prompt"] = [said("user", "Monday or Tuesday?")]
        with pytest.raises(ValueError, match="must be the tokens of `prompt`"):
            build(Dataset.from_list(rows))


class TestData:
    def test_whole_conversations_beside_a_prompt_are_advised_to_drop_it(self, build):
        rows = [
            {
                "prompt": pair["prompt"],
                "prompt_id": f"{number:04x}",
                **{
                    name: [said("user", pair["prompt"]), said("assistant", pair[name])]
                    for name in ("chosen", "rejected")
                },
            }
            for number, pair in enumerate(PAIRS)
        ]
        data = Dataset.from_list(rows)
        with pytest.raises(ValueError, match=r"call `dataset\.remove_columns\('prompt'\)`"):
            build(data)
        assert len(build(data.remove_columns("prompt")).train_dataset) == len(PAIRS)

    def test_text_prompt_of_messages_is_advised_to_be_a_user_message(self, build):
        data = conversations().map(lambda row: {"prompt": row["prompt"][0]["content"]})
        with pytest.raises(ValueError, match='"role": "user", "content": prompt'):
            build(data)

    def test_misspelt_prompt_is_still_found(self, build):
        with pytest.raises(ValueError, match="rename `prompts` to `prompt`"):
            build(Dataset.from_list(PAIRS).rename_column("prompt", "prompts"))

    def test_texts_beside_tokenized_rows_are_kept(self, build):
        mixed = concatenate_datasets([Dataset.from_list(PAIRS), Dataset.from_list([IDS])])
        assert len(build(mixed).train_dataset) == len(PAIRS) + 1

    @pytest.mark.parametrize("weights", [{}, WEIGHTS])
    def test_stream_of_arrays(self, weights, build):
        def rows():
            for _ in range(4):
                yield {name: np.array(values) for name, values in (IDS | weights).items()}

        assert build(IterableDataset.from_generator(rows)).train().global_step == 2

    @pytest.mark.parametrize("kind", ["torch", "numpy"])
    @pytest.mark.parametrize("is_prepared", [True, False])
    def test_formats_of_tokenized_rows(self, kind, is_prepared, build):
        data = Dataset.from_list([IDS | WEIGHTS] * 4).with_format(kind)
        options = {"dataset_kwargs": {"skip_prepare_dataset": True}} if is_prepared else {}
        assert build(data, **options).train().global_step == 2


class TestCheckpoints:
    def test_adapter_with_a_name_of_its_own_resumes(self, build):
        def make(steps):
            adapter = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
            model = get_peft_model(build_model(), adapter, adapter_name="student")
            return build(model=model, max_steps=steps, save_strategy="steps", save_steps=2)

        make(2).train()
        assert make(4).train(resume_from_checkpoint=True).global_step == 4

    @pytest.mark.parametrize("config", [SFTConfig, EDITConfig])
    @pytest.mark.parametrize(
        "metric", ["edit/loss_chosen", "eval_edit/logps_key_rejected", "edit/truncated_key_ratio"]
    )
    def test_converted_arguments_know_the_direction_of_a_metric(self, config, metric, build):
        options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
        data = Dataset.from_list(PAIRS)
        trainer = build(
            config=config, eval_dataset=data, load_best_model_at_end=True, metric_for_best_model=metric, **options
        )
        assert trainer.args.greater_is_better is False

    def test_last_key_step_accuracy_is_that_of_the_best_model(self, build):
        data = Dataset.from_list(PAIRS)
        options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
        trainer = build(
            eval_dataset=data,
            max_steps=6,
            learning_rate=3e-2,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=True,  # the worst, so that it is not the last
            **options,
        )
        callback = KeyStepAccuracyCallback(trainer)
        trainer.add_callback(callback)
        trainer.train()
        expected = key_step_accuracy(trainer.model, data, build_tokenizer())
        assert callback.scores.mean_margin == pytest.approx(expected.mean_margin, abs=1e-4)


class TestInterrupts:
    def test_signal_in_the_last_evaluation_is_not_lost(self, build, tmp_path):
        class Tell(TrainerCallback):
            def on_prediction_step(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)

        trainer = build(
            eval_dataset=Dataset.from_list(PAIRS),
            eval_strategy="steps",
            eval_steps=2,
            callbacks=[InterruptCallback(), Tell()],
        )
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            trainer.train()
        assert (tmp_path / "student" / "checkpoint-2").is_dir()
        assert signal.getsignal(signal.SIGTERM) is before

    def test_error_gives_the_signal_back(self, build):
        class Fail(TrainerCallback):
            def on_step_end(self, *args, **kwargs):
                raise RuntimeError("no")

        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(RuntimeError, match="no"):
            build(callbacks=[InterruptCallback(), Fail()]).train()
        assert signal.getsignal(signal.SIGTERM) is before

    def test_evaluation_outside_training_saves_nothing(self, build, tmp_path):
        trainer = build(eval_dataset=Dataset.from_list(PAIRS), callbacks=[InterruptCallback()])
        trainer.evaluate()
        assert not (tmp_path / "student" / "checkpoint-0").exists()


class TestMessages:
    @pytest.mark.parametrize("template", ["{{ '' + message['content'] | trim }}", "{{ message['content'] }}"])
    def test_parts_of_text_are_trained_as_their_text(self, template, build):
        """Templates print a list as Python does, or refuse it."""
        tokenizer = copy.deepcopy(build_tokenizer())
        tokenizer.chat_template = tokenizer.chat_template.replace("{{ message['content'] }}", template)
        rows = conversations().to_list()
        parts = [
            {
                name: [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
                for name, messages in row.items()
            }
            for row in rows
        ]
        plain, found = (build(Dataset.from_list(data), tokenizer=tokenizer).train_dataset for data in (rows, parts))
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            assert found[name][:] == plain[name][:]

    def test_chains_without_a_common_first_message_are_named(self, build):
        chains = {name: [said("user", "Q?"), said("assistant", name)] for name in ("chosen", "rejected")}
        other = {**chains, "chosen": [said("system", "Be brief."), *chains["chosen"]]}
        with pytest.raises(ValueError, match="Row 2 .* must begin with the same messages, .* a column `prompt`"):
            build(Dataset.from_list([chains, chains, other]))

    def test_prompt_may_end_in_a_tool_without_output(self, build):
        data = conversations().map(lambda row: {"prompt": [*row["prompt"], said("tool", "")]})
        assert len(build(data).train_dataset) == len(PAIRS)


class TestPreparedRows:
    def test_prompt_ids_of_none_are_left_out_and_counted(self, build, caplog):
        data = Dataset.from_list([IDS, {**IDS, "prompt_ids": None}, IDS])
        assert len(build(data).train_dataset) == 2
        assert "Dropped 1 of 3 rows of the train dataset: 1 where `prompt` is None" in caplog.text

    @pytest.mark.parametrize("name", list(IDS))
    def test_none_in_a_batch_is_named(self, name, build):
        trainer = build(Dataset.from_list([IDS, {**IDS, name: None}]), dataset_kwargs={"skip_prepare_dataset": True})
        with pytest.raises(ValueError, match="must have the columns `prompt_ids`, `chosen_ids`, `rejected_ids`, got"):
            trainer.train()

    def test_special_tokens_in_texts_can_be_prepared_again(self, build):
        tokenizer = copy.deepcopy(build_tokenizer())
        tokenizer.add_special_tokens({"additional_special_tokens": ["[Question]", "[Answer]"]})
        rows = [
            {"prompt": "[Question] " + pair["prompt"], **{k: " [Answer]" + pair[k] for k in ("chosen", "rejected")}}
            for pair in PAIRS
        ]
        data = Dataset.from_list(rows)
        model = build_model()
        model.resize_token_embeddings(len(tokenizer))
        trainer = build(data, model, tokenizer, eval_dataset=data)
        assert trainer.evaluate(trainer.eval_dataset)["eval_loss"] == trainer.evaluate()["eval_loss"]
        swapped = trainer.train_dataset.map(lambda row: {"prompt": row["prompt"].replace("Q:", "Monday")})
        with pytest.raises(ValueError, match="must be the tokens of `prompt`"):
            build(swapped, model, tokenizer)

    def test_accents_that_the_tokenizer_strips_can_be_prepared_again(self, build):
        tokenizer = copy.deepcopy(build_tokenizer())
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace("½", "0.5")]
        )
        rows = [{**pair, "prompt": "C\u00e9t\u00e9 \u00bd " + pair["prompt"]} for pair in PAIRS]
        trainer = build(Dataset.from_list(rows), tokenizer=tokenizer, eval_dataset=Dataset.from_list(rows))
        assert trainer.evaluate(trainer.eval_dataset)["eval_loss"] == trainer.evaluate()["eval_loss"]

    @pytest.mark.parametrize("strategy", ["group_by_length", "random"])
    def test_transform_that_makes_token_ids_works_beside_other_features(self, strategy, build):
        names = dict(zip("pcr", IDS, strict=True))
        raw = Dataset.from_list([{key: IDS[name] for key, name in names.items()}] * 4)
        data = raw.with_transform(lambda batch: {name: batch[key] for key, name in names.items()})
        trainer = build(
            data,
            eval_dataset=data,
            train_sampling_strategy=strategy,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        )
        trainer.add_callback(KeyStepAccuracyCallback(trainer))
        trainer.train()
        assert "eval_key_step_accuracy" in trainer.state.log_history[0]


class TestKeySteps:
    def test_early_stopping_finds_the_accuracy(self, build):
        """It comes with the trainer, before the callback that needs the trainer."""
        data = Dataset.from_list(PAIRS)
        trainer = build(
            eval_dataset=data,
            callbacks=[EarlyStoppingCallback(1)],
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            max_steps=6,
            learning_rate=1e-9,
            load_best_model_at_end=True,
            metric_for_best_model="key_step_accuracy",
        )
        trainer.add_callback(KeyStepAccuracyCallback(trainer))
        trainer.train()
        assert trainer.state.global_step == 2

    def test_rows_that_keep_their_end_are_scored(self, build):
        data = Dataset.from_list([{**pair, "prompt": "Monday Tuesday " * 20 + pair["prompt"]} for pair in PAIRS])
        trainer = build(data, eval_dataset=data, max_length=30, truncation_mode="keep_end")
        callback = KeyStepAccuracyCallback(trainer)
        trainer.add_callback(callback)
        trainer.train()
        expected = key_step_accuracy(trainer.model, data, trainer.processing_class)
        assert callback.scores.margins == pytest.approx(expected.margins, abs=1e-5)
        with pytest.raises(ValueError, match="beyond `max_length`"):
            KeyStepAccuracyCallback(build(max_length=30), data)

    @pytest.mark.parametrize("dataset", ["test", {"a": Dataset.from_list(PAIRS)}, PAIRS])
    def test_what_is_no_dataset_is_refused(self, dataset, build):
        with pytest.raises(TypeError, match="must be a `datasets.Dataset` or `IterableDataset` of held-back pairs"):
            KeyStepAccuracyCallback(build(), dataset)


def test_training_in_a_thread_goes_on_without_signals(build, caplog):
    trainer = build(callbacks=[InterruptCallback()])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(trainer.train).result()
    assert trainer.state.global_step == 2
    assert "`InterruptCallback` has no effect here" in caplog.text


def test_column_beside_an_implicit_prompt_is_no_misspelt_prompt(build):
    rows = [
        {**{name: pair["prompt"] + pair[name] for name in ("chosen", "rejected")}, "prompt_len": 3} for pair in PAIRS
    ]
    assert len(build(Dataset.from_list(rows)).train_dataset) == len(PAIRS)


def test_none_among_several_evaluation_datasets_is_refused(build):
    with pytest.raises(TypeError, match="`eval_dataset` must be .* got `NoneType`"):
        build(eval_dataset={"a": Dataset.from_list(PAIRS), "b": None})


@pytest.mark.parametrize("name", ["chosen_key_weight", "rejected_key_weight", "completion_weight"])
def test_number_that_is_text_is_named(name):
    with pytest.raises(
        TypeError, match=f"`{name}` must be a number, got the text '25e-3'. .* point before an exponent"
    ):
        EDITConfig(use_cpu=True, bf16=False, **{name: "25e-3"})
