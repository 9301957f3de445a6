"""
Tests of the logits of scored tokens only, with each model family's own scaling and soft-capping.

For every family: the head projects as many positions as there are scored tokens, these logits equal the rows of the
model's full logits, and the loss and its gradients equal those of the full logits.
"""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import LoraConfig
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaForCausalLM, LlamaModel, TrainerCallback
from transformers.modeling_outputs import CausalLMOutputWithPast

from edit_trl import EDITConfig, EDITTrainer, krsl_loss
from edit_trl.layouts import to_padded


pytestmark = [
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]

SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": 3,
    "bos_token_id": None,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
GROUPED = {"num_key_value_heads": 2}

# Options on top of `SIZES`. A scaling of 1 or a cap far away would hide a head that loses it.
FAMILIES = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "phi3": GROUPED,
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 64},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.2},
    "opt-projected": {"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 16, "init_std": 0.2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "gemma2": {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "gemma3_text": {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "cohere": {**GROUPED, "logit_scale": 0.25},
    "granite": {**GROUPED, "logits_scaling": 4.0},
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.1},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "lfm2": {**GROUPED, "block_ff_dim": 64, "layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8, "conv_kernel": 4},
    "falcon_h1": {
        **GROUPED,
        "lm_head_multiplier": 0.5,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
    },
}


def build_family(name: str, **options):
    torch.manual_seed(0)
    values = {**SIZES, **FAMILIES[name], **options}
    config = CONFIG_MAPPING[values.pop("model_type", name)](**values)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.fixture
def build_trainer(tmp_path, tokenizer, pairs):
    def build_trainer(model, peft_config=None, **options) -> EDITTrainer:
        return EDITTrainer(
            model=model,
            args=EDITConfig(
                output_dir=str(tmp_path),
                report_to="none",
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=2,
                **{"gradient_checkpointing": False, **options},
            ),
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return build_trainer


def two_rows_per_pair(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch if batch["layout"] == "padded" else to_padded(batch)


def full_outputs(trainer: EDITTrainer, batch: dict[str, torch.Tensor]):
    """The model's own outputs for all positions, as a user of the model gets them."""
    options = {"output_router_logits": True} if trainer.aux_loss_enabled else {}
    batch = two_rows_per_pair(batch)
    return trainer.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **options
    )


def loss_from_full_logits(trainer: EDITTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """KRSL loss by hand: log-softmax of everything, then the scored tokens, one row per token."""
    outputs = full_outputs(trainer, batch)
    batch = two_rows_per_pair(batch)
    log_probs = outputs.logits.float().log_softmax(dim=-1)
    log_probs = log_probs[batch["scored_rows"], batch["scored_positions"], batch["scored_ids"]]
    loss = krsl_loss(
        log_probs[:, None],
        batch["scored_weights"][:, None],
        batch["num_completion_tokens"][batch["scored_chains"]],
        num_pairs=2,
        rejected_nll_threshold=trainer.args.rejected_nll_threshold,
    )
    if trainer.aux_loss_enabled:
        loss = loss + trainer.router_aux_loss_coef * outputs.aux_loss
    return loss


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_logits(trainer: EDITTrainer, batch: dict[str, torch.Tensor]) -> None:
    projected = []
    handle = trainer.model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: projected.append(output.shape[:-1].numel())
    )
    with torch.no_grad():
        *_, outputs = trainer._score(trainer.model, batch)
        logits = outputs.logits
    handle.remove()
    padded = two_rows_per_pair(batch)
    with torch.no_grad():
        expected = full_outputs(trainer, batch).logits[padded["scored_rows"], padded["scored_positions"]]

    num_scored = len(batch["scored_ids"])
    assert 0 < num_scored < batch["attention_mask"].sum() / 2
    assert projected == [num_scored]
    assert logits.shape == (1, num_scored, 400)
    assert expected.std() > 0.01  # not all alike
    torch.testing.assert_close(logits[0], expected, rtol=1e-4, atol=1e-5)


def check_loss(trainer: EDITTrainer, batch: dict[str, torch.Tensor]) -> None:
    loss = trainer.compute_loss(trainer.model, batch)
    found = gradients(trainer.model, loss)
    expected_loss = loss_from_full_logits(trainer, batch)
    expected = gradients(trainer.model, expected_loss)

    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in found.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def train_a_step(trainer: EDITTrainer) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Gradients of the first optimiser step, and how often a block and the head ran for it."""
    num_calls = {"block": 0, "head": 0}
    found = {}

    def count(name):
        def hook(module, args):
            num_calls[name] += module.training  # not in the comparison of layouts before the first step

        return hook

    class KeepGradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            found.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    decoder = next(module for module in trainer.model.modules() if hasattr(module, "layers"))
    decoder.layers[0].self_attn.register_forward_pre_hook(count("block"))
    trainer.model.get_output_embeddings().register_forward_pre_hook(count("head"))
    trainer.add_callback(KeepGradients)
    trainer.train()
    assert found
    return found, num_calls


class TestFamilies:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_logits_loss_and_gradients_are_those_of_the_full_logits(self, family, build_trainer):
        trainer = build_trainer(build_family(family))
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()
        check_logits(trainer, batch)
        check_loss(trainer, batch)

    @pytest.mark.parametrize(
        ("family", "options"),
        [
            ("gemma2", {"final_logit_softcapping": 20.0}),
            ("cohere", {"logit_scale": 1.0}),
            ("granite", {"logits_scaling": 1.0}),
            ("falcon_h1", {"lm_head_multiplier": 1.0}),
        ],
    )
    def test_option_around_the_head_matters(self, family, options):
        """Without this the comparison above would prove nothing about scaling and soft-capping."""
        input_ids = torch.arange(40, 60)[None]
        with torch.no_grad():
            logits = [build_family(family, **changed).eval()(input_ids).logits for changed in ({}, options)]
        assert (logits[0] - logits[1]).abs().max() > 1e-2


@pytest.mark.slow
class TestWrapped:
    @pytest.mark.parametrize(
        ("family", "targets"),
        [
            ("llama", ["q_proj", "v_proj"]),
            ("gemma2", ["q_proj", "v_proj"]),
            ("gpt2", ["c_attn"]),
            ("granite", "all-linear"),
        ],
    )
    def test_lora_gives_the_rows_of_the_full_logits(self, family, targets, build_trainer):
        trainer = build_trainer(
            build_family(family),
            peft_config=LoraConfig(
                r=4,
                target_modules=targets,
                task_type="CAUSAL_LM",
                init_lora_weights=False,
                fan_in_fan_out=family == "gpt2",
            ),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()
        check_logits(trainer, batch)
        check_loss(trainer, batch)

    def test_lora_with_a_trained_head(self, build_trainer):
        """`modules_to_save` puts a copy of the head in front of the head."""
        trainer = build_trainer(
            build_family("llama"),
            peft_config=LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.model.eval()
        check_logits(trainer, batch)
        check_loss(trainer, batch)
        assert any("lm_head" in name for name, p in trainer.model.named_parameters() if p.grad is not None)

    @pytest.mark.parametrize(
        ("family", "use_reentrant"),
        # No ("mixtral", True): under reentrant checkpointing the router's loss has no gradient, in TRL's trainers too.
        [("llama", False), ("llama", True), ("gemma2", False), ("gemma2", True), ("mixtral", False)],
    )
    def test_gradient_checkpointing(self, family, use_reentrant, build_trainer):
        """The blocks run again in the backward pass; the head, outside of them, does not."""
        expected, num_calls = train_a_step(build_trainer(build_family(family), max_grad_norm=0, max_steps=1))
        assert num_calls == {"block": 1, "head": 1}
        found, num_calls = train_a_step(
            build_trainer(
                build_family(family),
                max_grad_norm=0,
                max_steps=1,
                gradient_checkpointing=True,
                gradient_checkpointing_kwargs={"use_reentrant": use_reentrant},
            )
        )
        assert num_calls == {"block": 2, "head": 1}
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)

    def test_lora_with_gradient_checkpointing(self, build_trainer):
        options = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "init_lora_weights": False}
        runs = []
        for gradient_checkpointing in (False, True):
            trainer = build_trainer(
                build_family("llama"),
                peft_config=LoraConfig(**options),
                max_grad_norm=0,
                max_steps=1,
                gradient_checkpointing=gradient_checkpointing,
            )
            runs.append(train_a_step(trainer))
        (expected, _), (found, num_calls) = runs
        assert num_calls == {"block": 2, "head": 1}
        assert found.keys() == expected.keys() and len(found) == 4
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


class TestHook:
    def test_is_gone_after_the_forward_pass(self, model, build_trainer):
        trainer = build_trainer(model)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.compute_loss(trainer.model, batch)
        assert not model.lm_head._forward_pre_hooks
        assert model(batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape

    def test_is_gone_after_an_error(self, model, build_trainer, monkeypatch):
        trainer = build_trainer(model)
        batch = next(iter(trainer.get_train_dataloader()))
        monkeypatch.setattr(model.lm_head, "forward", lambda hidden_states: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.compute_loss(trainer.model, batch)
        assert not model.lm_head._forward_pre_hooks

    def test_a_batch_without_scored_tokens_has_no_logits_and_a_zero_loss(self, model, build_trainer):
        trainer = build_trainer(model)
        (example,) = [{"prompt_ids": [40, 41], "chosen_ids": [42, 43], "rejected_ids": [42, 43]}]
        batch = trainer.data_collator([example])
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True)
        assert outputs.logits.shape == (1, 0, 400)
        assert loss.item() == 0
        loss.backward()
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


class HeadByWeight(LlamaForCausalLM):
    """Computes its logits from the head's weight, without calling the head."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        hidden = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids).last_hidden_state
        return CausalLMOutputWithPast(logits=F.linear(hidden, self.lm_head.weight))


class HeadTwice(LlamaForCausalLM):
    """Calls its head for each half of the rows."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        hidden = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids).last_hidden_state
        return CausalLMOutputWithPast(logits=torch.cat([self.lm_head(hidden), self.lm_head(hidden)]))


class HeadByKeyword(LlamaForCausalLM):
    """Hands the hidden states to its head by name."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        options = {"attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        hidden = self.model(input_ids, **options).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(input=hidden))


class TestOtherHeads:
    def test_head_may_not_be_called_twice(self, model, build_trainer):
        trainer = build_trainer(HeadTwice(model.config))
        batch = next(iter(trainer.get_train_dataloader()))
        with pytest.raises(ValueError, match="HeadTwice must call its output embeddings once .* got 2 calls"):
            trainer.compute_loss(trainer.model, batch)

    def test_head_that_is_not_called_gives_the_logits_of_all_positions(self, model, build_trainer):
        """Those of the scored tokens are taken from them."""
        other = HeadByWeight(model.config)
        other.load_state_dict(model.state_dict())
        losses = []
        for student in (model, other):
            trainer = build_trainer(student, shared_prefix=False)
            batch = next(iter(trainer.get_train_dataloader()))
            loss, outputs = trainer.compute_loss(student, batch, return_outputs=True)
            assert outputs.logits.shape == (1, len(batch["scored_ids"]), 400)
            losses.append((loss, gradients(student, loss)))
        (loss, expected), (other_loss, found) = losses
        torch.testing.assert_close(loss, other_loss)
        for name, gradient in expected.items():
            torch.testing.assert_close(gradient, found[name], rtol=1e-4, atol=1e-6)

    def test_model_without_head(self, model, build_trainer):
        with pytest.raises(ValueError, match=r"(?s)causal language model.*LlamaModel"):
            build_trainer(LlamaModel(model.config)).train()

    def test_head_called_by_keyword(self, model, build_trainer):
        trainer = build_trainer(HeadByKeyword(model.config))
        batch = next(iter(trainer.get_train_dataloader()))
        check_logits(trainer, batch)
