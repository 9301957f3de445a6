"""
Compute logits for selected tokens only. Training, callbacks, key-step accuracy and the HTML report use this file.

About one token in twenty of a pair has a weight, and a vocabulary has about a hundred thousand tokens, so most logits
would be computed for nothing. A hook on the language-model head gives it only the hidden states that predict the
selected tokens. The rest of the model's forward is unchanged, including scaling, soft-capping, casting and sharding.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate.utils import is_peft_model
from trl.trainer.utils import pad


# Maximum number of logits in one forward pass of `score_tokens`: a gigabyte in fp32.
_MAX_LOGITS_OF_A_PASS = 2**28


class TokenScores(NamedTuple):
    """
    Logits of some tokens, and what is needed to make log-probabilities of them.

    Args:
        logits (`torch.Tensor` of shape `(num_tokens,)`):
            Logit of each token, in fp32 on the CPU. At the same position, the difference of two logits is the
            difference of the log-probabilities.
        log_normalizers (`torch.Tensor` of shape `(num_tokens,)`):
            Logarithm of the sum of the exponentials of all logits at the position of each token.
    """

    logits: torch.Tensor
    log_normalizers: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(num_tokens,)`: Log-probability of each token, in nats."""
        return self.logits - self.log_normalizers


@torch.no_grad()
def score_tokens(
    model: Any, sequences: Sequence[list[int]], targets: Sequence[list[tuple[int, int]]], batch_size: int
) -> list[TokenScores]:
    """
    Score tokens of some sequences, without gradients. The mode of the model (training or evaluation) is not changed.

    Sequences are padded on the right, which has no effect on the tokens of a causal model. The longest sequences come
    first, so that missing memory is found at once.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It runs on its device.
        sequences (`Sequence[list[int]]`):
            Token IDs of each sequence, at least one.
        targets (`Sequence[list[tuple[int, int]]]`):
            For each sequence, the tokens to score as `(position, token ID)`. The hidden state at this position
            predicts the token, which need not be in the sequence.
        batch_size (`int`):
            Number of sequences per forward pass. It is reduced if the logits would take more than a gigabyte.

    Returns:
        `list[TokenScores]`: For each sequence, the scores of its targets in order.

    Raises:
        ValueError: If the model calls its output embeddings more than once in a forward pass.

    Examples:

    ```python
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> options = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=10, **options))
    >>> _ = torch.nn.init.zeros_(model.lm_head.weight)  # to this model, all tokens are equally likely
    >>> (scores,) = score_tokens(model, [[1, 2, 3]], [[(1, 3), (2, 9)]], batch_size=1)
    >>> scores.log_probs
    tensor([-2.3026, -2.3026])

    ```
    """
    scores = [TokenScores(torch.zeros(0), torch.zeros(0)) for _ in sequences]
    places = [sorted({place for place, _ in wanted}) for wanted in targets]
    vocab_size = model.config.get_text_config().vocab_size
    order = sorted((i for i in range(len(sequences)) if targets[i]), key=lambda i: -len(sequences[i]))
    while order:
        num_logits, size = 0, 0
        for number in order[:batch_size]:
            num_logits += len(places[number]) * vocab_size
            if size and num_logits > _MAX_LOGITS_OF_A_PASS:
                break
            size += 1
        batch, order = order[:size], order[size:]
        input_ids = [torch.tensor(sequences[number]) for number in batch]
        outputs = forward_scored(
            model,
            torch.tensor([row for row, number in enumerate(batch) for _ in places[number]]),
            torch.tensor([place for number in batch for place in places[number]]),
            input_ids=pad(input_ids, padding_value=0, padding_side="right").to(model.device),
            attention_mask=pad([torch.ones_like(ids) for ids in input_ids], 0, padding_side="right").to(model.device),
            use_cache=False,  # with gradient checkpointing, a cache causes a warning
        )
        parts = outputs.logits[0].split([len(places[number]) for number in batch])
        for number, part in zip(batch, parts, strict=True):
            logits = part.float()  # one sequence at a time, because this copies the logits to fp32
            row_of = {place: row for row, place in enumerate(places[number])}
            rows = torch.tensor([row_of[place] for place, _ in targets[number]], device=logits.device)
            tokens = torch.tensor([token for _, token in targets[number]], device=logits.device)
            scores[number] = TokenScores(logits[rows, tokens].cpu(), logits.logsumexp(dim=-1)[rows].cpu())
    return scores


def forward_scored(
    model: Any, rows: torch.Tensor, places: torch.Tensor, head: torch.nn.Module | None = None, **inputs: Any
) -> Any:
    """
    Run a forward pass that computes logits only at some positions.

    Args:
        model ([`~torch.nn.Module`]):
            Causal language model, with or without the wrappers of distributed training.
        rows (`torch.Tensor` of shape `(num_scored,)`):
            Row of each position.
        places (`torch.Tensor` of shape `(num_scored,)`):
            Positions within the rows.
        head ([`~torch.nn.Module`], *optional*):
            The output embeddings. Defaults to the output embeddings of `model`. Needed for a wrapped model.
        **inputs:
            Inputs of the model.

    Returns:
        [`~transformers.modeling_outputs.ModelOutput`]: The model's outputs; `logits` have the shape (1, num_scored,
        vocabulary).

    Raises:
        ValueError: If the model calls its output embeddings more than once.
    """
    if head is None:
        head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        outputs = model(**inputs)
        num_calls = 0
    else:
        with scored_positions_only(head, rows, places) as calls:
            outputs = model(**inputs)
        num_calls = len(calls)
    if num_calls > 1:
        raise ValueError(
            f"{type(model).__name__} must call its output embeddings once per forward pass, got {num_calls} calls. "
            "This call computes the logits of the scored tokens; pass a causal language model whose "
            "`get_output_embeddings()` is the module that computes its logits."
        )
    if num_calls == 0:  # the model computes its logits in another way, at all positions
        outputs.logits = select_positions(outputs.logits, rows, places)
    return outputs


class _Selection:
    """The positions at which a head computes logits, while `head` is not `None`."""

    head: torch.nn.Module | None = None
    rows: torch.Tensor
    positions: torch.Tensor
    calls: list[torch.Size]


# Global, and the hook a function that stays the same: a compiled model would be compiled again for each new hook, and
# for each new size of a hook's own tensors.
_selection = _Selection()


def _select(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Give a head the hidden states of the selected positions, as one row. This is a hook before its forward."""
    if _selection.head is not module:
        return None
    if not args:  # called with keywords only; the first parameter of `forward` is the hidden states
        name, *_ = inspect.signature(module.forward).parameters
        args = (kwargs.pop(name),)
    hidden_states, *rest = args
    _selection.calls.append(hidden_states.shape)
    return (select_positions(hidden_states, _selection.rows, _selection.positions), *rest), kwargs


@contextmanager
def scored_positions_only(
    head: torch.nn.Module, rows: torch.Tensor, positions: torch.Tensor
) -> Iterator[list[torch.Size]]:
    """
    Make the language-model head compute logits only for the hidden states at `(rows, positions)`, as one row.

    Args:
        head ([`~torch.nn.Module`]):
            The model's output embeddings.
        rows (`torch.Tensor` of shape `(num_scored,)`):
            Row of each hidden state.
        positions (`torch.Tensor` of shape `(num_scored,)`):
            Position of each hidden state within its row.

    Yields:
        `list[torch.Size]`: Shape of the hidden states of each call of the head. Each call adds one element.
    """
    handle = head.register_forward_pre_hook(_select, with_kwargs=True)
    _selection.head, _selection.rows, _selection.positions, _selection.calls = head, rows, positions, []
    try:
        yield _selection.calls
    finally:
        del _selection.head, _selection.rows, _selection.positions, _selection.calls
        handle.remove()


def select_positions(states: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """
    Select some positions of a tensor as one row.

    Args:
        states (`torch.Tensor` of shape `(num_rows, length, size)`):
            Hidden states or logits. With `device_map` they may be on another device than the positions.
        rows, positions (`torch.Tensor` of shape `(num_scored,)`):
            Row and position of each element to select.

    Returns:
        `torch.Tensor` of shape `(1, num_scored, size)`: The selected states.
    """
    return states[rows.to(states.device), positions.to(states.device)][None]


def without_adapter(model: Any) -> Any:
    """
    Return the base model of a model with an adapter.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Model without the wrappers of distributed training.

    Returns:
        [`~transformers.PreTrainedModel`]: The base model, or `model` itself if it has no adapter.
    """
    return model.get_base_model() if is_peft_model(model) else model


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """
    Set a model to evaluation mode, and set each module back to its own mode afterwards.

    The modes are restored one by one, because frozen modules may have been in evaluation mode before.

    Args:
        model ([`~torch.nn.Module`]):
            The model.

    Yields:
        `None`
    """
    training_modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training_modules:
            module.training = True


@torch.no_grad()
def check_causality(model: torch.nn.Module) -> None:
    """
    Refuse a model that attends to later tokens. It would learn to copy the token that it should predict.

    Args:
        model ([`~torch.nn.Module`]):
            The student. A model that cannot be called yet, because an engine still holds its weights, is not checked.

    Raises:
        ValueError: If the logits of a token change with the token after it.
    """
    device = next(model.parameters()).device
    texts = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=device)
    try:
        with eval_mode(model):
            first, second = (model(input_ids=text[None]).logits[0, :-1].float() for text in texts)
    except Exception:
        return
    if (first - second).abs().max() > 0.01 * first.std():
        raise ValueError(
            f"`model` must be a causal language model, but {type(model).__name__} attends to later tokens, so it "
            "would see what it should predict. Load a model of BERT's kind with `is_decoder=True`, or pass a "
            "decoder-only student."
        )
