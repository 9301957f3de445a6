"""
Key reasoning steps learning (KRSL) loss: a signed, weighted sum of per-token losses.

The whole package uses one convention. A token weight multiplies the negative log-likelihood of its token. With
`rejected_loss="unlikelihood"`, the absolute value of a negative weight multiplies the unlikelihood loss of the token
instead. A positive weight pulls towards the token, a negative weight pushes away, zero ignores it.

Uses torch and no model. `data_collator.py` decides which tokens are scored, and `edit_trainer.py` computes their
log-probabilities.

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
    Compute the key reasoning steps learning (KRSL) loss of the scored tokens of a batch of pairs.

    Each chain contributes `sum_t(weight_t * -log_prob_t)` divided by its number of completion tokens. The
    contributions of all chains are added and divided by the number of pairs. The divisor is the number of completion
    tokens and not of key tokens, so that the pull on a key token does not depend on how many key tokens its chain has.
    The loss is a sum over tokens, so a chain may also be divided among several rows, each with the number of
    completion tokens of the whole chain. A completion (a right chain without a rejected one) counts as a pair.

    Args:
        log_probs (`torch.Tensor` of shape `(num_chains, num_scored)`):
            Log-probability, in nats, of each scored token. It may have any value if the weight is zero.
        token_weights (`torch.Tensor` of shape `(num_chains, num_scored)`):
            Signed weight of each scored token. Zero on padding.
        num_completion_tokens (`torch.Tensor` of shape `(num_chains,)`):
            Number of completion tokens of each chain, scored or not. A chain without completion tokens adds zero.
        num_pairs (`int` or `torch.Tensor` of shape `()`):
            Number of pairs and completions in the whole optimizer step, over accumulation steps and processes.
        rejected_loss (`str`, *optional*, defaults to `"nll"`):
            Loss of a token with negative weight: `"nll"` adds the weight times the negative log-likelihood, which has
            no lower bound; `"unlikelihood"` adds the absolute weight times `-log(1 - p)`, which is never negative
            ([Neural Text Generation with Unlikelihood Training](https://huggingface.co/papers/1908.04319)).
        rejected_nll_threshold (`float`, *optional*):
            A token with negative weight adds nothing and gets no gradient if its negative log-likelihood, in nats, is
            above this value: it has been pushed away far enough. `None` pushes without limit.

    Returns:
        `torch.Tensor` of shape `()`: This batch's share of the loss, in nats.

    Raises:
        ValueError: If the shapes do not fit together, or if `rejected_loss` has an unknown value.

    Paper: [Capture the Key in Reasoning to Enhance CoT Distillation
    Generalization](https://huggingface.co/papers/2405.19737), equation 6, written as a loss to minimize.

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
    Compute the weighted loss of each scored token, which [`krsl_loss`] adds up.

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
        `torch.Tensor` of the same shape: Weighted losses, in nats. Loss and gradient are zero if the weight is zero or
        if the token is above the threshold, even if its log-probability is not finite.

    Raises:
        ValueError: If the shapes differ, or if `rejected_loss` has an unknown value.

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
    # Ignored tokens are filled first: zero times infinity would be NaN in the loss and in its gradient.
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
    Return which tokens with negative weight are above the threshold. They are unlikely enough and are not trained.

    Args:
        log_probs (`torch.Tensor`):
            Log-probability, in nats, of each scored token.
        token_weights (`torch.Tensor` of the same shape):
            Signed weight of each scored token.
        rejected_nll_threshold (`float` or `None`):
            Negative log-likelihood, in nats, above which a token is not trained; `None` for no threshold.

    Returns:
        `torch.Tensor` of the same shape: Booleans, true for tokens that are not trained.

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
    Compute `log(1 - exp(x))` for x <= 0, with finite values and gradients at both ends.

    The derivative, p / (1 - p), has no limit as p goes to 1, and log-probabilities near there round to zero. Values
    closer to zero than the resolution of the type are moved to the resolution and keep their gradient, so nothing
    becomes infinite. (The gradient with respect to the logits is still zero there, because the derivative of the
    softmax, 1 - p, has rounded to zero.)
    """
    eps = torch.finfo(log_probs.dtype).eps
    x = log_probs - (log_probs.detach() + eps).clamp(min=0)
    # Each branch is computed on arguments where it is exact and finite (Mächler, 2012).
    is_small = x < -math.log(2)
    for_small = torch.log1p(-torch.exp(x.masked_fill(~is_small, -1.0)))
    for_large = torch.log(-torch.expm1(x.masked_fill(is_small, -0.5)))
    return torch.where(is_small, for_small, for_large)
