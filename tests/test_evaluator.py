"""
Tests of the evaluation run: what a student is asked, that nothing is generated twice, and what is made of its replies. Tiny
models show that batches, padding and sampling are right, scripted students what scores must come out.
"""

import copy
import json
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import build_model
from transformers import GenerationConfig

from edit_trl.evaluation import EvaluationConfig, Generation, LocalStudent, evaluate
from edit_trl.evaluation.evaluator import STOP, VLLMStudent
from edit_trl.questions import student_prompt


QUESTIONS = [
    {"question": "What is 2 + 3?", "answer": "5", "task": "sum"},
    {"question": "What is 4 + 4, all in all?", "answer": "8", "task": "sum"},
    {"question": "Is 7 odd?", "answer": "yes", "task": "odd"},
]
RIGHT = {"What is 2 + 3?": "5", "What is 4 + 4, all in all?": "8", "Is 7 odd?": "yes"}


class Scripted:
    """A student that replies what it is told, and remembers what it was asked."""

    def __init__(
        self, reply=lambda question, sample: f"Therefore, the answer is {RIGHT[question]}.", fail_after=math.inf
    ):
        self.reply, self.fail_after = reply, fail_after
        self.asked = []

    def __call__(self, prompts, samples):
        if len(self.asked) + len(prompts) > self.fail_after:
            raise KeyboardInterrupt
        generations = []
        for prompt, sample in zip(prompts, samples, strict=True):
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            question = text.split("Q: ")[1].removesuffix("\nA:")
            self.asked.append((question, sample))
            reply = self.reply(question, sample)
            generations.append(reply if isinstance(reply, Generation) else Generation(reply, "stop", 7))
        return generations


def lines(folder):
    return [json.loads(line) for line in Path(folder, "generations.jsonl").read_text(encoding="utf-8").splitlines()]


def config(tmp_path, **options):
    return EvaluationConfig(output_dir=str(tmp_path / "scores"), **options)


class TestEvaluate:
    def test_answers_are_read_and_scored_by_task(self, tmp_path):
        def reply(question, sample):
            return {
                "What is 2 + 3?": Generation("2 + 3 = 5. Therefore, the answer is 5.", "stop", 12),
                "What is 4 + 4, all in all?": Generation("It is hard to say, and I", "length", 9),
                "Is 7 odd?": Generation("So the answer is no.", "stop", 5),
            }[question]

        results = evaluate(QUESTIONS, Scripted(reply), config(tmp_path))

        assert results["num_questions"] == 3
        assert results["accuracy"] == pytest.approx(1 / 3)
        assert results["macro_accuracy"] == pytest.approx((1 / 2 + 0) / 2)
        assert results["unparsed_rate"] == results["cut_rate"] == pytest.approx(1 / 3)
        assert results["tasks"]["sum"]["accuracy"] == 0.5
        assert results["tasks"]["sum"]["unparsed_rate"] == 0.5
        assert results["tasks"]["odd"]["accuracy"] == 0.0
        for scores in (results, *results["tasks"].values()):
            low, high = scores["interval"]
            assert 0 <= low <= scores["accuracy"] <= high <= 1
        assert json.loads(Path(tmp_path, "scores", "results.json").read_text()) == json.loads(json.dumps(results))

    def test_every_generation_is_kept_with_its_verdict(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path, num_paths=2))

        rows = sorted(lines(tmp_path / "scores"), key=lambda row: (row["question"], row["sample"]))
        assert rows == [
            {
                **question,
                "sample": sample,
                "text": f"Therefore, the answer is {question['answer']}.",
                "finish_reason": "stop",
                "num_tokens": 7,
                "extracted": question["answer"],
                "is_right": True,
            }
            for question in sorted(QUESTIONS, key=lambda row: row["question"])
            for sample in (0, 1)
        ]

    def test_reply_ends_where_the_student_asks_the_next_question(self, tmp_path):
        text = f"The answer is 5.{STOP} What is 9 + 9?\nA: The answer is 18."

        results = evaluate(QUESTIONS[:1], Scripted(lambda *_: text), config(tmp_path))

        assert results["accuracy"] == 1.0

    def test_students_see_the_prompt_of_training_or_messages(self, tmp_path):
        prompts = []

        def student(batch, samples):
            prompts.extend(batch)
            return [Generation("5", "stop", 1)] * len(batch)

        rows = [QUESTIONS[0], {**QUESTIONS[1], "task_description": "Own."}]
        evaluate(rows, student, config(tmp_path, task_description="Add."))
        evaluate(rows[:1], student, EvaluationConfig(output_dir=str(tmp_path / "chat"), chat=True))

        assert prompts == [
            student_prompt(rows[1]["question"], "Own."),  # the longest first
            student_prompt(rows[0]["question"], "Add."),
            [{"role": "user", "content": student_prompt(rows[0]["question"])}],
        ]

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_batches_are_no_larger_than_asked_for(self, batch_size, tmp_path):
        sizes = []

        def student(batch, samples):
            sizes.append(len(batch))
            return [Generation("The answer is 5.", "stop", 1)] * len(batch)

        evaluate(QUESTIONS, student, config(tmp_path, batch_size=batch_size, num_paths=3))

        assert sum(sizes) == 9 and max(sizes) == min(batch_size, 9)

    def test_majority_of_the_paths_is_the_answer(self, tmp_path):
        def reply(question, sample):
            return f"The answer is {[RIGHT[question], '1', RIGHT[question], '2'][sample]}."

        results = evaluate(QUESTIONS, Scripted(reply), config(tmp_path, num_paths=4))

        assert results["accuracy"] == 1.0
        assert results["single_path_accuracy"] == 0.5
        assert results["pass_at_k"]["1"] == pytest.approx(0.5)
        assert results["pass_at_k"]["2"] == pytest.approx(1 - 1 / 6)  # of six pairs of paths one has two wrong ones
        assert results["pass_at_k"]["4"] == 1.0

    def test_progress_counts_replies(self, tmp_path):
        calls = []

        evaluate(QUESTIONS, Scripted(), config(tmp_path, batch_size=2, num_paths=2), lambda *call: calls.append(call))

        assert calls == [(2, 6), (4, 6), (6, 6)]


class TestResume:
    @pytest.mark.parametrize("fail_after", [0, 2, 4, 6])
    def test_interrupted_run_generates_nothing_twice(self, fail_after, tmp_path):
        options = config(tmp_path, batch_size=2, num_paths=3)
        whole = evaluate(QUESTIONS, Scripted(), EvaluationConfig(str(tmp_path / "whole"), 3, 2))
        first, second = Scripted(fail_after=fail_after), Scripted()
        with pytest.raises(KeyboardInterrupt):
            evaluate(QUESTIONS, first, options)

        results = evaluate(QUESTIONS, second, options)

        assert len(first.asked) == fail_after
        assert sorted(first.asked + second.asked) == sorted(
            (row["question"], i) for row in QUESTIONS for i in range(3)
        )
        names = [name for name in whole if name not in ("tokens_per_second", "settings")]
        assert {name: results[name] for name in names} == {name: whole[name] for name in names}

    def test_torn_last_line_is_generated_again(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        content = path.read_bytes()
        path.write_bytes(content[:-20])
        again = Scripted()

        evaluate(QUESTIONS, again, config(tmp_path))

        assert len(again.asked) == 1
        assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())

    def test_line_that_cannot_be_read_is_named(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        path.write_bytes(b"{oops\n" + path.read_bytes())

        with pytest.raises(ValueError, match="must hold a generation per line.*oops"):
            evaluate(QUESTIONS, Scripted(), config(tmp_path))

    def test_finished_run_asks_nothing_and_reads_again(self, tmp_path):
        """What can be read changes with the package; the replies do not."""
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        path = tmp_path / "scores" / "generations.jsonl"
        path.write_text(path.read_text().replace('"is_right": true', '"is_right": false'))
        again = Scripted()

        results = evaluate(QUESTIONS, again, config(tmp_path))

        assert again.asked == []
        assert results["accuracy"] == 1.0
        assert "tokens_per_second" not in results

    def test_more_questions_and_paths_ask_for_the_rest(self, tmp_path):
        evaluate(QUESTIONS[:2], Scripted(), config(tmp_path))
        more = Scripted()

        evaluate(QUESTIONS, more, config(tmp_path, num_paths=2))

        known = {(row["question"], 0) for row in QUESTIONS[:2]}
        assert set(more.asked) == {(row["question"], i) for row in QUESTIONS for i in (0, 1)} - known

    def test_other_settings_are_refused(self, tmp_path):
        evaluate(QUESTIONS, Scripted(), config(tmp_path))

        with pytest.raises(ValueError, match="made with other settings: `task_description=''`, now 'Add.'"):
            evaluate(QUESTIONS, Scripted(), config(tmp_path, task_description="Add."))


class TestBadInput:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "at least one question"),
            ([{"question": "Why?"}], "a text `answer`"),
            ([{"query": "Why?", "answer": "5"}], "a text `question`"),
            ([QUESTIONS[0], QUESTIONS[0]], "Each question must be there once"),
        ],
    )
    def test_questions_are_checked(self, rows, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            evaluate(rows, Scripted(), config(tmp_path))

    @pytest.mark.parametrize("options", [{"num_paths": 0}, {"batch_size": 0}])
    def test_options_that_cannot_work_are_refused(self, options):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            EvaluationConfig(**options)

    def test_greedy_paths_are_refused(self, tmp_path, tokenizer):
        with pytest.raises(ValueError, match="`num_paths=8` needs a temperature above zero"):
            evaluate(QUESTIONS, LocalStudent(build_model(), tokenizer), config(tmp_path, num_paths=8))


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
        sampling = LocalStudent(student.model, student.tokenizer, 12, temperature=1.0, top_p=0.95)
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

        assert not hasattr(student.model, "peft_config")
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
        student = VLLMStudent("model", 64, 0.7, 0.95, options={"max_model_len": 512})

        results = evaluate(QUESTIONS[:1], student, config(tmp_path, num_paths=2))

        assert calls[0] == {"model": "model", "seed": 42, "max_model_len": 512}
        prompts, sampling = calls[1]
        assert prompts == [student_prompt(QUESTIONS[0]["question"])] * 2
        assert sampling == [
            {"max_tokens": 64, "temperature": 0.7, "top_p": 0.95, "seed": 42 + i, "stop": [STOP]} for i in (0, 1)
        ]
        assert results["accuracy"] == 1.0
