"""
`benchmarks/dropout.py` with tiny sizes, its statistics, and its results in the docs.
"""

import json
import math
import re
import statistics
from pathlib import Path

import dropout
import pytest
import torch


ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition("## Should dropout be off")[2]

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

TINY = (
    "--seeds 0 1 --num_pairs 6 --num_questions 5 --sft_num_train_epochs 1 --num_train_epochs 1 --batch_size 3 "
    "--num_draws 2 --learning_rates 1e-3 --dropouts 0 0.5 --eval_batch_size 4"
).split()


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The file of a run of two tiny students from scratch."""
    path = tmp_path_factory.mktemp("dropout") / "runs.jsonl"
    dropout.main(["--output", str(path), *TINY])
    return path


@pytest.mark.slow
class TestRuns:
    def test_each_run_is_a_line(self, small):
        labels = [(run["seed"], run["run"], run.get("learning_rate"), run.get("dropout")) for run in read(small)]
        arms = [("stage 1", None, None), ("gradients", None, 0.5), ("stage 2", 1e-3, 0.0), ("stage 2", 1e-3, 0.5)]
        assert labels == [(seed, *arm) for seed in (0, 1) for arm in arms]

    def test_read_outs_are_of_all_held_back_questions(self, small):
        for run in read(small):
            if run["run"] != "gradients":
                assert re.fullmatch("[01]{5}", run["right"])
                assert run["accuracy"] == run["right"].count("1") / 5
                assert 0 <= run["key_step_accuracy"] <= 1
                assert 0 < run["nll"] < 2 * math.log(800)

    def test_dropout_alone_differs_between_arms(self, small):
        """Stage 2 changes the student of stage 1, and dropout changes stage 2."""
        values = [run["nll"] for run in read(small) if run["seed"] == 0 and run["run"] != "gradients"]
        assert len(set(values)) == 3

    def test_interrupted_run_goes_on_with_the_same_students(self, small, tmp_path, capsys):
        """The last run is missing: it alone is done again, and gives the same numbers."""
        lines = small.read_text().splitlines(keepends=True)
        path = tmp_path / "runs.jsonl"
        path.write_text("".join(lines[:-1]))
        dropout.main(["--output", str(path), *TINY])
        assert path.read_text().splitlines(keepends=True)[:-1] == lines[:-1]
        again, before = (read(file)[-1] for file in (path, small))
        assert again == before
        assert capsys.readouterr().out.count('"run": ') == 1

        dropout.main(["--output", str(path), *TINY])
        assert len(read(path)) == len(lines)
        output = capsys.readouterr().out
        assert '"run": ' not in output
        assert output.count("| stage 2 | 0.001         | 2     |") == 4  # stage 1, two arms, their difference

    def test_other_settings_are_other_runs(self, small, tmp_path):
        runs = dropout.Runs(small, read(small)[0]["settings"])
        assert len(runs.records) == 8
        assert dropout.Runs(small, {**runs.settings, "num_pairs": 7}).records == []

    def test_adapter(self, model_folder, tmp_path):
        path = tmp_path / "runs.jsonl"
        dropout.main(["--output", str(path), "--model", model_folder, *TINY, "--seeds", "0", "--control"])
        runs = read(path)
        arms = ["stage 1", "gradients", "stage 2", "stage 2", "control", "control"]
        assert [run["run"] for run in runs] == arms
        assert len({run["nll"] for run in runs if run["run"] != "gradients"}) == 5
        assert all(case["noise"] > 0 for case in runs[1]["gradients"])
        assert runs[0]["settings"]["model"] == Path(model_folder).name  # no folder of this machine

    @pytest.mark.parametrize("argument", [None, "model_folder"])
    def test_students_of_stage_2_have_the_dropout_of_their_arm(self, tmp_path, request, argument):
        model = argument and request.getfixturevalue(argument)
        args = dropout.parse_args(["--output", "x", "--sft_dropout", "0.25", *(["--model", model] if model else [])])
        student, _ = dropout.start_student(args, ["Q: 1 + 1\nA:"], seed=0)
        student.save_pretrained(tmp_path)
        students = [student, *[dropout.load_student(args, tmp_path, rate) for rate in (0.125, 0.0)]]
        rates = [{x.p for x in one.modules() if isinstance(x, torch.nn.Dropout)} for one in students]
        assert rates[:2] == [{0.25}, {0.125}]
        assert rates[2] <= {0.0}
        trained = [sum(p.numel() for p in one.parameters() if p.requires_grad) for one in students]
        assert trained[0] == trained[1] == trained[2] > 0


@pytest.mark.slow
class TestGradients:
    def test_without_dropout_there_is_no_noise(self, pairs):
        """All cosines are 1, in both layouts."""
        args = dropout.parse_args(["--output", "x", "--dropouts", "0", "--num_draws", "2", "--batch_size", "2"])
        student, tokenizer = dropout.start_student(args, [text for pair in pairs for text in pair.values()], seed=0)
        cases = dropout.measure_gradients(args, student, tokenizer, pairs, seed=0)
        assert [(case["loss"], case["layout"]) for case in cases] == [
            (loss, layout) for loss in ("default", "contrast") for layout in ("shared_prefix", "padded")
        ]
        for case in cases:
            assert case["cosine"] == pytest.approx(1, abs=1e-3)
            assert case["cosine_of_mean"] == pytest.approx(1, abs=1e-3)
            assert case["noise"] == pytest.approx(0, abs=1e-8)

    def test_numbers_are_those_of_the_draws(self, pairs, monkeypatch):
        """
        Gradient without dropout (3, 4), draws (3, 4) and (4, 3): cosines 1 and 24 / 25. Their mean (3.5, 3.5) has the
        cosine 24.5 / (5 * 3.5 * √2). Each is √0.5 from the mean, so the variance is 1, divided by 25.
        """
        args = dropout.parse_args(["--output", "x", "--dropouts", "0.1", "--num_draws", "2", "--batch_size", "2"])
        student, tokenizer = dropout.start_student(args, [text for pair in pairs for text in pair.values()], seed=0)
        vectors = [(3.0, 4.0), (3.0, 4.0), (4.0, 3.0)] * 4
        monkeypatch.setattr(dropout, "gradient", lambda *_: torch.tensor(vectors.pop(0)))
        for case in dropout.measure_gradients(args, student, tokenizer, pairs, seed=0):
            assert case["cosine"] == pytest.approx((1 + 24 / 25) / 2)
            assert case["cosine_of_mean"] == pytest.approx(24.5 / (5 * 3.5 * math.sqrt(2)))
            assert case["noise"] == pytest.approx(1 / 25)


class TestStatistics:
    @pytest.mark.parametrize(("degrees", "value"), [(1, 12.706), (2, 4.303), (4, 2.776), (7, 2.365), (30, 2.042)])
    def test_quantiles_are_those_of_the_tables(self, degrees, value):
        assert dropout.t_quantile(degrees) == pytest.approx(value, abs=6e-4)

    def test_interval_of_three_values(self):
        """Mean 2, standard deviation 1: 2 ± 4.303 / √3."""
        assert dropout.t_interval([1, 2, 3]) == pytest.approx(
            (2, 2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4
        )

    def test_one_value_has_no_interval(self):
        mean, low, high = dropout.t_interval([0.5])
        assert mean == 0.5
        assert math.isnan(low) and math.isnan(high)
        assert dropout.write((mean, low, high), 100, 1) == "50.0"

    def test_unfinished_seeds_are_left_out(self):
        scores = {"right": "10", "accuracy": 0.5, "key_step_accuracy": 0.5, "key_step_margin": 1.0, "nll": 2.0}
        runs = [
            {**scores, "seed": seed, "run": run, "learning_rate": 1e-3, "dropout": rate}
            for seed in (0, 1, 2)
            for run, rate in (("stage 1", None), ("stage 2", 0.0), ("stage 2", 0.1))
        ]
        assert [row["num_seeds"] for row in dropout.summarize(runs, [0.0, 0.1])] == [3, 3, 3]
        assert [row["num_seeds"] for row in dropout.summarize(runs[:-1], [0.0, 0.1])] == [2, 2, 2]
        assert dropout.summarize(runs[:2], [0.0, 0.1]) == []

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--dropouts", "0", "1"], "at least 0 and below 1"),
            (["--num_draws", "1"], "`--num_draws` must be 0 or at least 2"),
        ],
    )
    def test_wrong_arguments_are_explained(self, arguments, message, capsys):
        with pytest.raises(SystemExit):
            dropout.parse_args(["--output", "x", *arguments])
        assert message in capsys.readouterr().err


class TestResultsInTheDocs:
    @pytest.mark.parametrize(
        ("model", "run", "rate", "name", "factor", "digits", "row"),
        [
            ("small GPT-2", "stage 2", 0.1, "accuracy", 100, 1, "| | EDIT | 0.1 |"),
            ("small GPT-2", "stage 2", 0.05, "nll", 1, 4, "| GPT-2 | EDIT | 0.05 |"),
            ("small GPT-2", "control", 0.1, "key_step_margin", 1, 2, "| | SFT | 0.1 |"),
            ("SmolLM2-135M-Instruct", "stage 2", 0.05, "accuracy", 100, 1, "| SmolLM2, LoRA | EDIT | 0.05 |"),
        ],
    )
    def test_difference_is_that_of_the_runs(self, model, run, rate, name, factor, digits, row):
        """The quantiles of Student's t are 2.776 (five seeds) and 4.303 (three)."""
        values: dict[float, dict[int, float]] = {0.0: {}, rate: {}}
        for record in read(ROOT / "benchmarks" / "dropout.jsonl"):
            if (record["settings"]["model"], record["run"]) == (model, run) and record["dropout"] in values:
                right = record["right"].count("1") / len(record["right"])
                values[record["dropout"]][record["seed"]] = right if name == "accuracy" else record[name]
        differences = [factor * (value - values[0.0][seed]) for seed, value in values[rate].items()]
        assert len(differences) == (5 if model == "small GPT-2" else 3)
        mean = statistics.mean(differences)
        half = {5: 2.776, 3: 4.303}[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
        cell = f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"
        found = [line for line in DOCS.splitlines() if line.startswith(row) and f"| {cell} |" in line]
        assert len(found) == 1

    def test_every_difference_is_in_the_docs(self):
        """As the benchmark prints it."""
        formats = {"accuracy": (100, 1), "key_step_accuracy": (100, 1), "key_step_margin": (1, 2), "nll": (1, 4)}
        records = read(ROOT / "benchmarks" / "dropout.jsonl")
        num_rows = 0
        for model in ("small GPT-2", "SmolLM2-135M-Instruct"):
            of_model = [record for record in records if record["settings"]["model"] == model]
            for rates in ([0.0, 0.05, 0.1], [0.0, 0.1]):
                for row in dropout.summarize(of_model, rates):
                    if row["dropout"]:
                        cells = [dropout.write(row[f"{name}_difference"], *formats[name], "+") for name in formats]
                        assert f"| {row['dropout']:g} | {' | '.join(cells)} |" in DOCS
                        num_rows += 1
        # Both students with both rates and with one; the control with one.
        assert num_rows == 2 * (2 + 1) + 1

    def test_gradients_are_in_the_docs(self):
        """The means of cosine and noise in shared rows and in padded rows are a row of the table."""
        cases: dict[tuple[str, str], dict[str, list[str]]] = {}
        for record in read(ROOT / "benchmarks" / "dropout.jsonl"):
            for case in record.get("gradients", ()):
                values = cases.setdefault((record["settings"]["model"], case["loss"]), {})
                for name in ("cosine", "noise"):
                    values.setdefault(f"{name} {case['layout']}", []).append(case[name])
        assert len(cases) == 4
        for values in cases.values():
            cells = [
                f"{statistics.mean(values[f'{name} {layout}']):.3f}"
                for name in ("cosine", "noise")
                for layout in ("shared_prefix", "padded")
            ]
            row = r"\| " + r"( \([\d.–]+\))? \| ".join(map(re.escape, cells)) + r"( \([\d.–]+\))? \|"
            assert re.search(row, DOCS)
