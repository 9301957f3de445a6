"""
What is pushed to the Hub with a student, and what stays on this machine.

The folder of a trained student names the machine that it was trained on: `training_args.bin` has folders and the
token, `adapter_config.json` the folder of the base model, TensorBoard's logs the host. [`public_files`] leaves such
files out, and takes local folders out of the others. [`PublicPushes`] is the part of a trainer that pushes only these.
"""

import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from .model_card import base_model_id, write_model_card


# Not pushed, nor what is in folders of these names: checkpoints and what begins with `_`, which transformers leaves
# out too, and logs of trackers.
_LEFT_OUT = ("_*", "checkpoint-*", "training_args.bin", "runs", "*tfevents*", "wandb", "mlruns", "trackio", "swanlog")

# What only a resumed run reads: part of a pushed checkpoint, but not of the student itself.
_TRAINING_STATE = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "global_step*",
    "latest",
)

# JSON files that hold no settings and can be large.
_NO_SETTINGS = ("tokenizer.json", "vocab.json", "*.index.json")


def public_files(folder: str | os.PathLike) -> dict[str, Path | bytes]:
    """
    List the files of a student, or of one of its checkpoints, that can be pushed.

    Left out are files of trackers, `training_args.bin`, checkpoints and what begins with `_`. In JSON files with
    settings, a local folder becomes the name of its model on the Hub, or its last part.

    Args:
        folder (`str` or `os.PathLike`):
            Folder of the student.

    Returns:
        `dict[str, Path | bytes]`: By path in the repository, the file, or its content if this differs.
    """
    files: dict[str, Path | bytes] = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or _matches(name, _LEFT_OUT):
            continue
        files[name] = path
        if path.suffix == ".json" and not _matches(path.name, _NO_SETTINGS):
            files[name] = _without_folders(path)
    return files


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a part of a path has one of the patterns."""
    return any(fnmatch.fnmatch(part, pattern) for part in name.split("/") for pattern in patterns)


def _without_folders(path: Path) -> Path | bytes:
    """Return a JSON file, or its content without local folders if it names any."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    changed = _public_value(content)
    return path if changed == content else (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _public_value(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _public_value(content, name) for name, content in value.items()}
    if isinstance(value, list):
        return [_public_value(content) for content in value]
    is_local = isinstance(value, str) and (
        (os.path.isabs(value) and os.path.exists(value)) or (key.endswith("name_or_path") and os.path.isdir(value))
    )
    return base_model_id(value) or Path(value).name if is_local else value


class PublicPushes:
    """
    Part of a trainer: its model card, and pushes that leave out what names this machine, see [`public_files`].

    `push_to_hub()` and the pushes of checkpoints (`hub_strategy`) otherwise do what those of [`~transformers.Trainer`]
    do.
    """

    args: Any
    state: Any
    control: Any
    callback_handler: Any
    hub_model_id: str | None
    push_in_progress: Any

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
    ) -> None:
        """
        Write the model card to `output_dir`, see [`~model_card.write_model_card`].

        Args:
            model_name (`str`, *optional*):
                Name of the student. Defaults to the name of the folder `output_dir`.
            dataset_name (`str`, *optional*):
                Name of the dataset on the Hub.
            tags (`str` or `list[str]`, *optional*):
                Tags to add to the tags of the trainer.
        """
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            write_model_card(self, model_name=model_name, dataset_name=dataset_name, tags=tags)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Save the student and push it to the Hub with its model card, as [`~transformers.Trainer.push_to_hub`] does.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to return only when the push is finished.
            token (`str`, *optional*):
                Token to use instead of that of the arguments.
            revision (`str`, *optional*):
                Branch to push to.
            private (`bool`, *optional*):
                Whether a new repository is private.
            **kwargs:
                Arguments of `create_model_card()`, such as `dataset_name`.

        Returns:
            [`~huggingface_hub.CommitInfo`], or a future of it if `blocking=False`; `None` on other processes.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            # transformers before 5.23 has no `private` here and takes it from the arguments alone
            options = {} if private is None else {"private": private}
            self.init_hf_repo(token=token, **options)  # type: ignore[attr-defined]
        self.save_model(_internal_call=True)  # type: ignore[attr-defined]
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return None
        self.create_model_card(**{"model_name": str(self.hub_model_id).split("/")[-1], **kwargs})  # type: ignore[attr-defined]
        self._finish_current_push()  # type: ignore[attr-defined]
        files = public_files(self.args.output_dir)
        return self._upload(files, commit_message, not blocking, token=token, revision=revision)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:  # type: ignore[attr-defined]
            return
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if is_busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        checkpoint = public_files(checkpoint_folder)
        student = {name: file for name, file in checkpoint.items() if not _matches(name, _TRAINING_STATE)}
        jobs = [self._upload({**public_files(self.args.output_dir), **student}, message, True)]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            folder = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            files = {f"{folder}/{name}": file for name, file in checkpoint.items()}
            jobs.append(self._upload(files, f"{message}, checkpoint", True))
        if is_busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def _upload(
        self,
        files: Mapping[str, Path | bytes],
        message: str | None,
        run_as_future: bool,
        token: str | None = None,
        revision: str | None = None,
    ) -> Any:
        return HfApi().create_commit(
            repo_id=str(self.hub_model_id),
            operations=[CommitOperationAdd(name, file) for name, file in files.items()],
            commit_message=message or "Upload",
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            run_as_future=run_as_future,  # type: ignore[call-overload]
        )
