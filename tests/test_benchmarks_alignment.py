"""
Tests of `benchmarks/alignment.py`: its slow methods give the masks of `align`, its pairs have the documented
properties, and its report is complete.
"""

import importlib.util
import json
import math
import os
import random
import subprocess
import sys

import alignment as benchmark
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl.alignment import align


EDITDISTANCE = ["editdistance"] if importlib.util.find_spec("editdistance") else []
METHODS = ["python", "numpy", "difflib", *EDITDISTANCE, "align-reference", "align"]
chains = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size - 1), max_size=16))


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, benchmark.__file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        check=True,
    )


class TestMethods:
    @settings(deadline=None, max_examples=200)
    @given(chosen=chains, rejected=chains)
    def test_plain_python_and_numpy_give_the_masks_of_the_reference_order(self, chosen, rejected):
        alignment = align(chosen, rejected, tie_break="reference")
        masks = (alignment.chosen_key, alignment.rejected_key)

        assert benchmark.python_masks(chosen, rejected) == masks
        assert benchmark.numpy_masks(chosen, rejected) == masks

    def test_generated_pairs_have_the_same_masks_too(self):
        generator = benchmark.DualChains(vocab_size=500, key_ratio=0.2, shared_start=0.0, seed=1)
        for length in (1, 7, 60, 150):
            chosen, rejected = generator.pair(length)
            alignment = align(chosen, rejected, tie_break="reference")

            masks = benchmark.python_masks(chosen, rejected)

            assert masks == (alignment.chosen_key, alignment.rejected_key)
            assert masks == benchmark.numpy_masks(chosen, rejected)

    def test_methods_that_disagree_stop_the_run(self, monkeypatch):
        monkeypatch.setitem(benchmark.CALLS, "python", lambda chosen, rejected: ([], []))

        with pytest.raises(RuntimeError, match="`python` and `align-reference` disagree"):
            benchmark.check_masks([([1, 2], [1, 3])], ["python", "align"])


class TestDualChains:
    settings = {"vocab_size": 1000, "key_ratio": 0.06, "shared_start": 0.0, "seed": 3}

    def test_same_seed_gives_the_same_pairs(self):
        one, other = (benchmark.DualChains(**self.settings) for _ in range(2))
        assert [one.pair(50) for _ in range(3)] == [other.pair(50) for _ in range(3)]
        assert one.pair(50) != benchmark.DualChains(**{**self.settings, "seed": 4}).pair(50)

    def test_tokens_are_integers_of_the_vocabulary(self):
        for chain in benchmark.DualChains(**self.settings).pair(300):
            assert {type(token) for token in chain} == {int}
            assert 0 <= min(chain) and max(chain) < 1000

    @pytest.mark.parametrize("shared_start", [0.0, 0.5])
    def test_share_of_key_tokens_is_about_the_one_asked_for(self, shared_start):
        """A run may put in the tokens that it takes out, so fewer differ, never many more."""
        generator = benchmark.DualChains(**{**self.settings, "shared_start": shared_start})
        pairs = [generator.pair(1000) for _ in range(5)]

        assert 0.03 < benchmark.key_share(pairs) < 0.07

    def test_nothing_differs_before_the_end_of_the_shared_start(self):
        generator = benchmark.DualChains(**{**self.settings, "key_ratio": 0.4, "shared_start": 0.5})
        chosen, rejected = generator.pair(200)

        assert chosen[:100] == rejected[:100]
        assert chosen != rejected


class TestGroupByLength:
    def test_pair_counts_for_the_nearest_length(self):
        """The mean lengths are 3, 10, 11 and 90; between 10 and 100 the border is their geometric mean, 31.6."""
        pairs = [([1] * 2, [1] * 4), ([2] * 10, [2] * 10), ([3] * 11, [3] * 11), ([4] * 90, [4] * 90), ([], [1])]

        assert benchmark.group_by_length(pairs, [10, 100], num_pairs=2) == {10: pairs[:2], 100: [pairs[3]]}
        assert benchmark.group_by_length(pairs[:1], [10, 100], num_pairs=2) == {10: pairs[:1]}


class TestReport:
    def test_ratios_and_growth_follow_from_the_times(self):
        """
        Plain Python takes 40, 60 and 50 µs, `align` 4, 2 and 1: ratios 10, 30 and 50. Twice the tokens in four times
        the time is a growth of 2.
        """
        short, long = [([1] * 10, [2] * 10)], [([1] * 20, [2] * 20)]
        results = benchmark.summarize(10, short, {"python": [40.0, 60.0, 50.0], "align": [4.0, 2.0, 1.0]})
        results += benchmark.summarize(20, long, {"align": [8.0, 8.0, 8.0]})
        benchmark.add_growth(results)
        by_key = {(result["length"], result["method"]): result for result in results}

        first, second = by_key[10, "align"], by_key[20, "align"]
        assert first["microseconds"] == 2.0
        assert first["microseconds_quartiles"] == [1.5, 3.0]
        assert first["pairs_per_second"] == 500_000
        assert first["ratio_to_python"] == 30.0
        assert first["ratio_to_python_quartiles"] == [20.0, 40.0]
        assert by_key[10, "python"]["ratio_to_python"] == 1.0
        assert first["ratio_to_numpy"] is first["growth"] is None
        assert second["growth"] == pytest.approx(2.0)
        assert second["ratio_to_python"] is None
        assert by_key[20, "python"]["microseconds"] is None

        rows = benchmark.table(results).splitlines()
        assert "x python (quartiles)" in rows[0] and "x numpy (quartiles)" in rows[0]
        assert "30.0 (20.0-40.0)" in next(row for row in rows if row.split()[3:4] == ["align"])

    def test_missing_matplotlib_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"`--plot` needs the `matplotlib` package"):
            benchmark.plot([], tmp_path / "plot.png")

    def test_plot_is_written(self, tmp_path):
        pytest.importorskip("matplotlib")
        results = []
        for length in (10, 20):
            pairs = [([1] * length, [2] * length)]
            results += benchmark.summarize(length, pairs, {"python": [40.0, 60.0], "align": [4.0, 2.0]})

        benchmark.plot(results, tmp_path / "plot.svg")

        assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


class TestCommand:
    def test_generated_pairs_are_measured_and_reported(self, tmp_path):
        process = run_script(
            *["--lengths", 12, 24, "--num_pairs", 2, "--num_repeats", 2, "--vocab_size", 50, "--key_ratio", 0.2],
            *["--python_max_length", 12, "--json", tmp_path / "report.json"],
        )
        report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

        assert report["settings"]["lengths"] == [12, 24]
        assert report["settings"]["key_ratio"] == 0.2
        assert {"python", "rapidfuzz", "numpy", *EDITDISTANCE} <= report["environment"].keys()
        assert report["stream"] == []
        assert [(result["length"], result["method"]) for result in report["results"]] == [
            (length, method) for length in (12, 24) for method in METHODS
        ]
        for result in report["results"]:
            left_out = (result["length"], result["method"]) == (24, "python")
            assert result["num_pairs"] == 2
            assert 0 < result["mean_length"] < 40
            for field in ("microseconds", "microseconds_quartiles", "pairs_per_second", "ratio_to_numpy"):
                assert (result[field] is None) == left_out
            if not left_out:
                low, high = result["microseconds_quartiles"]
                assert 0 < low <= result["microseconds"] <= high
                assert result["pairs_per_second"] == pytest.approx(1e6 / result["microseconds"])
            assert (result["ratio_to_python"] is None) == (result["length"] == 24)
            assert (result["growth"] is None) == (result["length"] == 12 or left_out)
        assert "x python (quartiles)" in process.stdout
        assert str(tmp_path) not in json.dumps(report)

    def test_stream_reports_memory_on_the_way(self, tmp_path, capsys):
        benchmark.main(["--stream", "20", "--stream_length", "12", "--json", str(tmp_path / "report.json")])
        report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))

        assert report["results"] == []
        # 10, 50 and 100 % of 20 pairs, each noted after the batch of 8 that reaches it.
        assert [record["num_pairs"] for record in report["stream"]] == [0, 8, 16, 20]
        assert all(record["resident_mib"] > 1 for record in report["stream"])
        assert capsys.readouterr().out.count("MiB resident") == 4

    def test_pairs_of_a_file_are_measured(self, tmp_path, monkeypatch):
        class Tokenizer:
            def __call__(self, text, add_special_tokens):
                assert not add_special_tokens
                return {"input_ids": [ord(character) for character in text]}

        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name: Tokenizer())
        rng = random.Random(0)
        pairs = [["".join(rng.choices("ab ", k=size)) for _ in range(2)] for size in (8, 9, 30)]
        data, report_file = tmp_path / "pairs.jsonl", tmp_path / "report.json"
        data.write_text(
            "".join(json.dumps({"prompt": "p", "chosen": a, "rejected": b}) + "\n" for a, b in pairs), encoding="utf-8"
        )
        arguments = ["--data", data, "--tokenizer", tmp_path / "folder", "--lengths", 8, 32, 500, "--num_repeats", 1]

        benchmark.main([*map(str, arguments), "--json", str(report_file)])
        report = json.loads(report_file.read_text(encoding="utf-8"))

        means = {result["length"]: (result["num_pairs"], result["mean_length"]) for result in report["results"]}
        assert means == {8: (2, 8.5), 32: (1, 30.0)}
        assert report["settings"]["data"] == "pairs.jsonl"
        assert report["settings"]["tokenizer"] == "folder"
        assert all(math.isfinite(result["microseconds"]) for result in report["results"])

        data.write_text(json.dumps({"prompt": "p", "chosen": [{"role": "assistant"}]}), encoding="utf-8")
        with pytest.raises(SystemExit, match="Line 1 of `--data` must have the strings `chosen` and `rejected`"):
            benchmark.main([*map(str, arguments)])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data", "pairs.jsonl"], "`--data` and `--tokenizer` go together"),
            (["--shared_start", "1"], "`--shared_start` must be at least 0 and less than 1, got 1.0"),
        ],
    )
    def test_unfit_arguments_are_refused(self, arguments, message, capsys):
        with pytest.raises(SystemExit):
            benchmark.main(arguments)
        assert message in capsys.readouterr().err

    def test_help_explains_the_methods(self):
        process = run_script("--help")
        assert all(f"`{method}`" in process.stdout for method in METHODS)
        assert "--stream" in process.stdout
