"""
Students: the models that an evaluation asks for replies.

A student is a callable that takes a batch of prompts and returns a [`Generation`] for each: a transformers model
([`LocalStudent`]), a model run by vLLM ([`VLLMStudent`]), a model behind an OpenAI-compatible endpoint
([`EndpointStudent`]), or your own function. Three attributes are optional. `settings` has the settings that change the
replies, and `weights` what identifies the model; they must be the same when an interrupted run continues. The weights
behind an endpoint cannot be seen, and it is known by its URL, the name of the model and the sampling. `batches_itself`
is true for a student that takes many prompts at once and makes batches itself.

The seed of a sample depends on the batch or on the number of the sample and not on the run, so an interruption does
not change the samples. With plain-text prompts, a reply ends at [`STOP`], where it would begin the next question.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from ..chat import ChatClient, ChatReply
from ..chat.vllm_engine import import_vllm
from ..option_help import help_from_docstring
from .identity import hash_of_model, name_of_weights


# After its answer, a student trained on such prompts continues with the next question.
STOP = "\nQ:"


class Generation(NamedTuple):
    """
    One reply of a student.

    Args:
        text (`str`):
            Text of the reply.
        finish_reason (`str` or `None`):
            `"stop"`, or `"length"` for a reply truncated at the limit.
        num_tokens (`int`):
            Number of generated tokens.
    """

    text: str
    finish_reason: str | None
    num_tokens: int


# A student takes prompts, as text or as messages, and the number of the sample of each.
Student = Callable[[list[Any], list[int]], list[Generation]]


@help_from_docstring
@dataclass(kw_only=True)
class GenerationSettings:
    """
    Generation settings that all kinds of students have.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `512`):
            Maximum length of a reply, in tokens.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature. Zero means greedy decoding.
        top_p (`float`, *optional*, defaults to `1.0`):
            Nucleus sampling: draw from the most likely tokens that together have this probability.
        seed (`int`, *optional*, defaults to `42`):
            Seed of the sampling.

    Raises:
        ValueError: If a setting cannot work.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(
                f"`max_new_tokens` must be at least 1, got {self.max_new_tokens}. It is the longest reply, in tokens."
            )
        if not self.temperature >= 0:
            raise ValueError(
                f"`temperature` must be positive or zero, got {self.temperature}. Zero is greedy; the paper samples "
                "at 0.7."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"`top_p` must be above 0 and at most 1, got {self.top_p}. It is a probability; 1 draws from all "
                "tokens."
            )

    @property
    def generation_settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: The generation settings by name."""
        return {setting.name: getattr(self, setting.name) for setting in fields(GenerationSettings)}


@dataclass
class LocalStudent(GenerationSettings):
    """
    A transformers model as a student. It generates one batch at a time, padded on the left.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Causal language model. It runs on its device.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model.
        name (`str`, *optional*):
            Name of the student in files, as a keyword argument. Defaults to the name with which the model was loaded.
        max_new_tokens, temperature, top_p, seed:
            Fields of [`GenerationSettings`], as keyword arguments.

    Raises:
        ValueError: When called, if the prompts are messages and the tokenizer has no chat template, or if the model's
            logits are NaN.
    """

    model: Any
    tokenizer: Any
    name: str = field(default="", kw_only=True)

    @classmethod
    def from_pretrained(cls, name: str, dtype: str = "auto", **options: Any) -> "LocalStudent":
        """
        Load a student from a folder or the Hub, and move it to the GPU if there is one. A LoRA adapter is merged into
        its base model.

        Args:
            name (`str`):
                Name or folder of a model or an adapter.
            dtype (`str`, *optional*, defaults to `"auto"`):
                Type of the weights.
            **options:
                Fields of [`GenerationSettings`].

        Returns:
            [`LocalStudent`]: The student.

        Raises:
            ValueError: If there is no such model.
        """
        import torch
        from peft import AutoPeftModelForCausalLM
        from transformers import AutoModelForCausalLM

        check_dtype(dtype)
        try:
            if is_adapter(name):
                model = AutoPeftModelForCausalLM.from_pretrained(name, dtype=dtype).merge_and_unload()
            else:
                model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
            tokenizer = load_tokenizer(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The student must be a model or adapter in a folder or on the Hub, got {name!r} ({error}). Check the "
                "name; for a model behind an endpoint pass its `base_url`."
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), tokenizer, name=name, **options)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings that change the replies."""
        return {"model": self.name or self.model.name_or_path, **self.generation_settings}

    @property
    def weights(self) -> dict[str, Any]:
        """`dict[str, Any]`: What identifies the model and its tokenizer as they are in memory."""
        return hash_of_model(self.model, self.tokenizer)

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """
        Reply to some prompts.

        Args:
            prompts (`list`):
                Texts, or lists of messages.
            samples (`list[int]`):
                Number of the sample of each prompt.

        Returns:
            `list[Generation]`: Replies in order.
        """
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        tokenizer = self.tokenizer
        is_chat = not isinstance(prompts[0], str)
        texts = [self._render(prompt) for prompt in prompts] if is_chat else prompts
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not is_chat
        ).to(self.model.device)
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if self.temperature else {}
        ends = self._end_ids()
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.temperature > 0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
            stop_strings=None if is_chat else [STOP],
            **sampling,
        )
        self.model.eval()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(_batch_seed(self.seed, texts, samples))
            tokens = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=config,
                tokenizer=tokenizer,
                logits_processor=LogitsProcessorList([_refuse_nan]),
            )[:, inputs["input_ids"].shape[1] :]
        generations = []
        for row in tokens.tolist():
            end = next((place for place, token in enumerate(row) if token in ends), None)
            ids = row if end is None else row[:end]
            # A reply that ended at the stop string has no end token, and is padded to the longest reply of the batch.
            while end is None and ids and ids[-1] == tokenizer.pad_token_id:
                ids.pop()
            text = tokenizer.decode(ids, skip_special_tokens=True)
            is_truncated = end is None and STOP not in text and len(ids) >= self.max_new_tokens
            generations.append(Generation(text, "length" if is_truncated else "stop", len(ids) + (end is not None)))
        return generations

    def _render(self, messages: list[dict[str, str]]) -> str:
        check_chat_template(self.tokenizer)
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _end_ids(self) -> list[int]:
        """Return the tokens that end a reply, of the tokenizer and of the model. They may differ."""
        own = self.model.generation_config.eos_token_id
        ids = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        return sorted(token for token in ids if token is not None)


def check_vllm() -> None:
    """Raise `ImportError` if the `vllm` package is not installed."""
    import_vllm("`VLLMStudent`")


def check_dtype(dtype: str) -> None:
    """Raise `ValueError` if `dtype` is neither `"auto"` nor the name of a type of torch."""
    import torch

    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(
            f"`dtype` must be 'auto' or the name of a type of torch, such as 'bfloat16', got {dtype!r}. Leave it "
            "out to take that of the file."
        )


def check_chat_template(tokenizer: Any) -> None:
    """Raise `ValueError` if a `tokenizer` has no chat template."""
    if not tokenizer.chat_template:
        raise ValueError(
            "`chat` needs a tokenizer with a chat template, and the student's tokenizer has none. Leave `chat` "
            "out to use the same plain-text prompts as in training with `EDITTrainer`."
        )


def is_adapter(name: str) -> bool:
    """Tell whether the student `name`, a folder or a name on the Hub, is an adapter."""
    from peft import PeftConfig

    with contextlib.suppress(ValueError):
        return PeftConfig.from_pretrained(name) is not None
    return False


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of the student `name`, a model or an adapter in a folder or on the Hub."""
    from peft import PeftConfig
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError):
        if not is_adapter(name):
            raise
        # The adapter was saved without a tokenizer.
        return AutoTokenizer.from_pretrained(PeftConfig.from_pretrained(name).base_model_name_or_path)


def _batch_seed(seed: int, texts: list[str], samples: list[int]) -> int:
    digest = hashlib.sha256(json.dumps([seed, texts, samples]).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _refuse_nan(input_ids: Any, scores: Any) -> Any:
    if scores.isnan().any():
        row = int(scores.isnan().any(dim=-1).nonzero()[0])
        raise ValueError(
            f"The student's logits must be numbers, but those of step {input_ids.shape[1]} (tokens of prompt and "
            f"reply so far) of reply {row} of the batch are NaN. Did its training diverge, or was it loaded in "
            "float16? Try another dtype or an earlier checkpoint."
        )
    return scores


@dataclass
class VLLMStudent(GenerationSettings):
    """
    A model run by vLLM, which makes batches itself. Needs the `vllm` package.

    Args:
        model (`str`):
            Folder or name on the Hub.
        options (`dict`, *optional*):
            More arguments of `vllm.LLM`.
        max_new_tokens, temperature, top_p, seed:
            Fields of [`GenerationSettings`], as keyword arguments.

    Raises:
        ImportError: If `vllm` is not installed.
    """

    batches_itself = True

    model: str
    options: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._vllm = vllm = import_vllm("`VLLMStudent`")
        try:  # before they are loaded
            self._files = name_of_weights(self.model)
        except ValueError:  # vLLM knows more places of models
            self._files = {"name": self.model}
        self._llm = vllm.LLM(model=self.model, seed=self.seed, **self.options)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings that change the replies."""
        return {"backend": "vllm", "model": self.model, **self.generation_settings}

    @property
    def weights(self) -> dict[str, Any]:
        """`dict[str, Any]`: What identifies the files of the model, and the options with which they were loaded."""
        options = {"options": repr(sorted(self.options.items()))} if self.options else {}
        return {**self._files, **options}

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """
        Reply to some prompts.

        Args:
            prompts (`list`):
                Texts, or lists of messages.
            samples (`list[int]`):
                Number of the sample of each prompt.

        Returns:
            `list[Generation]`: Replies in order.
        """
        is_chat = not isinstance(prompts[0], str)
        sampling = [
            self._vllm.SamplingParams(
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                seed=self.seed + sample,
                stop=None if is_chat else [STOP],
            )
            for sample in samples
        ]
        ask = self._llm.chat if is_chat else self._llm.generate
        replies = [output.outputs[0] for output in ask(prompts, sampling, use_tqdm=False)]
        return [Generation(reply.text, reply.finish_reason, len(reply.token_ids)) for reply in replies]


class DeferredStudent:
    """
    A student that is loaded when it is asked for its first reply. Until then all that can be wrong with a run is
    checked, and a run that has all its replies does not load it.

    Args:
        load (`Callable`):
            Function that returns the student.
        settings (`dict[str, Any]`):
            Settings of the student.
        weights (`dict[str, Any]`):
            What identifies its files, see [`~identity.name_of_weights`].
        batches_itself (`bool`, *optional*, defaults to `False`):
            Whether the student makes batches itself.
    """

    def __init__(
        self,
        load: Callable[[], Student],
        settings: dict[str, Any],
        weights: dict[str, Any],
        batches_itself: bool = False,
    ) -> None:
        self.settings, self.weights, self.batches_itself = settings, weights, batches_itself
        self._load = load
        self._student: Student | None = None

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """Reply to some `prompts` with the numbers of their `samples`."""
        if self._student is None:
            self._student = self._load()
        return self._student(prompts, samples)


@dataclass
class EndpointStudent:
    """
    A model behind an OpenAI-compatible endpoint. It gets prompts as messages, with the sampling options of the client.

    Args:
        client ([`~chat.ChatClient`]):
            Client of the endpoint.

    Raises:
        EndpointError: When called, if the endpoint gives no usable reply.
        BudgetReached: When called, if the client's budget is used up.
    """

    batches_itself = True

    client: ChatClient

    @classmethod
    def from_url(
        cls,
        name: str,
        base_url: str,
        api_key_env: str | None = None,
        store: str | None = None,
        max_concurrency: int = 16,
        **options: Any,
    ) -> "EndpointStudent":
        """
        Make a student from the URL of an endpoint, with the same generation settings as the other students.

        Args:
            name (`str`):
                Name of the model at the endpoint.
            base_url (`str`):
                URL of the endpoint, including `/v1`.
            api_key_env (`str`, *optional*):
                Name of the environment variable that holds the key. By default no key is sent.
            store (`str`, *optional*):
                SQLite file for the replies, in a folder that exists. By default they are kept in memory.
            max_concurrency (`int`, *optional*, defaults to `16`):
                Maximum number of requests in flight at the same time.
            **options:
                Fields of [`GenerationSettings`].

        Returns:
            [`EndpointStudent`]: The student. The caller must close its `client`.

        Raises:
            ValueError: If an option has a value that cannot work, the key is missing, or the store cannot be used.
        """
        settings = GenerationSettings(**options)
        client = ChatClient(
            name,
            base_url,
            api_key_env=api_key_env,
            store=store,
            temperature=settings.temperature,
            top_p=settings.top_p if settings.temperature else None,
            max_tokens=settings.max_new_tokens,
            seed=settings.seed,
            max_concurrency=max_concurrency,
        )
        return cls(client)

    @property
    def settings(self) -> dict[str, Any]:
        """`dict[str, Any]`: Settings that change the replies."""
        return self.client.settings

    def __call__(self, prompts: list[Any], samples: list[int]) -> list[Generation]:
        """
        Reply to some prompts.

        Args:
            prompts (`list`):
                Texts, or lists of messages.
            samples (`list[int]`):
                Number of the sample of each prompt.

        Returns:
            `list[Generation]`: Replies in order.
        """

        async def ask(item: tuple[Any, int]) -> ChatReply:
            prompt, sample = item
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return await self.client.chat(messages, sample)

        replies = self.client.for_each(list(zip(prompts, samples, strict=True)), ask)
        generations = []
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            generations.append(Generation(reply.text, reply.finish_reason, reply.completion_tokens))
        return generations
