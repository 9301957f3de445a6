"""
Tests of the benchmarks of the paper: on copies of the Hub's datasets with invented questions, in their columns,
configurations and splits. Those of the tasks for lm-evaluation-harness are skipped where it is not installed.
"""

import json
import re
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from conftest import build_model
from pyarrow import parquet

from edit_trl.evaluation import (
    EvaluationConfig,
    Generation,
    LocalStudent,
    compare_runs,
    evaluate_benchmarks,
    print_results,
)
from edit_trl.evaluation.benchmarks import BENCHMARKS, harness_tasks
from edit_trl.evaluation.identity import hash_of_prompt
from edit_trl.install_hint import install_hint


NAVIGATE = [
    {
        "input": "If you follow these instructions, do you return to the starting point? Take 2 steps. Turn around. "
        "Take 2 steps.\nOptions:\n- Yes\n- No",
        "target": "Yes",
    },
    {
        "input": "If you follow these instructions, do you return to the starting point? Take 5 steps.\n"
        "Options:\n- Yes\n- No",
        "target": "No",
    },
]
DATES = [
    {
        "input": "Today is Feb 2, 2031. What is the date tomorrow in MM/DD/YYYY?\nOptions:\n"
        "(A) 02/03/2031\n(B) 02/01/2031",
        "target": "(A)",
    },
    {
        "input": "Today is May 9, 2031. What is the date yesterday in MM/DD/YYYY?\nOptions:\n"
        "(A) 05/10/2031\n(B) 05/08/2031",
        "target": "(B)",
    },
    {
        "input": "Today is May 1, 2031. What is the date tomorrow in MM/DD/YYYY?\nOptions:\n"
        "(A) 05/03/2031\n(B) 05/02/2031",
        "target": "(B)",
    },
]
SAT_MATH = [
    {
        "query": "Q: If $2x = 6$, what is $x$? Answer Choices: (A)2 (B)3 (C)6 (D)12\n"
        "A: Among A through D, the answer is",
        "choices": ["(A)2", "(B)3", "(C)6", "(D)12"],
        "gold": [1],
    }
]
LSAT_AR = [
    {
        "query": "Ann, Ben and Cy queue. Ben is first.Q: Who can be second? Answer Choices: (A)only Ben (B)Ann or Cy "
        "(C)nobody\nA: Among A through C, the answer is",
        "choices": ["(A)only Ben", "(B)Ann or Cy", "(C)nobody"],
        "gold": [1],
    }
]
ARC_EASY = [
    {
        "id": "E_1",
        "question": "Which of these melts in the sun?",
        "choices": {"text": ["a stone", "a snowman"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    {
        "id": "E_2",
        "question": "How many legs has a spider?",
        "choices": {"text": ["six", "ten", "eight"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
]
ARC_CHALLENGE = [
    {
        "id": "C_1",
        "question": "Which force keeps the Moon near the Earth?",
        "choices": {"text": ["gravity", "friction", "magnetism", "drag"], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
    }
]
GSM8K = [
    {
        "question": "A box holds 500 nails. How many do 3 boxes hold?",
        "answer": "3 boxes hold 3*500=<<3*500=1500>>1500 nails.\n#### 1,500",
    }
]
# Datasets of the Hub by name and configuration.
HUB = {
    ("SaylorTwift/bbh", "navigate"): NAVIGATE,
    ("SaylorTwift/bbh", "date_understanding"): DATES,
    ("hails/agieval-sat-math", None): SAT_MATH,
    ("hails/agieval-lsat-ar", None): LSAT_AR,
    ("allenai/ai2_arc", "ARC-Easy"): ARC_EASY,
    ("allenai/ai2_arc", "ARC-Challenge"): ARC_CHALLENGE,
    ("openai/gsm8k", "main"): GSM8K,
}
TASKS = [
    "bbh_navigate",
    "bbh_date_understanding",
    "agieval_sat_math",
    "agieval_lsat_ar",
    "arc_easy",
    "arc_challenge",
    "gsm8k",
]
# What each task asks first, and the reference.
ASKED = {
    "bbh_navigate": (
        "Q: If you follow these instructions, do you return to the starting point? Take 2 steps. Turn around. Take 2 "
        "steps.\nOptions:\n- Yes\n- No\nA:",
        "Yes",
    ),
    "bbh_date_understanding": (
        "Q: Today is Feb 2, 2031. What is the date tomorrow in MM/DD/YYYY?\nOptions:\n"
        "(A) 02/03/2031\n(B) 02/01/2031\nA:",
        "(A) 02/03/2031",
    ),
    "agieval_sat_math": ("Q: If $2x = 6$, what is $x$?\nOptions:\n(A) 2\n(B) 3\n(C) 6\n(D) 12\nA:", "(B) 3"),
    "agieval_lsat_ar": (
        "Q: Ann, Ben and Cy queue. Ben is first.\nWho can be second?\nOptions:\n"
        "(A) only Ben\n(B) Ann or Cy\n(C) nobody\nA:",
        "(B) Ann or Cy",
    ),
    "arc_easy": ("Q: Which of these melts in the sun?\nOptions:\n(A) a stone\n(B) a snowman\nA:", "(B) a snowman"),
    "arc_challenge": (
        "Q: Which force keeps the Moon near the Earth?\nOptions:\n"
        "(A) gravity\n(B) friction\n(C) magnetism\n(D) drag\nA:",
        "(A) gravity",
    ),
    "gsm8k": ("Q: A box holds 500 nails. How many do 3 boxes hold?\nA:", "1,500"),
}
SPIDER = "Q: How many legs has a spider?\nOptions:\n(A) six\n(B) ten\n(C) eight\nA:"


def write_copies(folder: Path, hub: dict) -> str:
    """Datasets as the Hub has them: Parquet files, with configurations and splits in a README."""
    readmes: dict[str, str] = {}
    for (name, config), rows in hub.items():
        files = folder / name / (config or "data")
        files.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(rows), files / "test-00000-of-00001.parquet")
        readmes[name] = (
            readmes.get(name, "configs:\n")
            + f"- config_name: {config or 'default'}\n  data_files:\n  - split: test\n    path: {files.name}/test-*\n"
        )
    for name, text in readmes.items():
        Path(folder, name, "README.md").write_text(f"---\n{text}---\n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> str:
    return write_copies(tmp_path_factory.mktemp("hub"), HUB)


class Scripted:
    """A student that replies what it is told, and remembers what it was asked."""

    settings = {"model": "scripted", "temperature": 0.0}

    def __init__(self, replies=(), otherwise="I cannot say.", fail_after=1000, **settings):
        self.replies, self.otherwise, self.fail_after = dict(replies), otherwise, fail_after
        self.settings = {**self.settings, **settings}
        self.asked = []

    def __call__(self, prompts, samples):
        if len(self.asked) + len(prompts) > self.fail_after:
            raise KeyboardInterrupt
        generations = []
        for prompt, sample in zip(prompts, samples, strict=True):
            self.asked.append((prompt, sample))
            reply = self.replies.get(prompt if isinstance(prompt, str) else prompt[0]["content"], self.otherwise)
            reply = reply[sample] if isinstance(reply, list) else reply
            generations.append(reply if isinstance(reply, Generation) else Generation(reply, "stop", 5))
        return generations


def options(tmp_path, **values):
    return EvaluationConfig(output_dir=str(tmp_path / "scores"), **values)


def lines(tmp_path):
    text = (tmp_path / "scores" / "generations.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def asked(name, copies, tmp_path):
    """Prompts of a task with their references."""
    evaluate_benchmarks(Scripted(), [name], options(tmp_path), data_dir=copies)
    return {line["question"]: line["answer"] for line in lines(tmp_path)}


class TestQuestions:
    @pytest.mark.parametrize("name", TASKS)
    def test_prompt_and_reference(self, name, copies, tmp_path):
        prompt, reference = ASKED[name]
        assert asked(name, copies, tmp_path)[prompt] == reference

    def test_numbers_as_labels_become_letters(self, copies, tmp_path):
        assert asked("arc_easy", copies, tmp_path)[SPIDER] == "(C) eight"

    def test_option_whose_text_names_options_is_referred_to_by_its_letter(self, tmp_path):
        """`"(B) (A) only"` could be read as (A)."""
        row = {**ARC_CHALLENGE[0], "choices": {"text": ["one", "(A) only"], "label": ["A", "B"]}, "answerKey": "B"}
        copies = write_copies(tmp_path, {("allenai/ai2_arc", "ARC-Challenge"): [row]})
        assert list(asked("arc_challenge", copies, tmp_path).values()) == ["(B)"]

    def test_copies_in_another_folder_are_other_questions(self, copies, tmp_path, monkeypatch):
        """Though the folder of the dataset is called the same. The user's cache stays as it is."""
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        other = write_copies(
            tmp_path / "hub", {("openai/gsm8k", "main"): [{"question": "1 + 1?", "answer": "#### 2"}]}
        )

        assert asked("gsm8k", copies, tmp_path / "one") == dict([ASKED["gsm8k"]])
        assert asked("gsm8k", other, tmp_path / "other") == {"Q: 1 + 1?\nA:": "2"}
        assert asked("gsm8k", copies, tmp_path / "again") == dict([ASKED["gsm8k"]])
        assert not (tmp_path / "cache").exists()

    def test_come_from_the_hub_by_default(self, tmp_path, monkeypatch):
        calls = []

        def load_dataset(*names, **options):
            calls.append((*names, options))
            return datasets.Dataset.from_list(GSM8K)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

        assert asked("gsm8k", None, tmp_path) == dict([ASKED["gsm8k"]])
        assert calls == [("openai/gsm8k", "main", {"split": "test"})]

    def test_of_a_benchmark_that_there_is_not(self):
        with pytest.raises(ValueError, match="`benchmarks` must be among bbh, agieval, .*, got 'mmlu'"):
            evaluate_benchmarks(Scripted(), ["mmlu"])

    def test_empty_list_of_benchmarks_is_refused(self):
        with pytest.raises(ValueError, match="must name at least one"):
            evaluate_benchmarks(Scripted(), [])

    def test_missing_dataset_is_an_error_before_any_file(self, tmp_path):
        with pytest.raises(
            ValueError,
            match="'gsm8k' needs the dataset '.*openai/gsm8k', configuration 'main'.*no such folder.*`data_dir`",
        ):
            asked("gsm8k", str(tmp_path), tmp_path)
        assert not (tmp_path / "scores").exists()

    def test_of_a_dataset_that_has_changed(self, tmp_path):
        rows = [{"query": "What is 1 + 1?", "choices": ["(A)2"], "gold": [0]}]
        copies = write_copies(tmp_path, {("hails/agieval-sat-math", None): rows})
        with pytest.raises(ValueError, match="must have a `query` of AGIEval.*got 'What is 1 \\+ 1\\?'"):
            asked("agieval_sat_math", copies, tmp_path)

    def test_of_a_question_with_two_right_answers(self, tmp_path):
        copies = write_copies(tmp_path, {("hails/agieval-sat-math", None): [{**SAT_MATH[0], "gold": [0, 1]}]})
        with pytest.raises(ValueError, match=r"and one right answer.*`gold=\[0, 1\]`"):
            asked("agieval_sat_math", copies, tmp_path)


class TestEvaluateBenchmarks:
    def test_prompts_scores_and_averages(self, copies, tmp_path, capsys):
        """
        Of two questions of `navigate`, the first is right; of three of `date_understanding`, the first (by its text)
        and the last: 3 of 5, or (1/2 + 2/3) / 2 as the tasks' mean. AGIEval: one right, one truncated without an
        answer. ARC-Easy: one right, one wrong. ARC-Challenge: right. GSM8K: right.
        """
        (first, second), dates = NAVIGATE, [f"Q: {row['input']}\nA:" for row in DATES]
        replies = {
            f"Q: {first['input']}\nA:": " 2 - 2 = 0. Therefore, the answer is Yes.",
            f"Q: {second['input']}\nA:": " Therefore, the answer is Yes.",
            dates[0]: " The answer is 02/03/2031.",
            dates[1]: " The answer is (A).",
            dates[2]: " The answer is (B) 05/02/2031.",
            ASKED["agieval_sat_math"][0]: " Half of 6 is 3. The answer is (B).",
            ASKED["agieval_lsat_ar"][0]: Generation(" Ben is first, so that", "length", 8),
            ASKED["arc_easy"][0]: " The answer is (B).\nQ: And now?\nA: The answer is (A).",
            SPIDER: " The answer is (A) six.",
            ASKED["arc_challenge"][0]: " The answer is (A) gravity.",
            ASKED["gsm8k"][0]: " 3 * 500 = 1500. Therefore, the answer is 1500.",
        }
        student = Scripted(replies)
        progress = []

        results = evaluate_benchmarks(
            student,
            TASKS,
            options(tmp_path, batch_size=4),
            data_dir=copies,
            on_progress=lambda *numbers: progress.append(numbers),
        )

        assert set(student.asked) == {(prompt, 0) for prompt in replies}
        assert len(student.asked) == 11
        assert [len(prompt) for prompt, _ in student.asked] == sorted((len(p) for p in replies), reverse=True)
        assert progress == [(4, 11), (8, 11), (11, 11)]
        scores = {
            name: (row["num_right"], row["num_questions"], row["unparsed_rate"], row["truncated_rate"])
            for name, row in results["tasks"].items()
        }
        assert scores == {
            "bbh": (3, 5, 0.0, 0.0),
            "agieval": (1, 2, 0.5, 0.5),
            "arc_easy": (1, 2, 0.0, 0.0),
            "arc_challenge": (1, 1, 0.0, 0.0),
            "gsm8k": (1, 1, 0.0, 0.0),
        }
        bbh = results["tasks"]["bbh"]
        assert bbh["tasks"]["bbh_navigate"]["accuracy"] == 0.5
        assert bbh["tasks"]["bbh_date_understanding"]["accuracy"] == pytest.approx(2 / 3)
        assert bbh["macro_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert results["macro_accuracy"] == pytest.approx((3 / 5 + 1 / 2 + 1 / 2 + 1 + 1) / 5)
        assert (results["accuracy"], results["unparsed_rate"]) == (pytest.approx(7 / 11), pytest.approx(1 / 11))
        assert results["settings"]["model"] == "scripted"
        assert json.loads((tmp_path / "scores" / "results.json").read_text()) == results
        print_results(results)
        shown = capsys.readouterr().out
        assert re.search(r"bbh\s.*\b5\s.*60\.0%", shown)
        assert re.search(r"mean of the tasks\s.*72\.0%", shown)

    def test_every_generation_is_kept_with_its_verdict(self, copies, tmp_path):
        student = Scripted({SPIDER: " Eight. The answer is (C)."})

        evaluate_benchmarks(student, ["arc_easy"], options(tmp_path), data_dir=copies)

        by_prompt = {line["question"]: line for line in lines(tmp_path)}
        assert len(by_prompt) == 2
        assert by_prompt[SPIDER] == {
            "row": 1,
            "prompt": hash_of_prompt(SPIDER),
            "question": SPIDER,
            "answer": "(C) eight",
            "task": "arc_easy",
            "sample": 0,
            "text": " Eight. The answer is (C).",
            "finish_reason": "stop",
            "num_tokens": 5,
            "extracted": "(C)",
            "is_right": True,
        }
        unread = by_prompt[ASKED["arc_easy"][0]]
        assert (unread["text"], unread["extracted"], unread["is_right"]) == ("I cannot say.", None, False)

    def test_all_benchmarks_are_the_default(self, tmp_path):
        """With a copy of each of the 38 datasets and configurations."""
        rows = {
            "bbh": DATES[:1],
            "agieval": SAT_MATH,
            "arc_easy": ARC_EASY,
            "arc_challenge": ARC_CHALLENGE,
            "gsm8k": GSM8K,
        }
        hub = {}
        for benchmark, tasks in BENCHMARKS.items():
            hub.update({(task.path, task.config): rows[benchmark] for task in tasks.values()})
        student = Scripted({ASKED["bbh_date_understanding"][0]: "The answer is (A)."})

        results = evaluate_benchmarks(student, None, options(tmp_path), data_dir=write_copies(tmp_path / "hub", hub))

        assert list(results["tasks"]) == sorted(BENCHMARKS)
        assert {name: row["num_questions"] for name, row in results["tasks"].items()} == {
            "bbh": 27,
            "agieval": 8,
            "arc_easy": 2,
            "arc_challenge": 1,
            "gsm8k": 1,
        }
        assert set(results["tasks"]["bbh"]["tasks"]) == set(BENCHMARKS["bbh"])
        assert set(results["tasks"]["agieval"]["tasks"]) == set(BENCHMARKS["agieval"])
        # The same question in all tasks: asked once, counted 27 times.
        assert results["tasks"]["bbh"]["num_right"] == 27
        assert len(student.asked) == 1 + 1 + 2 + 1 + 1

    def test_interrupted_it_goes_on(self, copies, tmp_path):
        replies = {ASKED[name][0]: "The answer is 3." for name in TASKS}
        stopped, resumed, again = Scripted(replies, fail_after=6), Scripted(replies), Scripted(replies)
        with pytest.raises(KeyboardInterrupt):
            evaluate_benchmarks(stopped, TASKS, options(tmp_path, batch_size=3), data_dir=copies)

        results = evaluate_benchmarks(resumed, TASKS, options(tmp_path, batch_size=3), data_dir=copies)

        assert len(stopped.asked) == 6 and len(resumed.asked) == 5
        assert not set(stopped.asked) & set(resumed.asked)
        assert results["num_questions"] == len(lines(tmp_path)) == 11
        finished = evaluate_benchmarks(again, TASKS, options(tmp_path), data_dir=copies)
        assert again.asked == []
        assert finished["tasks"] == results["tasks"]

    def test_limit_is_for_each_task(self, copies, tmp_path):
        names = ["bbh_navigate", "bbh_date_understanding"]
        results = evaluate_benchmarks(Scripted(), names, options(tmp_path), 1, copies)
        assert results["num_questions"] == 2
        assert {line["question"] for line in lines(tmp_path)} == {
            ASKED["bbh_navigate"][0],
            ASKED["bbh_date_understanding"][0],
        }

    def test_majority_of_several_paths_is_the_answer(self, copies, tmp_path):
        """Of the three paths of GSM8K, two agree on the right answer: right by majority, 2/3 alone."""
        student = Scripted(
            {
                ASKED["gsm8k"][0]: ["The answer is 1500.", "The answer is 15.", "The answer is $1,500."],
                ASKED["arc_challenge"][0]: ["The answer is (B).", "The answer is (A).", "The answer is (B)."],
            },
            temperature=0.7,
        )

        voting = options(tmp_path, num_paths=3)
        results = evaluate_benchmarks(student, ["gsm8k", "arc_challenge"], voting, data_dir=copies)

        assert sorted(sample for _, sample in student.asked) == [0, 0, 1, 1, 2, 2]
        assert (results["tasks"]["gsm8k"]["accuracy"], results["tasks"]["arc_challenge"]["accuracy"]) == (1.0, 0.0)
        assert results["single_path_accuracy"] == pytest.approx((2 / 3 + 1 / 3) / 2)
        assert len(lines(tmp_path)) == 6

    def test_several_greedy_paths_are_refused(self, copies, tmp_path):
        with pytest.raises(ValueError, match="`num_paths=3` needs a temperature above zero"):
            evaluate_benchmarks(Scripted(), ["gsm8k"], options(tmp_path, num_paths=3), data_dir=copies)

    def test_questions_of_the_training_are_left_out(self, copies, tmp_path):
        trained_on = [f"Infer the date from context.\nQ: {DATES[0]['input']}\nA:", DATES[2]["input"]]
        student = Scripted()

        results = evaluate_benchmarks(student, ["bbh_date_understanding"], options(tmp_path), None, copies, trained_on)

        assert student.asked == [(f"Q: {DATES[1]['input']}\nA:", 0)]
        assert (results["num_questions"], results["num_left_out"]) == (1, 2)

    def test_leaving_out_all_questions_is_refused(self, copies, tmp_path):
        with pytest.raises(ValueError, match="'gsm8k'.*`leave_out` must leave a question"):
            evaluate_benchmarks(
                Scripted(), ["gsm8k"], options(tmp_path), data_dir=copies, leave_out=[f" {GSM8K[0]['question']} "]
            )

    def test_description_of_the_task_heads_the_prompt(self, copies, tmp_path):
        """BIG-Bench Hard has its own; others have that of the options."""
        student = Scripted()
        evaluate_benchmarks(
            student,
            ["bbh_navigate", "gsm8k"],
            options(tmp_path, task_description="Think."),
            1,
            copies,
            task_descriptions=True,
        )
        heads = {prompt.split("\nQ: ")[0] for prompt, _ in student.asked}
        assert heads == {
            "Given a series of navigation instructions, determine whether one would end up back at the starting "
            "point.",
            "Think.",
        }

    def test_chat_asks_with_messages(self, copies, tmp_path):
        student = Scripted({ASKED["gsm8k"][0]: "The answer is 1500."})
        results = evaluate_benchmarks(student, ["gsm8k"], options(tmp_path, chat=True), data_dir=copies)
        assert student.asked == [([{"role": "user", "content": ASKED["gsm8k"][0]}], 0)]
        assert results["accuracy"] == 1.0

    def test_generations_of_other_settings_are_not_mixed(self, copies, tmp_path):
        evaluate_benchmarks(Scripted(), ["gsm8k"], options(tmp_path), data_dir=copies)
        with pytest.raises(ValueError, match="`model='scripted'`, now 'another'"):
            evaluate_benchmarks(Scripted(model="another"), ["gsm8k"], options(tmp_path), data_dir=copies)

    def test_no_limit_below_one(self):
        with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
            evaluate_benchmarks(Scripted(), limit=0)

    def test_two_students_can_be_compared(self, copies, tmp_path):
        for name, replies in (("one", {SPIDER: "The answer is (C)."}), ("other", {})):
            config = EvaluationConfig(output_dir=str(tmp_path / name))
            evaluate_benchmarks(Scripted(replies), ["arc_easy"], config, data_dir=copies)
        comparison = compare_runs(str(tmp_path / "one"), str(tmp_path / "other"))
        assert (comparison["num_questions"], comparison["difference"]) == (2, 0.5)

    def test_model_writes_the_same_in_batches_and_one_by_one(self, copies, tmp_path, tokenizer):
        """In batches, it writes what it writes when it is asked one by one, on a benchmark of each kind."""
        student = LocalStudent(build_model(), tokenizer, max_new_tokens=6)

        results = evaluate_benchmarks(student, TASKS, options(tmp_path, batch_size=4), data_dir=copies)

        assert {name: row["num_questions"] for name, row in results["tasks"].items()} == {
            "agieval": 2,
            "arc_challenge": 1,
            "arc_easy": 2,
            "bbh": 5,
            "gsm8k": 1,
        }
        written = lines(tmp_path)
        assert len(written) == 11
        for line in written:
            (alone,) = student([line["question"]], [0])
            assert (line["text"], line["finish_reason"]) == (alone.text, alone.finish_reason)
        assert results["settings"]["max_new_tokens"] == 6


class TestHarnessTasks:
    """The same questions as tasks of lm-evaluation-harness, if it is installed."""

    @pytest.fixture
    def lm_eval(self):
        return pytest.importorskip("lm_eval")

    @pytest.fixture
    def model(self, lm_eval):
        """A model of the harness that replies like a student. Each request comes once for each path."""
        from lm_eval.api.model import LM

        class Model(LM):
            def __init__(self, student):
                super().__init__()
                self.student = student

            def generate_until(self, requests):
                assert all(request.args[1]["until"] == ["\nQ:"] for request in requests)
                counts: dict[int, int] = {}
                replies = []
                for request in requests:
                    counts[id(request)] = counts.get(id(request), -1) + 1
                    replies += self.student([request.args[0]], [counts[id(request)]])
                return [reply.text for reply in replies]

            def loglikelihood(self, requests):
                raise NotImplementedError

            loglikelihood_rolling = loglikelihood

        return Model

    @pytest.mark.parametrize("name", TASKS)
    def test_prompt_and_reference(self, name, copies, lm_eval):
        ((key, task),) = harness_tasks([name], data_dir=copies).items()
        assert key == task.task_name == f"edit_{name}"
        row = task.eval_docs[0]
        prompt = task.fewshot_context(row, num_fewshot=0)
        assert (prompt, task.doc_to_target(row)) == ASKED[name]

    def test_harness_has_the_same_metrics(self, copies, lm_eval, model):
        """ARC-Easy: one right, by its text; one that cannot be read. GSM8K: none that can be read."""
        reply = " It melts. The answer is a snowman.\nQ: 1 + 1?\nA: The answer is 2."
        student = Scripted({ASKED["arc_easy"][0]: reply}, otherwise=" Hm.")
        tasks = harness_tasks(["arc_easy", "gsm8k"], data_dir=copies)

        scores = lm_eval.evaluate(model(student), tasks, bootstrap_iters=0)["results"]

        assert (scores["edit_arc_easy"]["acc,replies"], scores["edit_arc_easy"]["unparsed,replies"]) == (0.5, 0.5)
        assert (scores["edit_gsm8k"]["acc,replies"], scores["edit_gsm8k"]["unparsed,replies"]) == (0.0, 1.0)

    @pytest.mark.parametrize("num_paths", [1, 3])
    def test_accuracy_is_that_of_our_own_evaluation(self, num_paths, copies, tmp_path, lm_eval, model):
        """On all tasks, without the questions of some training, by a student that is right on some."""
        right = {prompt: f"The answer is {reference}." for prompt, reference in ASKED.values()}
        right[SPIDER] = ["The answer is (C).", "The answer is (A).", "The answer is 8."]
        student = Scripted(right, temperature=0.7)
        leave_out = [DATES[2]["input"]]

        own = evaluate_benchmarks(student, TASKS, options(tmp_path, num_paths=num_paths), None, copies, leave_out)
        tasks = harness_tasks(TASKS, num_paths, copies, leave_out)
        scores = lm_eval.evaluate(model(student), tasks, bootstrap_iters=0)["results"]

        found = {
            name: (task["accuracy"], task["unparsed_rate"], task["num_questions"])
            for benchmark in own["tasks"].values()
            for name, task in benchmark["tasks"].items()
        }
        assert found == {
            name.removeprefix("edit_"): (row["acc,replies"], row["unparsed,replies"], len(tasks[name].eval_docs))
            for name, row in scores.items()
        }
        assert sorted(found) == sorted(TASKS)

    def test_datasets_are_those_of_the_harness(self, lm_eval):
        """Its own tasks name the same datasets and configurations."""
        folder = Path(lm_eval.__file__).parent / "tasks"

        def named(path):
            found = dict(
                re.findall(r'^"?(dataset_path|dataset_name)"?: *"?([^"\s]+)"?', path.read_text(), re.MULTILINE)
            )
            return found.get("dataset_path"), found.get("dataset_name")

        bbh_path, _ = named(folder / "bbh" / "cot_zeroshot" / "_cot_zeroshot_template_yaml")
        bbh = {(bbh_path, named(path)[1]) for path in (folder / "bbh" / "cot_zeroshot").glob("[a-z]*.yaml")}
        assert {(task.path, task.config) for task in BENCHMARKS["bbh"].values()} == bbh
        assert len(bbh) == len(BENCHMARKS["bbh"]) == 27
        agieval = {named(path)[0] for path in (folder / "agieval").glob("*.yaml")}
        assert {task.path for task in BENCHMARKS["agieval"].values()} <= agieval
        for name, file in (
            ("arc_easy", "arc/arc_easy.yaml"),
            ("arc_challenge", "arc/arc_challenge.yaml"),
            ("gsm8k", "gsm8k/gsm8k.yaml"),
        ):
            path, config = named(folder / file)
            if path is None:  # it includes the first
                path = named(folder / "arc/arc_easy.yaml")[0]
            assert (BENCHMARKS[name][name].path, BENCHMARKS[name][name].config) == (path, config)

    def test_missing_harness_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "lm_eval", None)
        monkeypatch.setitem(sys.modules, "lm_eval.api.task", None)
        with pytest.raises(ImportError, match=re.escape(f"`{install_hint('harness')}`")):
            harness_tasks()
