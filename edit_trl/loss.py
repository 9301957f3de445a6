"""
Key reasoning steps learning (KRSL) loss: a signed, weighted sum of per-token losses.

One convention everywhere: a token weight multiplies that token's negative log-likelihood or, for a negative weight
under `rejected_loss="unlikelihood"`, its absolute value multiplies the bounded stand-in. Positive pulls towards the
token, negative pushes away, zero ignores it.

Pure torch, no model: which tokens are scored, and their log-probabilities, come from `data_collator.py` and
`edit_trainer.py`.

Paper: https://huggingface.co/papers/2405.19737
"""

import math

import torch


REJECTED_LOSSES = ("nll", "unlikelihood")


def krsl_loss(
    log_probs: torch.Tensor,
    token_weights: torch.Tensor,
    num_completion_tokens: torch.Tensor,
    num_pairs: int | torch.Tensor,
    *,
    rejected_loss: str = "nll",
    rejected_nll_threshold: float | None = None,
) -> torch.Tensor:
    r"""
    Key reasoning steps learning (KRSL) loss of the scored tokens of a batch of pairs.

    Each chain contributes `sum_t(weight_t * -log_prob_t)` divided by its number of completion tokens; the chains of
    all pairs are added and divided by the number of pairs. Dividing by completion tokens rather than key tokens gives
    each key token of a chain the same pull however many there are. The loss is linear in the tokens, so a chain may
    also be spread over several rows, each with that chain's number of completion tokens.

    Args:
        log_probs (`torch.Tensor` of shape `(num_chains, num_scored)`):
            Log-probability, in nats, of each scored token. Any value where the weight is zero.
        token_weights (`torch.Tensor` of shape `(num_chains, num_scored)`):
            Signed weight of each scored token. Zero on padding.
        num_completion_tokens (`torch.Tensor` of shape `(num_chains,)`):
            Completion tokens of each chain, scored or not. A chain without any adds zero.
        num_pairs (`int` or `torch.Tensor` of shape `()`):
            Pairs of the whole optimiser step, over accumulation steps and processes.
        rejected_loss (`str`, *optional*, defaults to `"nll"`):
            What a token of negative weight adds: `"nll"` adds weight times negative log-likelihood, which is unbounded
            below; `"unlikelihood"` adds absolute weight times `-log(1 - p)`, which is never negative ([Neural Text
            Generation with Unlikelihood Training](https://huggingface.co/papers/1908.04319)).
        rejected_nll_threshold (`float`, *optional*):
            A token of negative weight whose negative log-likelihood, in nats, is above this adds nothing and gets no
            gradient: it has been pushed away far enough. `None` pushes without limit.

    Returns:
        `torch.Tensor` of shape `()`: This batch's share of the loss, in nats.

    Raises:
        ValueError: If the shapes do not fit together, or `rejected_loss` is unknown.

    Paper: [Capture the Key in Reasoning to Enhance CoT Distillation
    Generalization](https://huggingface.co/papers/2405.19737), equation 6, as minimisation.

    Examples:

    ```python
    >>> import torch

    >>> log_probs = torch.tensor([[0.25], [0.5]]).log()
    >>> krsl_loss(log_probs, torch.tensor([[1.0], [-0.5]]), torch.tensor([2, 2]), num_pairs=1)
    tensor(0.5199)

    ```
    """
    if log_probs.dim() != 2 or num_completion_tokens.shape != log_probs.shape[:1]:
        raise ValueError(
            "`log_probs` must have shape `(num_chains, num_scored)` and `num_completion_tokens` shape "
            f"`(num_chains,)`, got {tuple(log_probs.shape)} and {tuple(num_completion_tokens.shape)}. Each chain's "
            "sum is divided by its own number of tokens; for a flat list of tokens pass `log_probs[:, None]` and one "
            "count per token."
        )
    per_token = weighted_token_losses(
        log_probs, token_weights, rejected_loss=rejected_loss, rejected_nll_threshold=rejected_nll_threshold
    )
    per_chain = per_token.sum(dim=1) / num_completion_tokens.clamp(min=1)
    return per_chain.sum() / num_pairs


def weighted_token_losses(
    log_probs: torch.Tensor,
    token_weights: torch.Tensor,
    *,
    rejected_loss: str = "nll",
    rejected_nll_threshold: float | None = None,
) -> torch.Tensor:
    """
    What each scored token adds to its chain's sum in [`krsl_loss`].

    Args:
        log_probs (`torch.Tensor`):
            Log-probability, in nats, of each scored token.
        token_weights (`torch.Tensor` of the same shape):
            Signed weight of each scored token.
        rejected_loss (`str`, *optional*, defaults to `"nll"`):
            As in [`krsl_loss`].
        rejected_nll_threshold (`float`, *optional*):
            As in [`krsl_loss`].

    Returns:
        `torch.Tensor` of the same shape: Weighted losses, in nats. Zero, with zero gradient, where the weight is zero
        or the threshold leaves the token alone, even where the log-probability is not finite.

    Raises:
        ValueError: If the shapes differ, or `rejected_loss` is unknown.

    Examples:

    ```python
    >>> import torch

    >>> weighted_token_losses(torch.tensor([0.5, 0.5, 1e-30]).log(), torch.tensor([1.0, -0.1, -0.1]),
    ...                       rejected_nll_threshold=20.0)
    tensor([ 0.6931, -0.0693,  0.0000])

    ```
    """
    if log_probs.shape != token_weights.shape:
        raise ValueError(
            "`log_probs` and `token_weights` must have the same shape, got "
            f"{tuple(log_probs.shape)} and {tuple(token_weights.shape)}. Pass one weight per scored token."
        )
    if rejected_loss not in REJECTED_LOSSES:
        raise ValueError(
            f"`rejected_loss` must be one of {', '.join(map(repr, REJECTED_LOSSES))}, got {rejected_loss!r}. Pass "
            '`rejected_loss="nll"` for the loss of the paper.'
        )
    ignored = (token_weights == 0) | is_gated(log_probs, token_weights, rejected_nll_threshold)
    # Filled before use: zero times infinity would be NaN in the loss and in its gradient.
    log_probs = log_probs.masked_fill(ignored, -1.0)
    weights = token_weights.masked_fill(ignored, 0.0)
    if rejected_loss == "nll":
        return weights * -log_probs
    pushed_away = weights < 0
    pulled = weights.clamp(min=0) * -log_probs.masked_fill(pushed_away, -1.0)
    pushed = weights.clamp(max=0) * _log1m_exp(log_probs.masked_fill(~pushed_away, -1.0))
    return pulled + pushed


def is_gated(
    log_probs: torch.Tensor, token_weights: torch.Tensor, rejected_nll_threshold: float | None
) -> torch.Tensor:
    """
    Which tokens of negative weight the threshold leaves alone, as they are unlikely enough already.

    Args:
        log_probs (`torch.Tensor`):
            Log-probability, in nats, of each scored token.
        token_weights (`torch.Tensor` of the same shape):
            Signed weight of each scored token.
        rejected_nll_threshold (`float` or `None`):
            Negative log-likelihood, in nats, above which a token is left alone; `None` leaves none alone.

    Returns:
        `torch.Tensor` of the same shape, of booleans.

    Examples:

    ```python
    >>> import torch

    >>> is_gated(torch.tensor([-25.0, -25.0, -5.0]), torch.tensor([1.0, -1.0, -1.0]), 20.0)
    tensor([False,  True, False])

    ```
    """
    if rejected_nll_threshold is None:
        return torch.zeros_like(token_weights, dtype=torch.bool)
    return (token_weights < 0) & (-log_probs.detach() > rejected_nll_threshold)


def _log1m_exp(log_probs: torch.Tensor) -> torch.Tensor:
    """
    `log(1 - exp(x))` for x <= 0, with finite values and gradients at both ends.

    The slope by x, p / (1 - p), grows without bound as p goes to 1, where log-probabilities round to zero. Values
    closer to zero than the type's resolution are moved to it and keep their slope, so nothing becomes infinite. (By
    the logits the push fades there all the same: the softmax's own derivative, 1 - p, has rounded to zero.)
    """
    eps = torch.finfo(log_probs.dtype).eps
    x = log_probs - (log_probs.detach() + eps).clamp(min=0)
    # Each branch is computed on arguments where it is exact and finite (Mächler, 2012).
    is_small = x < -math.log(2)
    for_small = torch.log1p(-torch.exp(x.masked_fill(~is_small, -1.0)))
    for_large = torch.log(-torch.expm1(x.masked_fill(is_small, -0.5)))
    return torch.where(is_small, for_small, for_large)
