"""Tests of the shared forward pass: it agrees with one that computes all logits, and changes nothing in the model."""

import pytest
import torch
from conftest import build_model
from peft import LoraConfig, get_peft_model

from edit_trl.scoring import eval_mode, forward_scored, score_tokens, scored_positions_only, without_adapter


SEQUENCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
# By sequence: the place of the token that predicts, and the token. A place twice, a token that is not there, none.
TARGETS = [[(3, 9), (0, 6), (3, 200)], [], [(2, 30)]]


def slow_scores(model: torch.nn.Module) -> list[list[tuple[float, float]]]:
    """Each sequence in a forward pass of its own: logit and log-probability of each target."""
    found = []
    for sequence, targets in zip(SEQUENCES, TARGETS, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([sequence])).logits[0].double()
        log_probs = logits.log_softmax(dim=-1)
        found.append([(logits[place, token].item(), log_probs[place, token].item()) for place, token in targets])
    return found


class WithoutHead(torch.nn.Module):
    """Gives all logits, and has no head that could be asked."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.config, self.device = inner, inner.config, inner.device

    def forward(self, **inputs):
        return self.inner(**inputs)


class TestScoreTokens:
    @pytest.mark.parametrize("batch_size", [1, 2, 8])
    @pytest.mark.parametrize("wrap", [lambda model: model, WithoutHead], ids=["head", "no head"])
    def test_scores_are_those_of_the_full_logits(self, model, batch_size, wrap):
        model.eval()
        scores = score_tokens(wrap(model), SEQUENCES, TARGETS, batch_size)
        for found, expected in zip(scores, slow_scores(model), strict=True):
            assert found.logits.tolist() == pytest.approx([logit for logit, _ in expected], abs=1e-4)
            assert found.log_probs.tolist() == pytest.approx([log_prob for _, log_prob in expected], abs=1e-4)

    def test_a_limit_of_logits_splits_batches_and_changes_nothing(self, model, monkeypatch):
        model.eval()
        calls = []
        model.lm_head.register_forward_hook(lambda module, args, output: calls.append(output.shape[1]))
        whole = score_tokens(model, SEQUENCES, TARGETS, batch_size=8)
        monkeypatch.setattr("edit_trl.scoring._MAX_LOGITS_OF_A_PASS", 1)
        parts = score_tokens(model, SEQUENCES, TARGETS, batch_size=8)
        # Three places are asked for; the one with two tokens is computed once.
        assert calls == [3, 2, 1]
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one.log_probs, other.log_probs, rtol=1e-5, atol=1e-5)

    def test_sequences_without_targets_are_not_run(self, model):
        calls = []
        model.register_forward_pre_hook(lambda *args: calls.append(1))
        scores = score_tokens(model, SEQUENCES, [[], [], []], batch_size=2)
        assert calls == [] and [len(score.logits) for score in scores] == [0, 0, 0]

    def test_adapter_counts(self, model):
        torch.manual_seed(0)
        peft_model = get_peft_model(build_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        peft_model.eval()
        scores = score_tokens(peft_model, SEQUENCES, TARGETS, batch_size=2)
        expected = [log_prob for row in slow_scores(peft_model) for _, log_prob in row]
        plain = [log_prob for row in slow_scores(model.eval()) for _, log_prob in row]
        found = torch.cat([score.log_probs for score in scores]).tolist()
        assert found == pytest.approx(expected, abs=1e-4) and found != pytest.approx(plain, abs=1e-3)

    def test_no_gradient_is_kept(self, model):
        (score,) = score_tokens(model, [[5, 6]], [[(0, 6)]], batch_size=1)
        assert not score.logits.requires_grad


class TestForwardScored:
    def test_gradients_are_those_of_the_full_logits(self, model):
        model.double()
        input_ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
        rows, places = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2])
        gradients = []
        for logits in (
            forward_scored(model, rows, places, input_ids=input_ids).logits[0],
            model(input_ids=input_ids).logits[rows, places],
        ):
            model.zero_grad()
            logits.square().sum().backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name])

    def test_hook_is_gone_after_an_error(self, model):
        with (
            pytest.raises(ZeroDivisionError),
            scored_positions_only(model.lm_head, torch.tensor([0]), torch.tensor([0])),
        ):
            _ = 1 / 0
        assert not model.lm_head._forward_pre_hooks


class TestEvalMode:
    def test_each_module_comes_back_in_its_own_mode(self, model):
        model.train()
        model.model.layers[0].eval()
        before = [module.training for module in model.modules()]
        with pytest.raises(ZeroDivisionError), eval_mode(model):
            assert not any(module.training for module in model.modules())
            _ = 1 / 0
        assert [module.training for module in model.modules()] == before


def test_without_adapter(model):
    assert without_adapter(model) is model
    assert without_adapter(get_peft_model(model, LoraConfig(target_modules=["q_proj"]))) is model
