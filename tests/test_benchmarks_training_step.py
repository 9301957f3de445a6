"""
`benchmarks/training_step.py` as a user starts it, on tiny sizes: what it counts and which losses it computes. How long
a step takes is not tested.
"""

import json
import math
import os
import random
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import training_step
import training_step_grid
from rapidfuzz.distance import Levenshtein
from transformers import AutoTokenizer


pytestmark = pytest.mark.slow


EDIT_LAYOUTS = ("full_logits", "padded", "shared_prefix", "packed", "padding_free")
LAYOUTS = (*EDIT_LAYOUTS, "sft", "sft_compact", "dpo")


def launch(arguments: list[str], folder: Path) -> tuple[dict, str]:
    """Run the benchmark in a folder; what it wrote and what it printed."""
    completed = subprocess.run(
        [sys.executable, training_step.__file__, *arguments, *"--device cpu --threads 1 --json report.json".split()],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]
    return json.loads((folder / "report.json").read_text()), completed.stdout


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> tuple[dict, str]:
    """Two pairs: prompts of 9 tokens, completions of 20, 8 of them common, 2 of the others key."""
    options = "--model tiny --pairs 2 --prompt 9 --chain 20 --share 0.4 --key_ratio 0.1 --repeats 2 --pad_to 32"
    return launch([*options.split(), "--layouts", *LAYOUTS], tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def real(tmp_path_factory, model_folder, pairs) -> tuple[dict, str]:
    """Pairs of a file and a model of a folder, in batches of three; the memory of one layout."""
    folder = tmp_path_factory.mktemp("real")
    unrelated = {"task": "other", "prompt": "Q: Who? A:", "chosen": " Tom, I think.", "rejected": " 12 + 30 = 42."}
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, [unrelated, *pairs])))
    options = "--data pairs.jsonl --max_key_ratio 0.4 --pairs 3 --repeats 1 --chosen_other_weight 0.3 --memory"
    layouts = ["--layouts", "shared_prefix", "--gradient_checkpointing"]
    return launch(["--model", model_folder, *options.split(), *layouts], folder)


class TestGeneratedPairs:
    def test_pairs_are_as_asked_for(self, generated):
        pairs = dict(generated[0]["pairs"])
        assert pairs.pop("align_seconds") > 0
        assert pairs == {
            "num_pairs": 2,
            "mean_prompt_tokens": 9,
            "mean_chain_tokens": 20,
            "key_ratio": 0.1,
            "common_start": 0.4,
        }

    def test_layouts_of_edit_have_the_same_loss(self, generated):
        losses = [generated[0]["layouts"][name]["loss"] for name in EDIT_LAYOUTS]
        assert losses == pytest.approx([losses[0]] * 5, abs=1e-4)
        assert generated[0]["largest_loss_difference"] == pytest.approx(max(losses) - min(losses), abs=1e-12)

    def test_compact_sft_has_the_loss_of_sft(self, generated):
        layouts = generated[0]["layouts"]
        assert layouts["sft_compact"]["loss"] == pytest.approx(layouts["sft"]["loss"], abs=1e-5)

    def test_dpo_compares_the_policy_with_itself(self, generated):
        """Before the first step policy and reference agree: -log sigmoid(0) = log 2."""
        assert generated[0]["layouts"]["dpo"]["loss"] == pytest.approx(math.log(2), abs=1e-5)

    def test_tokens_and_positions_are_counted(self, generated):
        """
        A chain has 9 + 20 = 29 tokens. A shared row holds the first 9 + 8 once: 2 * 29 - 17 = 41. Four chains have 2
        key tokens each. TRL's head on a CPU scores all positions but the last of a row.
        """
        counts = {
            name: (entry["tokens"], entry["tokens_with_padding"], entry["projected_positions"])
            for name, entry in generated[0]["layouts"].items()
        }
        assert counts == {
            "full_logits": (4 * 29, 4 * 32, 4 * 32),
            "padded": (4 * 29, 4 * 29, 4 * 2),
            "shared_prefix": (2 * 41, 2 * 41, 4 * 2),
            "packed": (2 * 41, 2 * 41, 4 * 2),
            "padding_free": (4 * 29, 4 * 29, 4 * 2),
            "sft": (2 * 29, 2 * 29, 2 * 28),
            "sft_compact": (2 * 29, 2 * 29, 2 * 20),
            "dpo": (4 * 29, 4 * 29, 4 * 28),
        }

    def test_times_are_of_each_repeat(self, generated):
        layouts = generated[0]["layouts"]
        for kind in ("wall", "cpu"):
            base = layouts["full_logits"][f"{kind}_seconds"]["by_repeat"]
            for entry in layouts.values():
                seconds = entry[f"{kind}_seconds"]
                assert len(seconds["by_repeat"]) == 2
                assert min(seconds["by_repeat"]) > 0
                # The median of two is their mean; a quarter of the way from one to the other the quartiles.
                mean, half = sum(seconds["by_repeat"]) / 2, abs(seconds["by_repeat"][0] - seconds["by_repeat"][1]) / 2
                assert seconds["median"] == pytest.approx(mean)
                assert seconds["lower_quartile"] == pytest.approx(mean - half / 2)
                assert seconds["upper_quartile"] == pytest.approx(mean + half / 2)
                ratios = entry[f"{kind}_ratio_to_full_logits"]
                assert ratios["of_medians"] == pytest.approx(mean / (sum(base) / 2))
                by_repeat = [a / b for a, b in zip(seconds["by_repeat"], base, strict=True)]
                assert ratios["median_of_repeats"] == pytest.approx(sum(by_repeat) / 2)
            assert layouts["sft"][f"{kind}_ratio_to_sft"] == {"of_medians": 1, "median_of_repeats": 1}

    def test_table_has_a_row_for_each_layout(self, generated):
        report, output = generated
        rows = [line for line in output.splitlines() if line.startswith("| `")]
        assert [row.split("`")[1] for row in rows] == list(LAYOUTS)
        assert len({row.count("|") for row in output.splitlines() if row.startswith("|")}) == 1
        assert report["machine"]["threads"] == 1
        for library in ("torch", "transformers", "trl"):
            assert f"{library} {report['machine'][library]}" in output


class TestPairsOfAFile:
    def test_kept_pairs_are_counted(self, real, model_folder, pairs):
        """Eight pairs that are nearly equal, in batches of 3, 3 and 2; the unrelated one is left out."""
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        num_tokens, rows, num_key, num_chosen, num_rejected, num_common = 0, [], 0, 0, 0, 0
        for pair in pairs:
            ids = {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in pair.items()}
            chosen, rejected = (ids[name] + [tokenizer.eos_token_id] for name in ("chosen", "rejected"))
            common = next(i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
            chains = len(ids["prompt"]) + len(chosen), len(ids["prompt"]) + len(rejected)
            rows.append(sum(chains) - len(ids["prompt"]) - common)
            num_tokens += rows[-1]
            edits = Levenshtein.editops(chosen, rejected)
            num_key += sum((edit.tag != "insert") + (edit.tag != "delete") for edit in edits)
            num_rejected += len(rejected)
            num_chosen += len(chosen)
            num_common += common
        rows.sort()
        batches = [rows[:3], rows[3:6], rows[6:]]

        report = real[0]
        entry = report["layouts"]["shared_prefix"]
        assert (report["pairs"]["num_pairs"], entry["num_batches"]) == (8, 3)
        assert entry["tokens"] == num_tokens
        assert entry["tokens_with_padding"] == sum(len(batch) * max(batch) for batch in batches)
        assert report["pairs"]["key_ratio"] == pytest.approx(num_key / (num_chosen + num_rejected))
        assert report["pairs"]["common_start"] == pytest.approx(2 * num_common / (num_chosen + num_rejected))
        # γ scores the whole right chain, and of the wrong one the key tokens.
        num_key_rejected = entry["projected_positions"] - num_chosen
        assert 0 < num_key_rejected < num_key

    def test_memory_of_a_step_holds_weights_and_gradients(self, real):
        memory = real[0]["layouts"]["shared_prefix"]["memory"]
        assert memory["peak_mib"] > memory["growth_mib"] > 0
        assert memory["growth_mib"] > memory["weights_mib"] > 0
        assert "| peak MiB | growth MiB |" in real[1]

    def test_report_names_no_folder(self, real, model_folder):
        settings = real[0]["settings"]
        assert settings["model"] == Path(model_folder).name
        assert settings["data"] == "pairs.jsonl"
        assert str(Path(model_folder).parent) not in json.dumps(real[0]) + real[1]


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> tuple[Path, str]:
    """Two lengths and two shares of a model with a small vocabulary; where the file is, and what was printed."""
    folder = tmp_path_factory.mktemp("grid")
    return folder / "grid.jsonl", launch_grid(folder, "--memory")


def launch_grid(folder: Path, *arguments: str) -> str:
    options = "--vocab_size 300 --lengths 40 60 --shared 0 0.5 --pairs 3 --tokens_per_step 240 --repeats 2"
    command = [
        training_step.__file__,
        *arguments,
        *options.split(),
        *"--grid grid.jsonl --plot grid.png --device cpu".split(),
    ]
    completed = subprocess.run(
        [sys.executable, *command, "--threads", "1"],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]
    return completed.stdout


def made_up_cell(shared: float, padded: float, shared_rows: float, packed: float, memory: float) -> dict:
    """A cell with 200 padded tokens and 160 packed ones. The median of the seconds of each layout is what is given."""
    layouts = {}
    for name, median in (("padded", padded), ("shared_prefix", shared_rows), ("packed", packed)):
        layouts[name] = {
            "tokens_with_padding": 160 if name == "packed" else 200,
            "cpu_seconds": [median, 100.0, 0.0],
            "wall_seconds": [3.0],
            "memory": {"growth_mib": memory if name == "packed" else 10.0},
        }
    cell = {"model": "tiny", "vocab_size": 300, "dtype": "float32", "length": 100, "shared": shared, "pairs": 1}
    return {**cell, "machine": {"accelerator": None}, "layouts": layouts}


class TestGrid:
    def test_each_cell_has_the_pairs_and_tokens_that_it_names(self, grid):
        """3 pairs of 40 + 40 tokens are 240; of 60 + 60 there may be 2. Without sharing, one token is common."""
        cells = training_step_grid.read_cells(str(grid[0]))
        assert [(cell["length"], cell["shared"], cell["pairs"]) for cell in cells] == [
            (40, 0.0, 3),
            (40, 0.5, 3),
            (60, 0.0, 2),
            (60, 0.5, 2),
        ]
        tokens = [[cell["layouts"][name]["tokens_with_padding"] for name in ("padded", "packed")] for cell in cells]
        assert tokens == [[240, 3 * 79], [240, 3 * 60], [240, 2 * 119], [240, 2 * 90]]

    def test_cells_are_measured_in_all_layouts(self, grid):
        for cell in training_step_grid.read_cells(str(grid[0])):
            assert list(cell["layouts"]) == ["padded", "shared_prefix", "packed"]
            losses = [entry["loss"] for entry in cell["layouts"].values()]
            assert losses == pytest.approx([losses[0]] * 3, abs=1e-4)
            for entry in cell["layouts"].values():
                assert len(entry["cpu_seconds"]) == len(entry["wall_seconds"]) == 2
                assert min(entry["cpu_seconds"]) > 0
                assert entry["memory"]["growth_mib"] > 0

    def test_a_second_run_measures_only_what_is_missing(self, grid, tmp_path):
        file, output = grid
        lines = file.read_text().splitlines(keepends=True)
        # The third cell is missing and the last one was cut off.
        (tmp_path / "grid.jsonl").write_text(lines[0] + lines[1] + lines[3][:50])
        again = launch_grid(tmp_path)
        measured = (tmp_path / "grid.jsonl").read_text().splitlines(keepends=True)
        assert measured[:2] == lines[:2]
        assert [json.loads(line)["shared"] for line in measured[2:]] == [0.0, 0.5]
        assert (tmp_path / "grid.png").stat().st_size > 0
        assert [line.count("|") for line in again.splitlines()] == [line.count("|") for line in output.splitlines()]
        assert len([line for line in again.splitlines() if line.startswith("| tiny ")]) == 4

    def test_ratios_are_of_medians(self):
        ratios = training_step_grid.cell_ratios(made_up_cell(0.3, 8.0, 5.0, 6.0, memory=9.0))
        assert ratios == pytest.approx(
            {
                "tokens": 0.8,
                "other": 5 / 8,
                "packed": 6 / 8,
                "to_best": 6 / 5,
                "to_scaled": 6 / 6.4,
                "memory_of_other": 1.0,
                "memory": 0.9,
            }
        )

    def test_a_gpu_is_measured_in_wall_time(self):
        cell = made_up_cell(0.3, 8.0, 5.0, 6.0, memory=9.0)
        cell["machine"]["accelerator"] = "GPU"
        cell["layouts"]["padding_free"] = cell["layouts"].pop("shared_prefix")
        ratios = training_step_grid.cell_ratios(cell)
        assert [ratios[name] for name in ("other", "packed", "to_best")] == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize(
        ("attention", "other"),
        [(None, "shared_prefix"), ("eager", "shared_prefix"), ("flash_attention_2", "padding_free")],
    )
    def test_the_third_layout_is_one_that_the_attention_takes(self, attention, other):
        assert training_step_grid.layouts_to_compare(attention) == ("padded", other, "packed")

    @pytest.mark.parametrize(
        ("cell", "missed"),
        [
            (made_up_cell(0.3, 8.0, 7.0, 7.2, memory=10.0), []),
            (made_up_cell(0.3, 8.0, 7.0, 7.3, memory=10.0), ["to_best"]),
            (made_up_cell(0.3, 8.0, 8.0, 7.4, memory=10.2), ["memory", "to_scaled"]),
            (made_up_cell(0.2, 8.0, 8.0, 7.4, memory=10.0), []),
        ],
    )
    def test_missed_goals_are_named(self, cell, missed):
        assert training_step_grid.missed_goals(cell) == missed

    def test_missed_goals_are_bold(self):
        table = training_step_grid.format_cells([made_up_cell(0.3, 8.0, 7.0, 7.3, memory=9.0)])
        assert "| **1.04** " in table and table.count("**") == 2
        assert "Cells above 1.03 of the best: 1 of 1." in table


class TestScript:
    @pytest.mark.parametrize("seed", range(5))
    def test_generated_chains_differ_in_the_key_tokens_alone(self, seed):
        args = Namespace(prompt=5, chain=50, share=0.5, key_ratio=0.2)
        pair = training_step.generate_pair(random.Random(seed), list(range(40)), args)
        chosen, rejected = pair["chosen_ids"], pair["rejected_ids"]
        differing = [i for i, (a, b) in enumerate(zip(chosen, rejected, strict=True)) if a != b]
        assert (len(pair["prompt_ids"]), len(chosen), len(differing), differing[0]) == (5, 50, 10, 25)
        assert Levenshtein.distance(chosen, rejected) == 10

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--warmup", "-1"], "`--warmup` at least 0"),
            (["--share", "0.99"], "lower `--share`"),
            (["--layouts", "shared"], "invalid choice"),
            (["--grid", "grid.jsonl", "--data", "pairs.jsonl"], "leave out `--data`"),
            (["--grid", "grid.jsonl", "--lengths", "10"], "got 10: pass longer chains"),
            (["--grid", "grid.jsonl", "--shared", "0.95"], "got [0.95]: lower it"),
        ],
    )
    def test_wrong_arguments_are_explained(self, arguments, message, capsys):
        with pytest.raises(SystemExit):
            training_step.parse_args(arguments)
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("attention", "left_out"),
        [
            ("sdpa", {"padding_free"}),
            ("flash_attention_2", {"shared_prefix"}),
            ("eager", {"packed", "padding_free"}),
        ],
    )
    def test_layouts_that_an_attention_takes_are_measured(self, attention, left_out):
        layouts = training_step.parse_args(["--attn_implementation", attention]).layouts
        assert set(LAYOUTS) - set(layouts) == left_out

    def test_losses_that_differ_stop_the_benchmark(self):
        layouts = [
            training_step.Layout(name, [], None, None, None, 0.0, num_pairs=[3, 1], losses=(1.0, loss))
            for name, loss in (("padded", 2.0), ("shared_prefix", 2.4))
        ]
        with pytest.raises(SystemExit, match="same loss"):
            training_step.compare_losses(layouts, Namespace(dtype="float32", autocast=False))
        difference = training_step.compare_losses(layouts, Namespace(dtype="bfloat16", autocast=False))
        assert difference == pytest.approx(0.1)

    def test_plot_without_matplotlib_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"pip install .*\[dev\]'"):
            training_step.main(["--plot", "bars.png"])
