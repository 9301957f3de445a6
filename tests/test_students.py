"""
Tests of the students. A tiny model shows that batches, padding and sampling are right; vLLM has a stand-in, and the
endpoint is a server on loopback.
"""

import copy
import math
import sys
import types
from contextlib import closing
from dataclasses import fields

import pytest
import torch
from conftest import build_model
from scripted_student import QUESTIONS, config
from teacher import Response, Teacher
from transformers import GenerationConfig

from edit_trl.chat import EndpointError
from edit_trl.evaluation import EndpointStudent, Generation, GenerationSettings, LocalStudent, VLLMStudent, evaluate
from edit_trl.evaluation.students import STOP
from edit_trl.questions import student_prompt


@pytest.fixture(scope="module")
def student(tokenizer):
    return LocalStudent(build_model().eval(), tokenizer, max_new_tokens=12)


def greedy(student, prompt):
    """Token by token, with no cache, padding or batch."""
    ids = student.tokenizer(prompt)["input_ids"]
    new = []
    with torch.no_grad():
        for _ in range(student.max_new_tokens):
            token = int(student.model(torch.tensor([ids + new])).logits[0, -1].argmax())
            if token == student.tokenizer.eos_token_id:
                break
            new.append(token)
    return student.tokenizer.decode(new, skip_special_tokens=True)


PROMPTS = ["Q: What is 2 + 3?\nA:", "Q: Why?\nA:", "Q: Is it true that 7 is an odd number, or is it not?\nA:"]


class TestLocalStudent:
    def test_batch_says_what_each_prompt_alone_would(self, student):
        assert [reply.text for reply in student(PROMPTS, [0] * 3)] == [greedy(student, prompt) for prompt in PROMPTS]

    def test_replies_at_the_limit_are_cut(self, student):
        for reply in student(PROMPTS, [0] * 3):
            assert reply.num_tokens <= 12
            assert (reply.finish_reason == "length") == (reply.num_tokens == 12)

    def test_end_token_ends_a_reply(self, tokenizer):
        """Of a model that says nothing else, and of one whose own end token is another."""
        for end in (tokenizer.eos_token_id, 7):
            model = build_model()
            with torch.no_grad():
                model.lm_head.weight.zero_()
                model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
                model.lm_head.bias[end] = 9.0
            model.generation_config = GenerationConfig(eos_token_id=[7])
            replies = LocalStudent(model, tokenizer, max_new_tokens=5)(PROMPTS[:2], [0, 0])

            assert replies == [Generation("", "stop", 1)] * 2

    def test_samples_differ_and_come_again(self, student):
        sampling = LocalStudent(student.model, student.tokenizer, max_new_tokens=12, temperature=1.0, top_p=0.95)
        state = torch.get_rng_state()
        first = sampling(PROMPTS, [0, 0, 0])
        torch.manual_seed(5)

        assert sampling(PROMPTS, [0, 0, 0]) == first
        assert sampling(PROMPTS, [1, 1, 1]) != first
        torch.set_rng_state(state)
        sampling(PROMPTS, [0, 0, 0])
        assert torch.equal(torch.get_rng_state(), state)

    def test_chat_uses_the_template(self, student, tokenizer):
        plain = copy.deepcopy(tokenizer)
        plain.chat_template = None
        messages = [{"role": "user", "content": "Why?"}]
        with pytest.raises(ValueError, match="`chat` needs a tokenizer with a chat template"):
            LocalStudent(student.model, plain)([messages], [0])

        plain.chat_template = (
            "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
        )
        chatting = LocalStudent(student.model, plain, max_new_tokens=12)
        assert chatting([messages], [0])[0].text == greedy(student, "<Why?>:")

    def test_logits_that_are_not_numbers_stop_the_run(self, tokenizer):
        model = build_model()
        with torch.no_grad():
            model.lm_head.weight.fill_(math.nan)
        prompt = PROMPTS[0]

        with pytest.raises(ValueError, match=f"step {len(tokenizer(prompt)['input_ids'])} .* are NaN"):
            LocalStudent(model, tokenizer)([prompt], [0])

    def test_adapters_are_merged(self, tmp_path, model_folder, tokenizer):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(model_folder)
        adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
        adapted.save_pretrained(tmp_path / "adapter")

        student = LocalStudent.from_pretrained(str(tmp_path / "adapter"), dtype="float32", max_new_tokens=8)

        assert not any("lora" in name for name, _ in student.model.named_parameters())
        assert student.settings["model"] == str(tmp_path / "adapter")
        expected = LocalStudent(adapted.eval(), tokenizer, max_new_tokens=8)
        assert [g.text for g in student(PROMPTS, [0] * 3)] == [g.text for g in expected(PROMPTS, [0] * 3)]

    def test_unknown_model_is_refused(self):
        with pytest.raises(
            ValueError, match="must be a model or adapter in a folder or on the Hub, got 'nowhere/at-all'"
        ):
            LocalStudent.from_pretrained("nowhere/at-all")

    def test_model_is_scored_end_to_end(self, model_folder, tmp_path):
        student = LocalStudent.from_pretrained(model_folder, max_new_tokens=4)

        results = evaluate(QUESTIONS, student, config(tmp_path))

        assert results["num_questions"] == 3
        assert results["settings"]["model"] == model_folder
        assert results["tokens_per_second"] > 0


class TestVLLM:
    def test_missing_package_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "vllm", None)
        with pytest.raises(ImportError, match="needs the `vllm` package"):
            VLLMStudent("model")

    def test_it_is_asked_with_one_seed_a_sample(self, monkeypatch, tmp_path):
        """A stand-in with the names that vLLM documents."""
        calls = []

        class LLM:
            def __init__(self, **options):
                calls.append(options)

            def generate(self, prompts, sampling, use_tqdm):
                calls.append((prompts, sampling))
                reply = types.SimpleNamespace(text="The answer is 5.", finish_reason="stop", token_ids=[1, 2, 3])
                return [types.SimpleNamespace(outputs=[reply])] * len(prompts)

        module = types.SimpleNamespace(LLM=LLM, SamplingParams=lambda **options: options)
        monkeypatch.setitem(sys.modules, "vllm", module)
        student = VLLMStudent("model", max_new_tokens=64, temperature=0.7, top_p=0.95, options={"max_model_len": 512})

        results = evaluate(QUESTIONS[:1], student, config(tmp_path, num_paths=2))

        assert calls[0] == {"model": "model", "seed": 42, "max_model_len": 512}
        prompts, sampling = calls[1]
        assert prompts == [student_prompt(QUESTIONS[0]["question"])] * 2
        assert sampling == [
            {"max_tokens": 64, "temperature": 0.7, "top_p": 0.95, "seed": 42 + i, "stop": [STOP]} for i in (0, 1)
        ]
        assert results["accuracy"] == 1.0


class TestEndpointStudent:
    def test_endpoint_is_asked_with_the_generation_settings(self):
        """One seed a sample. Greedy replies need no `top_p`, which not every endpoint takes."""
        options = {"max_new_tokens": 64, "top_p": 0.95, "seed": 7}
        with Teacher(lambda request, number: " The answer is 5.") as teacher:
            for temperature, top_p in ((0.7, 0.95), (0.0, None)):
                student = EndpointStudent.from_url("served", teacher.url, temperature=temperature, **options)
                with closing(student.client):
                    replies = student(["2 + 3?", [{"role": "user", "content": "2 + 3?"}]], [0, 1])

                assert replies == [Generation("The answer is 5.", "stop", 10)] * 2
                requests = sorted(teacher.requests, key=lambda request: request["seed"])
                teacher.requests.clear()
                expected = {"model": "served", "temperature": temperature, "max_tokens": 64, "top_p": top_p}
                assert [request["seed"] for request in requests] == [7, 8]
                for request in requests:
                    assert {name: request.get(name) for name in expected} == expected
                    assert request["messages"] == [{"role": "user", "content": "2 + 3?"}]

    def test_replies_come_from_the_store(self, tmp_path):
        with Teacher(lambda request, number: "5") as teacher:
            for _ in range(2):
                student = EndpointStudent.from_url("served", teacher.url, store=str(tmp_path / "replies.sqlite"))
                with closing(student.client):
                    student(["2 + 3?"], [0])

        assert len(teacher.requests) == 1

    def test_endpoint_that_fails_ends_the_run(self):
        with Teacher(lambda request, number: Response({"error": {"message": "no such model"}}, 404)) as teacher:
            student = EndpointStudent.from_url("served", teacher.url)
            with closing(student.client), pytest.raises(EndpointError, match="knows no model 'served'"):
                student(["2 + 3?"], [0])


class TestGenerationSettings:
    def test_students_of_every_kind_begin_with_the_same(self, monkeypatch, tokenizer):
        monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=lambda **options: None))
        defaults = {"max_new_tokens": 512, "temperature": 0.0, "top_p": 1.0, "seed": 42}
        local, vllm = LocalStudent(build_model(), tokenizer, name="student"), VLLMStudent("student")

        assert GenerationSettings().generation_settings == defaults
        assert local.settings == {"model": "student", **defaults}
        assert vllm.settings == {"backend": "vllm", "model": "student", **defaults}
        with closing(EndpointStudent.from_url("student", "http://localhost:8000/v1").client) as client:
            assert EndpointStudent(client).settings == {
                "base_url": "http://localhost:8000/v1",
                "model": "student",
                "temperature": 0.0,
                "top_p": None,
                "max_tokens": 512,
                "seed": 42,
                "extra_body": None,
            }

    def test_are_passed_by_name(self, student):
        with pytest.raises(TypeError, match="positional arguments"):
            LocalStudent(student.model, student.tokenizer, 12)

    def test_each_has_a_help_text(self):
        assert all(setting.metadata["help"] for setting in fields(GenerationSettings))
