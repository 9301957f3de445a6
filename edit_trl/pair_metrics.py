"""
Compute the metrics that the trainer logs: sums in named columns, and ratios of these sums.

Each scored token adds to the sums of its chain. The sums are added over batches and processes and are divided only
then. So a logged metric is a mean over all tokens or over all pairs, and not a mean of means. Completions, which have
no wrong chain, have sums and metrics of their own.
"""

import math

import torch

from .loss import is_gated, weighted_token_losses


# Sums of values that each scored token has.
TOKEN_COLUMNS = (
    "loss",
    "scored",
    "log_probs",
    "entropy",
    "top1",
    "key",
    "key_log_probs",
    "key_top1",
    "pushed_away",
    "gated",
)
# Sums of values that each chain has.
CHAIN_COLUMNS = ("chains", "completion_tokens", "key_before_truncation", "in_pair_without_key", "aux_loss")
COLUMNS = TOKEN_COLUMNS + CHAIN_COLUMNS
# What a chain is: the right or the wrong chain of a pair, or a completion.
SIDES = ("chosen", "rejected", "completion")


@torch.no_grad()
def pair_sums(
    batch: dict[str, torch.Tensor],
    log_probs: torch.Tensor,
    entropy: torch.Tensor,
    is_top1: torch.Tensor,
    *,
    rejected_loss: str,
    rejected_nll_threshold: float | None,
    aux_loss: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Compute the sums of each pair and each completion of a batch.

    Args:
        batch (`dict[str, torch.Tensor]`):
            Batch of [`DataCollatorForDualCoT`].
        log_probs (`torch.Tensor` of shape `(num_scored,)`):
            Log-probability, in nats, of each scored token.
        entropy (`torch.Tensor` of shape `(num_scored,)`):
            Entropy, in nats, of the distribution that predicts each scored token.
        is_top1 (`torch.Tensor` of shape `(num_scored,)`, of booleans):
            Whether each scored token is the most likely token.
        rejected_loss (`str`), rejected_nll_threshold (`float` or `None`):
            As for [`krsl_loss`].
        aux_loss (`torch.Tensor` of shape `()`, *optional*):
            Load-balancing loss of a mixture of experts in this batch. Each pair gets it.

    Returns:
        `torch.Tensor` of shape `(num_examples, 3, num_columns)`: Sums of the right and of the wrong chain of each pair
        and of each completion, in the order of `SIDES` and `COLUMNS`.
    """
    weights, chains, is_key = batch["scored_weights"], batch["scored_chains"], batch["scored_key"]
    num_completion_tokens = batch["num_completion_tokens"]
    losses = weighted_token_losses(
        log_probs, weights, rejected_loss=rejected_loss, rejected_nll_threshold=rejected_nll_threshold
    )
    by_token = {
        "loss": losses / num_completion_tokens[chains].clamp(min=1),
        "scored": torch.ones_like(losses),
        "log_probs": log_probs,
        "entropy": entropy,
        "top1": is_top1,
        "key": is_key,
        # `where` and not a product, because an infinite log-probability times zero would make the sum NaN.
        "key_log_probs": torch.where(is_key, log_probs, 0.0),
        "key_top1": is_key & is_top1,
        "pushed_away": weights < 0,
        "gated": is_gated(log_probs, weights, rejected_nll_threshold),
    }
    num_chains = len(num_completion_tokens)
    token_values = torch.stack([by_token[name].float() for name in TOKEN_COLUMNS], dim=1)
    token_sums = token_values.new_zeros(num_chains, len(TOKEN_COLUMNS)).index_add_(0, chains, token_values)
    num_key = token_sums[:, TOKEN_COLUMNS.index("key")].view(2, -1).sum(dim=0)  # key tokens of each pair
    by_chain = {
        "chains": torch.ones_like(num_completion_tokens),
        "completion_tokens": num_completion_tokens,
        "key_before_truncation": batch["num_key_tokens"],
        "in_pair_without_key": (num_key == 0).repeat(2),
        "aux_loss": losses.new_zeros(num_chains) if aux_loss is None else aux_loss.float().expand(num_chains),
    }
    chain_values = torch.stack([by_chain[name].float() for name in CHAIN_COLUMNS], dim=1)
    chosen, rejected = torch.cat([token_sums, chain_values], dim=1).view(2, num_chains // 2, -1)
    is_completion = batch["is_completion"][:, None]
    nothing = torch.zeros_like(chosen)
    sides = (
        torch.where(is_completion, nothing, chosen),
        torch.where(is_completion, nothing, rejected),
        torch.where(is_completion, chosen, nothing),
    )
    return torch.stack(sides, dim=1)


class PairMetrics:
    """
    Sums of the pairs and completions since the last log, and the metrics computed from them.

    Examples:

    ```python
    >>> metrics = PairMetrics()
    >>> sums = torch.zeros(len(SIDES), len(COLUMNS))
    >>> sums[:, COLUMNS.index("chains")] = torch.tensor([4.0, 4.0, 1.0])
    >>> sums[:, COLUMNS.index("loss")] = torch.tensor([2.0, -1.0, 3.0])
    >>> metrics.add(sums)
    >>> metrics.num_examples, metrics.mean_loss, metrics.pop()["edit/loss_chosen"], metrics.num_examples
    (5, 0.8, 0.5, 0)

    ```
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(len(SIDES), len(COLUMNS), dtype=torch.float64)

    @property
    def num_examples(self) -> int:
        """`int`: Pairs and completions counted since the last [`~PairMetrics.pop`]."""
        num_chosen, _, num_completions = self._sums[:, COLUMNS.index("chains")].tolist()
        return int(num_chosen + num_completions)

    @property
    def mean_loss(self) -> float:
        """`float`: Mean loss, in nats, of these pairs and completions, without a router's loss."""
        return self._sums[:, COLUMNS.index("loss")].sum().item() / self.num_examples

    def add(self, sums: torch.Tensor, where: str = "") -> None:
        """
        Add the sums of some pairs and completions.

        Args:
            sums (`torch.Tensor` of shape `(3, num_columns)`):
                Output of [`pair_sums`], added over examples and processes.
            where (`str`, *optional*, defaults to `""`):
                Step and mode of the run, for the error message.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        loss = sums[:, COLUMNS.index("loss")].sum().item()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss must be finite, got {loss}{where and ' '}{where}. Its gradient would destroy the student's "
                "weights; lower `learning_rate` or `rejected_key_weight`, use the bounded "
                '`rejected_loss="unlikelihood"`, clip gradients with `max_grad_norm`, or train in bf16 instead of '
                "fp16."
            )
        self._sums += sums.to("cpu", torch.float64)

    def pop(self) -> dict[str, float]:
        """
        Return the metrics of everything counted since the last call, and set the sums to zero.

        Returns:
            `dict[str, float]`: Metrics by name. A metric whose divisor is zero is left out.
        """
        num_examples = self.num_examples
        if not num_examples:
            return {}
        chosen, rejected, completion = (dict(zip(COLUMNS, side, strict=True)) for side in self._sums.tolist())
        both = {name: chosen[name] + rejected[name] for name in COLUMNS}
        scored, entropy, top1 = (both[name] + completion[name] for name in ("scored", "entropy", "top1"))
        num_pairs = chosen["chains"]
        self._sums.zero_()
        fractions = {
            "entropy": (entropy, scored),
            "mean_token_accuracy": (top1, scored),
            "edit/loss_chosen": (chosen["loss"], num_pairs),
            "edit/loss_rejected": (rejected["loss"], num_pairs),
            "edit/key_token_ratio_chosen": (chosen["key"], chosen["completion_tokens"]),
            "edit/key_token_ratio_rejected": (rejected["key"], rejected["completion_tokens"]),
            "edit/logps_key_chosen": (chosen["key_log_probs"], chosen["key"]),
            "edit/logps_key_rejected": (rejected["key_log_probs"], rejected["key"]),
            "edit/key_token_accuracy": (chosen["key_top1"], chosen["key"]),
            "edit/rejected_gated_ratio": (both["gated"], both["pushed_away"]),
            "edit/truncated_key_ratio": (both["key_before_truncation"] - both["key"], both["key_before_truncation"]),
            "edit/pairs_without_key_tokens": (chosen["in_pair_without_key"], num_pairs),
            "edit/loss_completion": (completion["loss"], completion["chains"]),
            "edit/logps_completion": (completion["log_probs"], completion["scored"]),
        }
        metrics = {name: above / below for name, (above, below) in fractions.items() if below}
        if completion["chains"]:
            metrics["edit/completion_ratio"] = completion["chains"] / num_examples
        aux_loss = chosen["aux_loss"] + completion["aux_loss"]
        if aux_loss:
            metrics["aux_loss"] = aux_loss / num_examples
        if "edit/logps_key_chosen" in metrics and "edit/logps_key_rejected" in metrics:
            metrics["edit/key_margin"] = metrics["edit/logps_key_chosen"] - metrics["edit/logps_key_rejected"]
        return metrics
