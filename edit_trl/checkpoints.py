"""
Checkpoints that are complete or not there, also after a crash.

transformers writes the files of a checkpoint in its folder one after the other. If the process is killed or the disk
gets full in between, the folder has the name of a checkpoint and cannot be loaded. [`WholeCheckpoints`] writes them in
another folder and renames it at the end. [`newest_checkpoint`] finds the newest checkpoint that is complete, for any
trainer of transformers.
"""

import errno
import json
import os
import re
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

from accelerate.logging import get_logger
from transformers.trainer_utils import rotate_checkpoints


logger = get_logger(__name__)

# Names that transformers gives: a checkpoint is `checkpoint-` and the step.
_PREFIX = "checkpoint"
_STATE = "trainer_state.json"

# Where a checkpoint is written, in the output folder. Trainers do not push files whose name begins with `_`.
_ASIDE = "_incomplete"

# A file with weights: safetensors, PyTorch, shards of FSDP and DeepSpeed.
# An adapter with a name of its own has a folder of this name.
_WEIGHTS = (
    *("*.safetensors", "pytorch_model*.bin", "adapter_model.bin"),
    *("*/adapter_model.safetensors", "*/adapter_model.bin", "**/*.distcp", "**/*_model_states.pt"),
)

# Errors of a full disk, of a limit on the size of files, and of a quota. Libraries in Rust put the number in a text.
# PyTorch's writer only says that the file is shorter than what was written.
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_FULL_TEXT = re.compile(
    rf"os error ({'|'.join(map(str, _FULL))})\b|inline_container\.cc.*(unexpected pos|failed writing)"
)


def incomplete_reason(folder: str | os.PathLike) -> str | None:
    """
    Tell why a folder is no complete checkpoint. The files are not loaded, so this is fast for large models too.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of a checkpoint of [`~transformers.Trainer`].

    Returns:
        `str` or `None`: What is missing or cut off, `None` for a complete checkpoint.

    Examples:

    ```python
    >>> from pathlib import Path
    >>> Path("checkpoint-10").mkdir()
    >>> incomplete_reason("checkpoint-10")
    'trainer_state.json is missing'

    ```
    """
    folder = Path(folder)
    if not (folder / _STATE).exists():  # the main process writes it last
        return f"{_STATE} is missing"
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        return "it has no weights"
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if not _is_whole(file):
            return f"{file.relative_to(folder)} is cut off"
        if file.name.endswith(".index.json"):
            shards = set(json.loads(file.read_text(encoding="utf-8")).get("weight_map", {}).values())
            missing = sorted(shard for shard in shards if not (file.parent / shard).exists())
            if missing:
                return f"{missing[0]} is missing"
    return None


def _is_whole(file: Path) -> bool:
    """Tell whether a file has its end, as far as its format says where this is."""
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return False
    if file.suffix == ".safetensors":
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            header = stream.read(struct.unpack("<Q", start)[0]) if len(start) == 8 else b""
        try:
            tensors = json.loads(header)
        except ValueError:
            return False
        tensors.pop("__metadata__", None)
        ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
        return size == 8 + len(header) + max(ends, default=0)
    if file.suffix in (".bin", ".pt", ".pth"):
        with file.open("rb") as stream:
            start = stream.read(2)
        # PyTorch writes zip files, whose directory is at the end. Its old format has no end to find.
        return start == b"\x80\x02" or zipfile.is_zipfile(file)
    return True


def newest_checkpoint(folder: str | os.PathLike) -> str | None:
    """
    Find the newest complete checkpoint of a run. A warning names each newer one that is skipped, with the reason.

    Args:
        folder (`str` or `os.PathLike`):
            The run's `output_dir`. It may be missing.

    Returns:
        `str` or `None`: Folder of the checkpoint, or `None` if there is none.

    Examples:

    ```python
    >>> print(newest_checkpoint("no/such/folder"))
    None

    ```
    """
    found = {}
    for path in Path(folder).glob(f"{_PREFIX}-*"):
        match = re.fullmatch(rf"{_PREFIX}-(\d+)", path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    for _, path in sorted(found.items(), reverse=True):
        reason = incomplete_reason(path)
        if reason is None:
            return str(path)
        logger.warning(f"{path} is skipped, because it is no complete checkpoint: {reason}.")
    return None


class WholeCheckpoints:
    """
    Part of a trainer: its checkpoints are complete or not there, and training continues from a complete one.

    A checkpoint is written to the folder `_incomplete` in `output_dir`, and moved to its place when all processes have
    written their part. What an interrupted run has left there is removed with a warning when the next one begins.
    With `resume_from_checkpoint=True`, training continues from the newest complete checkpoint. From the checkpoint of
    the last step, it trains no further step.
    """

    args: Any
    state: Any
    control: Any
    accelerator: Any
    _is_written_aside = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Train, as [`~transformers.Trainer.train`] does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                Folder of a checkpoint, or `True` for the newest complete one in `output_dir`.
            *args, **kwargs:
                As for [`~transformers.Trainer.train`].

        Returns:
            [`~transformers.trainer_utils.TrainOutput`]: Number of steps, mean loss and metrics.

        Raises:
            ValueError: If the checkpoint is not complete, or if there is none.
        """
        folder = self.args.output_dir
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(
                    "`resume_from_checkpoint=True` needs a complete checkpoint in `output_dir`, got none in "
                    f"{folder}. Leave it out to begin from the start."
                )
        elif resume_from_checkpoint:
            reason = incomplete_reason(resume_from_checkpoint)
            if reason is not None:
                other = newest_checkpoint(Path(resume_from_checkpoint).parent)
                advice = f"Pass {other!r}, which is complete" if other else "Leave it out to begin from the start"
                raise ValueError(
                    "`resume_from_checkpoint` must be the folder of a complete checkpoint, got "
                    f"{resume_from_checkpoint!r}: {reason}. {advice}."
                )
        left = sorted(path.name for path in Path(folder, _ASIDE).glob("*"))
        self.accelerator.wait_for_everyone()
        if left and self.accelerator.is_local_main_process:
            logger.warning(f"Removing what an interrupted run left half written in {folder}: {', '.join(left)}.")
            shutil.rmtree(Path(folder, _ASIDE), ignore_errors=True)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]
        finally:
            for callback in self.callback_handler.callbacks:  # type: ignore[attr-defined]
                if hasattr(callback, "restore_signal"):  # `InterruptCallback`; after an error nobody else calls it
                    callback.restore_signal()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the model so that `from_pretrained` loads it, as [`~transformers.Trainer.save_model`] does.

        `Trainer` saves nothing here if FSDP keeps checkpoints in shards (`SHARDED_STATE_DICT`, the default of FSDP2).
        Then this gathers the weights, for this call alone.

        Args:
            output_dir (`str`, *optional*):
                Folder. Defaults to the run's `output_dir`.
            _internal_call (`bool`, *optional*, defaults to `False`):
                Set by `Trainer`, which then does not push the model.
        """
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is None or self._is_written_aside:  # a checkpoint, which has the shards beside this
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
            return
        kind = plugin.state_dict_type
        plugin.set_state_dict_type("FULL_STATE_DICT")
        try:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        finally:
            plugin.set_state_dict_type(kind)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # `Trainer` looks for the end after a step. It would train one more after the last, if that is not the last of
        # an epoch.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)  # type: ignore[misc]
        return os.path.join(folder, _ASIDE) if self._is_written_aside else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_written_aside:  # otherwise, pushed when it is in its place
            super()._push_from_checkpoint(checkpoint_folder)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        place = folder / f"{_PREFIX}-{self.state.global_step}"
        aside = folder / _ASIDE / place.name
        self._is_written_aside = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            _explain_full_disk(error, place)
            raise
        finally:
            self._is_written_aside = False
        self._note_best_checkpoint(folder, aside)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _put_in_place(aside, place)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_local_main_process and aside.exists():  # a node with a disk of its own
            _put_in_place(aside, place)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _note_best_checkpoint(self, folder: Path, aside: Path) -> None:
        """Note where the best checkpoint is, which `Trainer` looks for beside the one that it writes."""
        step = self.state.best_global_step
        best = folder / f"{_PREFIX}-{step}"
        if step and (step == self.state.global_step or best.exists()):
            self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(aside / _STATE))


def _put_in_place(aside: Path, place: Path) -> None:
    """Move a complete checkpoint to its place. An earlier run may have left one there."""
    if place.exists():
        old = aside.with_name(f"{place.name}-old")
        os.replace(place, old)
        os.replace(aside, place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(aside, place)
    shutil.rmtree(aside.parent, ignore_errors=True)


def _explain_full_disk(error: BaseException | None, place: Path) -> None:
    """Raise an error that says what to do if the error of a checkpoint means that the disk is full."""
    texts = []
    while error is not None:
        texts.append(f"os error {error.errno}" if isinstance(error, OSError) else str(error))
        error = error.__cause__ or error.__context__
    if not _FULL_TEXT.search("\n".join(texts)):
        return
    free = shutil.disk_usage(place.parent).free / 2**20
    newest = newest_checkpoint(place.parent)
    go_on = (
        f"`resume_from_checkpoint=True` then continues from {newest}" if newest else "No checkpoint was written yet"
    )
    raise OSError(
        errno.ENOSPC,
        f"The checkpoint {place} could not be written: the disk is full, or a limit on files was reached ({free:,.0f} "
        "MiB are free). What was written of it is removed. Free space, or keep fewer checkpoints with "
        f"`save_total_limit` or smaller ones with `save_only_model=True`. {go_on}.",
    )
