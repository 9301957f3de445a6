"""
Tests of log-probabilities, against a computation one token at a time.
"""

import math

import pytest
import torch
from conftest import build_model
from inspected import pair_of

from edit_trl.inspection import read_pairs
from edit_trl.inspection.log_probs import add_log_probs


def slow_log_probs(model, prompt, completion):
    """One token at a time, each from a forward pass of its own."""
    scores = []
    for place, token in enumerate(completion):
        before = prompt + completion[:place]
        if not before:
            scores.append(math.nan)
            continue
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before])).logits[0, -1].double()
        scores.append(torch.log_softmax(logits, dim=-1)[token].item())
    return scores


class TestLogProbs:
    def test_they_are_those_of_one_token_at_a_time(self, pairs, tokenizer, model):
        read = list(read_pairs(pairs[:3], tokenizer))
        scored = list(add_log_probs(read, model, batch_size=2))

        assert [pair.row for pair in scored] == [0, 1, 2]
        for pair in scored:
            for log_probs, name in zip(pair.log_probs, ("chosen_ids", "rejected_ids"), strict=True):
                expected = slow_log_probs(model.eval(), pair.ids["prompt_ids"], pair.ids[name])
                assert log_probs == pytest.approx(expected, abs=1e-4)
        assert all(pair.log_probs is None for pair in read)

    @pytest.mark.parametrize("max_logits", [1, 400 * 300])
    def test_they_do_not_depend_on_the_batches(self, pairs, tokenizer, model, monkeypatch, max_logits):
        expected = [pair.log_probs for pair in add_log_probs(read_pairs(pairs, tokenizer), model)]
        monkeypatch.setattr("edit_trl.scoring._MAX_LOGITS_OF_A_PASS", max_logits)
        scored = [pair.log_probs for pair in add_log_probs(read_pairs(pairs, tokenizer), model, batch_size=3)]

        for one, other in zip(expected, scored, strict=True):
            for a, b in zip(one, other, strict=True):
                assert a == pytest.approx(b, abs=1e-4)

    def test_a_model_that_computes_all_logits_gives_the_same(self, pairs, tokenizer, model):
        class Plain(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner, self.config, self.device = model, model.config, model.device

            def forward(self, input_ids, attention_mask, use_cache):
                return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

        (one,) = add_log_probs(read_pairs(pairs[:1], tokenizer), model)
        (other,) = add_log_probs(read_pairs(pairs[:1], tokenizer), Plain())

        assert one.log_probs[0] == pytest.approx(other.log_probs[0], abs=1e-5)

    def test_a_first_token_without_prompt_has_none(self, tokenizer, model):
        row = {"prompt_ids": [], "chosen_ids": [5, 6, 7], "rejected_ids": [5, 8, 7]}
        (pair,) = add_log_probs(read_pairs([row], tokenizer), model)

        for log_probs, name in zip(pair.log_probs, ("chosen_ids", "rejected_ids"), strict=True):
            assert math.isnan(log_probs[0])
            assert log_probs[1:] == pytest.approx(slow_log_probs(model.eval(), [], row[name])[1:], abs=1e-4)

    def test_tokens_beyond_the_positions_of_the_model_have_none(self, tokenizer):
        """Three positions: two of the prompt, one of each chain."""
        row = {"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [7, 9]}
        (pair,) = add_log_probs(read_pairs([row], tokenizer), build_model(max_position_embeddings=3))

        assert [[math.isnan(number) for number in side] for side in pair.log_probs] == [
            [False, True, True],
            [False, True],
        ]

    def test_training_mode_is_left_as_it_was(self, pairs, tokenizer, model):
        model.train()
        list(add_log_probs(read_pairs(pairs[:1], tokenizer), model))
        assert model.training

    def test_unreadable_pairs_pass(self, tokenizer, model):
        rows = [pair_of("1"), {"prompt": "x", "chosen": "", "rejected": "y"}]
        scored = list(add_log_probs(read_pairs(rows, tokenizer), model))

        assert [pair.log_probs is None for pair in scored] == [False, True]

    def test_what_cannot_work_is_refused(self, tokenizer, model):
        with pytest.raises(ValueError, match="`batch_size`"):
            add_log_probs([], model, batch_size=0)
        with pytest.raises(ValueError, match="tokenizer of the model"):
            list(add_log_probs(read_pairs([pair_of("1")]), model))
        with pytest.raises(ValueError, match="has token 4[0-9]*, and the model 40 tokens|has token .*40 tokens"):
            list(add_log_probs(read_pairs([pair_of("1")], tokenizer), build_model(vocab_size=40)))
