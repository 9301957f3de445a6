"""
Tests of PEFT's tuners: loss and gradients are those of a plain computation, only the adapter moves, and it reloads and
merges.
"""

import copy

import pytest
import torch
from conftest import build_model
from datasets import Dataset
from layout_cases import COMPACT
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from test_edit_trainer import first_batch, make_trainer, parameters, plain_loss
from test_model_families import gradients
from transformers import TrainerCallback
from tuners import IN_CHAIN, IN_PROMPT, OPEN, REFUSED, SUPPORTED, make_config

from edit_trl import trainer_arguments
from edit_trl.layouts import visible_adapter


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error:::edit_trl")]


def config_of(name: str):
    """Configuration of a supported tuner, or skip the test if the installed PEFT does not have it."""
    tuner = SUPPORTED[name]
    try:
        return make_config(tuner.config, tuner.options)
    except (AttributeError, TypeError) as error:
        pytest.skip(f"the installed PEFT does not have it ({error})")


def give_an_effect(model: torch.nn.Module) -> None:
    """Noise for adapter parameters that start at zero: without it a comparison would prove nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


class Allocate(TrainerCallback):
    """What PEFT asks a training loop to do for AdaLoRA: choose ranks after each step, while gradients are there."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step + 1)


class TestSupported:
    @pytest.mark.parametrize("name", SUPPORTED)
    def test_trains_reloads_and_merges(self, name, tmp_path, pairs, tokenizer):
        tuner, config = SUPPORTED[name], config_of(name)
        torch.manual_seed(0)
        trainer = make_trainer(
            tmp_path, pairs[:2], copy.deepcopy(build_model()), tokenizer, eval_dataset=Dataset.from_list(pairs[:2]),
            peft_config=config, per_device_train_batch_size=2, max_steps=2, learning_rate=tuner.learning_rate,
        )  # fmt: skip
        model = trainer.model
        if name == "AdaLoRA":
            trainer.add_callback(Allocate)

        # Loss and gradients, with an adapter that has an effect
        assert trainer._layout == ("padded" if tuner.layout == "padded" else "packed")  # before it is checked
        model.eval()
        untouched = plain_loss(model, tokenizer, pairs[:2], trainer.args).item()
        give_an_effect(model)
        loss = trainer.compute_loss(model, first_batch(trainer))
        assert trainer._layout == tuner.layout
        found = gradients(model, loss)
        expected_loss = plain_loss(model, tokenizer, pairs[:2], trainer.args)
        expected = gradients(model, expected_loss)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
        assert found.keys() == expected.keys()
        for parameter, gradient in found.items():
            torch.testing.assert_close(gradient, expected[parameter], rtol=1e-4, atol=2e-5)

        # Training
        before = parameters(model)
        trainer.train()
        moved = {parameter for parameter, p in model.named_parameters() if not torch.equal(p, before[parameter])}
        assert moved and moved <= {parameter for parameter, p in model.named_parameters() if p.requires_grad}
        trained = trainer.evaluate()["eval_loss"]
        assert trained != pytest.approx(untouched, abs=1e-5)

        # Saving
        trainer.save_model()
        reloaded = PeftModel.from_pretrained(build_model(), trainer.args.output_dir).eval()
        with torch.no_grad():
            assert plain_loss(reloaded, tokenizer, pairs[:2], trainer.args).item() == pytest.approx(trained, abs=1e-5)
            if tuner.merges:
                merged = reloaded.merge_and_unload()
                loss = plain_loss(merged, tokenizer, pairs[:2], trainer.args).item()
                assert loss == pytest.approx(trained, abs=1e-4)

    @pytest.mark.parametrize(
        ("name", "use_reentrant"),
        [("aLoRA", False), ("aLoRA", True), ("Adaption prompt", True), ("IA3", True), ("SHADOW", False)],
    )
    def test_gradient_checkpointing(self, name, use_reentrant, tmp_path, pairs, tokenizer):
        config = config_of(name)
        runs = []
        for checkpointing in (True, False):
            torch.manual_seed(0)
            trainer = make_trainer(
                tmp_path, pairs[:2], build_model(), tokenizer, peft_config=copy.deepcopy(config),
                gradient_checkpointing=checkpointing, max_steps=2, learning_rate=0.1,
                gradient_checkpointing_kwargs={"use_reentrant": use_reentrant} if checkpointing else None,
            )  # fmt: skip
            give_an_effect(trainer.model)
            before = parameters(trainer.model)
            trainer.train()
            runs.append(parameters(trainer.model))
        assert any(not torch.equal(before[parameter], value) for parameter, value in runs[1].items())
        for parameter, value in runs[0].items():
            torch.testing.assert_close(value, runs[1][parameter], rtol=1e-4, atol=1e-5)

    def test_adalora_loses_ranks(self, tmp_path, pairs, tokenizer):
        """From 4 to 2 per layer, as its schedule says."""
        trainer = make_trainer(
            tmp_path, pairs[:2], build_model(), tokenizer, peft_config=config_of("AdaLoRA"), max_steps=4,
            learning_rate=0.1, callbacks=[Allocate],
        )  # fmt: skip
        trainer.train()
        ranks = [int((p != 0).sum()) for name, p in trainer.model.named_parameters() if "lora_E" in name]
        assert sum(ranks) == 2 * len(ranks)

    @pytest.mark.parametrize("tokens", [IN_PROMPT, IN_CHAIN, [398, 399]], ids=["prompt", "chain", "nowhere"])
    def test_alora_begins_at_the_last_invocation_of_each_chain(self, tokens, tmp_path, pairs, tokenizer):
        """In a shared row, the last one of both chains would count, and in a row of all chains that of the batch."""
        config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=tokens)
        trainer = make_trainer(tmp_path, pairs[:2], build_model(), tokenizer, peft_config=config)
        give_an_effect(trainer.model)
        trainer.model.eval()
        batch = first_batch(trainer)
        assert batch["layout"] == "padded"
        expected = plain_loss(trainer.model, tokenizer, pairs[:2], trainer.args)
        torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected, rtol=1e-5, atol=1e-5)
        if tokens == IN_CHAIN:  # where another layout would be wrong
            for layout in COMPACT:
                trainer._layout, trainer._layout_is_checked = layout, True
                trainer.data_collator.layout = layout
                found = trainer.compute_loss(trainer.model, first_batch(trainer))
                assert (found - expected).abs() > 1e-4


class TestTypes:
    def test_every_type_of_the_installed_peft_is_classified(self):
        """A new release of PEFT may have a new tuner: try it, and add it to a table of `tuners.py`."""
        known = {tuner.peft_type for tuner in SUPPORTED.values()} | REFUSED.keys() | OPEN.keys()
        assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} <= known

    @pytest.mark.parametrize("kind", REFUSED)
    def test_refused(self, kind, tmp_path, pairs, tokenizer):
        _, options, error = REFUSED[kind]
        if kind not in PeftType.__members__:
            pytest.skip("the installed PEFT does not have it")
        config = make_config(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[kind]], options)
        with pytest.raises(ValueError) as raised:
            make_trainer(tmp_path, pairs[:2], build_model(), tokenizer, peft_config=config)
        assert error in str(raised.value)
        assert "`LoraConfig`" in str(raised.value)

    @pytest.mark.parametrize("name", ["AdaLoRA", "SHADOW"])
    def test_own_loss_of_an_adapter_on_the_model_is_refused(self, name, tmp_path, pairs, tokenizer):
        tuner = SUPPORTED[name]
        options = {**tuner.options, "orth_reg_weight": 0.5, "auxiliary_loss_weight": 0.5}
        options = {key: value for key, value in options.items() if key in vars(config_of(name))}
        model = get_peft_model(build_model(), make_config(tuner.config, options))
        with pytest.raises(ValueError, match=r"_weight=0\.5\)`. This loss is added .* Set `.*=0\.0`"):
            make_trainer(tmp_path, pairs[:2], model, tokenizer)


class TestVisibleAdapter:
    """The layout is compared before the first step, when most adapters have no effect yet."""

    def test_comparison_sees_an_adapter_that_starts_without_effect(self, tmp_path, pairs, tokenizer, monkeypatch):
        """Lily mixes the tokens of a batch. It is refused by name; another tuner like it would be seen."""
        try:
            config = make_config("LilyConfig", {})
        except AttributeError:
            pytest.skip("the installed PEFT does not have it")
        monkeypatch.setattr(trainer_arguments, "_REFUSED_ADAPTERS", {})
        trainer = make_trainer(tmp_path, pairs[:2], build_model(), tokenizer, peft_config=config)
        before = parameters(trainer.model)
        assert trainer._layout == "packed"
        trainer.compute_loss(trainer.model, first_batch(trainer))
        assert trainer._layout == "padded"
        assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())

    def test_zeros_have_an_effect_inside_and_are_zeros_again(self, tokenizer):
        config = make_config("LoraConfig", {})
        torch.manual_seed(0)
        model = get_peft_model(build_model(), config).eval()
        input_ids, before = torch.arange(40, 60)[None], parameters(model)
        state = torch.get_rng_state()
        with torch.no_grad():
            expected = model(input_ids).logits
            with pytest.raises(RuntimeError, match="inside"), visible_adapter(model):
                difference = (model(input_ids).logits.log_softmax(-1) - expected.log_softmax(-1)).abs().max()
                raise RuntimeError("inside")
        assert difference > 0.1
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert torch.equal(state, torch.get_rng_state())

    def test_other_parameters_stay(self):
        """Of a model without adapters, and those that are not zero."""
        model = build_model(attention_bias=True)
        assert not model.model.layers[0].self_attn.q_proj.bias.any()
        before = parameters(model)
        with visible_adapter(model), torch.no_grad():
            assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
