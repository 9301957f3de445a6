"""
Tests of the comparison of layouts before training: a layout that is wrong for a model is not used.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model, build_tokenizer
from datasets import Dataset
from layout_cases import (
    EXAMPLES,
    MODELS,
    any_cost,  # noqa: F401
    assert_close_in_half_precision,
    assert_same,
    build,  # noqa: F401
    make_trainer,
    step,
    warnings,  # noqa: F401
)
from packaging.version import Version
from test_model_families import build_family
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MoshiConfig

from edit_trl import DataCollatorForDualCoT, EDITTrainer, data_collator, edit_trainer, layouts, shared_attention
from edit_trl.layouts import join_chains
from edit_trl.shared_attention import segment_inputs


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("error:::edit_trl"),
    # TRL sets `gradient_checkpointing`, which transformers 5.23 deprecates; that warning is between the two.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode is deprecated:FutureWarning"),
]


class IgnoresPositions(LlamaForCausalLM):
    """Counts positions along the row, whatever it is given."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


class TakesNoOtherMask(LlamaForCausalLM):
    """Reads its mask as one of padding."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        batch, length = attention_mask.shape
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)


class LooksBack(LlamaForCausalLM):
    """Adds the embedding of the token before, as a short convolution does."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        embeddings = self.get_input_embeddings()(input_ids)
        embeddings = embeddings + torch.nn.functional.pad(embeddings, (0, 0, 1, 0))[:, :-1]
        return super().forward(
            inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )


class Fails(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        raise RuntimeError("no weights")


class OnlyInMasks(MistralForCausalLM):
    """Makes masks with its window, but does not pass it to its attention function, as PhiMoE does not."""

    def __init__(self, config):
        super().__init__(config)
        other = copy.deepcopy(config)
        other.sliding_window = None
        for layer in self.model.layers:
            layer.self_attn.config = other


class PassesOnTheMaskAlone(LlamaForCausalLM):
    """Does not pass other keyword arguments to its attention function, as StableLM does not."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, use_cache=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache
        )


def as_one_chain(lengths):
    """Segments of a row whose pairs are one chain each: the branches see each other."""
    return segment_inputs([(0, sum(pair), 0) for pair in lengths])


def as_one_row(lengths):
    """Segments of a row that is one chain: the pairs see each other."""
    return segment_inputs([(0, sum(map(sum, lengths)), 0)])


def without_restart(chosen, rejected, share=True):
    """Positions that go on in the second branch."""
    input_ids, position_ids, lengths = join_chains(chosen, rejected, share)
    return input_ids, [*range(len(position_ids))], lengths


@pytest.fixture
def break_masks(monkeypatch):
    """Make rows with a mask wrong too: their branches see each other."""
    masks = layouts.attention_masks

    def break_masks():
        monkeypatch.setattr(
            edit_trainer, "attention_masks", lambda branch_ids, *args: masks(torch.zeros_like(branch_ids), *args)
        )

    return break_masks


def check_falls_back(build, model, warnings, layout, reason="log-probabilities differ by") -> None:
    """The layout is used in the end, with right gradients. There is a warning if it is the last resort."""
    trainer = build(model)
    assert trainer._layout == trainer.data_collator.layout == "packed"
    found = step(trainer)
    assert trainer._layout == trainer.data_collator.layout == layout
    assert len(warnings) == (layout == "padded")
    for warning in warnings:
        assert f"Training {type(model).__name__} on two padded rows" in warning and reason in warning
    reference = build(model, shared_prefix=False)
    assert_same(found, step(reference))
    # The next batch comes in this layout, and nothing is said again.
    assert trainer.data_collator(EXAMPLES)["layout"] == layout
    assert_same(step(trainer), step(reference))
    assert len(warnings) == (layout == "padded")


@pytest.mark.usefixtures("any_cost")
class TestFallsBack:
    """Models and layouts whose errors only the check on a pair can find."""

    @pytest.mark.parametrize(
        ("model_class", "reason"),
        [
            (IgnoresPositions, "log-probabilities differ by"),
            (LooksBack, "log-probabilities differ by"),
            (TakesNoOtherMask, "it fails on one with `ValueError: too many values to unpack"),
        ],
    )
    @pytest.mark.parametrize("initializer_range", [0.02, 0.2])
    def test_to_padded_rows(self, model_class, reason, initializer_range, build, warnings):
        model = build_model(initializer_range=initializer_range)
        other = model_class(model.config)
        other.load_state_dict(model.state_dict())
        check_falls_back(build, other, warnings, "padded", reason)

    @pytest.mark.parametrize("are_masks_right", [True, False])
    @pytest.mark.parametrize("window", [None, 8, 3000])
    def test_model_that_passes_on_too_little(self, window, are_masks_right, build, warnings, break_masks):
        """
        Packed rows fail without borders, and are wrong without the window, which is made narrow for the check. Rows
        with a mask have both in the mask.
        """
        sizes = build_model().config.to_dict()
        if window is None:
            model = PassesOnTheMaskAlone(build_model().config)
        else:
            model = OnlyInMasks(MistralConfig(**{**sizes, "model_type": "mistral", "sliding_window": window}))
        if not are_masks_right:
            break_masks()
        check_falls_back(build, model, warnings, "shared_prefix" if are_masks_right else "padded")
        assert getattr(model.config, "sliding_window", None) == window

    @pytest.mark.parametrize("initializer_range", [0.02, 0.2])
    @pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("are_masks_right", [True, False])
    def test_branches_that_see_each_other(
        self, are_masks_right, family, initializer_range, dtype, build, warnings, monkeypatch, break_masks
    ):
        if (initializer_range, dtype) == (0.02, torch.bfloat16):
            pytest.skip("a model of small random weights hardly attends: less than bf16's rounding in a trained one")
        monkeypatch.setattr(data_collator, "segment_inputs", as_one_chain)
        if not are_masks_right:
            break_masks()
        model = build_family(family, initializer_range=initializer_range, **MODELS[family]).to(dtype)
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == ("shared_prefix" if are_masks_right else "padded")
        assert len(warnings) == (not are_masks_right)
        compare = assert_same if dtype == torch.float32 else assert_close_in_half_precision
        compare(found, step(build(model, shared_prefix=False)))

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_positions_that_do_not_restart(self, attention, build, warnings, monkeypatch):
        monkeypatch.setattr(data_collator, "join_chains", without_restart)
        model = build_model(attn_implementation=attention)
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == "padded" and len(warnings) == 1
        assert_same(found, step(build(model, shared_prefix=False)))

    @pytest.mark.parametrize("window", [8, 3000])
    @pytest.mark.parametrize("family", ["mistral", "gemma3_text", "phi3", "qwen2"])
    @pytest.mark.parametrize("are_masks_right", [True, False])
    def test_windows_that_vanish(self, are_masks_right, family, window, build, warnings, monkeypatch):
        """Of the attention in segments, and of the mask. Some models ask the config for it, others their layers."""
        attend, masks = shared_attention._sdpa, layouts.attention_masks
        monkeypatch.setattr(
            shared_attention, "_sdpa", lambda *args, **kwargs: attend(*args, **{**kwargs, "sliding_window": None})
        )

        def without_window(branch_ids, position_ids, config, dtype):
            config = copy.copy(config)
            config.sliding_window = 10**6
            return masks(branch_ids, position_ids, config, dtype)

        if not are_masks_right:
            monkeypatch.setattr(edit_trainer, "attention_masks", without_window)
        model = build_family(family, **{**MODELS[family], "sliding_window": window})
        windows = [getattr(module, "sliding_window", None) for module in (model.config, *model.modules())]
        check_falls_back(build, model, warnings, "shared_prefix" if are_masks_right else "padded")
        assert [getattr(module, "sliding_window", None) for module in (model.config, *model.modules())] == windows

    @pytest.mark.parametrize(("attention", "layout"), [("sdpa", "packed"), ("eager", "padded")])
    def test_window_that_the_model_does_not_apply(self, attention, layout, build, warnings):
        """
        Moshi's text model has one in its config. The mask applies it, and it is narrowed for the check, so that short
        chains tell. The attention in segments applies what the layers pass.
        """
        sizes = {"vocab_size": 400, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = MoshiConfig(**sizes, sliding_window=3000, initializer_range=0.2)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        trainer = build(model)
        found = step(trainer)
        assert trainer._layout == layout and len(warnings) == (layout == "padded")
        assert model.config.sliding_window == 3000
        assert_same(found, step(build(model, shared_prefix=False)), rtol=1e-4)


@pytest.mark.usefixtures("any_cost")
class TestCheck:
    @pytest.mark.parametrize("num_layouts", [1, 2, 3])
    def test_happens_once_and_leaves_no_trace(self, num_layouts, build, model, monkeypatch, break_masks):
        """Each layout that is tried takes two forward passes, one of them on padded rows."""
        if num_layouts > 1:
            monkeypatch.setattr(data_collator, "segment_inputs", as_one_chain)
        if num_layouts > 2:
            break_masks()
        trainer = build(model)
        batch = trainer.data_collator(EXAMPLES)
        calls = []
        model.register_forward_pre_hook(lambda module, args: calls.append((module.training, torch.is_grad_enabled())))
        model.train()
        for _ in range(2):
            trainer.compute_loss(trainer.model, batch)
        assert trainer._layout == ("packed", "shared_prefix", "padded")[num_layouts - 1]
        num_tried = min(num_layouts, 2)
        assert calls == [(False, False)] * (2 * num_tried) + [(True, True)] * 2
        assert trainer.pair_metrics["train"].num_examples == 2 * len(EXAMPLES)
        assert trainer.pair_metrics["eval"].num_examples == 0

    @pytest.mark.parametrize("family", ["mistral", "gemma3_text", "phi3", "qwen2"])
    def test_narrows_the_windows_of_masks_and_layers_alike(self, family, build, warnings):
        """Otherwise packed rows, whose window the layers pass, would differ from padded rows with their masks."""
        trainer = build(build_family(family, **{**MODELS[family], "sliding_window": 3000}))
        step(trainer)
        assert trainer._layout == "packed" and trainer._layout_is_checked and warnings == []

    def test_error_of_the_model_is_no_verdict_on_the_layout(self, build, model):
        trainer = build(Fails(model.config))
        with pytest.raises(RuntimeError, match="no weights"):
            step(trainer)

    def test_missing_memory_is_no_verdict_on_the_layout(self, build, model, monkeypatch):
        def attend(*args, **kwargs):
            raise torch.OutOfMemoryError("no memory")

        monkeypatch.setattr(shared_attention, "_sdpa", attend)
        trainer = build(model)
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            step(trainer)

    def test_waits_for_a_pair_that_tells(self, build, model, warnings):
        """
        A chain that begins like the other is seen in full by it. The first token of a branch is predicted by the
        common start, so a second branch of one token proves nothing.
        """
        other = IgnoresPositions(model.config)
        trainer = build(other)
        for examples, layout in ((EXAMPLES[2:], "packed"), (EXAMPLES[1:], "padded")):
            expected = step(build(other, shared_prefix=False), examples)
            assert_same(step(trainer, examples), expected)
            assert trainer._layout == layout and not trainer._layout_is_checked
        assert len(warnings) == 1

    def test_next_layout_waits_too(self, build, model, warnings, break_masks):
        """Packed rows fail on a pair that cannot show whether masks are right. A later pair does."""
        break_masks()
        other = PassesOnTheMaskAlone(model.config)
        trainer = build(other)
        for examples, layout in ((EXAMPLES[2:], "shared_prefix"), (EXAMPLES[1:], "padded")):
            expected = step(build(other, shared_prefix=False), examples)
            assert_same(step(trainer, examples), expected)
            assert trainer._layout == layout and len(warnings) == (layout == "padded")

    @pytest.mark.parametrize(
        ("model_class", "layout"), [(IgnoresPositions, "padded"), (PassesOnTheMaskAlone, "shared_prefix")]
    )
    def test_batches_of_workers_are_taken_apart(self, model_class, layout, build, model, warnings):
        """Their copies of the collator do not hear of the verdict."""
        runs = []
        for shared in (True, False):
            other = model_class(model.config)
            other.load_state_dict(model.state_dict())
            trainer = build(
                other, EXAMPLES * 2, per_device_train_batch_size=2, max_steps=4, dataloader_num_workers=2,
                shared_prefix=shared, optim="sgd", learning_rate=0.1,
            )  # fmt: skip
            trainer.train()
            assert trainer._layout == (layout if shared else "padded")
            runs.append(dict(other.named_parameters()))
        assert len(warnings) == (layout == "padded")
        for name, parameter in runs[0].items():
            torch.testing.assert_close(parameter, runs[1][name], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("layout", layouts.LAYOUTS)
    @pytest.mark.parametrize(("family", "attention"), [("falcon_h1", "sdpa"), ("llama", "sdpa"), ("llama", "eager")])
    def test_collator_of_the_user_cannot_force_a_layout(self, family, attention, layout, build, warnings):
        """Batches in another layout than that of the trainer are taken apart."""
        model = build_family(family, attn_implementation=attention)
        trainer = build(model)
        chosen = trainer._layout
        trainer.data_collator = DataCollatorForDualCoT(pad_token_id=3, layout=layout)
        used = trainer._in_right_layout(model, trainer.data_collator(EXAMPLES))["layout"]
        assert used == (layout if layout == chosen else "padded")
        assert_same(step(trainer), step(build(model, shared_prefix=False)))
        assert trainer._layout == chosen and trainer.data_collator.layout == layout

    def test_layout_of_the_collator_of_the_user_is_taken_if_it_may_work(self, build, model):
        """Rows with a mask, though packed rows come first with sdpa. They are checked like any other."""
        collator = DataCollatorForDualCoT(pad_token_id=3, layout="shared_prefix")
        trainer = EDITTrainer(
            model, build(model).args, collator, Dataset.from_list(EXAMPLES), processing_class=build_tokenizer()
        )
        trainer.compute_loss(model, collator(EXAMPLES))
        assert (trainer._layout, trainer._layout_is_checked) == ("shared_prefix", True)


class TestProcesses:
    def test_verdict_is_the_same_everywhere_and_weights_may_be_sharded(self, tmp_path):
        """See `two_sharded_processes.py`."""
        result = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                str(Path(__file__).with_name("two_sharded_processes.py")), str(tmp_path),
            ],
            capture_output=True, text=True, timeout=600,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        outcome = torch.load(tmp_path / "outcome.pt")
        assert outcome["segments are wrong"] == ["shared_prefix", "shared_prefix"]
        assert outcome["masks are wrong too"] == ["padded", "padded"]
        assert outcome["is_sharded"]
        if Version(torch.__version__) < Version("2.9"):
            return  # on a CPU it adds sharded gradients up, where later ones average them
        for gamma in (0.0, 0.3):
            expected = step(make_trainer(tmp_path, build_model(), shared_prefix=False, chosen_other_weight=gamma))
            for head in ("whole", "chunks"):
                for layout in layouts.LAYOUTS:
                    assert_same(outcome[gamma, head, layout], expected, rtol=1e-4)
