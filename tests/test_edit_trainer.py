"""
Tests of the trainer: loss and gradients, the denominator, padding, resuming, adapters, evaluation and metrics.

The expected numbers come from `plain_loss`, which forwards one chain at a time, builds all logits and follows the
equations of the paper word by word.
"""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_tokenizer
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from edit_trl import EDITConfig, EDITTrainer, align


ROOT = Path(__file__).parents[1]


def config(tmp_path, **options) -> EDITConfig:
    """Plain gradient descent without clipping, so that parameters after a step show the gradient itself."""
    return EDITConfig(
        **{
            "output_dir": str(tmp_path / "student"),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "optim": "sgd",
            "learning_rate": 0.5,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "num_train_epochs": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **options,
        }
    )


def make_trainer(
    tmp_path, pairs, model=None, tokenizer=None, eval_dataset=None, callbacks=None, peft_config=None, **options
):
    return EDITTrainer(
        model=model if model is not None else build_model(),
        args=config(tmp_path, **options),
        train_dataset=pairs if not isinstance(pairs, list) else Dataset.from_list(pairs),
        eval_dataset=eval_dataset,
        processing_class=tokenizer if tokenizer is not None else build_tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def word_mask(tokenizer, chosen, rejected):
    """Key tokens at the level of words, by splitting the decoded text at whitespace borders."""

    def words(ids):
        groups: list[list[int]] = []
        for i in ids:
            text = tokenizer.decode([i])
            special = i in tokenizer.all_special_ids
            after_special = bool(groups) and groups[-1][-1] in tokenizer.all_special_ids
            after_space = bool(groups) and tokenizer.decode(groups[-1])[-1].isspace()
            if not groups or special or after_special or after_space or text[0].isspace():
                groups.append([])
            groups[-1].append(i)
        return groups

    chosen_words, rejected_words = words(chosen), words(rejected)
    alignment = align([tokenizer.decode(w) for w in chosen_words], [tokenizer.decode(w) for w in rejected_words])
    return (
        [key for key, word in zip(alignment.chosen_key, chosen_words, strict=True) for _ in word],
        [key for key, word in zip(alignment.rejected_key, rejected_words, strict=True) for _ in word],
    )


def plain_loss(model, tokenizer, pairs, args, num_pairs=None):
    """KRSL by the book: one chain at a time, all logits, Python loops, no padding."""
    total = torch.zeros(())
    for pair in pairs:
        prompt = tokenizer(pair["prompt"])["input_ids"]
        chosen, rejected = (
            tokenizer(pair["prompt"] + pair[side] + tokenizer.eos_token)["input_ids"][len(prompt) :]
            for side in ("chosen", "rejected")
        )
        if args.alignment_level == "word":
            chosen_key, rejected_key = word_mask(tokenizer, chosen, rejected)
        else:
            alignment = align(chosen, rejected, tie_break=args.tie_break)
            chosen_key, rejected_key = alignment.chosen_key, alignment.rejected_key
        for completion, key, side in ((chosen, chosen_key, +1), (rejected, rejected_key, -1)):
            ids = prompt + completion
            start, stop = 0, len(ids)
            if args.max_length is not None and len(ids) > args.max_length:
                start, stop = (
                    (0, args.max_length)
                    if args.truncation_mode == "keep_start"
                    else (len(ids) - args.max_length, len(ids))
                )
            log_probs = model(torch.tensor([ids[start:stop]])).logits[0].log_softmax(dim=-1)
            chain, num_tokens = torch.zeros(()), 0
            for t, is_key in enumerate(key):
                position = len(prompt) + t
                if not start <= position < stop:
                    continue
                num_tokens += 1
                if position == start:
                    continue
                log_p = log_probs[position - start - 1, ids[position]]
                if side > 0:
                    weight = args.chosen_key_weight if is_key else args.chosen_other_weight
                    chain = chain + weight * -log_p
                elif is_key:
                    threshold = args.rejected_nll_threshold
                    if threshold is not None and -log_p.item() > threshold:
                        continue
                    if args.rejected_loss == "nll":
                        chain = chain - args.rejected_key_weight * -log_p
                    else:
                        chain = chain + args.rejected_key_weight * -torch.log1p(-log_p.exp())
            total = total + chain / max(num_tokens, 1)
    return total / (num_pairs or len(pairs))


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_parameters(first, second, atol=1e-6):
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


OPTIONS = {
    "paper": {},
    "strong push": {"rejected_key_weight": 1.0},
    "no push": {"rejected_key_weight": 0.0},
    "anchor": {"chosen_other_weight": 0.3},
    "no key weight": {"chosen_key_weight": 0.0},
    "unlikelihood": {"rejected_loss": "unlikelihood", "rejected_key_weight": 0.5},
    "threshold": {"rejected_nll_threshold": 6.0, "rejected_key_weight": 0.5},
    "unlikelihood with threshold": {
        "rejected_loss": "unlikelihood",
        "rejected_nll_threshold": 6.0,
        "rejected_key_weight": 0.5,
    },
    "no threshold": {"rejected_nll_threshold": None},
    "words": {"alignment_level": "word"},
    "reference ties": {"tie_break": "reference"},
    "truncated end": {"max_length": 60},
    "truncated start": {"max_length": 60, "truncation_mode": "keep_end"},
    "padded": {"pad_to_multiple_of": 64},
    "checkpointed": {"gradient_checkpointing": True},
}


class TestLoss:
    @pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL deprecates `keep_end`, transformers checkpointing
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_loss_and_gradients_are_those_of_a_plain_computation(self, tmp_path, pairs, tokenizer, options):
        model = build_model()
        trainer = make_trainer(tmp_path, pairs, model, tokenizer, **options)
        order = [i for batch in trainer.get_train_dataloader().batch_sampler for i in batch]
        expected_model = copy.deepcopy(build_model())
        expected = plain_loss(expected_model, tokenizer, [pairs[i] for i in order], trainer.args)
        expected.backward()

        model.train()
        loss = trainer.compute_loss(model, first_batch(trainer))
        loss.backward()

        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        assert_same_parameters(gradients(expected_model), gradients(model), atol=1e-5)
        assert max(gradient.abs().max() for gradient in gradients(model).values()) > 1e-3

    def test_without_key_weights_only_the_anchor_is_the_sft_loss_on_the_chosen_chain(self, tmp_path, pairs, tokenizer):
        """All chosen weights 1, rejected 0, one pair: the mean negative log-likelihood of the right chain."""
        pair = pairs[0]
        trainer = make_trainer(
            tmp_path, [pair], tokenizer=tokenizer, chosen_other_weight=1.0, rejected_key_weight=0.0, bf16=False
        )
        sft = SFTTrainer(
            model=build_model(),
            args=SFTConfig(
                str(tmp_path / "sft"), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False
            ),
            train_dataset=Dataset.from_list([{"prompt": pair["prompt"], "completion": pair["chosen"]}]),
            processing_class=tokenizer,
        )
        losses = []
        for each in (trainer, sft):
            each.model.train()
            loss = each.compute_loss(each.model, first_batch(each))
            loss.backward()
            losses.append(loss)
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
        assert_same_parameters(gradients(sft.model), gradients(trainer.model), atol=1e-5)

    def test_padding_on_the_left_and_more_of_it_changes_nothing(self, tmp_path, pairs, tokenizer):
        trainer = make_trainer(tmp_path, pairs, tokenizer=tokenizer, shared_prefix=False)
        batch = first_batch(trainer)
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, dict(batch))

        length, amount = batch["input_ids"].size(1), 7
        lengths = batch["attention_mask"].sum(dim=1)
        shift = length + amount - lengths
        left = dict(batch)
        for name, fill in (("input_ids", tokenizer.pad_token_id), ("attention_mask", 0), ("position_ids", 0)):
            left[name] = torch.full((len(lengths), length + amount), fill)
            for row, num in enumerate(lengths):
                left[name][row, shift[row] :] = batch[name][row, :num]
        left["scored_positions"] = batch["scored_positions"] + shift[batch["scored_rows"]]

        torch.testing.assert_close(trainer.compute_loss(trainer.model, left), loss, rtol=1e-5, atol=1e-5)

    def test_weight_columns_replace_the_alignment(self, tmp_path):
        """
        Weights 2 and 0 on the right chain, 0.5 and -1 on the wrong one, two tokens each: the loss is
        (2 * nll(5)) / 2 + (0.5 * nll(6) - nll(7)) / 2.
        """
        example = {
            "prompt_ids": [10, 11],
            "chosen_ids": [5, 2],
            "rejected_ids": [6, 7],
            "chosen_weights": [2.0, 0.0],
            "rejected_weights": [0.5, -1.0],
        }
        trainer = make_trainer(tmp_path, [example], rejected_nll_threshold=None)
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, first_batch(trainer))

        right = trainer.model(torch.tensor([[10, 11, 5, 2]])).logits[0].log_softmax(-1)
        wrong = trainer.model(torch.tensor([[10, 11, 6, 7]])).logits[0].log_softmax(-1)
        expected = -2 * right[1, 5] / 2 + (-0.5 * wrong[1, 6] + wrong[2, 7]) / 2
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)

    def test_a_batch_without_scored_tokens_gives_a_differentiable_zero(self, tmp_path):
        example = {"prompt_ids": [10, 11, 12], "chosen_ids": [5, 6, 7, 2], "rejected_ids": [5, 6, 8, 2]}
        trainer = make_trainer(tmp_path, [example], max_length=5)  # cuts the only key token
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, first_batch(trainer))
        loss.backward()
        assert loss.item() == 0
        metrics = trainer._pop_metrics("train")
        assert metrics["edit/pairs_without_key_tokens"] == 1
        assert metrics["edit/truncated_key_ratio"] == 1
        assert "edit/logps_key_chosen" not in metrics  # a mean over nothing
        assert all(not gradient.any() for gradient in gradients(trainer.model).values())

    def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(self, tmp_path, pairs):
        model = build_model()
        with torch.no_grad():
            model.lm_head.weight[0, 0] = float("nan")
        trainer = make_trainer(tmp_path, pairs, model)
        with pytest.raises(FloatingPointError, match="at step 0"):
            trainer.train()


def train_parameters(tmp_path, pairs, **options):
    model = build_model()
    trainer = make_trainer(tmp_path, pairs, model, **options)
    trainer.train()
    return parameters(model), trainer


@pytest.fixture(scope="module")
def twelve_pairs(pairs):
    """Twelve pairs of different lengths: one full step of eight pairs and a short one of four."""
    return pairs + [{**pair, "prompt": "Again. " + pair["prompt"]} for pair in pairs[:4]]


@pytest.mark.slow
class TestDenominator:
    def test_accumulated_batches_are_one_batch(self, tmp_path, twelve_pairs):
        whole, trainer = train_parameters(tmp_path, twelve_pairs, per_device_train_batch_size=8)
        assert trainer.state.global_step == 2
        for batch_size, steps in ((2, 4), (4, 2), (1, 8)):
            split, _ = train_parameters(
                tmp_path, twelve_pairs, per_device_train_batch_size=batch_size, gradient_accumulation_steps=steps
            )
            assert_same_parameters(whole, split)
        assert any((whole[name] - value).abs().max() > 1e-3 for name, value in parameters(build_model()).items())

    def test_the_step_is_that_of_the_plain_loss(self, tmp_path, twelve_pairs, tokenizer):
        """Gradient descent by hand: parameters minus 0.5 times the gradient of the plain loss, twice."""
        trained, trainer = train_parameters(
            tmp_path, twelve_pairs, per_device_train_batch_size=2, gradient_accumulation_steps=4
        )
        trainer = make_trainer(tmp_path, twelve_pairs, per_device_train_batch_size=8)
        batches = list(trainer.get_train_dataloader().batch_sampler)
        model = build_model()
        for batch in batches:
            model.zero_grad()
            plain_loss(model, tokenizer, [twelve_pairs[i] for i in batch], trainer.args).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.5 * parameter.grad
        assert_same_parameters(parameters(model), trained, atol=1e-5)

    def test_logged_loss_is_the_mean_over_all_pairs_of_the_step(self, tmp_path, twelve_pairs):
        _, whole = train_parameters(tmp_path, twelve_pairs, per_device_train_batch_size=8)
        _, split = train_parameters(
            tmp_path, twelve_pairs, per_device_train_batch_size=2, gradient_accumulation_steps=4
        )
        losses = [
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, split)
        ]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
        for entry in split.state.log_history[:2]:
            assert entry["loss"] == pytest.approx(entry["edit/loss_chosen"] + entry["edit/loss_rejected"], abs=1e-5)

    def test_two_processes_are_one_batch(self, tmp_path, twelve_pairs):
        """Two gloo processes of two pairs, two accumulated batches: eight pairs a step, then four."""
        whole, one = train_parameters(tmp_path, twelve_pairs, per_device_train_batch_size=8)
        (tmp_path / "pairs.json").write_text(json.dumps(twelve_pairs))
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "ACCELERATE_USE_CPU": "true",
        }
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
             str(ROOT / "tests" / "two_processes.py"), str(tmp_path)],
            check=True, env=environment, timeout=300,
        )  # fmt: skip
        for average in (True, False):
            both = torch.load(tmp_path / f"parameters-{average}.pt")
            assert both["num_processes"] == 2
            assert_same_parameters(whole, both["parameters"])
            expected = [entry for entry in one.state.log_history if "loss" in entry]
            for mine, theirs in zip(expected, both["log"], strict=True):
                for name in ("loss", "num_tokens", *(key for key in mine if key.startswith("edit/"))):
                    assert theirs[name] == pytest.approx(mine[name], abs=1e-5), name
            assert both["eval"]["eval_loss"] == pytest.approx(
                make_trainer(tmp_path, twelve_pairs, eval_dataset=Dataset.from_list(twelve_pairs[:5])).evaluate()[
                    "eval_loss"
                ],
                abs=1e-5,
            )


@pytest.mark.slow
class TestStreaming:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_an_iterable_dataset_trains_like_a_map_style_one(self, tmp_path, twelve_pairs, num_workers, caplog):
        """In order, one shard; a pair from which nothing can be learned is dropped."""
        options = {"per_device_train_batch_size": 4, "max_steps": 3, "train_sampling_strategy": "sequential"}
        whole, _ = train_parameters(tmp_path, twelve_pairs, **options)
        bad = {**twelve_pairs[0], "rejected": None}
        stream = Dataset.from_list([*twelve_pairs[:3], bad, *twelve_pairs[3:]]).to_iterable_dataset()
        streamed, _ = train_parameters(tmp_path, stream, dataloader_num_workers=num_workers, **options)
        assert_same_parameters(whole, streamed)
        if num_workers == 0:  # a worker says it in its own process
            assert "Dropped 1 of 4 rows of the train dataset" in caplog.text


@pytest.mark.slow
class TestResume:
    @pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
    def test_an_interrupted_run_ends_with_the_same_parameters(self, tmp_path, twelve_pairs, optim):
        options = {
            "optim": optim,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "save_strategy": "steps",
            "save_steps": 4,
            "lr_scheduler_type": "linear",
        }
        uninterrupted, trainer = train_parameters(tmp_path, twelve_pairs, **options)
        assert trainer.state.global_step == 12
        model = build_model(seed=1)  # other weights, so that only the checkpoint can bring the right ones
        resumed = make_trainer(tmp_path, twelve_pairs, model, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "student" / "checkpoint-8"))
        assert_same_parameters(uninterrupted, parameters(model))


class TestLoRA:
    def test_only_the_adapter_trains_and_it_reloads_and_merges(self, tmp_path, pairs, tokenizer, model_folder):
        trainer = make_trainer(
            tmp_path, pairs, model_folder, tokenizer, peft_config=LoraConfig(r=4, target_modules="all-linear"),
            optim="adamw_torch", learning_rate=1e-2, num_train_epochs=3,
        )  # fmt: skip
        base = {name: value for name, value in parameters(trainer.model).items() if "lora" not in name}
        trainer.train()
        assert_same_parameters(base, parameters(trainer.model), atol=0)
        assert all("lora" in name for name, p in trainer.model.named_parameters() if p.requires_grad)
        assert any(p.abs().max() > 0 for name, p in trainer.model.named_parameters() if "lora_B" in name)
        trainer.save_model()

        reloaded = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model_folder), trainer.args.output_dir
        )
        inputs = tokenizer(pairs[0]["prompt"], return_tensors="pt")
        options = {"max_new_tokens": 12, "do_sample": False}
        trainer.model.eval()
        expected = trainer.model.generate(**inputs, **options)
        assert torch.equal(reloaded.generate(**inputs, **options), expected)
        merged = reloaded.merge_and_unload()
        assert torch.equal(merged.generate(**inputs, **options), expected)
        before = AutoModelForCausalLM.from_pretrained(model_folder)
        assert (merged(**inputs).logits - before(**inputs).logits).abs().max() > 1e-3

    def test_a_trained_adapter_goes_on_training(self, tmp_path, pairs, tokenizer, model_folder):
        first = make_trainer(
            tmp_path, pairs, model_folder, tokenizer, peft_config=LoraConfig(r=4, target_modules="all-linear")
        )
        first.train()
        first.save_model()
        adapter = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model_folder), first.args.output_dir, is_trainable=True
        )
        start = parameters(adapter)
        second = make_trainer(tmp_path, pairs, adapter, tokenizer)
        assert_same_parameters(start, parameters(first.model), atol=0)
        second.train()
        moved = [name for name, value in parameters(second.model).items() if not torch.equal(value, start[name])]
        assert moved
        assert all("lora" in name for name in moved)


class TestEvaluate:
    def test_eval_loss_is_the_same_for_any_batch_size_and_kind_of_dataset(self, tmp_path, twelve_pairs, tokenizer):
        held_back = twelve_pairs[:7]
        expected = None
        for batch_size in (1, 2, 3, 7, 16):
            trainer = make_trainer(
                tmp_path, twelve_pairs, tokenizer=tokenizer, per_device_eval_batch_size=batch_size,
                eval_dataset=Dataset.from_list(held_back),
            )  # fmt: skip
            iterable = Dataset.from_list(held_back).to_iterable_dataset()
            for metrics in (trainer.evaluate(), trainer.evaluate(iterable)):
                if expected is None:
                    expected = plain_loss(trainer.model, tokenizer, held_back, trainer.args).item()
                assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)
                assert metrics["eval_samples_per_second"] * metrics["eval_runtime"] == pytest.approx(7, rel=0.2)

    def test_several_datasets_and_a_fresh_one(self, tmp_path, twelve_pairs, tokenizer):
        sets = {"short": Dataset.from_list(twelve_pairs[:3]), "long": Dataset.from_list(twelve_pairs[3:8])}
        trainer = make_trainer(tmp_path, twelve_pairs, tokenizer=tokenizer, eval_dataset=sets)
        metrics = trainer.evaluate()
        for name, pairs in (("short", twelve_pairs[:3]), ("long", twelve_pairs[3:8])):
            expected = plain_loss(trainer.model, tokenizer, pairs, trainer.args).item()
            assert metrics[f"eval_{name}_loss"] == pytest.approx(expected, abs=1e-5)
            assert f"eval_{name}_edit/key_margin" in metrics
        fresh = trainer.evaluate(Dataset.from_list(twelve_pairs[8:]), metric_key_prefix="test")
        assert fresh["test_loss"] == pytest.approx(
            plain_loss(trainer.model, tokenizer, twelve_pairs[8:], trainer.args).item(), abs=1e-5
        )

    def test_predict_takes_raw_pairs_and_gives_metrics_alone(self, tmp_path, twelve_pairs, tokenizer):
        trainer = make_trainer(tmp_path, twelve_pairs, tokenizer=tokenizer)
        output = trainer.predict(Dataset.from_list(twelve_pairs[:5]))
        assert output.predictions is None
        expected = plain_loss(trainer.model, tokenizer, twelve_pairs[:5], trainer.args).item()
        assert output.metrics["test_loss"] == pytest.approx(expected, abs=1e-5)

    def test_a_loss_that_is_not_finite_stops_an_evaluation_too(self, tmp_path, pairs):
        model = build_model()
        with torch.no_grad():
            model.lm_head.weight[0, 0] = float("nan")
        with pytest.raises(FloatingPointError, match="eval"):
            make_trainer(tmp_path, pairs, model).evaluate(Dataset.from_list(pairs))

    def test_evaluation_during_training_leaves_the_training_metrics_alone(self, tmp_path, twelve_pairs):
        options = {"per_device_train_batch_size": 4, "logging_steps": 3}
        _, plain = train_parameters(tmp_path, twelve_pairs, **options)
        _, evaluated = train_parameters(
            tmp_path, twelve_pairs, eval_dataset=Dataset.from_list(twelve_pairs[:5]), eval_strategy="steps",
            eval_steps=1, **options,
        )  # fmt: skip
        train_logs = [
            [
                {k: v for k, v in entry.items() if k.startswith("edit/") or k == "loss"}
                for entry in trainer.state.log_history
                if "loss" in entry
            ]
            for trainer in (plain, evaluated)
        ]  # fmt: skip
        assert train_logs[0] == train_logs[1]
        eval_logs = [entry for entry in evaluated.state.log_history if "eval_loss" in entry]
        assert len(eval_logs) == 3
        assert all("eval_edit/logps_key_chosen" in entry and "edit/loss_chosen" not in entry for entry in eval_logs)


class TestMetrics:
    @pytest.mark.parametrize(
        "options", [{}, {"max_length": 45}, {"chosen_other_weight": 0.2, "rejected_nll_threshold": 6.0}]
    )
    def test_metrics_are_ratios_of_sums_over_all_scored_tokens(self, tmp_path, pairs, tokenizer, options):
        trainer = make_trainer(
            tmp_path, pairs, tokenizer=tokenizer, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            logging_steps=2, learning_rate=0.0, **options,
        )  # fmt: skip
        trainer.train()
        logs = trainer.state.log_history[0]
        args = trainer.args
        sums: dict[str, float] = {}

        def add(name, value):
            sums[name] = sums.get(name, 0.0) + value

        model = build_model()
        for pair in pairs:
            prompt = tokenizer(pair["prompt"])["input_ids"]
            chains = [
                tokenizer(pair["prompt"] + pair[side] + tokenizer.eos_token)["input_ids"][len(prompt) :]
                for side in ("chosen", "rejected")
            ]
            alignment = align(*chains)
            num_kept_keys = 0
            rows = [(prompt + chain)[: args.max_length] for chain in chains]
            # Both rows, but for what they share; the last shared token begins both branches.
            add("tokens", sum(map(len, rows)) - len(os.path.commonprefix(rows)))
            for side, chain, keys in (
                ("chosen", chains[0], alignment.chosen_key),
                ("rejected", chains[1], alignment.rejected_key),
            ):
                ids = (prompt + chain)[: args.max_length]
                logits = model(torch.tensor([ids])).logits[0]
                kept = len(ids) - len(prompt)
                add(f"completion_{side}", kept)
                add("keys_before", sum(keys))
                for t in range(kept):
                    log_probs = logits[len(prompt) + t - 1].log_softmax(-1)
                    log_p = log_probs[chain[t]].item()
                    weight = (
                        (1.0 if keys[t] else args.chosen_other_weight)
                        if side == "chosen"
                        else (-0.025 if keys[t] else 0.0)
                    )
                    gated = weight < 0 and -log_p > args.rejected_nll_threshold
                    add(f"loss_{side}", 0.0 if gated else weight * -log_p / kept)
                    if keys[t] or weight:
                        add("scored", 1)
                        add("entropy", -(log_probs.exp() * log_probs).sum().item())
                        add("top1", int(log_probs.argmax() == chain[t]))
                    if keys[t]:
                        num_kept_keys += 1
                        add(f"key_{side}", 1)
                        add(f"logps_{side}", log_p)
                        add(f"key_top1_{side}", int(log_probs.argmax() == chain[t]))
                    if weight < 0:
                        add("pushed", 1)
                        add("gated", int(gated))
            add("keyless", int(num_kept_keys == 0))

        num_kept = sums["key_chosen"] + sums["key_rejected"]
        expected = {
            "entropy": sums["entropy"] / sums["scored"],
            "mean_token_accuracy": sums["top1"] / sums["scored"],
            "num_tokens": sums["tokens"],
            "edit/loss_chosen": sums["loss_chosen"] / len(pairs),
            "edit/loss_rejected": sums["loss_rejected"] / len(pairs),
            "edit/key_token_ratio_chosen": sums["key_chosen"] / sums["completion_chosen"],
            "edit/key_token_ratio_rejected": sums["key_rejected"] / sums["completion_rejected"],
            "edit/logps_key_chosen": sums["logps_chosen"] / sums["key_chosen"],
            "edit/logps_key_rejected": sums["logps_rejected"] / sums["key_rejected"],
            "edit/key_margin": sums["logps_chosen"] / sums["key_chosen"]
            - sums["logps_rejected"] / sums["key_rejected"],
            "edit/key_token_accuracy": sums["key_top1_chosen"] / sums["key_chosen"],
            "edit/rejected_gated_ratio": sums["gated"] / sums["pushed"],
            "edit/truncated_key_ratio": (sums["keys_before"] - num_kept) / sums["keys_before"],
            "edit/pairs_without_key_tokens": sums["keyless"] / len(pairs),
        }
        for name, value in expected.items():
            assert logs[name] == pytest.approx(value, abs=1e-4), name
        assert expected["edit/truncated_key_ratio"] > 0 or "max_length" not in options
        assert expected["edit/rejected_gated_ratio"] > 0 or "rejected_nll_threshold" not in options

    def test_key_tokens_of_weight_zero_are_scored_without_gradient(self, tmp_path, pairs):
        trainer = make_trainer(tmp_path, pairs, rejected_key_weight=0.0, chosen_key_weight=0.0)
        trainer.model.train()
        trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
        assert all(not gradient.any() for gradient in gradients(trainer.model).values())
        metrics = trainer._pop_metrics("train")
        assert metrics["edit/logps_key_rejected"] < 0
        assert "edit/rejected_gated_ratio" not in metrics  # nothing is pushed away


def test_math_of_this_file():
    """The plain loss of a pair whose chains are one token each is that token's own term."""
    tokenizer, model = build_tokenizer(), build_model()

    class Args:
        alignment_level, tie_break, max_length = "token", "symmetric", None
        chosen_key_weight, rejected_key_weight, chosen_other_weight = 1.0, 0.5, 0.0
        rejected_loss, rejected_nll_threshold = "nll", None

    pair = {"prompt": "Q: 1 + 1?\nA:", "chosen": " 2", "rejected": " 3"}
    prompt = tokenizer(pair["prompt"])["input_ids"]
    chains = [
        tokenizer(pair["prompt"] + pair[side] + tokenizer.eos_token)["input_ids"][len(prompt) :]
        for side in ("chosen", "rejected")
    ]
    assert [len(chain) for chain in chains] == [len(chains[0])] * 2
    log_probs = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    differing = [t for t, (a, b) in enumerate(zip(*chains, strict=True)) if a != b]
    if differing == [0]:
        expected = -log_probs[chains[0][0]] / len(chains[0]) + 0.5 * log_probs[chains[1][0]] / len(chains[1])
        assert math.isclose(plain_loss(model, tokenizer, [pair], Args()).item(), expected.item(), abs_tol=1e-5)
    else:  # a space of its own: the differing token is the second
        assert differing == [1]
