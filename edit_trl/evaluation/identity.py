"""
Tell students apart by what they are: by their weights, and not by their names.

A folder is known by the content of its files, a model on the Hub by its commit, a model in memory by its tensors.
An adapter is known by its own files and its base model. The files are read as a whole, at several gigabytes a second,
which is faster than most disks: each changed byte makes another student. The hash (XXH3, 128 bits) protects from
mistakes, and not from somebody who wants two files to have the same hash.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


# Files of a folder that change replies, by their ending.
_ENDINGS = {
    *(".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".json", ".jinja", ".model", ".tiktoken"),
    *(".txt", ".py"),
}
# Files that training and evaluation leave beside the weights. They do not change replies.
_OTHER_FILES = {
    *("training_args.bin", "trainer_state.json", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"),
    *("all_results.json", "train_results.json", "eval_results.json", "results.json", "settings.json", "report.json"),
    *("requirements.txt", "LICENSE.txt", "log.txt"),
}
_OTHER_STARTS = ("rng_state", "optimizer", "events.out", "completed")


def name_of_weights(name: str) -> dict[str, Any]:
    """
    Identify a model or an adapter without loading it.

    Args:
        name (`str`):
            Folder, or name on the Hub.

    Returns:
        `dict[str, Any]`: The hash of each file of a folder, or the `commit` of a model on the Hub; for an adapter also
        `base`, the same for its base model.

    Raises:
        ValueError: If there is no such model.
    """
    from transformers.utils import cached_file

    folder = Path(name)
    if folder.is_dir():
        # Of the folders inside, such as checkpoints, only that of more chat templates belongs to the student.
        paths = sorted(filter(_counts, [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]))
        found: dict[str, Any] = {str(path.relative_to(folder)): _hash_of_file(path) for path in paths}
        adapter = folder / "adapter_config.json"
        if not found.keys() & {"config.json", "adapter_config.json"}:
            raise ValueError(_no_model(name, "it has no config.json and no adapter_config.json"))
        base = json.loads(adapter.read_text(encoding="utf-8")) if adapter.is_file() else {}
    else:
        try:
            path = cached_file(name, "adapter_config.json", _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):  # it cannot be asked whether there is one
            path = None
        base = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        try:
            path = path or cached_file(name, "config.json")
        except (OSError, ValueError) as error:
            raise ValueError(_no_model(name, error)) from error
        # The Hub's cache has a folder for each commit.
        found = {"commit": Path(path).parent.name}
    if base.get("base_model_name_or_path"):
        found["base"] = name_of_weights(str(base["base_model_name_or_path"]))
    return found


def hash_of_model(model: Any, tokenizer: Any) -> dict[str, str]:
    """
    Identify a model in memory.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Returns:
        `dict[str, str]`: Hashes of the `tensors`, the `config` and the `tokenizer` with its chat template.
    """
    import torch

    digest = _new_hash()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            if tensor.device.type != "meta":
                data = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(data.view(torch.uint8).numpy() if data.numel() else b"")
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else {}
    unimportant = ("_name_or_path", "transformers_version", "architectures")
    config = {key: value for key, value in config.items() if key not in unimportant}
    own = model.generation_config
    texts = {
        "config": json.dumps([config, own.eos_token_id if own else None], sort_keys=True, default=str),
        "tokenizer": _text_of_tokenizer(tokenizer),
    }
    return {"tensors": digest.hexdigest(), **{name: _hash_of_text(text) for name, text in texts.items()}}


def hash_of_prompt(prompt: Any) -> str:
    """Return a short hash of a `prompt`, a text or a list of messages."""
    return _hash_of_text(prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False))[:16]


def differences(made_with: Any, now: Any) -> list[str]:
    """
    Say where two identities differ.

    Args:
        made_with (`dict`):
            Identity of the student that made the replies.
        now (`dict`):
            Identity of the student now.

    Returns:
        `list[str]`: Names of files or parts that are not the same.
    """
    made_with, now = (part if isinstance(part, dict) else {"": part} for part in (made_with, now))
    names: list[str] = []
    for name in {**made_with, **now}:
        if made_with.get(name) != now.get(name):
            if name == "base":
                names += [f"base model's {part}" for part in differences(made_with.get(name), now.get(name))]
            else:
                names.append(name)
    return names


def _counts(path: Path) -> bool:
    """Tell whether a file changes replies."""
    is_other = path.name in _OTHER_FILES or path.name.startswith(_OTHER_STARTS)
    return path.is_file() and path.suffix in _ENDINGS and not is_other


def _no_model(name: str, reason: Any) -> str:
    return (
        f"The student must be a model or adapter in a folder or on the Hub, got {name!r} ({reason}). Check the name; "
        "for a model behind an endpoint pass its `base_url`."
    )


def _text_of_tokenizer(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: Any = tokenizer.get_vocab()
    else:
        content = json.loads(backend.to_str())
        # The state of the last call, and not of the tokenizer.
        content.update(padding=None, truncation=None)
    ends = [getattr(tokenizer, name, None) for name in ("bos_token", "eos_token", "add_bos_token", "chat_template")]
    return json.dumps([content, ends], sort_keys=True, default=str)


def _hash_of_file(path: Path) -> str:
    digest = _new_hash()
    block = memoryview(bytearray(1 << 20))  # read into one buffer that fits the cache: twice as fast
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def _hash_of_text(text: str) -> str:
    digest = _new_hash()
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _new_hash() -> Any:
    import xxhash

    make: Callable[[], Any] = xxhash.xxh3_128
    return make()
