"""A callback that shows pairs with their key tokens in a tracker."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from accelerate.logging import get_logger
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..scoring import eval_mode
from .log_probs import add_log_probs, key_log_prob
from .markup import chain_html, chain_markdown, markdown_text
from .pairs import InspectedPair, InspectionConfig, read_pairs
from .terminal import chain_text, visible


logger = get_logger(__name__)

_COLUMNS = ("step", "pair", "prompt", "chosen", "rejected", "logps_key_chosen", "logps_key_rejected")
_TABLE = "pairs"


class LogPairsCallback(TrainerCallback):
    """
    Log a table of pairs, with their key tokens marked and the log-probabilities that the student gives to them.

    The table is logged at the beginning of training, at each evaluation or every `freq` steps, and at the end. Each
    row is a pair at a step: its number, prompt, both chains, and the mean log-probability of the key tokens of each
    chain, in nats. Weights & Biases shows key tokens in colour, with weight and log-probability under the mouse;
    TensorBoard (under "Text") has them in bold; trackio, which shows plain text, as `{+right+}` and `[-wrong-]`. Other
    trackers get no table.

    Args:
        trainer ([`EDITTrainer`]):
            Trainer to which the callback will be attached. The pairs are read as it reads them.
        num_pairs (`int`, *optional*, defaults to `8`):
            Number of pairs, from the beginning of the evaluation dataset, or of the training dataset if there is none.
        freq (`int`, *optional*):
            Number of optimizer steps between tables. By default there is one at each evaluation.

    Raises:
        ValueError: If `num_pairs` or `freq` is below 1, or if `report_to` has no tracker that can show a table.

    Examples:

    ```python
    >>> from edit_trl.inspection import LogPairsCallback
    >>> trainer = EDITTrainer(..., args=EDITConfig(report_to="wandb"))  # doctest: +SKIP
    >>> trainer.add_callback(LogPairsCallback(trainer, freq=100))  # doctest: +SKIP

    ```
    """

    def __init__(self, trainer: Trainer, num_pairs: int = 8, freq: int | None = None) -> None:
        if num_pairs < 1:
            raise ValueError(f"`num_pairs` must be at least 1, got {num_pairs}. Pass `num_pairs=8`.")
        if freq is not None and freq < 1:
            raise ValueError(
                f"`freq` must be at least 1, got {freq}. It is the number of optimizer steps from one table to the "
                "next; leave it out to log one at evaluations only."
            )
        self.backends = [name for name in ("wandb", "trackio", "tensorboard") if name in trainer.args.report_to]
        if not self.backends:
            raise ValueError(
                "`LogPairsCallback` needs a tracker that shows tables, `wandb`, `trackio` or `tensorboard`, and "
                f'`report_to` is {trainer.args.report_to}. Set `report_to="tensorboard"`, or leave the callback out.'
            )
        self.trainer = trainer
        self.freq = freq
        # Each measurement stays in the table, so that it shows how a pair changes.
        self.rows: list[tuple[int, InspectedPair]] = []
        config = InspectionConfig.of_training(trainer.args)
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        examples = itertools.islice(_pairs_of(trainer), num_pairs)
        self._pairs = [pair for pair in read_pairs(examples, tokenizer, config) if pair.rejected]
        self._last_step: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._log(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.freq is not None and state.global_step % self.freq == 0:
            self._log(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.freq is None:
            self._log(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._log(state)

    def _log(self, state: TrainerState) -> None:
        """Measure the pairs on all processes, since a model may be sharded, and log them on the main one."""
        if self._last_step == state.global_step:
            return
        self._last_step = state.global_step
        with eval_mode(self.trainer.model):
            measured = list(add_log_probs(self._pairs, self.trainer.model))
        self.rows += [(state.global_step, pair) for pair in measured]
        if not state.is_world_process_zero:
            return
        for backend in self.backends:
            getattr(self, f"_log_to_{backend}")(state)

    def _log_to_wandb(self, state: TrainerState) -> None:
        import wandb

        rows = [
            [step, pair.row, pair.prompt, *(wandb.Html(chain_html(pair, side)) for side in _SIDES), *_numbers(pair)]
            for step, pair in self.rows
        ]
        # Without `commit=False`, the metrics of this step would have to be logged before.
        wandb.log({_TABLE: wandb.Table(columns=list(_COLUMNS), data=rows)}, commit=False)

    def _log_to_trackio(self, state: TrainerState) -> None:
        import pandas as pd
        import trackio

        frame = pd.DataFrame(self._rows(visible, chain_text), columns=list(_COLUMNS))
        trackio.log({_TABLE: trackio.Table(dataframe=frame)})

    def _log_to_tensorboard(self, state: TrainerState) -> None:
        writers = [getattr(callback, "tb_writer", None) for callback in self.trainer.callback_handler.callbacks]
        lines = [f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
        for row in self._rows(markdown_text, chain_markdown):
            lines.append(f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |")
        for writer in filter(None, writers):
            writer.add_text(_TABLE, "\n".join(lines), state.global_step)

    def _rows(self, of_text: Callable[[str], str], of_chain: Callable[[InspectedPair, str], str]) -> list[list[Any]]:
        return [
            [step, pair.row, of_text(pair.prompt), *(of_chain(pair, side) for side in _SIDES), *_numbers(pair)]
            for step, pair in self.rows
        ]


_SIDES = ("chosen", "rejected")


def _numbers(pair: InspectedPair) -> list[float | None]:
    values = [key_log_prob(pair, side) for side in _SIDES]
    return [None if value is None else round(value, 3) for value in values]


def _pairs_of(trainer: Trainer) -> Iterable[dict[str, Any]]:
    """The rows that are shown. Of several evaluation datasets, the first."""
    dataset = trainer.eval_dataset if trainer.eval_dataset is not None else trainer.train_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()))
    return dataset  # type: ignore[return-value]
