"""
Tests of completions: rows with a right chain and no wrong one, beside pairs in one dataset.

The expected loss is computed one chain at a time from all logits, and is compared with the loss of TRL's `SFTTrainer`.
"""

import copy
import json

import pytest
import torch
from conftest import build_model
from datasets import Dataset, IterableDataset, concatenate_datasets
from trl import SFTConfig, SFTTrainer

from edit_trl import DataCollatorForDualCoT, EDITConfig, EDITTrainer, align, edit_trainer
from edit_trl.cli import main
from edit_trl.data_utils import prepare_dual_cots
from edit_trl.inspection import InspectionConfig, Statistics, read_pairs, show_pair, write_html
from edit_trl.key_steps import key_step_accuracy
from edit_trl.layouts import LAYOUTS, telling_pair, to_padded
from edit_trl.pair_checks import PairError


# TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture
def completions(pairs) -> list[dict]:
    return [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs[4:7]]


@pytest.fixture
def mixed(pairs, completions) -> Dataset:
    """Three pairs and three completions, as `concatenate_datasets` puts them together, in turn."""
    rows = concatenate_datasets([Dataset.from_list(pairs[:3]), Dataset.from_list(completions)])
    return rows.select([0, 3, 1, 4, 5, 2])


@pytest.fixture
def build(tmp_path, tokenizer):
    def build(dataset, model=None, **options) -> EDITTrainer:
        eval_dataset = options.pop("eval_dataset", None)
        args = EDITConfig(
            output_dir=str(tmp_path / "student"),
            **{
                "report_to": "none",
                "use_cpu": True,
                "bf16": False,
                "gradient_checkpointing": False,
                "per_device_train_batch_size": 6,
                "max_grad_norm": 0.0,
                "optim": "sgd",
                "learning_rate": 0.1,
                "lr_scheduler_type": "constant",
                "save_strategy": "no",
                "logging_steps": 1,
                "num_train_epochs": 1,
                "completion_weight": 0.5,
                "disable_tqdm": True,
                **options,
            },
        )
        return EDITTrainer(
            model=model or build_model(),
            args=args,
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
        )

    return build


def plain_parts(model, tokenizer, dataset, weight) -> dict[str, list]:
    """Contribution of each chain to the loss, and the log-probabilities of completions, from all logits."""
    parts: dict[str, list] = {"chosen": [], "rejected": [], "completion": [], "log_probs": []}
    for row in dataset:
        prompt = tokenizer(row["prompt"])["input_ids"]
        names = ["completion"] if row["completion"] else ["chosen", "rejected"]
        chains = [tokenizer(row["prompt"] + row[name] + tokenizer.eos_token)["input_ids"] for name in names]
        chains = [ids[len(prompt) :] for ids in chains]
        weights = {"completion": [weight] * len(chains[0])}
        if len(chains) == 2:
            alignment = align(*chains)
            weights["chosen"] = [float(key) for key in alignment.chosen_key]
            weights["rejected"] = [-0.025 * key for key in alignment.rejected_key]
        for name, chain in zip(names, chains, strict=True):
            logits = model(torch.tensor([prompt + chain])).logits[0, len(prompt) - 1 : -1]
            log_probs = logits.log_softmax(dim=-1)[range(len(chain)), chain]
            parts[name].append((torch.tensor(weights[name]) * -log_probs).sum() / len(chain))
            if name == "completion":
                parts["log_probs"] += log_probs.tolist()
    return parts


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def loss_and_gradients(trainer: EDITTrainer, layout: str | None = None) -> tuple[torch.Tensor, dict]:
    if layout is not None:
        trainer.data_collator.layout = trainer._layout = layout
        trainer._layouts = (layout,)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    assert batch["layout"] == trainer._layout  # not found to be wrong
    return loss.detach(), gradients(trainer.model, loss)


def assert_close(found, expected) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in expected[1].values())
    for name, gradient in found[1].items():
        torch.testing.assert_close(
            gradient, expected[1][name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


class TestTraining:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_loss_and_gradients_are_those_of_a_plain_computation(self, build, mixed, tokenizer, layout, monkeypatch):
        monkeypatch.setattr(edit_trainer, "sharing_is_cheaper", lambda *args: True)
        trainer = build(mixed)
        model = build_model()
        parts = plain_parts(model, tokenizer, mixed, 0.5)
        expected = sum(parts["chosen"] + parts["rejected"] + parts["completion"]) / 6
        assert_close(loss_and_gradients(trainer, layout), (expected.detach(), gradients(model, expected)))

    def test_default_weight_is_that_of_other_tokens(self, build, completions):
        dataset = Dataset.from_list(completions)
        found = loss_and_gradients(build(dataset, completion_weight=None, chosen_other_weight=0.5))
        assert_close(found, loss_and_gradients(build(dataset)))

    def test_one_completion_of_weight_one_is_a_row_of_sft(self, build, completions, tokenizer, tmp_path):
        """TRL's loss is a mean over tokens, ours over rows of the mean over tokens: for one row they are the same."""
        dataset = Dataset.from_list(completions[:1])
        args = SFTConfig(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False
        )
        sft = SFTTrainer(build_model(), args=args, train_dataset=dataset, processing_class=copy.deepcopy(tokenizer))
        sft.model.eval()
        loss = sft.compute_loss(sft.model, next(iter(sft.get_train_dataloader())))
        found = loss_and_gradients(build(dataset, completion_weight=1.0))
        assert_close(found, (loss.detach(), gradients(sft.model, loss)))

    @pytest.mark.parametrize(("attention", "layout"), [("sdpa", "packed"), ("eager", "shared_prefix")])
    def test_runs_are_the_same_in_every_layout(self, build, mixed, attention, layout):
        runs = []
        for shared in (True, False):
            options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
            model = build_model(attn_implementation=attention)
            trainer = build(mixed, model, shared_prefix=shared, **options)
            trainer.train()
            assert trainer._layout == (layout if shared else "padded")
            assert trainer.state.global_step == 2
            logs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            runs.append((torch.tensor(logs), dict(trainer.model.named_parameters())))
        for name, parameter in runs[0][1].items():
            torch.testing.assert_close(parameter, runs[1][1][name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_metrics_are_those_of_a_plain_computation(self, build, mixed, tokenizer, batch_size):
        trainer = build(mixed, per_device_eval_batch_size=batch_size)
        metrics = trainer.evaluate(mixed)
        parts = plain_parts(build_model(), tokenizer, mixed, 0.5)
        means = {name: sum(values) / len(values) for name, values in parts.items()}
        expected = {
            "eval_loss": sum(parts["chosen"] + parts["rejected"] + parts["completion"]) / 6,
            "eval_edit/loss_chosen": means["chosen"],
            "eval_edit/loss_rejected": means["rejected"],
            "eval_edit/loss_completion": means["completion"],
            "eval_edit/logps_completion": means["log_probs"],
            "eval_edit/completion_ratio": 0.5,
            "eval_edit/pairs_without_key_tokens": 0.0,
        }
        for name, value in expected.items():
            assert metrics[name] == pytest.approx(torch.as_tensor(value).item(), abs=1e-5), name

    def test_pairs_and_replay_are_evaluated_apart(self, build, pairs, completions):
        datasets = {"pairs": Dataset.from_list(pairs), "replay": Dataset.from_list(completions)}
        metrics = build(datasets["pairs"], eval_dataset=datasets).evaluate()
        assert "eval_pairs_edit/loss_completion" not in metrics
        assert metrics["eval_replay_loss"] == pytest.approx(metrics["eval_replay_edit/loss_completion"])
        assert "eval_replay_edit/loss_chosen" not in metrics

    def test_layout_check_waits_for_a_pair(self, build, mixed, completions):
        """A batch of completions cannot show whether branches see each other."""
        trainer = build(mixed)
        collate = trainer.data_collator
        rows = trainer.train_dataset
        batch = collate([row for row in rows if row["completion"]])
        pair, is_telling = telling_pair(to_padded(batch))
        assert not is_telling and pair["chosen_ids"] == pair["rejected_ids"]
        trainer.compute_loss(trainer.model, batch)
        assert trainer._layout == "packed" and not trainer._layout_is_checked
        trainer.compute_loss(trainer.model, collate([*rows]))
        assert trainer._layout == "packed" and trainer._layout_is_checked

    def test_group_by_length_knows_their_lengths(self, build, mixed):
        trainer = build(mixed, train_sampling_strategy="group_by_length", per_device_train_batch_size=2)
        sampler = trainer._get_train_sampler()
        row = trainer.train_dataset[1]
        assert sampler.lengths[1] == len(row["prompt_ids"]) + len(row["completion_ids"])
        trainer.train()


class TestPreparation:
    def test_columns_of_a_mixed_dataset(self, mixed, tokenizer):
        prepared = prepare_dual_cots(mixed, tokenizer, eos_token=tokenizer.eos_token)
        for row in prepared:
            prompt = tokenizer(row["prompt"])["input_ids"]
            assert row["prompt_ids"] == prompt
            for name in ("chosen", "rejected", "completion"):
                text = row["prompt"] + row[name] + tokenizer.eos_token if row[name] else ""
                assert row[f"{name}_ids"] == tokenizer(text)["input_ids"][len(prompt) :]

    def test_prepared_data_is_prepared_to_itself(self, mixed, tokenizer):
        prepared = prepare_dual_cots(mixed, tokenizer, eos_token=tokenizer.eos_token)
        again = prepare_dual_cots(prepared, tokenizer, eos_token=tokenizer.eos_token)
        assert again.to_list() == prepared.to_list()

    def test_conversations_are_those_of_the_chat_template(self, completions, tokenizer):
        (row, *_) = completions
        messages = {
            "prompt": [{"from": "user", "value": row["prompt"]}],
            "completion": [{"from": "assistant", "value": row["completion"]}],
        }
        (prepared,) = prepare_dual_cots(Dataset.from_list([messages]), tokenizer, eos_token=tokenizer.eos_token)
        chat = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        assert prepared["prompt_ids"] + prepared["completion_ids"] == tokenizer.apply_chat_template(chat)["input_ids"]
        assert tokenizer.decode(prepared["completion_ids"]).startswith(" Let's think")

    def test_stream_gives_the_same_rows(self, mixed, tokenizer):
        expected = prepare_dual_cots(mixed, tokenizer, eos_token=tokenizer.eos_token).to_list()
        stream = IterableDataset.from_generator(lambda: iter(mixed))
        assert list(prepare_dual_cots(stream, tokenizer, eos_token=tokenizer.eos_token)) == expected

    def test_unused_column_is_not_added(self, pairs, tokenizer):
        dataset = Dataset.from_list([{**pair, "completion": None} for pair in pairs])
        prepared = prepare_dual_cots(dataset, tokenizer, eos_token=tokenizer.eos_token)
        assert "completion_ids" not in prepared.column_names

    @pytest.mark.parametrize("text", [None, "", " \n"])
    @pytest.mark.parametrize("column", ["prompt", "completion"])
    def test_missing_text_is_dropped_and_counted(self, completions, tokenizer, caplog, column, text):
        if (column, text) in (("prompt", ""), ("prompt", " \n")):
            pytest.skip("a prompt may be empty")
        dataset = Dataset.from_list([{**completions[0], column: text}, completions[1]])
        prepared = prepare_dual_cots(dataset, tokenizer, eos_token=tokenizer.eos_token)
        assert len(prepared) == 1
        assert (
            "Dropped 1 of 2 rows of the train dataset: 1 where `prompt` is None or has no message, or `chosen`, `re"
            in caplog.text
        )

    def test_prompt_that_fills_the_row_is_dropped(self, completions, tokenizer, caplog):
        completions[0]["prompt"] *= 3
        max_length = len(tokenizer(completions[0]["prompt"])["input_ids"])
        dataset = Dataset.from_list(completions)
        prepared = prepare_dual_cots(dataset, tokenizer, eos_token=tokenizer.eos_token, max_length=max_length)
        assert len(prepared) == 2 and "1 where the prompt leaves no room" in caplog.text

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                {"chosen": " 5", "rejected": " 6"},
                "must be a pair, with `chosen` and `rejected`, or a completion, with",
            ),
            ({"chosen": " 5", "rejected": None}, "drop the column with `dataset.remove_columns\\('completion'\\)`"),
            ({"completion": ["5"]}, "`completion` must be text or a list of messages, got a list of texts"),
            (
                {"completion": [{"role": "assistant", "content": "5"}]},
                "`prompt`, `completion` must all be text or all",
            ),
        ],
        ids=["pair", "half a pair", "texts", "mixed"],
    )
    def test_row_that_is_no_completion_is_named(self, tokenizer, row, message):
        rows = [{"prompt": "2 + 3?", "completion": " 5", **row}]
        with pytest.raises(PairError, match=f"^Row 0 of the dev dataset: .*{message}"):
            prepare_dual_cots(Dataset.from_list(rows), tokenizer, eos_token=None, dataset_name="dev")

    def test_tokens_with_weights_are_refused(self, tokenizer):
        row = {"prompt_ids": [5], "completion_ids": [6, 7], "chosen_ids": [], "rejected_ids": []}
        row |= {"chosen_weights": [1.0, 1.0], "rejected_weights": []}
        with pytest.raises(PairError, match="must be None for a row with `completion_ids`.*`completion_weight`"):
            prepare_dual_cots(Dataset.from_list([row]), tokenizer, eos_token=None)

    def test_tokens_of_completions_alone(self, tokenizer, build):
        rows = [{"prompt_ids": [40, 41], "completion_ids": [42, 43 + i, 2]} for i in range(6)]
        trainer = build(Dataset.from_list(rows))
        assert trainer.train_dataset["completion_ids"][0] == [42, 43, 2]
        trainer.train()
        assert trainer.state.log_history[0]["edit/completion_ratio"] == 1.0

    @pytest.mark.parametrize("kind", ["dataset", "stream"])
    def test_without_a_weight_training_says_what_to_set(self, build, mixed, kind):
        dataset = mixed if kind == "dataset" else IterableDataset.from_generator(lambda: iter(mixed))
        with pytest.raises(ValueError, match=r"`completion_weight` must be set .* Pass `completion_weight=1.0`"):
            build(dataset, completion_weight=None, max_steps=1).train()

    def test_misspelt_pairs_beside_completions_are_named(self, build, mixed):
        with pytest.raises(ValueError, match="`rejected` is missing.*rename `rejekted` to `rejected`"):
            build(mixed.rename_column("rejected", "rejekted"))

    def test_completions_need_a_prompt_column(self, build, mixed):
        with pytest.raises(ValueError, match="`prompt` is missing"):
            build(mixed.remove_columns("prompt"))


class TestReadOuts:
    def test_key_steps_leave_them_out(self, mixed, tokenizer):
        scores = key_step_accuracy(build_model(), mixed, tokenizer)
        assert scores.left_out == {"completion": 3} and scores.num_pairs == 3
        assert [margin is None for margin in scores.margins] == [bool(row["completion"]) for row in mixed]

    @pytest.mark.parametrize("unit", ["tokens", "words"])
    def test_statistics_count_them_apart(self, mixed, pairs, tokenizer, unit):
        tokenizer = tokenizer if unit == "tokens" else None
        found, expected = Statistics(unit=unit), Statistics(unit=unit)
        for pair in read_pairs(mixed, tokenizer):
            found.add(pair)
        for pair in read_pairs(pairs[:3], tokenizer):
            expected.add(pair)
        summary, of_pairs = found.summary(), expected.summary()
        assert summary["pairs"] == 3 and summary["completions"] == 3 and not summary["problems"]
        for name in ("key_token_ratio", "similarity", "key_tokens", "one_sided"):
            assert summary[name] == of_pairs[name]
        lengths = [pair.num_prompt + pair.num_chosen for pair in read_pairs(mixed, tokenizer) if pair.is_completion]
        for layout, cost in of_pairs["cost"].items():
            assert summary["cost"][layout] == cost + sum(lengths)

    def test_tokens_and_weights_are_those_of_training(self, mixed, tokenizer):
        config = InspectionConfig(completion_weight=0.5, max_length=50)
        collator = DataCollatorForDualCoT(tokenizer.pad_token_id, completion_weight=0.5, max_length=50)
        (row,) = prepare_dual_cots(mixed.select([1]), tokenizer, eos_token=tokenizer.eos_token, max_length=50)
        batch = collator([row])
        (pair,) = read_pairs(mixed.select([1]), tokenizer, config)
        assert pair.cost == {"padded": 50, "shared_prefix": 50} and batch["num_tokens"] == 50
        assert {piece.weight for piece in pair.chosen} == {0.5} and not pair.rejected
        assert pair.num_chosen - pair.num_cut == batch["num_completion_tokens"][0]

    @pytest.mark.parametrize(("options", "is_said"), [({}, True), ({"completion_weight": 1.0}, False)], ids=str)
    def test_advice_says_that_a_weight_is_needed(self, completions, options, is_said):
        config = InspectionConfig(**options)
        statistics = Statistics(config, unit="words")
        for pair in read_pairs(completions, None, config):
            statistics.add(pair)
        advice = " ".join(statistics.summary()["advice"])
        assert ("3 of 3 rows have a completion" in advice and "`completion_weight=1.0`" in advice) is is_said

    def test_problems_of_a_completion(self, tokenizer):
        rows = [
            {"prompt": "Q: 2 + 3?", "completion": " 2 + 3 = 6. The answer is 6.", "answer": "5"},
            {"prompt": "Q: 2 + 3?", "completion": " "},
            {"prompt": None, "completion": " The answer is 5."},
            {"prompt": "Q: 2 + 3?", "completion": " The answer is 5."},
            {"prompt": "Q: 2 + 3?", "completion": " The answer is 5."},
            {"prompt": "Q: 2 + 3?", "completion": ["5"]},
        ]
        problems = [pair.problems for pair in read_pairs(rows, tokenizer)]
        assert problems == [["chosen_is_wrong"], ["missing"], ["missing"], [], ["duplicate"], ["unreadable"]]

    def test_command_shows_counts_and_filters_them(self, pairs, completions, tmp_path, capsys):
        path, report, kept = tmp_path / "mixed.jsonl", tmp_path / "report.html", tmp_path / "kept.jsonl"
        rows = [*completions, {"prompt": "Q:", "completion": " "}, *pairs[:2]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = ["--html", str(report), "--filter", str(kept)]
        main(["inspect", str(path), "--completion_weight", "0.5", "--num_pairs", "1", *files])
        output = capsys.readouterr().out
        assert "Completions, without a wrong chain: 4." in output
        assert "Completion 0" in output and "completion: Let's think step by step." in output
        assert [json.loads(line) for line in kept.read_text().splitlines()] == [*completions, *pairs[:2]]
        assert "completion" in report.read_text()

    def test_report_and_terminal_take_completions_alone(self, completions, tmp_path, capsys):
        write_html(read_pairs(completions), None, tmp_path / "report.html")
        show_pair(completions[0])
        assert "Completion 0\n" in capsys.readouterr().out
