"""
Defaults, ranges, command line and CPU defaults of `EDITConfig`. What of TRL's options it takes or refuses is
classified in `test_supported_surface.py`.
"""

import ast
import copy
import dataclasses
import importlib
import json
import logging
import pickle
import re
import types
import warnings

import pytest
import torch
import yaml
from conftest import build_model
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel
from trl import DPOConfig, SFTConfig, TrlParser

from edit_trl import EDITConfig, EDITTrainer, edit_config


DEFAULTS = {
    "alignment_level": "token",
    "tie_break": "symmetric",
    "chosen_key_weight": 1.0,
    "rejected_key_weight": 0.025,
    "chosen_other_weight": 0.0,
    "completion_weight": None,
    "rejected_loss": "nll",
    "rejected_nll_threshold": 20.0,
    "shared_prefix": True,
}
OVERRIDDEN = {"learning_rate": 5e-6}

# TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def build(tmp_path):
    """An `EDITConfig` for the CPU, so that nothing is said about it."""

    def build(**options) -> EDITConfig:
        return EDITConfig(
            **{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False, **options}
        )

    return build


@pytest.fixture
def parse(tmp_path):
    """Parse command-line arguments as a TRL script does."""

    def parse(*arguments: str) -> EDITConfig:
        base = ["--output_dir", str(tmp_path), "--report_to", "none"]
        (config,) = TrlParser((EDITConfig,)).parse_args_and_config([*base, *arguments])
        return config

    return parse


@pytest.fixture
def said(monkeypatch, caplog):
    """Messages of `edit_config`, as in a process that has said nothing yet."""
    monkeypatch.setattr(edit_config, "_said", set())
    caplog.set_level(logging.WARNING, logger="edit_trl.edit_config")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "edit_trl.edit_config"]


class TestDefaults:
    def test_defaults_are_those_of_the_method(self, build):
        config = build()
        assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS

    def test_learning_rate_is_that_of_the_second_stage(self, build):
        assert build().learning_rate == 5e-6
        assert SFTConfig.__dataclass_fields__["learning_rate"].default == 2e-5

    def test_every_new_field_is_known_here(self):
        new = {field.name for field in dataclasses.fields(EDITConfig)} - {
            f.name for f in dataclasses.fields(SFTConfig)
        }
        assert new == set(DEFAULTS)

    def test_nothing_else_of_sft_config_changes(self):
        changed = {
            field.name
            for field in dataclasses.fields(SFTConfig)
            if EDITConfig.__dataclass_fields__[field.name].default != field.default
        }
        assert changed == set(OVERRIDDEN)

    def test_max_length_is_that_of_trl(self, build):
        assert build().max_length == 1024

    def test_is_an_sft_config(self, build):
        assert isinstance(build(), SFTConfig)


# Value, and what the message has to say besides the name: what was expected, what arrived, what to type.
OUT_OF_RANGE = [
    ("completion_weight", 0.0, "must be positive and finite, or `None`, got 0.0", "pass `completion_weight=1.0`"),
    ("rejected_key_weight", -0.1, "must be positive or zero and finite, got -0.1", "Pass `rejected_key_weight=0.1`"),
    ("chosen_key_weight", -2.0, "must be positive or zero and finite, got -2.0", "Pass `chosen_key_weight=2.0`"),
    ("chosen_other_weight", -0.5, "must be positive or zero and finite, got -0.5", "Pass `chosen_other_weight=0.5`"),
    (
        "rejected_key_weight",
        float("inf"),
        "must be positive or zero and finite, got inf",
        "`rejected_key_weight=0.025`",
    ),
    ("rejected_nll_threshold", 0.0, "must be positive or `None`, got 0.0", "Pass `rejected_key_weight=0.0`"),
    ("rejected_nll_threshold", -3.0, "must be positive or `None`, got -3.0", "`rejected_nll_threshold=20.0`"),
    (
        "alignment_level",
        "sentence",
        "must be one of 'token', 'word', got 'sentence'",
        "pass `alignment_level='token'`",
    ),
    ("tie_break", "first", "must be one of 'symmetric', 'reference', got 'first'", "pass `tie_break='symmetric'`"),
    ("rejected_loss", "dpo", "must be one of 'nll', 'unlikelihood', got 'dpo'", "Pass `rejected_loss='nll'`"),
    ("alignment_level", None, "must be one of 'token', 'word', got None", "pass `alignment_level='token'`"),
    ("max_length", 1, "must be at least 2 or `None`, got 1", "pass `max_length=1024`"),
    ("max_length", 0, "must be at least 2 or `None`, got 0", "pass `max_length=1024`"),
    ("max_length", -1, "must be at least 2 or `None`, got -1", "pass `max_length=1024`"),
]


class TestRanges:
    @pytest.mark.parametrize(
        ("name", "value", "expected", "instead"), OUT_OF_RANGE, ids=[f"{row[0]}={row[1]}" for row in OUT_OF_RANGE]
    )
    def test_error_says_what_was_expected_what_arrived_and_what_to_type(self, build, name, value, expected, instead):
        with pytest.raises(ValueError) as error:
            build(**{name: value})
        assert str(error.value).startswith(f"`{name}` {expected}. ")
        assert instead in str(error.value)

    @pytest.mark.parametrize(
        "name", ["rejected_key_weight", "chosen_key_weight", "chosen_other_weight", "rejected_nll_threshold"]
    )
    def test_nan_is_out_of_range(self, build, name):
        with pytest.raises(ValueError, match=f"`{name}` must be positive.*got nan"):
            build(**{name: float("nan")})

    @pytest.mark.parametrize(
        "options",
        [
            {"rejected_key_weight": 0.0},
            {"chosen_key_weight": 0.0},
            {"chosen_other_weight": 1.0},
            {"rejected_nll_threshold": None},
            {"rejected_nll_threshold": 1e-3},
            {"alignment_level": "word"},
            {"tie_break": "reference"},
            {"rejected_loss": "unlikelihood"},
            {"max_length": 2},
            {"max_length": None},
        ],
        ids=str,
    )
    def test_borders_are_in_range(self, build, options):
        config = build(**options)
        assert {name: getattr(config, name) for name in options} == options


class TestCommandLine:
    @pytest.mark.parametrize(
        ("text", "expected"), [("none", None), ("None", None), ("null", None), ("5.0", 5.0), ("3", 3.0)]
    )
    def test_threshold_may_be_none_or_a_number(self, parse, text, expected):
        config = parse("--rejected_nll_threshold", text)
        assert config.rejected_nll_threshold == expected
        assert type(config.rejected_nll_threshold) is type(expected)

    def test_threshold_of_another_word_is_refused(self, parse):
        with pytest.raises(ValueError, match="`rejected_nll_threshold` must be a number or `none`, got 'never'"):
            parse("--rejected_nll_threshold", "never")

    def test_flags_may_have_hyphens(self, parse):
        config = parse("--rejected-key-weight", "0.1", "--tie-break", "reference")
        assert (config.rejected_key_weight, config.tie_break) == (0.1, "reference")

    def test_every_field_has_its_flag(self, parse):
        values = {
            "alignment_level": "word",
            "tie_break": "reference",
            "chosen_key_weight": 2.0,
            "rejected_key_weight": 0.5,
            "chosen_other_weight": 0.25,
            "completion_weight": 0.5,
            "rejected_loss": "unlikelihood",
            "rejected_nll_threshold": 7.5,
            "shared_prefix": False,
        }
        assert set(values) == set(DEFAULTS)
        config = parse(*(str(part) for name, value in values.items() for part in (f"--{name}", value)))
        assert {name: getattr(config, name) for name in values} == values

    def test_unknown_choice_is_a_usage_error(self, parse, capsys):
        with pytest.raises(SystemExit):
            parse("--alignment_level", "sentence")
        assert "invalid choice: 'sentence'" in capsys.readouterr().err

    def test_range_errors_reach_the_command_line(self, parse):
        with pytest.raises(ValueError, match="`rejected_key_weight` must be positive or zero and finite, got -0.1"):
            parse("--rejected_key_weight", "-0.1")

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"rejected_nll_threshold": None}, None),
            ({"rejected_nll_threshold": "none"}, None),
            ({"rejected_nll_threshold": 5.0}, 5.0),
            ({"rejected_key_weight": 0.1}, 20.0),
        ],
        ids=str,
    )
    def test_yaml_file_sets_options(self, parse, tmp_path, values, expected):
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(values))
        config = parse("--config", str(file))
        assert config.rejected_nll_threshold == expected
        assert config.rejected_key_weight == values.get("rejected_key_weight", 0.025)

    def test_a_flag_goes_before_the_file(self, parse, tmp_path):
        file = tmp_path / "config.yaml"
        file.write_text("rejected_key_weight: 0.1\nchosen_key_weight: 2\n")
        config = parse("--config", str(file), "--rejected_key_weight", "0.2")
        assert (config.rejected_key_weight, config.chosen_key_weight) == (0.2, 2.0)

    def test_help_renders(self, capsys, monkeypatch):
        """A bare percent sign in any help text would make argparse fail."""
        monkeypatch.setenv("COLUMNS", "1000")  # no wrapping
        with pytest.raises(SystemExit) as stop:
            TrlParser((EDITConfig,)).parse_args_and_config(["--help"])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        for name, default in {**DEFAULTS, **OVERRIDDEN}.items():
            text = EDITConfig.__dataclass_fields__[name].metadata["help"]
            assert f"{text} (default: {default})" in shown


class TestDocumentation:
    @pytest.mark.parametrize("name", [*DEFAULTS, *OVERRIDDEN])
    def test_field_has_a_help_text_of_whole_sentences(self, name):
        text = EDITConfig.__dataclass_fields__[name].metadata["help"]
        assert text[0].isupper() and text.endswith(".")

    @pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
    def test_docstring_has_every_field_with_its_default(self, name, default):
        shown = f'"{default}"' if isinstance(default, str) else default
        said = "" if default is None else f", defaults to `{shown}`"
        assert re.search(rf"^    +{name} \(`\w+`, \*optional\*{said}\):$", EDITConfig.__doc__, re.MULTILINE)

    @pytest.mark.parametrize(
        ("name", "symbol"), [("chosen_key_weight", "α"), ("rejected_key_weight", "β"), ("chosen_other_weight", "γ")]
    )
    def test_weights_name_their_symbol(self, name, symbol):
        assert symbol in EDITConfig.__dataclass_fields__[name].metadata["help"]
        assert re.search(rf"{name} \(.*\n[^α-ω]*\({symbol} in ", EDITConfig.__doc__)

    @pytest.mark.parametrize("name", ["alignment_level", "tie_break", "rejected_loss"])
    def test_choices_are_named_in_the_help_text(self, name):
        metadata = EDITConfig.__dataclass_fields__[name].metadata
        assert all(f"'{choice}'" in metadata["help"] for choice in metadata["choices"])


class TestWarnings:
    @pytest.mark.parametrize("options", [{}, {"truncation_mode": "keep_end"}, {"gradient_checkpointing": True}])
    def test_none_that_a_user_could_do_nothing_about(self, tmp_path, options):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config = EDITConfig(output_dir=str(tmp_path), report_to="none", **options)
        assert {name: getattr(config, name) for name in options} == options

    def test_truncation_mode_is_our_own(self):
        """TRL 2.0 will drop it."""
        assert "truncation_mode" in vars(EDITConfig)["__annotations__"]


class TestOptionsOfOthers:
    @pytest.mark.parametrize(
        ("name", "instead"),
        [
            ("beta", "`rejected_key_weight`"),
            ("max_prompt_length", "`max_length`"),
            ("max_completion_length", "`max_length`"),
            ("disable_dropout", "disable_dropout_in_model"),
            ("precompute_ref_log_probs", "no reference model"),
        ],
    )
    def test_option_of_dpo_is_told_what_does_its_work(self, build, name, instead):
        with pytest.raises(TypeError, match=f"^`EDITConfig` has no option `{name}`: .*{instead}"):
            build(**{name: 0.1})

    def test_every_option_that_dpo_alone_has_is_known(self, build):
        theirs = {field.name for field in dataclasses.fields(DPOConfig)}
        for name in theirs - {field.name for field in dataclasses.fields(EDITConfig)}:
            with pytest.raises(TypeError, match=f"^`EDITConfig` has no option `{name}`: "):
                build(**{name: None})

    @pytest.mark.parametrize("student", ["gpt2", "new adapter", "saved adapter"])
    def test_dropout_is_turned_off_by_what_its_error_says(self, build, tmp_path, tokenizer, pairs, student):
        """GPT-2's three kinds of dropout, and that of an adapter, are layers."""
        with pytest.raises(TypeError) as error:
            build(disable_dropout=True)
        (module, function, argument) = re.search(r"`([\w.]+)\.(\w+)\(trainer\.(\w+)\)`", str(error.value)).groups()
        peft_config = LoraConfig(target_modules=["q_proj"], lora_dropout=0.2, task_type="CAUSAL_LM")
        model = build_model()
        if student == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2, eos_token_id=2))
        if student == "saved adapter":
            get_peft_model(model, peft_config).save_pretrained(tmp_path / "adapter")
            model = PeftModel.from_pretrained(build_model(), tmp_path / "adapter", is_trainable=True)
        trainer = EDITTrainer(
            model=model,
            args=build(),
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
            peft_config=peft_config if student == "new adapter" else None,
        )
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        trainer.model.train()

        def losses() -> set[float]:
            return {trainer.compute_loss(trainer.model, batch).item() for _ in range(5)}

        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:  # zero in a new adapter, so that its dropout would change nothing
                torch.nn.init.ones_(parameter)
        assert len(losses()) > 1
        getattr(importlib.import_module(module), function)(getattr(trainer, argument))
        assert len(losses()) == 1

    def test_dropout_of_llama_is_turned_off_by_what_its_error_says(self, build, tmp_path, tokenizer, pairs):
        """Its attention dropout is a number and not a layer."""
        with pytest.raises(TypeError) as error:
            build(disable_dropout=True)
        (kwargs,) = re.findall(r"`model_init_kwargs=(\{.*?\})`", str(error.value))
        build_model(attention_dropout=0.3).save_pretrained(tmp_path / "llama")
        rates = []
        for options in ({}, {"model_init_kwargs": ast.literal_eval(kwargs)}):
            dataset = Dataset.from_list(pairs)
            trainer = EDITTrainer(
                model=str(tmp_path / "llama"), args=build(**options), train_dataset=dataset, processing_class=tokenizer
            )
            rates.append({layer.self_attn.attention_dropout for layer in trainer.model.model.layers})
        assert rates == [{0.3}, {0.0}]

    def test_misspelt_option_is_told_the_nearest(self, build):
        with pytest.raises(TypeError, match="has no option `learning_rat`. Did you mean `learning_rate`?"):
            build(learning_rat=1e-5)

    def test_class_derived_from_it_may_have_options_of_its_own(self):
        @dataclasses.dataclass
        class Derived(EDITConfig):
            beta: float = 0.5

        assert Derived(output_dir="student", report_to="none", beta=0.1).beta == 0.1

    def test_copies_and_pickles(self, build):
        config = build(rejected_key_weight=0.5)
        for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), dataclasses.replace(config)):
            assert other.rejected_key_weight == 0.5


class TestBestModel:
    @pytest.mark.parametrize(
        ("metric", "is_greater_better"),
        [
            ("edit/loss_chosen", False),
            ("eval_edit/loss_rejected", False),
            ("edit/logps_key_chosen", True),
            ("edit/logps_key_rejected", False),
            ("edit/key_margin", True),
            ("eval_easy_edit/key_token_accuracy", True),
            ("edit/truncated_key_ratio", False),
            ("edit/key_token_ratio_rejected", False),
            ("eval_edit/rejected_gated_ratio", False),
            ("eval_replay_edit/loss_completion", False),
            ("edit/logps_completion", True),
            ("key_step_accuracy", True),
            ("loss", False),
        ],
    )
    def test_direction_of_the_metric(self, build, metric, is_greater_better):
        assert build(metric_for_best_model=metric).greater_is_better is is_greater_better

    def test_word_of_the_user_wins(self, build):
        assert build(metric_for_best_model="edit/loss_chosen", greater_is_better=True).greater_is_better is True

    def test_no_metric_has_no_direction(self, build):
        assert build().greater_is_better is None


class TestCPUDefaults:
    @pytest.fixture(autouse=True)
    def no_accelerator(self, monkeypatch):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda *args, **kwargs: False)

    def build(self, tmp_path, **options) -> EDITConfig:
        return EDITConfig(output_dir=str(tmp_path), report_to="none", **options)

    def test_cpu_without_bf16(self, tmp_path, said):
        config = self.build(tmp_path)
        assert config.use_cpu is True
        assert config.bf16 is False
        assert config.device.type == "cpu"
        (message,) = said()
        assert "`use_cpu=True` and `bf16=False`" in message

    def test_is_said_once(self, tmp_path, said):
        self.build(tmp_path)
        self.build(tmp_path, seed=1)
        assert len(said()) == 1

    def test_nothing_to_say_if_both_are_set(self, tmp_path, said):
        config = self.build(tmp_path, use_cpu=True, bf16=False)
        assert (config.use_cpu, config.bf16) == (True, False)
        assert said() == []

    @pytest.mark.parametrize("use_cpu", [True, False])
    def test_bf16_of_the_user_stays(self, tmp_path, said, use_cpu):
        config = self.build(tmp_path, use_cpu=use_cpu, bf16=True)
        assert (config.use_cpu, config.bf16) == (True, True)
        assert "bf16=False" not in "".join(said())

    def test_fp16_of_the_user_stays(self, tmp_path, said):
        """That it needs an accelerator is for transformers to say, when the trainer is built."""
        config = self.build(tmp_path, fp16=True)
        assert (config.use_cpu, config.fp16, config.bf16) == (True, True, False)
        assert "bf16" not in said()[0].split(".")[0]

    def test_gpu_arguments_of_another_config_become_cpu_ones(self, tmp_path):
        config = EDITConfig(**{**self.build(tmp_path).to_dict(), "use_cpu": False, "pad_token": None})
        assert config.use_cpu is True

    @pytest.mark.skipif(torch.accelerator.is_available(), reason="bf16 works here")
    def test_bf16_none_is_settled(self, tmp_path):
        """TRL turns an unset `bf16` on, and transformers refuses it without accelerator; see `_choose_cpu`."""
        with pytest.raises(ValueError, match="doesn't support bf16"):
            SFTConfig(output_dir=str(tmp_path), report_to="none")
        assert self.build(tmp_path, bf16=None).bf16 is False


class TestWithAccelerator:
    @pytest.mark.parametrize(
        "values",
        [
            {"use_cpu": False, "bf16": None, "fp16": False},
            {"use_cpu": False, "bf16": True, "fp16": False},
            {"use_cpu": False, "bf16": None, "fp16": True},
            {"use_cpu": True, "bf16": None, "fp16": False},
        ],
        ids=str,
    )
    def test_nothing_is_changed(self, monkeypatch, said, values):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda *args, **kwargs: True)
        stub = types.SimpleNamespace(**values)
        EDITConfig._choose_cpu(stub)
        assert vars(stub) == values
        assert said() == []


# None of the defaults
OPTIONS = {
    "rejected_key_weight": 0.1,
    "chosen_key_weight": 2.0,
    "chosen_other_weight": 0.5,
    "rejected_loss": "unlikelihood",
    "rejected_nll_threshold": None,
    "alignment_level": "word",
    "tie_break": "reference",
    "max_length": None,
}


class TestSerialization:
    def test_pickles(self, build):
        config = build(**OPTIONS)
        copy = pickle.loads(pickle.dumps(config))
        assert type(copy) is EDITConfig
        assert copy.to_dict() == config.to_dict()

    def test_dict_and_json_agree(self, build):
        config = build(**OPTIONS)
        assert OPTIONS.items() <= config.to_dict().items()
        assert json.loads(config.to_json_string()) == config.to_dict()

    def test_json_round_trip(self, build):
        config = build(**OPTIONS)
        values = json.loads(config.to_json_string())
        # transformers masks everything whose name ends in `_token`, secret or not.
        values = {name: value for name, value in values.items() if not name.endswith("_token")}
        assert EDITConfig(**values).to_dict() == config.to_dict()

    def test_file_of_a_checkpoint(self, build, tmp_path):
        """`Trainer` saves its arguments with `torch.save`."""
        torch.save(build(**OPTIONS), tmp_path / "training_args.bin")
        config = torch.load(tmp_path / "training_args.bin", weights_only=False)
        assert OPTIONS.items() <= config.to_dict().items()
