"""
Tests of the loss against its formula in plain Python floats, one token at a time, values and gradients.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl.loss import is_gated, krsl_loss, weighted_token_losses


REJECTED_LOSSES = ["nll", "unlikelihood"]

log_prob_values = st.floats(-30.0, -1e-3)
weight_values = st.one_of(st.just(0.0), st.floats(0.001, 3.0), st.floats(-3.0, -0.001))


def slow_token(log_prob, weight, rejected_loss, threshold):
    """Loss of one token and its derivative by the log-probability."""
    if weight == 0:
        return 0.0, 0.0
    if weight > 0:
        return weight * -log_prob, -weight
    if threshold is not None and -log_prob > threshold:
        return 0.0, 0.0
    if rejected_loss == "nll":
        return -abs(weight) * -log_prob, abs(weight)
    p = math.exp(log_prob)
    return abs(weight) * -math.log1p(-p), abs(weight) * p / (1 - p)


def slow_loss(log_probs, weights, counts, num_pairs, rejected_loss="nll", threshold=None):
    """Loss and gradient: each chain's sum over its length, all chains added, over the number of pairs."""
    loss, gradient = 0.0, []
    for row, row_weights, count in zip(log_probs, weights, counts, strict=True):
        tokens = [slow_token(*pair, rejected_loss, threshold) for pair in zip(row, row_weights, strict=True)]
        loss += sum(value for value, _ in tokens) / (count or 1) / num_pairs
        gradient.append([slope / (count or 1) / num_pairs for _, slope in tokens])
    return loss, gradient


def loss_and_gradient(log_probs, weights, counts, num_pairs, dtype=torch.float64, **options):
    log_probs = torch.tensor(log_probs, dtype=dtype, requires_grad=True)
    loss = krsl_loss(log_probs, torch.tensor(weights, dtype=dtype), torch.tensor(counts), num_pairs, **options)
    loss.backward()
    return loss.detach(), log_probs.grad


@st.composite
def batches(draw):
    num_chains, num_scored = draw(st.integers(1, 5)), draw(st.integers(1, 6))

    def matrix(values):
        return [[draw(values) for _ in range(num_scored)] for _ in range(num_chains)]

    counts = [draw(st.integers(num_scored, 40)) for _ in range(num_chains)]
    return matrix(log_prob_values), matrix(weight_values), counts, draw(st.integers(1, 9))


class TestKRSLLoss:
    def test_chains_are_divided_by_their_length_and_added(self):
        """
        Chosen: one key token with probability 1/4, weight 1, chain of 2 tokens: log(4) / 2.
        Rejected: one key token with probability 1/2, weight -0.5, chain of 2 tokens: -0.5 * log(2) / 2.
        One pair: loss = log(4) / 2 - log(2) / 4 = 3/4 * log(2).
        """
        log_probs = torch.tensor([[0.25], [0.5]]).log()
        token_weights = torch.tensor([[1.0], [-0.5]])

        loss = krsl_loss(log_probs, token_weights, num_completion_tokens=torch.tensor([2, 2]), num_pairs=1)

        torch.testing.assert_close(loss, torch.tensor(0.75 * math.log(2)))

    def test_unlikelihood_pushes_by_the_complement(self):
        """
        Rejected: probability 1/2, weight -0.5, chain of 2 tokens: 0.5 * -log(1 - 1/2) / 2 = log(2) / 4, a positive
        term. With the chosen chain's log(4) / 2 the loss is 5/4 * log(2).
        """
        log_probs = torch.tensor([[0.25], [0.5]]).log()
        weights, counts = torch.tensor([[1.0], [-0.5]]), torch.tensor([2, 2])

        loss = krsl_loss(log_probs, weights, counts, num_pairs=1, rejected_loss="unlikelihood")

        torch.testing.assert_close(loss, torch.tensor(1.25 * math.log(2)))

    def test_pairs_are_counted_not_chains(self):
        """Two equal pairs, each of log(4) / 2 - log(2) / 4: their mean is one pair's loss."""
        log_probs = torch.tensor([[0.25], [0.25], [0.5], [0.5]]).log()
        weights = torch.tensor([[1.0], [1.0], [-0.5], [-0.5]])

        loss = krsl_loss(log_probs, weights, torch.tensor([2, 2, 2, 2]), num_pairs=2)

        torch.testing.assert_close(loss, torch.tensor(0.75 * math.log(2)))

    @pytest.mark.parametrize("threshold", [None, 0.5, 3.0, 20.0])
    @pytest.mark.parametrize("rejected_loss", REJECTED_LOSSES)
    @given(batch=batches())
    @settings(deadline=None, max_examples=50)
    def test_value_and_gradient_are_those_of_the_formula(self, rejected_loss, threshold, batch):
        expected, expected_gradient = slow_loss(*batch, rejected_loss, threshold)

        loss, gradient = loss_and_gradient(*batch, rejected_loss=rejected_loss, rejected_nll_threshold=threshold)

        torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, torch.tensor(expected_gradient, dtype=torch.float64), rtol=1e-9, atol=0)

    @pytest.mark.parametrize("rejected_loss", REJECTED_LOSSES)
    def test_single_precision_is_enough(self, rejected_loss):
        """Both signs on both chains, probabilities from e^-30 to e^-0.001."""
        log_probs = [[-0.001, -0.01, -0.1, -0.7, -1.0], [-3.0, -8.0, -15.0, -25.0, -30.0]] * 2
        weights = [[1.0, -1.0, 0.3, -0.025, -2.0]] * 2 + [[-0.5, 0.5, -1.0, 1.0, 0.0]] * 2
        expected, expected_gradient = slow_loss(log_probs, weights, [5, 6, 7, 80], 2, rejected_loss)

        loss, gradient = loss_and_gradient(
            log_probs, weights, [5, 6, 7, 80], 2, dtype=torch.float32, rejected_loss=rejected_loss
        )

        torch.testing.assert_close(loss.item(), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, torch.tensor(expected_gradient), rtol=1e-4, atol=0)

    def test_chosen_chain_alone_is_cross_entropy(self):
        """All weights one on the chosen chain, zero on the rejected: the mean cross-entropy that SFT minimises."""
        logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(7)
        log_probs = logits.log_softmax(-1)[torch.arange(7), labels]

        loss = krsl_loss(
            torch.stack([log_probs, log_probs.flip(0)]),
            torch.tensor([[1.0], [0.0]]).expand(2, 7),
            torch.tensor([7, 7]),
            num_pairs=1,
        )

        torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, labels))

    @given(batch=batches(), rejected_loss=st.sampled_from(REJECTED_LOSSES), threshold=st.sampled_from([None, 5.0]))
    @settings(deadline=None)
    def test_one_row_per_token_gives_the_same(self, batch, rejected_loss, threshold):
        log_probs, weights, counts, num_pairs = batch
        options = {"rejected_loss": rejected_loss, "rejected_nll_threshold": threshold}
        flat = (
            [[value] for row in log_probs for value in row],
            [[value] for row in weights for value in row],
            [count for count, row in zip(counts, weights, strict=True) for _ in row],
            num_pairs,
        )

        loss, gradient = loss_and_gradient(*batch, **options)
        flat_loss, flat_gradient = loss_and_gradient(*flat, **options)

        torch.testing.assert_close(flat_loss, loss)
        torch.testing.assert_close(flat_gradient.view_as(gradient), gradient)

    @given(batch=batches(), junk=st.sampled_from([0.0, -1.0, -1e30, 1e30, -math.inf, math.inf, math.nan]))
    @settings(deadline=None)
    def test_padding_changes_nothing(self, batch, junk):
        log_probs, weights, counts, num_pairs = batch
        for rejected_loss, threshold in itertools.product(REJECTED_LOSSES, [None, 5.0]):
            options = {"rejected_loss": rejected_loss, "rejected_nll_threshold": threshold}
            padded = ([[*row, junk, junk] for row in log_probs], [[*row, 0.0, -0.0] for row in weights])

            loss, gradient = loss_and_gradient(*batch, **options)
            padded_loss, padded_gradient = loss_and_gradient(*padded, counts, num_pairs, **options)

            torch.testing.assert_close(padded_loss, loss)
            torch.testing.assert_close(padded_gradient[:, :-2], gradient)
            assert (padded_gradient[:, -2:] == 0).all()

    @given(batch=batches())
    @settings(deadline=None)
    def test_parts_of_a_batch_add_up_to_the_batch(self, batch):
        """Each accumulation step divides by the pairs of the whole optimiser step."""
        log_probs, weights, counts, num_pairs = batch
        half = len(counts) // 2
        whole, _ = loss_and_gradient(*batch)

        parts = [
            krsl_loss(
                torch.tensor(log_probs[part], dtype=torch.float64).view(-1, len(log_probs[0])),
                torch.tensor(weights[part], dtype=torch.float64).view(-1, len(log_probs[0])),
                torch.tensor(counts[part]),
                num_pairs,
            )
            for part in (slice(half), slice(half, None))
        ]

        torch.testing.assert_close(sum(parts), whole)

    def test_number_of_pairs_may_be_a_tensor(self):
        batch = [[-1.0, -2.0]], [[1.0, -0.5]], [4]
        expected, _ = slow_loss(*batch, 3)
        for num_pairs in (3, torch.tensor(3), torch.tensor(3.0)):
            loss, _ = loss_and_gradient(*batch, num_pairs)
            assert loss.shape == () and loss.item() == pytest.approx(expected)

    def test_chain_without_completion_tokens_adds_zero(self):
        """The first chain adds 1 * 2 / 4; the second, cut away by truncation, has no scored tokens left."""
        loss, gradient = loss_and_gradient([[-2.0], [-math.inf]], [[1.0], [0.0]], [4, 0], 1)

        assert loss.item() == 0.5
        assert gradient.tolist() == [[-0.25], [0.0]]

    @pytest.mark.parametrize("rejected_loss", REJECTED_LOSSES)
    @pytest.mark.parametrize("shape", [(0, 0), (0, 1), (0, 5), (3, 0)])
    def test_nothing_scored_gives_a_differentiable_zero(self, shape, rejected_loss):
        log_probs = torch.empty(shape, requires_grad=True)

        loss = krsl_loss(
            log_probs,
            torch.empty(shape),
            torch.ones(shape[0], dtype=torch.long),
            2,
            rejected_loss=rejected_loss,
            rejected_nll_threshold=20.0,
        )
        loss.backward()

        assert loss.shape == () and loss.item() == 0
        assert log_probs.grad.shape == shape

    def test_all_weights_zero_give_a_differentiable_zero(self):
        for rejected_loss in REJECTED_LOSSES:
            loss, gradient = loss_and_gradient([[-math.inf, -1.0]], [[0.0, -0.0]], [2], 1, rejected_loss=rejected_loss)
            assert loss.item() == 0 and (gradient == 0).all()

    @pytest.mark.parametrize(
        ("log_probs", "weights", "counts", "message"),
        [
            ((3,), (3,), (3,), "`log_probs` must have shape"),
            ((2, 3, 1), (2, 3, 1), (2,), "`log_probs` must have shape"),
            ((2, 3), (2, 3), (3,), "`num_completion_tokens` shape"),
            ((2, 3), (2, 3), (2, 1), "`num_completion_tokens` shape"),
            ((2, 3), (2, 3), (), "`num_completion_tokens` shape"),
            ((2, 3), (2, 1), (2,), "must have the same shape, got \\(2, 3\\) and \\(2, 1\\)"),
            ((2, 3), (3,), (2,), "must have the same shape"),
        ],
    )
    def test_shapes_that_do_not_fit_are_refused(self, log_probs, weights, counts, message):
        with pytest.raises(ValueError, match=message):
            krsl_loss(-torch.ones(log_probs), torch.ones(weights), torch.ones(counts, dtype=torch.long), 1)

    @pytest.mark.parametrize("rejected_loss", ["NLL", "", None])
    def test_unknown_rejected_loss_is_refused(self, rejected_loss):
        with pytest.raises(ValueError, match="`rejected_loss` must be one of 'nll', 'unlikelihood', got"):
            krsl_loss(-torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), 1, rejected_loss=rejected_loss)


class TestWeightedTokenLosses:
    @given(batch=batches(), rejected_loss=st.sampled_from(REJECTED_LOSSES), threshold=st.sampled_from([None, 5.0]))
    @settings(deadline=None)
    def test_each_token_is_that_of_the_formula(self, batch, rejected_loss, threshold):
        log_probs, weights = (torch.tensor(values, dtype=torch.float64) for values in batch[:2])
        expected = [
            slow_token(log_prob, weight, rejected_loss, threshold)[0]
            for log_prob, weight in zip(log_probs.flatten().tolist(), weights.flatten().tolist(), strict=True)
        ]

        for shape in (log_probs.shape, (-1,)):
            losses = weighted_token_losses(
                log_probs.reshape(shape),
                weights.reshape(shape),
                rejected_loss=rejected_loss,
                rejected_nll_threshold=threshold,
            )

            assert losses.shape == log_probs.reshape(shape).shape
            torch.testing.assert_close(
                losses.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
            )

    def test_pushed_token_adds_a_negative_or_a_positive_term(self):
        log_probs, weights = torch.tensor([-1.0, -5.0]), torch.tensor([-1.0, -0.1])
        assert (weighted_token_losses(log_probs, weights) < 0).all()
        assert (weighted_token_losses(log_probs, weights, rejected_loss="unlikelihood") > 0).all()

    def test_inputs_are_not_changed(self):
        log_probs, weights = torch.tensor([-25.0, -0.0, -1.0]), torch.tensor([-1.0, -1.0, 0.0])
        copies = log_probs.clone(), weights.clone()
        for rejected_loss in REJECTED_LOSSES:
            weighted_token_losses(log_probs, weights, rejected_loss=rejected_loss, rejected_nll_threshold=20.0)
        assert torch.equal(log_probs, copies[0]) and torch.equal(weights, copies[1])


class TestThreshold:
    @pytest.mark.parametrize("rejected_loss", REJECTED_LOSSES)
    def test_pushed_token_above_it_adds_nothing_and_gets_no_gradient(self, rejected_loss):
        """Only the second token is pushed away and above 20 nats; the chain's length stays 10."""
        batch = [[-19.0, -21.0, -21.0, -1.0]], [[-1.0, -1.0, 1.0, -1.0]], [10], 1
        expected, expected_gradient = slow_loss(*batch, rejected_loss, 20.0)

        loss, gradient = loss_and_gradient(*batch, rejected_loss=rejected_loss, rejected_nll_threshold=20.0)

        assert loss.item() == pytest.approx(expected)
        assert gradient[0].tolist() == pytest.approx(expected_gradient[0])
        assert gradient[0, 1] == 0
        assert loss_and_gradient(*batch, rejected_loss=rejected_loss)[1][0, 1] > 0

    def test_worked_example(self):
        """Pushed at 25 nats: ignored. Pulled at 25 nats: 25 / 10. Pushed at 5 nats: -0.5 * 5 / 10. Sum 2.25."""
        loss, _ = loss_and_gradient([[-25.0, -25.0, -5.0]], [[-1.0, 1.0, -0.5]], [10], 1, rejected_nll_threshold=20.0)
        assert loss.item() == pytest.approx(2.25)

    def test_token_at_the_threshold_is_still_pushed(self):
        assert is_gated(torch.tensor([-20.0, -20.01]), torch.tensor([-1.0, -1.0]), 20.0).tolist() == [False, True]

    @given(batch=batches(), threshold=st.one_of(st.none(), st.floats(0.0, 30.0)))
    @settings(deadline=None)
    def test_gate_compares_the_likelihood_of_pushed_tokens(self, batch, threshold):
        log_probs, weights = (torch.tensor(values, dtype=torch.float64) for values in batch[:2])

        gated = is_gated(log_probs.requires_grad_(), weights, threshold)

        assert gated.dtype == torch.bool and gated.shape == weights.shape
        assert gated.flatten().tolist() == [
            threshold is not None and weight < 0 and -log_prob > threshold
            for log_prob, weight in zip(log_probs.flatten().tolist(), weights.flatten().tolist(), strict=True)
        ]

    def test_impossible_token_is_left_alone(self):
        """A log-probability of minus infinity is above any threshold, and zero times infinity is not computed."""
        for rejected_loss in REJECTED_LOSSES:
            loss, gradient = loss_and_gradient(
                [[-math.inf, -2.0]], [[-1.0, 1.0]], [2], 1, rejected_loss=rejected_loss, rejected_nll_threshold=20.0
            )
            assert loss.item() == 1.0
            assert gradient.tolist() == [[0.0, -0.5]]

    def test_none_pushes_without_limit(self):
        loss, gradient = loss_and_gradient([[-1e6]], [[-1.0]], [1], 1)
        assert loss.item() == -1e6 and gradient.item() == 1.0


class TestUnlikelihood:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("log_prob", [-math.inf, -1e30, -200.0, -100.0, -1e-30, -0.0, 0.0, 1e-7])
    def test_value_and_gradient_stay_finite_at_both_ends(self, log_prob, dtype):
        loss, gradient = loss_and_gradient([[log_prob]], [[-1.0]], [1], 1, dtype=dtype, rejected_loss="unlikelihood")

        assert loss.isfinite() and loss >= 0
        assert gradient.isfinite().all() and gradient >= 0

    def test_impossible_token_needs_no_push(self):
        """p = e^-200: -log(1 - p) and its slope p / (1 - p) are both below 1e-86."""
        for log_prob in (-math.inf, -200.0):
            loss, gradient = loss_and_gradient([[log_prob]], [[-1.0]], [1], 1, rejected_loss="unlikelihood")
            assert 0 <= loss < 1e-80 and 0 <= gradient < 1e-80

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_certain_token_is_pushed_hardest(self, dtype):
        """Closer to p = 1 than the type resolves, value and slope no longer grow, but do not fall either."""
        values = [
            loss_and_gradient([[log_prob]], [[-1.0]], [1], 1, dtype=dtype, rejected_loss="unlikelihood")
            for log_prob in (-1.0, -0.1, -1e-3, -1e-6, -1e-9, -1e-30, 0.0)
        ]
        for (loss, gradient), (next_loss, next_gradient) in itertools.pairwise(values):
            assert next_loss >= loss and next_gradient >= gradient
        assert values[-1][0] > 15 and values[-1][1] > 1e6

    @pytest.mark.parametrize("log_prob", [-1e-3, -1e-4, -1e-5, -1e-6])
    def test_nearly_certain_token_is_exact_in_single_precision(self, log_prob):
        """1 - p is computed as -expm1(log p): as 1 - exp(log p) it would keep few of float32's digits."""
        log_prob = torch.tensor(log_prob).item()  # as float32 holds it
        expected, slope = -math.log(-math.expm1(log_prob)), math.exp(log_prob) / -math.expm1(log_prob)

        loss, gradient = loss_and_gradient(
            [[log_prob]], [[-1.0]], [1], 1, dtype=torch.float32, rejected_loss="unlikelihood"
        )

        assert loss.item() == pytest.approx(expected, rel=1e-6)
        assert gradient.item() == pytest.approx(slope, rel=1e-6)

    def test_both_branches_meet(self):
        """Around p = 1/2, where the computation changes over, the values follow the plain formula."""
        for p in (0.499, 0.4999999, 0.5, 0.5000001, 0.501):
            batch = [[math.log(p)]], [[-1.0]], [1], 1
            expected, expected_gradient = slow_loss(*batch, "unlikelihood")
            loss, gradient = loss_and_gradient(*batch, rejected_loss="unlikelihood")
            assert loss.item() == pytest.approx(expected, rel=1e-12)
            assert gradient.item() == pytest.approx(expected_gradient[0][0], rel=1e-12)

    @pytest.mark.parametrize("margin", [-30.0, -10.0, -3.0, 0.0, 1.0, 3.0, 6.0, 9.0])
    def test_gradient_through_logits_is_that_of_double_precision(self, margin):
        """Reference: -log(1 - p) = logsumexp(all logits) - logsumexp(the other logits), in float64."""
        logits = torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        logits[4] = logits.max() + margin
        reference = logits.clone().requires_grad_()
        others = torch.arange(9) != 4
        expected = 0.5 * (reference.logsumexp(0) - reference[others].logsumexp(0)) / 3
        expected.backward()

        single = logits.float().requires_grad_()
        log_probs = single.log_softmax(0)[None, 4:5]
        loss = krsl_loss(log_probs, torch.tensor([[-0.5]]), torch.tensor([3]), 1, rejected_loss="unlikelihood")
        loss.backward()

        torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=1e-8)
        torch.testing.assert_close(single.grad.double(), reference.grad, rtol=5e-3, atol=1e-7)

    @pytest.mark.parametrize("rejected_loss", REJECTED_LOSSES)
    @pytest.mark.parametrize("margin", [-200.0, -60.0, 12.0, 16.0, 20.0, 60.0, 200.0])
    def test_extreme_logits_give_finite_gradients(self, margin, rejected_loss):
        logits = torch.zeros(2, 9)
        logits[:, 4] = margin
        logits.requires_grad_()
        log_probs = logits.log_softmax(-1)[:, 4:5]

        loss = krsl_loss(
            log_probs, torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1]), 1, rejected_loss=rejected_loss
        )
        loss.backward()

        assert loss.isfinite()
        assert logits.grad.isfinite().all()
        # The true slope of -log(1 - p) by a logit is never steeper than 1.
        assert logits.grad.abs().max() < 3

    def test_pulled_tokens_keep_their_likelihood_loss(self):
        batch = [[-3.0, -1e-30, -1.0]], [[1.0, 0.5, 2.0]], [5], 2
        assert [x.tolist() for x in loss_and_gradient(*batch, rejected_loss="unlikelihood")] == [
            x.tolist() for x in loss_and_gradient(*batch)
        ]


class TestIsGated:
    def test_only_pushed_tokens_are_gated(self):
        log_probs, weights = torch.tensor([[-25.0, -25.0], [-25.0, -5.0]]), torch.tensor([[1.0, -1.0], [0.0, -1.0]])
        assert is_gated(log_probs, weights, 20.0).tolist() == [[False, True], [False, False]]

    def test_no_threshold_gates_nothing(self):
        assert not is_gated(torch.tensor([-math.inf, -1e9]), torch.tensor([-1.0, -1.0]), None).any()
