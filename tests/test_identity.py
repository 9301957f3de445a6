"""Tests of what identifies a student: a changed byte makes another student, another name does not."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from cli_fixtures import own_folder_fixture, read_only_line  # noqa: F401
from conftest import build_model
from dual_cot_teacher import one_ssl_context, time_limit  # noqa: F401
from scripted_student import QUESTIONS, Scripted, config, lines
from teacher import Teacher

from edit_trl.cli import main
from edit_trl.evaluation import EvaluationConfig, Generation, LocalStudent, evaluate
from edit_trl.evaluation.identity import differences, hash_of_model, name_of_weights
from edit_trl.evaluation.students import DeferredStudent


FLAGS = ["--dataset", "questions.jsonl", "--max_new_tokens", "4"]


def adapter(base: str, folder: str, seed: int = 0) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False)).save_pretrained(folder)


def loaded_too_early(*_, **__):
    raise AssertionError("the model was loaded")


@pytest.fixture
def student(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "student"))


class TestFiles:
    def test_changed_byte_of_any_file_that_matters_is_another_student(self, student):
        """With the same size and the same time."""
        before = name_of_weights(str(student))
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(before)
        for name in before:
            path = student / name
            content, times = path.read_bytes(), path.stat()
            path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

            assert differences(before, name_of_weights(str(student))) == [name]
            path.write_bytes(content)
        assert name_of_weights(str(student)) == before

    def test_new_chat_template_is_another_student(self, student):
        before = name_of_weights(str(student))
        (student / "additional_chat_templates").mkdir()
        (student / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
        assert differences(before, name_of_weights(str(student))) == ["additional_chat_templates/tools.jinja"]

    def test_what_training_and_evaluation_leave_does_not_matter(self, student):
        before = name_of_weights(str(student))
        (student / "checkpoint-10").mkdir()
        files = ("trainer_state.json", "training_args.bin", "optimizer.pt", "rng_state_0.pth", "README.md")
        for name in (*files, "generations.jsonl", "results.json", "settings.json", "checkpoint-10/model.safetensors"):
            (student / name).write_text("{}")
        assert name_of_weights(str(student)) == before

    def test_copy_is_the_same_student(self, student, model_folder):
        assert name_of_weights(str(student)) == name_of_weights(model_folder)

    def test_adapter_is_known_by_its_base_too(self, student, tmp_path):
        folder = str(tmp_path / "adapter")
        adapter(str(student), folder)
        before = name_of_weights(folder)
        assert {"adapter_config.json", "adapter_model.safetensors", "base"} <= set(before)
        build_model(seed=5).save_pretrained(student)
        assert differences(before, name_of_weights(folder)) == ["base model's model.safetensors"]

    def test_model_on_the_hub_is_known_by_its_commit(self, model_folder, tmp_path, monkeypatch):
        """In the cache of the Hub, as it is without a network."""
        cache = tmp_path / "hub"
        for commit in ("a" * 40, "b" * 40):
            shutil.copytree(model_folder, cache / "models--lab--tiny" / "snapshots" / commit)
        (cache / "models--lab--tiny" / "refs").mkdir()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
        for commit in ("a" * 40, "b" * 40):
            (cache / "models--lab--tiny" / "refs" / "main").write_text(commit)
            assert name_of_weights("lab/tiny") == {"commit": commit}

    @pytest.mark.parametrize("name", ["nowhere", "lab/nowhere", "."])
    def test_what_is_no_model_is_refused(self, name):
        with pytest.raises(ValueError, match=f"must be a model or adapter in a folder or on the Hub, got '{name}'"):
            name_of_weights(name)


class TestMemory:
    def test_each_part_of_a_model_matters_and_its_use_does_not(self, tokenizer):
        model = build_model()
        before = hash_of_model(model, tokenizer)
        LocalStudent(model, tokenizer, max_new_tokens=2)(["Why?", "Why is it so?"], [0, 0])
        assert hash_of_model(model, tokenizer) == before == hash_of_model(build_model(), tokenizer)

        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1e-3
        assert differences(before, hash_of_model(model, tokenizer)) == ["tensors"]
        assert differences(before, hash_of_model(build_model().to(torch.bfloat16), tokenizer))[0] == "tensors"

    def test_training_in_memory_makes_another_student(self, tokenizer, tmp_path):
        """Its name stays that with which it was loaded."""
        student = LocalStudent(build_model(), tokenizer, name="student", max_new_tokens=2)
        evaluate(QUESTIONS, student, config(tmp_path))
        evaluate(QUESTIONS, student, config(tmp_path))
        with torch.no_grad():
            student.model.lm_head.weight.mul_(-1)

        with pytest.raises(ValueError, match="has those of other weights: tensors changed. Pass another `output_dir`"):
            evaluate(QUESTIONS, student, config(tmp_path))

    def test_student_known_in_another_way_is_told(self, model_folder, capsys):
        assert main(["evaluate", model_folder, *FLAGS, "--output_dir", "scores"]) == 0
        student = LocalStudent.from_pretrained(model_folder, max_new_tokens=4)
        with pytest.raises(ValueError, match="known by its files .* known by its tensors in memory"):
            evaluate(QUESTIONS, student, EvaluationConfig("scores"))


class TestReuse:
    def evaluate(self, student, *flags, output_dir="scores"):
        return main(["evaluate", str(student), *FLAGS, "--output_dir", output_dir, *flags])

    def test_retrained_student_does_not_get_the_scores_of_the_old_one(self, student, capsys):
        assert self.evaluate(student) == 0
        before = Path("scores/generations.jsonl").read_bytes()
        build_model(seed=9).save_pretrained(student)
        capsys.readouterr()

        assert self.evaluate(student) == 1

        line = read_only_line(capsys)
        assert "'scores' has those of other weights: model.safetensors changed. Pass another `output_dir`" in line
        assert Path("scores/generations.jsonl").read_bytes() == before
        assert self.evaluate(student, output_dir="scores_2") == 0
        assert Path("scores_2/generations.jsonl").read_bytes() != before

    def test_what_is_used_again_is_said_and_nothing_is_loaded_for_it(self, student, capsys, caplog, monkeypatch):
        assert self.evaluate(student) == 0
        assert "Replies: 0 used again, 6 generated." in capsys.readouterr().out
        monkeypatch.setattr(LocalStudent, "from_pretrained", loaded_too_early)
        moved = student.rename(student.with_name("moved"))

        assert self.evaluate(moved, "--limit", "4") == 0

        out = capsys.readouterr().out
        said = "4 of 4 replies are in scores/generations.jsonl (the same weights and prompts) and are used again. "
        assert said + "Kept there and not used: 2 to questions not asked now." in caplog.text
        assert "Replies: 4 used again, 0 generated." in out
        assert "moved" in out  # the table has the name of now

    @pytest.mark.parametrize(
        "flags",
        [["--max_new_tokens", "5"], ["--dtype", "bfloat16"], ["--seed", "1"], ["--task_description", "Think."]],
    )
    def test_other_settings_are_refused(self, flags, student, capsys):
        assert self.evaluate(student) == 0
        assert self.evaluate(student, *flags) == 1
        assert f"made with other settings: `{flags[0][2:]}=" in capsys.readouterr().err

    def test_changed_prompt_is_asked_again(self, tmp_path):
        """Of one question, whose description changed. Its old reply is kept."""
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        again = Scripted()

        results = evaluate([{**QUESTIONS[0], "task_description": "Add."}, *QUESTIONS[1:]], again, config(tmp_path))

        assert again.asked == [(QUESTIONS[0]["question"], 0)]
        assert results["replies"] == {"reused": 2, "generated": 1}
        assert len(lines(tmp_path / "scores")) == 4

    def test_changed_answer_is_judged_again(self, tmp_path, caplog):
        first = evaluate(QUESTIONS, Scripted(), config(tmp_path))
        again = Scripted()

        results = evaluate([{**QUESTIONS[0], "answer": "6"}, *QUESTIONS[1:]], again, config(tmp_path))

        assert again.asked == [] and results["accuracy"] == pytest.approx(2 / 3)
        assert results["questions"]["hash"] != first["questions"]["hash"]
        assert "3 of 3 replies are in" in caplog.text and "the same settings and prompts" in caplog.text

    def test_endpoint_is_known_by_its_url_and_model(self, capsys):
        pytest.importorskip("openai")
        with Teacher(lambda *_: "The answer is 5.") as one, Teacher(lambda *_: "The answer is 5.") as other:
            for server, model, code in ((one, "a", 0), (one, "a", 0), (other, "a", 1), (one, "b", 1)):
                assert self.evaluate(model, "--base_url", server.url) == code
            assert "made with other settings: `model='a'`, now 'b'" in capsys.readouterr().err
            assert len(one.requests) == 6 and not other.requests
            Path("scores/generations.jsonl").unlink()
            capsys.readouterr()
            assert self.evaluate("a", "--base_url", one.url) == 0
            assert "6 of the generated replies were in replies.sqlite; no request" in capsys.readouterr().out
            assert len(one.requests) == 6

    def test_folder_of_the_first_release_is_refused_with_what_to_do(self, student, capsys):
        """It says which model by its name only."""
        assert self.evaluate(student) == 0
        old = {"model": str(student), "max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "seed": 42}
        Path("scores/settings.json").write_text(json.dumps({**old, "chat": False, "task_description": ""}))
        capsys.readouterr()

        assert self.evaluate(student) == 1
        line = read_only_line(capsys)
        assert "those in 'scores' are of release 0.1 and do not" in line
        assert "`edit-trl score scores/generations.jsonl` scores these replies" in line

    def test_settings_bind_only_when_there_is_a_reply(self, student, tmp_path):
        """After a first run that failed before it, with wrong settings."""
        with pytest.raises(KeyboardInterrupt):
            evaluate(QUESTIONS, Scripted(fail_after=0), config(tmp_path, task_description="Wrong."))
        evaluate(QUESTIONS, Scripted(), config(tmp_path))
        assert json.loads((tmp_path / "scores" / "settings.json").read_text())["task_description"] == ""


class TestBeforeTheModelIsLoaded:
    """All that can be wrong is found before a model is loaded, which would take minutes."""

    @pytest.fixture(autouse=True)
    def no_model(self, monkeypatch):
        monkeypatch.setattr(LocalStudent, "from_pretrained", loaded_too_early)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--compare", "nowhere"], "A run to compare must be the `output_dir` of one that was scored"),
            (["--compare", "foreign"], "A run to compare must be the `output_dir` of one that was scored"),
            (["--compare", "others"], "`--compare` must be a run on the same questions, but 'others' was asked none"),
            (["--compare", "others", "--output_dir", "others"], "`--compare` must be the folder of another run"),
            (["--output_dir", "foreign"], "'foreign/results.json' is not of one. It would be replaced"),
            (["--output_dir", "questions.jsonl"], "`output_dir` must be a folder that can be written to"),
            (["--output_dir", "questions.jsonl/x"], "`output_dir` must be a folder that can be written to"),
            (["--dataset", "others/generations.jsonl", "--output_dir", "others"], "must not be a file that is read"),
            (["--num_paths", "4"], "`num_paths=4` needs a temperature above zero"),
            (["--chat"], "`chat` needs a tokenizer with a chat template"),
            (["--dtype", "float99"], "`dtype` must be 'auto' or the name of a type of torch"),
            (["--dataset", "no_answer.csv"], "a text `answer`, but 1 of 2 have none, the first in rows 1"),
        ],
    )
    def test_what_cannot_work_is_refused(self, flags, message, student, capsys):
        evaluate([{"question": "1 + 1?", "answer": "2"}], Scripted(lambda *_: "2"), EvaluationConfig("others"))
        Path("foreign").mkdir()
        Path("foreign/results.json").write_text("mine")
        Path("no_answer.csv").write_text("question,answer,task\n1+1?,2,\n2+2?,,sum\n")
        settings = json.loads((student / "tokenizer_config.json").read_text())
        settings.pop("chat_template", None)
        (student / "tokenizer_config.json").write_text(json.dumps(settings))
        (student / "chat_template.jinja").unlink(missing_ok=True)
        before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
        capsys.readouterr()

        assert main(["evaluate", str(student), *FLAGS, "--output_dir", "scores", *flags]) == 1

        assert message in read_only_line(capsys)
        assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before

    def test_deferred_student_is_loaded_once(self):
        calls = []

        def load():
            calls.append("load")
            return lambda prompts, samples: [Generation("5", "stop", 1)] * len(prompts)

        student = DeferredStudent(load, {"model": "a"}, {"file": "1"})
        assert calls == []
        assert [student(["a", "b"], [0, 0])[1].text, student(["a"], [0])[0].text] == ["5", "5"]
        assert calls == ["load"] and "vllm" not in sys.modules
