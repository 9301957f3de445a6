"""Tests of the sums and their ratios against loops over tokens, chains and pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl import DataCollatorForDualCoT
from edit_trl.pair_metrics import COLUMNS, SIDES, PairMetrics, pair_sums


OPTIONS = {"rejected_loss": "nll", "rejected_nll_threshold": 2.0}

token_ids = st.lists(st.integers(1, 4), min_size=1, max_size=6)
examples_lists = st.lists(
    st.one_of(
        st.fixed_dictionaries({"prompt_ids": token_ids, "chosen_ids": token_ids, "rejected_ids": token_ids}),
        st.fixed_dictionaries({"prompt_ids": token_ids, "completion_ids": token_ids}),
    ),
    min_size=1,
    max_size=4,
)


def slow_sums(batch: dict, log_probs: list[float], entropy: list[float], is_top1: list[bool]) -> list[list[dict]]:
    """What each chain of each pair, and each completion, adds, counted token by token."""
    num_pairs = len(batch["num_completion_tokens"]) // 2
    is_completion = batch["is_completion"].tolist()
    sums = [[dict.fromkeys(COLUMNS, 0.0) for _ in range(3)] for _ in range(num_pairs)]
    for chain in range(2 * num_pairs):
        if is_completion[chain % num_pairs] and chain >= num_pairs:
            continue
        mine = sums[chain % num_pairs][2 if is_completion[chain % num_pairs] else chain // num_pairs]
        mine["chains"] = 1
        mine["completion_tokens"] = batch["num_completion_tokens"][chain].item()
        mine["key_before_truncation"] = batch["num_key_tokens"][chain].item()
    for number, chain in enumerate(batch["scored_chains"].tolist()):
        mine = sums[chain % num_pairs][2 if is_completion[chain % num_pairs] else chain // num_pairs]
        weight, is_key = batch["scored_weights"][number].item(), batch["scored_key"][number].item()
        is_gated = weight < 0 and -log_probs[number] > 2.0
        mine["scored"] += 1
        if not is_gated:
            mine["loss"] += weight * -log_probs[number] / mine["completion_tokens"]
        mine["log_probs"] += log_probs[number]
        mine["entropy"] += entropy[number]
        mine["top1"] += is_top1[number]
        mine["key"] += is_key
        mine["key_log_probs"] += log_probs[number] if is_key else 0
        mine["key_top1"] += is_key and is_top1[number]
        mine["pushed_away"] += weight < 0
        mine["gated"] += is_gated
    for sides in sums:
        has_key = sides[0]["key"] + sides[1]["key"] > 0
        for mine in sides:
            if mine["chains"]:
                mine["in_pair_without_key"] = float(not has_key)
    return sums


@given(examples=examples_lists, seed=st.integers(0, 1000), gamma=st.sampled_from([0.0, 0.5]))
@settings(deadline=None, max_examples=100)
def test_sums_are_those_of_a_loop(examples, seed, gamma):
    collator = DataCollatorForDualCoT(pad_token_id=0, chosen_other_weight=gamma, completion_weight=2.0, max_length=8)
    batch = collator(examples)
    num_scored = len(batch["scored_ids"])
    generator = torch.Generator().manual_seed(seed)
    log_probs = -4 * torch.rand(num_scored, generator=generator)
    entropy = torch.rand(num_scored, generator=generator)
    is_top1 = torch.rand(num_scored, generator=generator) < 0.5

    found = pair_sums(batch, log_probs, entropy, is_top1, **OPTIONS)

    expected = slow_sums(batch, log_probs.tolist(), entropy.tolist(), is_top1.tolist())
    assert found.shape == (len(examples), len(SIDES), len(COLUMNS))
    for row, sides in zip(found.tolist(), expected, strict=True):
        for values, side in zip(row, sides, strict=True):
            assert dict(zip(COLUMNS, values, strict=True)) == pytest.approx(side, abs=1e-5)


def test_infinite_log_probability_of_another_token_does_not_reach_the_key_tokens():
    """One key token of probability 1/2; gamma has the other token scored, at probability 0 and weight 0."""
    pair = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [2, 4]}
    batch = DataCollatorForDualCoT(pad_token_id=0, rejected_key_weight=0.0, chosen_other_weight=1.0)([pair])
    log_probs = torch.tensor([-math.inf, math.log(0.5), math.log(0.5)])
    sums = pair_sums(batch, log_probs, torch.zeros(3), torch.zeros(3, dtype=torch.bool), **OPTIONS)
    assert sums[0, 0, COLUMNS.index("key_log_probs")].item() == pytest.approx(math.log(0.5))


class TestPairMetrics:
    @staticmethod
    def sums(**values: tuple[float, ...]) -> torch.Tensor:
        """Sums of the right and the wrong chains and, if given, of completions."""
        sums = torch.zeros(len(SIDES), len(COLUMNS), dtype=torch.float64)
        for name, sides in values.items():
            sums[: len(sides), COLUMNS.index(name)] = torch.tensor(sides, dtype=torch.float64)
        return sums

    def test_batches_are_added_before_they_are_divided(self):
        """3 of 4 and 0 of 1 tokens are the first choice: 3 / 5, not the mean of 3/4 and 0."""
        metrics = PairMetrics()
        metrics.add(self.sums(chains=(1, 1), scored=(2, 2), top1=(2, 1)))
        metrics.add(self.sums(chains=(1, 1), scored=(1, 0), top1=(0, 0)))
        assert metrics.num_examples == 2
        assert metrics.pop()["mean_token_accuracy"] == 0.6

    def test_mean_over_nothing_is_left_out(self):
        metrics = PairMetrics()
        metrics.add(self.sums(chains=(1, 1), key=(1, 0), key_log_probs=(-0.5, 0)))
        found = metrics.pop()
        assert found["edit/logps_key_chosen"] == -0.5
        assert "edit/logps_key_rejected" not in found and "edit/key_margin" not in found

    def test_popping_forgets(self):
        metrics = PairMetrics()
        metrics.add(self.sums(chains=(1, 1)))
        assert metrics.pop() and metrics.pop() == {} and metrics.num_examples == 0

    def test_completions_have_means_of_their_own(self):
        """Two pairs and three completions: the loss is over all five, the parts are over what they are of."""
        metrics = PairMetrics()
        values = {"loss": (4, -1, 6), "scored": (2, 2, 6), "log_probs": (-9, -9, -3), "top1": (1, 0, 6)}
        metrics.add(self.sums(chains=(2, 2, 3), **values))
        assert metrics.num_examples == 5 and metrics.mean_loss == 9 / 5
        found = metrics.pop()
        assert found["edit/loss_chosen"] == 2 and found["edit/loss_rejected"] == -0.5
        assert found["edit/loss_completion"] == 2 and found["edit/logps_completion"] == -0.5
        assert found["edit/completion_ratio"] == 0.6 and found["mean_token_accuracy"] == 0.7

    def test_without_completions_nothing_is_said_of_them(self):
        metrics = PairMetrics()
        metrics.add(self.sums(chains=(2, 2), loss=(4, -1)))
        assert not any("completion" in name for name in metrics.pop())

    def test_completions_alone(self):
        metrics = PairMetrics()
        metrics.add(self.sums(chains=(0, 0, 2), loss=(0, 0, 3), aux_loss=(0, 0, 4)))
        assert metrics.mean_loss == 1.5
        assert metrics.pop() == {"edit/loss_completion": 1.5, "edit/completion_ratio": 1.0, "aux_loss": 2.0}

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_loss_that_is_not_finite(self, value):
        with pytest.raises(FloatingPointError, match=f"must be finite, got {value} at step 3. .*`learning_rate`"):
            PairMetrics().add(self.sums(chains=(1, 1), loss=(value, 0.0)), where="at step 3")
