"""
Tests of key-step accuracy against a plain computation: one pair, one context, all log-probabilities.
"""

import pytest
import torch
from conftest import build_model
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
)

from edit_trl.data_collator import DataCollatorForDualCoT
from edit_trl.key_steps import KeyStepScores, key_step_accuracy


def plain_margin(model, context, right, wrong):
    """Difference of two log-probabilities behind one unpadded context."""
    with torch.no_grad():
        log_probs = model(torch.tensor([context])).logits[0, -1].double().log_softmax(dim=-1)
    return (log_probs[right] - log_probs[wrong]).item()


def plain_margins(model, tokenizer, pairs):
    """By the book, from the text: tokenize both chains behind the prompt and walk to the first difference."""
    model = model.eval()
    margins = []
    for pair in pairs:
        right, wrong = (
            tokenizer(pair["prompt"] + pair[side] + tokenizer.eos_token)["input_ids"]
            for side in ("chosen", "rejected")
        )
        t = 0
        while right[t] == wrong[t]:
            t += 1
        margins.append(plain_margin(model, right[:t], right[t], wrong[t]))
    return margins


class FixedStudent(nn.Module):
    """Gives the same logits everywhere, and all of them: its forward takes no `logits_to_keep`."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.config = LlamaConfig(vocab_size=len(logits), max_position_embeddings=64)
        self.device = self.logits.device

    def forward(self, input_ids, attention_mask, use_cache):
        logits = self.logits.expand(*input_ids.shape, -1)
        return type("Output", (), {"logits": logits})


def tokenized(*pairs):
    """Dataset of (prompt, right chain, wrong chain)."""
    return Dataset.from_list(
        [{"prompt_ids": list(p), "chosen_ids": list(c), "rejected_ids": list(r)} for p, c, r in pairs]
    )


# At the first difference, right chains have an even token and wrong chains an odd one. In the last pair 8 is inserted.
EVEN_IS_RIGHT = tokenized(
    ((1, 2), (5, 4, 6), (5, 3, 6)), ((1,), (2, 9), (7, 9)), ((3, 3, 3), (2, 2, 2, 9), (2, 2, 5)), ((1,), (8, 3), (3,))
)


class TestAgainstPlainComputation:
    @pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
    def test_margins_are_the_same_for_any_batch_size(self, any_tokenizer, pairs, batch_size):
        model = build_model(vocab_size=len(any_tokenizer))
        scores = key_step_accuracy(model, Dataset.from_list(pairs), any_tokenizer, batch_size=batch_size)

        expected = plain_margins(model, any_tokenizer, pairs)
        assert scores.margins == pytest.approx(expected, abs=1e-5)
        assert scores.accuracy == sum(margin > 0 for margin in expected) / len(pairs)
        assert scores.mean_margin == pytest.approx(sum(expected) / len(pairs), abs=1e-5)
        assert scores.left_out == {}
        # Otherwise a constant answer would pass.
        assert 0 < scores.accuracy < 1 and max(expected) - min(expected) > 1

    @pytest.mark.parametrize(
        "student",
        [
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)),
            lambda: BloomForCausalLM(BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4)),
            lambda: MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2)),
            lambda: build_model(attn_implementation="eager", sliding_window=16),
        ],
        ids=["learned positions", "alibi", "recurrent", "eager"],
    )
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_padding_does_not_reach_other_architectures(self, student, tokenizer, pairs):
        torch.manual_seed(0)
        model = student()
        scores = key_step_accuracy(model, Dataset.from_list(pairs), tokenizer)
        assert scores.margins == pytest.approx(plain_margins(model, tokenizer, pairs), abs=1e-5)

    def test_dropout_is_off(self, tokenizer, pairs):
        model = build_model(attention_dropout=0.5).train()
        scores = key_step_accuracy(model, Dataset.from_list(pairs), tokenizer)
        assert scores.margins == pytest.approx(plain_margins(model, tokenizer, pairs), abs=1e-5)

    def test_adapter_counts(self, tokenizer, pairs):
        base = build_model()
        without = key_step_accuracy(base, Dataset.from_list(pairs), tokenizer)
        torch.manual_seed(1)
        model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        scores = key_step_accuracy(model, Dataset.from_list(pairs), tokenizer)
        assert scores.margins == pytest.approx(plain_margins(model, tokenizer, pairs), abs=1e-5)
        assert scores.margins != pytest.approx(without.margins, abs=1e-2)

    def test_logits_are_those_of_the_needed_positions(self, model, tokenizer, pairs):
        """One for each of eight contexts, of some seventy tokens each."""
        shapes = []
        model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
        key_step_accuracy(model, Dataset.from_list(pairs), tokenizer, batch_size=8)
        assert len(pairs) == 8
        assert shapes == [(1, 8, 400)]


class TestShapesOfData:
    def test_messages_give_the_margins_of_their_text(self, model, tokenizer, pairs):
        """The chat template ends each completion."""
        messages = [
            {
                "prompt": [{"role": "user", "content": pair["prompt"]}],
                **{side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")},
            }
            for pair in pairs
        ]
        # The same as text.
        flat = [
            {
                "prompt": f"<|im_start|>user\n{pair['prompt']}<|im_end|>\n<|im_start|>assistant\n",
                **{side: pair[side] for side in ("chosen", "rejected")},
            }
            for pair in pairs
        ]
        scores = key_step_accuracy(model, Dataset.from_list(messages), tokenizer)
        assert scores.margins == pytest.approx(plain_margins(model, tokenizer, flat), abs=1e-5)

    def test_lazy_data_gives_the_same_margins(self, model, tokenizer, pairs):
        lazy = IterableDataset.from_generator(lambda: iter(pairs))
        expected = plain_margins(model, tokenizer, pairs)
        assert key_step_accuracy(model, lazy, tokenizer).margins == pytest.approx(expected, abs=1e-5)

    def test_tokenized_data_needs_no_tokenizer(self, model):
        scores = key_step_accuracy(model, tokenized(((5, 6), (7, 8, 2), (7, 9, 2))))
        assert scores.margins == pytest.approx([plain_margin(model.eval(), [5, 6, 7], 8, 9)], abs=1e-5)

    def test_text_needs_a_tokenizer(self, model, pairs):
        with pytest.raises(ValueError, match="`processing_class` must be the tokenizer of the model"):
            key_step_accuracy(model, Dataset.from_list(pairs))

    def test_missing_columns_are_an_error(self, model, tokenizer):
        with pytest.raises(ValueError, match="`rejected` is missing"):
            key_step_accuracy(model, Dataset.from_list([{"prompt": "Q", "chosen": "A"}]), tokenizer)

    def test_tokens_of_another_model_are_an_error(self, model):
        with pytest.raises(ValueError, match="got token 400, and the model has 400"):
            key_step_accuracy(model, tokenized(((5,), (7,), (400,))))


class TestDefinition:
    def test_student_that_prefers_right_tokens(self):
        """Logits 3 and 1: each right token is e² times as likely."""
        scores = key_step_accuracy(FixedStudent([3.0, 1.0] * 5), EVEN_IS_RIGHT)
        assert (scores.accuracy, scores.mean_margin, scores.num_right) == (1.0, 2.0, 4)

    def test_student_that_prefers_wrong_tokens(self):
        scores = key_step_accuracy(FixedStudent([1.0, 3.0] * 5), EVEN_IS_RIGHT)
        assert (scores.accuracy, scores.mean_margin, scores.num_right) == (0.0, -2.0, 0)

    def test_ties_count_one_half(self):
        scores = key_step_accuracy(FixedStudent([0.5] * 10), EVEN_IS_RIGHT)
        assert (scores.accuracy, scores.mean_margin, scores.num_right, scores.num_ties) == (0.5, 0.0, 0, 4)

    def test_tie_counts_one_half(self):
        """Logits rise with the token: 4 > 3 right, 2 < 7 and 2 < 5 wrong, 8 > 3 right; without token 8, a tie."""
        logits = [float(token) for token in range(10)]
        assert key_step_accuracy(FixedStudent(logits), EVEN_IS_RIGHT).margins == [1.0, -5.0, -3.0, 5.0]
        logits[8] = 3.0
        scores = key_step_accuracy(FixedStudent(logits), EVEN_IS_RIGHT)
        assert (scores.num_right, scores.num_ties, scores.num_pairs) == (1, 1, 4)
        assert scores.accuracy == 1.5 / 4

    def test_first_choice_does_not_matter(self):
        """Token 0 is by far the likeliest and in no pair: unlike `edit/key_token_accuracy`, this does not ask."""
        student = FixedStudent([50.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0, 3.0, 1.0])
        assert key_step_accuracy(student, EVEN_IS_RIGHT).accuracy == 1.0

    def test_later_differences_do_not_count(self, model):
        one = tokenized(((5, 6), (7, 8, 10, 11, 2), (7, 9, 10, 11, 2)))
        more = tokenized(((5, 6), (7, 8, 10, 12, 2), (7, 9, 30, 11, 40, 2)))
        assert key_step_accuracy(model, one).margins == key_step_accuracy(model, more).margins

    def test_end_of_sequence_is_a_token(self, model, tokenizer):
        """The wrong chain ends where the right chain continues."""
        pair = {"prompt": "Q: 2 + 2?\nA:", "chosen": " It is 4. It is 4.", "rejected": " It is 4."}
        scores = key_step_accuracy(model, Dataset.from_list([pair]), tokenizer)
        context = tokenizer(pair["prompt"] + pair["rejected"])["input_ids"]
        right = tokenizer(pair["prompt"] + pair["chosen"])["input_ids"][len(context)]
        expected = plain_margin(model.eval(), context, right, tokenizer.eos_token_id)
        assert scores.margins == pytest.approx([expected], abs=1e-5)


class TestLeftOut:
    def test_chains_that_differ_only_beyond_max_length_are_left_out(self, model):
        """The token at which they part is the third, fourth and fifth of its row."""
        dataset = tokenized(((5, 6), (7, 2), (8, 2)), ((5, 6), (7, 8, 2), (7, 9, 2)), ((5, 6, 7), (7, 8), (7, 9)))
        whole = key_step_accuracy(model, dataset)
        assert whole.left_out == {} and whole.num_pairs == 3

        scores = key_step_accuracy(model, dataset, max_length=4)
        assert scores.margins == pytest.approx([*whole.margins[:2], None], abs=1e-5)
        assert scores.left_out == {"too_long": 1}
        assert scores.num_pairs == 2
        assert scores.mean_margin == pytest.approx(sum(whole.margins[:2]) / 2)

    @pytest.mark.parametrize("max_length", range(2, 8))
    def test_truncation_is_that_of_the_collator(self, model, max_length):
        """A pair is scored if the token at which the right chain parts survives `keep_start`."""
        first = ((5,), (8, 2), (9, 2))  # scored under any of these lengths
        pair = ((5, 6), (7, 7, 8, 2), (7, 7, 9, 2))
        scores = key_step_accuracy(model, tokenized(first, pair), max_length=max_length)
        (example,) = tokenized(pair)
        batch = DataCollatorForDualCoT(pad_token_id=0, max_length=max_length)([example])
        assert (scores.margins[1] is not None) == (8 in batch["scored_ids"].tolist())

    def test_prompt_that_fills_max_length_is_counted(self, model):
        scores = key_step_accuracy(model, tokenized(((5,), (8,), (9,)), ((5, 6, 7), (8,), (9,))), max_length=3)
        assert scores.left_out == {"too_long": 1}

    def test_default_is_what_the_model_can_take(self):
        model = build_model(max_position_embeddings=4)
        dataset = tokenized(((5, 6), (7, 8, 2), (7, 9, 2)), ((5, 6, 7), (7, 8), (7, 9)))
        assert key_step_accuracy(model, dataset).left_out == {"too_long": 1}

    def test_chain_that_ends_where_they_part(self, model):
        """Tokenized data may lack an end of sequence; either chain may be the start of the other."""
        dataset = tokenized(((5,), (7,), (7, 8)), ((5,), (7, 8), (7,)), ((5,), (7, 8), (7, 9)))
        scores = key_step_accuracy(model, dataset)
        assert scores.left_out == {"ended": 2}
        assert scores.margins[:2] == [None, None] and scores.num_pairs == 1

    def test_equal_chains_with_weights(self, model):
        """Preparation keeps them, as there is something to train; there is nothing to rank."""
        rows = [
            {"prompt_ids": [5], "chosen_ids": ids, "rejected_ids": [7, 8]}
            | {f"{s}_weights": [1.0, 0.0] for s in sides}
            for ids, sides in (([7, 8], ("chosen", "rejected")), ([7, 9], ("chosen", "rejected")))
        ]
        assert key_step_accuracy(model, Dataset.from_list(rows)).left_out == {"ended": 1}

    def test_nothing_before_the_point(self, model):
        scores = key_step_accuracy(model, tokenized(((), (7, 2), (8, 2)), ((), (7, 8), (7, 9))))
        assert scores.left_out == {"no_context": 1}
        assert scores.margins == pytest.approx([None, plain_margin(model.eval(), [7], 8, 9)], abs=1e-5)

    def test_pairs_that_preparation_drops_are_not_in_the_list(self, model, tokenizer, pairs, caplog):
        equal = {**pairs[0], "rejected": pairs[0]["chosen"]}
        scores = key_step_accuracy(model, Dataset.from_list([equal, *pairs[:2]]), tokenizer)
        assert scores.margins == pytest.approx(plain_margins(model, tokenizer, pairs[:2]), abs=1e-5)
        assert "Dropped 1 of 3 rows of the held-back dataset" in caplog.text

    def test_no_pair_to_score_is_an_error(self, model):
        with pytest.raises(ValueError, match=r"got none: 1 where the chains differ only beyond .max_length.*\(2\)"):
            key_step_accuracy(model, tokenized(((5, 6), (7, 8), (7, 9))), max_length=2)

    def test_batch_size_below_one_is_an_error(self, model):
        with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
            key_step_accuracy(model, EVEN_IS_RIGHT, batch_size=0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_margin_that_is_not_finite(self, value):
        logits = [1.0] * 10
        logits[4] = value
        with pytest.raises(FloatingPointError, match="got 1 of 4 that are not"):
            key_step_accuracy(FixedStudent(logits), EVEN_IS_RIGHT)


class TestLeavesTheModelAlone:
    def test_each_module_stays_in_its_mode(self, model):
        model.train()
        model.model.layers[0].eval()
        before = [module.training for module in model.modules()]
        seen = []
        model.lm_head.register_forward_hook(lambda *args: seen.append(any(m.training for m in model.modules())))

        key_step_accuracy(model, tokenized(((5,), (7,), (8,))))

        assert seen == [False]
        assert [module.training for module in model.modules()] == before
        assert len(set(before)) == 2

    def test_mode_is_restored_after_an_error(self, model):
        model.train()
        model.lm_head.weight.data[7] = float("nan")
        with pytest.raises(FloatingPointError):
            key_step_accuracy(model, tokenized(((5,), (7,), (8,))))
        assert all(module.training for module in model.modules())

    def test_gradients_and_random_numbers_are_not_changed(self, tokenizer, pairs):
        model = build_model(attention_dropout=0.5).train()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        state = torch.get_rng_state()
        seen = []
        model.lm_head.register_forward_hook(lambda *args: seen.append(torch.is_grad_enabled()))

        key_step_accuracy(model, Dataset.from_list(pairs), tokenizer)

        assert seen == [False]
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(p.grad, torch.ones_like(p)) and p.requires_grad for p in model.parameters())


class TestKeyStepScores:
    def test_counts(self):
        """Of five, three right, one wrong, one tie: 3.5 / 5. Mean (1 + 2 + 3 - 4 + 0) / 5 = 0.4."""
        scores = KeyStepScores(margins=[1.0, None, 2.0, 3.0, -4.0, 0.0], left_out={"ended": 1})
        assert (scores.num_pairs, scores.num_right, scores.num_ties) == (5, 3, 1)
        assert scores.accuracy == 0.7
        assert scores.mean_margin == pytest.approx(0.4)
