"""
A stand-in for the package `vllm`, with the names, arguments and results of its documentation that are used: `LLM`,
`LLM.chat`, `SamplingParams`, `RequestOutput` and `CompletionOutput`. A script of `teacher.Teacher` writes the replies.
"""

import sys
import types
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = 16

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be non-negative, got {self.temperature}.")


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class FakeVLLM:
    """
    The module. `calls` has the arguments of each call of `LLM.chat`. A prompt with "too long" is refused as a whole
    call is: by a `ValueError`, after which older versions still hold the requests before it (`keeps_accepted`).
    """

    script: Any
    keeps_accepted: bool = False
    loads: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def install(self, monkeypatch: Any) -> "FakeVLLM":
        fake = self

        class LLM:
            def __init__(self, model: str, *, seed: int | None = None, **options: Any) -> None:
                fake.loads.append({"model": model, "seed": seed, **options})
                if model == "missing":
                    raise RuntimeError("Engine core initialization failed.")
                self.model = model
                self.accepted: list[RequestOutput] = []

            def chat(
                self,
                messages: list[list[dict[str, str]]],
                sampling_params: list[SamplingParams] | None = None,
                use_tqdm: bool = True,
                lora_request: Any = None,
                chat_template: str | None = None,
                chat_template_content_format: str = "auto",
                add_generation_prompt: bool = True,
                continue_final_message: bool = False,
                tools: Any = None,
                chat_template_kwargs: dict[str, Any] | None = None,
                mm_processor_kwargs: dict[str, Any] | None = None,
            ) -> list[RequestOutput]:
                assert len(messages) == len(sampling_params)
                fake.calls.append({"messages": messages, "chat_template_kwargs": chat_template_kwargs})
                for conversation, params in zip(messages, sampling_params, strict=True):
                    if "too long" in conversation[-1]["content"]:
                        if not fake.keeps_accepted:
                            self.accepted = []
                        raise ValueError("The decoder prompt (length 9000) is longer than the maximum model length.")
                    self.accepted.append(self._reply(conversation, params))
                outputs, self.accepted = self.accepted, []
                return outputs

            def _reply(self, conversation: list[dict[str, str]], params: SamplingParams) -> RequestOutput:
                body = {"model": self.model, "messages": conversation, **vars(params)}
                reply = fake.script(body, len(fake.bodies))
                fake.bodies.append(body)
                text, reason = reply if isinstance(reply, tuple) else (reply, "stop")
                output = CompletionOutput(0, text, list(range(10)), reason)
                return RequestOutput(str(len(fake.bodies)), None, list(range(20)), [output])

        module = types.ModuleType("vllm")
        module.LLM, module.SamplingParams = LLM, SamplingParams
        monkeypatch.setitem(sys.modules, "vllm", module)
        return self
