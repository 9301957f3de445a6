"""
`benchmarks/reproduce.py` with tiny sizes, its tasks and statistics, and its tables in the docs.
"""

import json
import math
import random
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reproduce
import reproduce_report as report
import torch
from reproduce_arms import ARMS, Own, SeedData, schedule
from reproduce_sources import draw_real, mend_by_right_chain, word_problem
from reproduce_students import build_student, generate, pack, train, unpack
from reproduce_tasks import LENGTHS, SLOTS, TASKS, build_tokenizer, draw_problems, mend, misread, reword

from edit_trl.answers import answers_match, extract_answer


ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "reproduce_small.jsonl"
DOCS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def problems(name, number=30, seed="x"):
    return draw_problems(name, number, LENGTHS, seed, set())


@pytest.mark.parametrize("name", TASKS)
class TestTasks:
    def test_chains_lead_to_their_answers(self, name):
        for problem in problems(name):
            assert answers_match(extract_answer(problem.chosen), problem.answer)
            assert extract_answer(problem.rejected) is not None
            assert not answers_match(extract_answer(problem.rejected), problem.answer)

    def test_wrong_chain_is_right_until_one_step_and_consistent_after_it(self, name):
        """Each step starts from the state that the step before it wrote, in both chains."""
        for problem in problems(name):
            for chain in (problem.chosen, problem.rejected):
                steps = [step.split()[len(SLOTS) :] for step in chain.split(" . Therefore,")[0].split(" . ")]
                assert all(before[-1] == after[0] for before, after in zip(steps, steps[1:], strict=False))
            assert sum(a != b for a, b in zip(problem.chosen.split(), problem.rejected.split(), strict=True)) >= 2

    def test_mended_chain_has_the_students_words_and_the_right_states(self, name):
        for problem in problems(name):
            assert mend(problem, problem.rejected) == problem.chosen
            other = reword(problem, random.Random(1))
            assert mend(problem, other) == other

    def test_mistake_of_reasoning_is_one_operation_that_was_not_asked_for(self, name):
        """Every step of the chain is right in itself."""
        task, rng = TASKS[name], random.Random(3)
        facts = {}  # state and operation to the next state, read from right chains
        for problem in problems(name, 1500, "facts"):
            for before, operation, after in zip(problem.states, problem.operations, problem.states[1:], strict=False):
                facts[f"{task.write_state(before)} {task.write_operation(operation)}"] = task.write_state(after)
        checked = 0
        for problem in problems(name):
            chain = misread(problem, rng)
            assert not answers_match(extract_answer(chain), problem.answer)
            steps = [step.split()[len(SLOTS) :] for step in chain.split(" . ")[:-1]]
            written = [(step[0], " ".join(step[1:-2]), step[-1]) for step in steps]
            assert len(written) == len(problem.operations)
            asked = list(map(task.write_operation, problem.operations))
            assert sum(step[1] != operation for step, operation in zip(written, asked, strict=True)) == 1
            for before, operation, after in written:
                if f"{before} {operation}" in facts:
                    assert facts[f"{before} {operation}"] == after
                    checked += 1
        assert checked > 30

    def test_words_of_a_broken_chain_are_the_teachers(self, name):
        problem = problems(name)[0]
        assert mend(problem, " so so so . Therefore, the answer is 1 .") == problem.chosen
        assert mend(problem, "") == problem.chosen

    def test_tokens_give_back_the_text(self, name):
        tokenizer = build_tokenizer()
        for problem in problems(name):
            ids = tokenizer(problem.prompt + problem.chosen)["input_ids"]
            assert tokenizer.pad_token_id not in ids
            assert tokenizer.decode(ids) == problem.prompt + problem.chosen


@pytest.fixture(scope="module")
def data() -> SeedData:
    """Eight new questions: four wrong replies of the student and a right one."""
    asked = problems("totals", 8)
    own = [Own(p, p.rejected, mend(p, p.rejected)) for p in asked[:4]] + [Own(asked[5], asked[5].chosen, None)]
    return SeedData(stage_1=problems("totals", 20, "y"), other=[], new=asked, own=own)


class TestRows:
    def test_arms_of_the_mix_repeat_the_same_chains(self, data):
        tokenizer = build_tokenizer()
        replayed = set()
        for arm in ARMS.values():
            if arm.group == "mix":
                rows = schedule(arm, data, tokenizer, 3, 4, seed=0)
                assert len(rows) == 12
                texts = [
                    tokenizer.decode(row["prompt_ids"] + row["completion_ids"][:-1])
                    if "completion_ids" in row
                    else row["prompt"] + row["completion"]
                    for row in rows[::2]
                ]
                replayed.add(tuple(texts))
        assert len(replayed) == 1
        assert set(next(iter(replayed))) <= {p.prompt + p.chosen for p in data.stage_1}

    def test_random_and_key_tokens_get_the_same_weight(self, data):
        """As many tokens as differ between the two chains, in other places."""
        rows = ARMS["mix_random"].new_rows(data, build_tokenizer(), random.Random(0))
        pairs = [row for row in rows if "chosen_ids" in row]
        assert len(pairs) == 4
        for row in pairs:
            num_key = sum(a != b for a, b in zip(row["chosen_ids"], row["rejected_ids"], strict=True))
            assert row["chosen_weights"].count(5.0) == num_key
            assert row["chosen_weights"].count(1.0) == len(row["chosen_ids"]) - num_key
            assert set(row["rejected_weights"]) == {0.0}

    def test_trainer_keeps_rows_of_both_kinds(self, data, tmp_path):
        """The first row has no rejected chain."""
        tokenizer = build_tokenizer()
        weights = []
        for name in ("mix_key", "mix_random", "mix_mended"):
            arm = ARMS[name]
            model, _ = build_student(16, 1, seed=0)
            rows = schedule(arm, data, tokenizer, 2, 8, seed=0)
            options = {"steps": 2, "batch_size": 8, "learning_rate": 1e-2, "seed": 0, "folder": str(tmp_path)}
            train(arm.trainer, model, tokenizer, rows, **options, **arm.options)
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(weights[one], weights[other])

    def test_lost_row_is_an_error(self, data, tmp_path):
        tokenizer = build_tokenizer()
        rows = [{"prompt": "Q : totals", "chosen": " 1", "rejected": " 2"}] * 3
        rows.append({"prompt": "Q : totals", "chosen": " 1", "rejected": " 1"})
        options = {"steps": 1, "batch_size": 4, "learning_rate": 1e-2, "seed": 0, "folder": str(tmp_path)}
        with pytest.raises(RuntimeError, match="must keep all 4 rows, kept 3"):
            train("edit", build_student(16, 1, seed=0)[0], tokenizer, rows, **options)


def run(folder: Path, *flags: str) -> list[dict]:
    """Run four arms of the smallest preset, and return the records."""
    paths = ["--output", str(folder / "runs.jsonl"), "--cache", str(folder / "cache")]
    arms = ["--preset", "smoke", "--seeds", "0", "--arms", "continued", "mix_key", "anchor", "dpo"]
    reproduce.main([*paths, *arms, *flags])
    return read(folder / "runs.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    run(folder)
    return folder


@pytest.mark.slow
class TestRuns:
    def test_each_arm_is_a_line(self, folder):
        records = read(folder / "runs.jsonl")
        assert [record["arm"] for record in records] == ["stage_1", "continued", "mix_key", "anchor", "dpo"]
        preset = reproduce.PRESETS["smoke"]
        for record in records[1:]:
            assert [trial["learning_rate"] for trial in record["trials"]] == list(preset.learning_rates)
            assert (record["steps"], record["chains"]) == (preset.steps, preset.steps * preset.batch_size)
            assert len(unpack(record["in_domain"], 20)) == 20
            assert 0 < record["nll"] < 2 * math.log(80)
            assert ("pass" in record) == ARMS[record["arm"]].decides

    def test_same_command_gives_the_same_cell(self, folder, tmp_path):
        """In another folder, so stage 1 is trained again as well."""
        again = run(tmp_path, "--arms", "mix_key")[-1]
        (before,) = [record for record in read(folder / "runs.jsonl") if record["arm"] == "mix_key"]
        without = [{k: v for k, v in r.items() if k not in ("seconds", "trials")} for r in (before, again)]
        assert without[0] == without[1]
        assert [t["num_right"] for t in before["trials"]] == [t["num_right"] for t in again["trials"]]

    def test_interrupted_run_goes_on(self, folder, tmp_path, capsys):
        """The last line is cut short: it alone is made again."""
        text = (folder / "runs.jsonl").read_text()
        (tmp_path / "runs.jsonl").write_text(text[:-40])
        records = run(tmp_path)
        assert [record["arm"] for record in records] == ["stage_1", "continued", "mix_key", "anchor", "dpo"]
        assert re.findall(r"^0 (\w+): ", capsys.readouterr().out, re.MULTILINE) == ["dpo"]
        assert records[-1]["nll"] == read(folder / "runs.jsonl")[-1]["nll"]

    def test_arm_in_one_run_does_not_start_from_stage_1(self, folder, tmp_path):
        """It takes the steps of both, and stage 1 is as before for the arm after it."""
        records = run(tmp_path, "--arms", "scratch_edit", "continued")
        preset = reproduce.PRESETS["smoke"]
        continued, scratch = (next(r for r in records if r["arm"] == name) for name in ("continued", "scratch_edit"))
        assert scratch["steps"] == preset.sft_steps + preset.steps
        assert continued["nll"] == read(folder / "runs.jsonl")[1]["nll"]

    def test_other_settings_are_refused(self, folder):
        with pytest.raises(SystemExit, match="has records of other settings"):
            reproduce.main(["--output", str(folder / "runs.jsonl"), "--preset", "small"])

    def test_report_has_a_row_for_each_arm(self, folder, capsys):
        run(folder, "--report", "--plot", str(folder / "plot.svg"))
        out = capsys.readouterr().out
        for name in ("stage_1", "continued", "mix_key", "anchor", "dpo"):
            assert f"| `{name}` " in out
        assert (folder / "plot.svg").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("lora", "arms"), [(True, ["edit", "mix_key", "mix_random", "dpo", "anchor"]), (False, ["edit", "dpo"])]
    )
    def test_pretrained_student(self, lora, arms, tmp_path, model_folder, monkeypatch):
        """On the tasks of `edit_trl.tasks`, with an adapter and in full."""
        sizes = {"num_stage_1": 4, "num_new": 3, "num_validation": 1, "num_test": 2, "num_longer": 1, "num_other": 1}
        preset = replace(reproduce.PRESETS["smoke"], source="tasks", lora=lora, sft_steps=2, num_voted=1, **sizes)
        monkeypatch.setitem(reproduce.PRESETS, "smoke", preset)
        records = run(tmp_path, "--model", model_folder, "--arms", *arms)
        assert [record["arm"] for record in records] == ["stage_1", *arms]
        assert records[0]["num_questions"] == {
            **{"in_domain": 6, "longer": 3, "other": 2, "pass": 3, "self_consistency": 3}
        }
        assert all(record["settings"]["model"] == Path(model_folder).name for record in records)
        assert report.num_questions(records[1], "in_domain") == 6
        run(tmp_path, "--model", model_folder, "--report")


MISTAKES = ROOT.parent / "shared" / "data" / "big_bench_mistake"


class TestRealPairs:
    def test_folder_of_the_traces_is_asked_for(self):
        with pytest.raises(ValueError, match=r"Pass the folder with `--data`"):
            draw_real(reproduce.PRESETS["real"], 0)

    @pytest.mark.skipif(not MISTAKES.exists(), reason="The traces of BIG-Bench Mistake are not here.")
    def test_no_question_is_trained_and_tested_on(self):
        """All shipped pairs are used, once, and each has a right and a wrong answer."""
        data = draw_real(replace(reproduce.PRESETS["real"], data=str(MISTAKES)), 3)
        pairs = data.stage_1 + data.new + data.held_back
        shipped = read(ROOT / "examples" / "data" / "qwen_dual_cots" / "dual_cots.jsonl")
        kept = {(row["prompt"], row["chosen"], row["rejected"]) for row in shipped}
        assert kept == {(p.prompt, p.chosen, p.rejected) for p in pairs if p.task != "tracking"}
        assert len(pairs) == len({p.prompt for p in pairs}) == len(shipped) + 91
        for pair in pairs:
            assert answers_match(extract_answer(pair.chosen), pair.answer)
            assert not answers_match(extract_answer(pair.rejected), pair.answer)
        asked = data.validation + data.tests["in_domain"]
        assert not {p.prompt for p in asked} & {p.prompt for p in pairs}
        assert len({p.prompt for p in asked}) == len(asked) == 4 * (20 + 75)
        assert [sum(p.task == "tracking" for p in part) for part in (data.stage_1, data.new)] == [45, 22]


class TestReplies:
    def test_prompts_of_many_lengths_get_the_replies_that_each_gets_alone(self):
        model, tokenizer = build_student(16, 1, seed=0)
        words = "so we get 7 + 3 = 10 . then I see 10 - 2 = 8 . now you".split()
        prompts = [" ".join(words[:length]) for length in range(1, 20) for _ in range(2)]
        assert len({len(tokenizer(prompt)["input_ids"]) for prompt in prompts}) > 12
        alone = [generate(model, tokenizer, [prompt], 8)[0] for prompt in prompts]
        assert generate(model, tokenizer, prompts, 8) == alone
        assert len(set(alone)) > 3


class TestWordProblems:
    """The package with the problems is not installed here, so one of its problems is written down."""

    QUESTION = "A boy has 7 stickers. His brother has 6 fewer. How many do they have together?"
    WORKED = "His brother has 7 - 6 = 1 stickers.\nTogether, they have 7 + 1 = 8 stickers.\n#### 8"

    def test_worked_answer_is_the_right_chain_and_its_last_result_the_mistake(self):
        problem = word_problem(self.QUESTION, "8", self.WORKED, random.Random(0))
        assert problem.prompt == f"Q: {self.QUESTION}\nA:"
        steps = self.WORKED.partition("\n####")[0]
        assert problem.chosen == f" {steps}\nTherefore, the answer is 8."
        wrong = extract_answer(problem.rejected)
        assert wrong != "8"
        last = steps.replace("= 8 stickers", f"= {wrong} stickers")
        assert problem.rejected == f" {last}\nTherefore, the answer is {wrong}."

    @pytest.mark.parametrize("answer", ["9", "18", "two", "8.5"])
    def test_worked_answer_with_a_fault_is_left_out(self, answer):
        assert word_problem(self.QUESTION, answer, self.WORKED, random.Random(0)) is None

    def test_reply_that_follows_the_worked_answer_is_mended_by_it(self):
        problem = word_problem(self.QUESTION, "8", self.WORKED, random.Random(0))
        assert mend_by_right_chain(problem, problem.rejected) == problem.chosen
        assert mend_by_right_chain(problem, " I think that it is 9, so the answer is 9.") is None


class TestStatistics:
    def test_verdicts_are_packed_without_loss(self):
        rng = random.Random(0)
        for number in (1, 3, 4, 9, 1000):
            marks = [rng.random() < 0.5 for _ in range(number)]
            assert len(pack(marks)) == math.ceil(number / 4)
            assert unpack(pack(marks), number) == marks
        assert pack([False, False, False, True, True]) == "18"

    def test_holm_is_that_of_his_paper(self):
        assert report.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert report.holm([0.9, 0.5]) == [1.0, 1.0]

    def test_students_t_is_that_of_the_tables(self):
        assert [report.t_quantile(n) for n in (4, 19)] == pytest.approx([2.776, 2.093], abs=0.001)

    def test_bootstrap_has_the_variance_of_both_levels(self):
        """Of the mean of n seeds with m questions: var(seed means) / n + mean of var(questions) / (n m)."""
        rng = np.random.default_rng(1)
        values = [rng.choice([-1.0, 0.0, 1.0], size=50, p=[0.2, 0.5, 0.3]) + shift for shift in (-0.3, 0, 0.1, 0.4)]
        means = report.hierarchical_bootstrap(values, 40_000)
        expected = np.var([v.mean() for v in values]) / 4 + np.mean([v.var() for v in values]) / (4 * 50)
        assert means.var() == pytest.approx(expected, rel=0.03)
        assert means.mean() == pytest.approx(np.mean(values), abs=0.005)

    def test_difference_of_equal_students_is_undecided(self):
        values = [np.zeros(10)] * 5
        found = report.estimate(values)
        assert (found["mean"], found["p_value"], found["interval"]) == (0.0, 1.0, (0.0, 0.0))
        assert report.verdict(found, 1.0) == "so far undecided"

    def test_verdict_needs_both_the_bootstrap_and_students_t(self):
        found = {"mean": 0.1, "t_interval": (0.02, 0.18), "num_seeds": 20}
        assert report.verdict(found, 0.04) == "better"
        assert report.verdict(found, 0.06) == "undecided"
        assert report.verdict({**found, "t_interval": (-0.01, 0.2)}, 0.01) == "undecided"
        assert report.verdict({**found, "mean": -0.1, "t_interval": (-0.2, -0.1)}, 0.01) == "worse"

    def test_verdict_of_fewer_seeds_than_planned_says_so(self):
        found = {"mean": 0.1, "t_interval": (0.02, 0.18), "num_seeds": 19}
        assert report.verdict(found, 0.04) == "so far better"


def bits(record: dict, test: str, number: int) -> list[int]:
    """Verdicts of a record, read without the code of the benchmark."""
    digits = record[test]
    return [int(bit) for bit in bin(int(digits, 16))[2:].zfill(4 * len(digits))][:number]


class TestDocs:
    """The tables in the docs are those of the records, computed here in another way."""

    INSIDE = DOCS.partition("<!-- reproduce small: begin -->")[2].partition("<!-- reproduce small: end -->")[0]

    @pytest.fixture
    def table(self):
        lines = [line for line in self.INSIDE.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    @pytest.mark.parametrize("preset", ["small", "medium", "smollm2", "smollm2_full", "real"])
    def test_tables_are_of_the_records(self, preset):
        records = read(ROOT / "benchmarks" / f"reproduce_{preset}.jsonl")
        begin, end = (f"<!-- reproduce {preset}: {word} -->" for word in ("begin", "end"))
        assert DOCS.partition(begin)[2].partition(end)[0].strip() == report.write_report(records).strip()

    def test_corrected_p_value_of_an_arm(self, table):
        """Holm's method by its definition: an arm is multiplied by the number of arms that are not more extreme."""
        names = [row[0].strip("`") for row in table if len(row) == 14 and row[0].startswith("`") and row[6]]
        records = read(RECORDS)
        found = {name: report.compare(records, name, report.REFERENCES[ARMS[name].group]) for name in names}
        p_values = {name: result["p_value"] for name, result in found.items()}
        assert len(p_values) == len(ARMS) - len(set(report.REFERENCES.values()))
        rows = {row[0].strip("`"): row for row in table if len(row) == 14}
        for name in ("mix_reworded", "gamma_1", "edit"):
            steps = [
                sum(other >= p for other in p_values.values()) * p for p in p_values.values() if p <= p_values[name]
            ]
            assert float(rows[name][7]) == pytest.approx(min(1, max(steps)), abs=1e-4)

    def test_accuracy_of_an_arm(self, table):
        shares = [statistics.fmean(bits(r, "in_domain", 2000)) for r in read(RECORDS) if r["arm"] == "mix_mended"]
        (row,) = [row for row in table if row[0] == "`mix_mended`" and len(row) > 6]
        assert row[2:4] == [str(len(shares)), f"{100 * statistics.fmean(shares):.1f}"]

    def test_difference_of_a_task(self, table):
        """The first thousand questions are of `totals`, the others of `routes`."""
        records = {(r["arm"], r["seed"]): bits(r, "in_domain", 2000) for r in read(RECORDS)}
        seeds = [seed for arm, seed in records if arm == "edit" and ("continued", seed) in records]
        (row,) = [row for row in table if row[0] == "EDIT" and len(row) == 5]
        for cell, part in zip(row[3:], (slice(0, 1000), slice(1000, 2000)), strict=True):
            shares = [[statistics.fmean(records[arm, s][part]) for s in seeds] for arm in ("edit", "continued")]
            difference = 100 * (statistics.fmean(shares[0]) - statistics.fmean(shares[1]))
            assert float(cell.split()[0]) == pytest.approx(difference, abs=0.051)

    def test_interval_of_a_comparison(self, table):
        """A plain bootstrap with loops: seeds first, then questions."""
        records = {(r["arm"], r["seed"]): bits(r, "in_domain", 2000) for r in read(RECORDS)}
        seeds = [seed for arm, seed in records if arm == "mix_mended" and ("mix_teacher", seed) in records]
        pairs = [zip(records["mix_mended", s], records["mix_teacher", s], strict=True) for s in seeds]
        differences = [np.array([one - other for one, other in pair]) for pair in pairs]
        rng = np.random.default_rng(5)
        means = []
        for _ in range(2000):
            chosen = [differences[i] for i in rng.integers(len(seeds), size=len(seeds))]
            means.append(np.mean([own[rng.integers(2000, size=2000)].mean() for own in chosen]))
        expected = [100 * x for x in (np.mean(differences), *np.quantile(means, [0.025, 0.975]))]
        (row,) = [row for row in table if row[0] == "own mistakes" and len(row) == 8]
        found = [float(number) for number in re.findall(r"[-+]?\d+\.\d", row[3])]
        assert found[0] == pytest.approx(expected[0], abs=0.051)
        assert found == pytest.approx(expected, abs=0.5)
