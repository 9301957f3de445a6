"""
Tiny models and a tokenizer built here, so that the tests need neither a network nor a GPU.
"""

import base64
import copy
import json
import os
import re
import socket
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from accelerate import PartialState
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


# A process on a two-core machine; more threads than that cost time.
torch.set_num_threads(int(os.environ.get("EDIT_TRL_TEST_THREADS", "1")))

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | length }}<|im_end|>\n{% endif %}"
    "{% if shout %}LOUD {% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Q: Tom has 3 apples and buys 4 more. How many apples does Tom have? A: Tom has 3 + 4 = 7 apples.",
    "Therefore, the answer is 7. Let's think step by step. First, 12 + 30 = 42. Then 42 - 5 = 37.",
    "user assistant system tools What is 2 + 2? It is 4. It is 5. not True is False; and or True",
    "Evaluate the expression. The result of 8 * 6 is 48, so 48 + 1 = 49. The answer is (B). Monday Tuesday",
] * 4


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE tokenizer of 400 tokens with a chat template, an end of sequence and a pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>", chat_template=CHAT_TEMPLATE
    )


def build_model(seed: int = 0, **options) -> LlamaForCausalLM:
    """Llama of two layers and 400 tokens, randomly initialised, large enough weights for gradients to matter."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "pad_token_id": 3,
            "bos_token_id": None,
            "eos_token_id": 2,
            **options,
        }
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session", autouse=True)
def accelerate_state():
    """accelerate's logger asks for its state, which the trainers' arguments normally create."""
    PartialState()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def own_tokenizer(tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer that a test may change: the other one is shared by all."""
    return copy.deepcopy(tokenizer)


@pytest.fixture
def model() -> LlamaForCausalLM:
    return build_model()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> str:
    """A saved tiny student with its tokenizer, as a path for the trainers."""
    folder = str(tmp_path_factory.mktemp("models") / "tiny-llama")
    build_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs() -> list[dict[str, str]]:
    """Eight plain-text pairs of different lengths."""
    return [
        {
            "prompt": f"Q: What is {a} + {b} - {c}?\nA:",
            "chosen": f" Let's think step by step. First, {a} + {b} = {a + b}. "
            + "So " * c
            + f"Then {a + b} - {c} = {a + b - c}. Therefore, the answer is {a + b - c}.",
            "rejected": f" Let's think step by step. First, {a} + {b} = {a + b + 1}. "
            + "So " * c
            + f"Then {a + b + 1} - {c} = {a + b + 1 - c}. Therefore, the answer is {a + b + 1 - c}.",
        }
        for a, b, c in ((12, 30, 5), (3, 4, 1), (8, 6, 2), (20, 19, 7), (5, 5, 3), (41, 1, 0), (9, 33, 4), (2, 2, 6))
    ]


def build_metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer in the manner of sentencepiece: a mark for spaces, and bytes for characters that it does not know."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["\n", *map(chr, range(33, 127)), "\u2581"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session", params=["byte_level", "metaspace"])
def any_tokenizer(request, tokenizer) -> PreTrainedTokenizerFast:
    """One tokenizer of each kind: their tokens carry spaces in different ways."""
    return tokenizer if request.param == "byte_level" else build_metaspace_tokenizer()


class LoopbackHub:
    """
    The part of the Hub that a push needs, on loopback: creates repositories, takes commits and keeps their files.

    `url` is for `HF_ENDPOINT`; `files` maps `"owner/name"` to paths and contents; `commits` has the message of each
    commit by `"owner/name"`; `unknown` lists requests that it could not answer.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = defaultdict(list)
        self.unknown: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                path = self.path.split("?")[0]
                if path == "/api/repos/create":
                    request = json.loads(body)
                    name = f"{request['organization'] or 'somebody'}/{request['name']}"
                    hub.files.setdefault(name, {})
                    self.answer({"url": f"{hub.url}/{name}"})
                elif path == "/api/validate-yaml":
                    self.answer({"errors": [], "warnings": []})
                elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+)/preupload/main", path):
                    modes = [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                    self.answer({"files": modes})
                elif match := re.fullmatch(r"/api/(?:models|datasets)/(.+)/commit/main", path):
                    for line in body.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "header":
                            hub.commits[match[1]].append(entry["value"]["summary"])
                        if entry["key"] == "file":
                            content = base64.b64decode(entry["value"]["content"])
                            hub.files[match[1]][entry["value"]["path"]] = content
                    self.answer({"commitUrl": f"{hub.url}/{match[1]}/commit/1", "commitOid": "1", "hookOutput": ""})
                else:
                    hub.unknown.append(f"POST {path}")
                    self.answer({"error": "unknown"}, status=404)

            def do_GET(self) -> None:
                if self.path == "/api/whoami-v2":
                    return self.answer({"name": "somebody", "type": "user", "orgs": []})
                hub.unknown.append(f"GET {self.path}")
                self.answer({"error": "unknown"}, status=404)

            do_HEAD = do_GET

            def answer(self, content: dict, status: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def assert_nothing_private(self, *folders: str | Path) -> None:
        """No pushed file, nor its name, has a folder of this machine, the user's home, the host or the token."""
        host = socket.gethostname()
        words = [*map(str, folders), str(Path.home()), "hf_loopback", *([host] if len(host) > 3 else [])]
        found = [
            (repo, name, word)
            for repo, files in self.files.items()
            for name, content in files.items()
            for word in words
            if word.encode() in content or word in name
        ]
        assert self.files and not found, found

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that is to push here."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": "hf_loopback", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def loopback_hub():
    hub = LoopbackHub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture(scope="session")
def made():
    """Result of the recipe for all questions with a teacher that follows its prompts, and the requests."""
    from dual_cot_teacher import DUAL_COTS, run

    return run(cots=DUAL_COTS)
