"""Tests of set-ups of the student: tied and resized embeddings, devices, quantized weights, vision-language models."""

import copy

import pytest
import torch
from conftest import build_model
from datasets import Dataset
from layout_cases import EXAMPLES, warnings  # noqa: F401
from layout_cases import make_trainer as trainer_of_examples
from peft import LoraConfig
from test_edit_trainer import first_batch, make_trainer, parameters, plain_loss
from test_model_families import gradients
from test_supported_surface import build, dataset, options, train  # noqa: F401
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    Gemma3Config,
    LlamaConfig,
    LlavaConfig,
    Qwen2VLConfig,
)


from test_architectures import own_log_probs  # isort: skip


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error:::edit_trl")]


def check_loss(trainer, tokenizer, pairs) -> None:
    """Loss and gradients are those of the plain computation."""
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    found = gradients(trainer.model, loss)
    expected_loss = plain_loss(trainer.model, tokenizer, pairs, trainer.args)
    expected = gradients(trainer.model, expected_loss)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-5)


class TestEmbeddings:
    def test_tied(self, tmp_path, pairs, tokenizer):
        model = build_model(tie_word_embeddings=True)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        trainer = make_trainer(tmp_path, pairs, model, tokenizer)
        check_loss(trainer, tokenizer, pairs)
        trainer.train()
        assert model.lm_head.weight is model.model.embed_tokens.weight

    def test_resized(self, tmp_path, pairs, tokenizer):
        """New tokens in the text, with new rows in both matrices, that are saved and loaded."""
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens(["<think>", "</think>"])
        model = build_model()
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        pairs = [{**pair, "chosen": f"<think>{pair['chosen']}</think>"} for pair in pairs]
        trainer = make_trainer(tmp_path, pairs, model, tokenizer, eval_dataset=Dataset.from_list(pairs))
        assert 400 in first_batch(trainer)["input_ids"]
        before = model.lm_head.weight.detach().clone()
        check_loss(trainer, tokenizer, pairs)
        trainer.train()
        assert (model.lm_head.weight[400:] != before[400:]).any(dim=1).all()
        trainer.save_model()
        reloaded = AutoModelForCausalLM.from_pretrained(trainer.args.output_dir).eval()
        with torch.no_grad():
            loss = plain_loss(reloaded, tokenizer, pairs, trainer.args).item()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-5)


class TestLoading:
    @pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
    def test_device_map(self, build, model_folder, device_map):
        trainer = build({"model_init_kwargs": {"device_map": device_map}}, model=model_folder, processing_class=None)
        train(trainer)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
    def test_dtype(self, build, model_folder, dtype):
        trainer = build(
            {"model_init_kwargs": {"dtype": dtype}, "learning_rate": 0.1}, model=model_folder, processing_class=None
        )
        assert trainer.model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        train(trainer)


class TestQuantized:
    """bitsandbytes also runs on a CPU."""

    @pytest.mark.parametrize(
        "quantization", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}], ids=str
    )
    def test_adapter_on_quantized_weights(self, tmp_path, pairs, tokenizer, quantization, warnings):
        pytest.importorskip("bitsandbytes")
        folder = tmp_path / "model"
        build_model(hidden_size=64, intermediate_size=128).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        quantization_config = BitsAndBytesConfig(**quantization)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization_config)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        trainer = make_trainer(tmp_path, pairs, model, tokenizer, peft_config=config, learning_rate=0.1, max_steps=2)
        assert {"Linear8bitLt", "Linear4bit"} & {type(module).__name__ for module in trainer.model.modules()}
        is_4bit = "load_in_4bit" in quantization
        assert trainer._layout == ("padded" if is_4bit else "packed")
        assert [("4-bit" in warning) for warning in warnings] == [True] * is_4bit

        before = parameters(trainer.model)
        trainer.train()
        moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
        assert {name for name in before if "lora_B" in name} <= moved
        assert all("lora" in name for name in moved)
        trainer.model.eval()
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, first_batch(trainer))
            expected = plain_loss(trainer.model, tokenizer, pairs, trainer.args)
        # 8-bit: outliers are chosen for a whole batch, so that rows depend on each other a little.
        torch.testing.assert_close(loss, expected, rtol=1e-5 if is_4bit else 2e-2, atol=1e-5)


TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
ROTARY = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
VISION_LANGUAGE = {
    "llava": lambda: LlavaConfig(
        text_config=LlamaConfig(**TEXT),
        vision_config={"model_type": "clip_vision_model", **VISION},
        image_token_index=399,
    ),
    "gemma3": lambda: Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 8},
        vision_config=VISION,
        image_token_index=399,
        mm_tokens_per_image=1,
    ),
    "qwen2_vl": lambda: Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": ROTARY},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8},
        image_token_id=399,
        video_token_id=398,
        vision_start_token_id=397,
    ),
}


class TestVisionLanguage:
    @pytest.mark.parametrize("name", VISION_LANGUAGE)
    def test_trains_on_text(self, name, tmp_path, warnings):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(VISION_LANGUAGE[name](), dtype=torch.float32)
        trainer = trainer_of_examples(tmp_path, model)
        model.eval()
        batch = trainer.data_collator(EXAMPLES)
        expected = own_log_probs(model, batch)
        with torch.no_grad():
            found = trainer._score(model, trainer._in_right_layout(model, batch))[0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
        assert trainer._layout == "packed" and warnings == []
        before = parameters(model)
        trainer.train()
        moved = {part for part, p in model.named_parameters() if not torch.equal(p, before[part])}
        assert any("language_model" in part for part in moved)
        assert not any("vision" in part or "visual" in part for part in moved)
