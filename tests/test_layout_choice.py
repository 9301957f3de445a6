"""
Tests of the choice of a layout: by what a model is, and by what a batch costs.
"""

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from test_model_families import SIZES, build_family
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModelForCausalLM, LlamaConfig

from edit_trl import DataCollatorForDualCoT
from edit_trl.layouts import choose_layouts, sharing_is_cheaper, takes_position_ids


GROUPED_SIZES = {**SIZES, "num_key_value_heads": 2}
# Options of the config, `None` for those of `build_family`, and why the family does not share rows.
OTHER_FAMILIES = {
    "bloom": (None, "its forward takes no `position_ids`"),
    "mamba": (None, "its forward takes no `position_ids`"),
    "falcon_h1": (None, "it has recurrent layers"),
    "lfm2": (None, "it has convolution layers"),
    "gpt_neo": (None, "its config has `window_size`, an attention window that no mask makes"),
    "minimax": (
        {**GROUPED_SIZES, "head_dim": 8, "num_local_experts": 2},
        "it has layers of type 'linear_attention'",
    ),
    "llama4_text": (
        {**GROUPED_SIZES, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 32},
        "it has layers of type 'chunked_attention'",
    ),
    "falcon": (
        {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
        "its positions are distances within the row (ALiBi)",
    ),
    "gemma3_text": (
        {**GROUPED_SIZES, "head_dim": 8, "sliding_window": None, "layer_types": ["sliding_attention"] * 2},
        "it has layers of type 'sliding_attention', but no `sliding_window`",
    ),
    "doge": (GROUPED_SIZES, "its config has `keep_window_size`, an attention window that no mask makes"),
    "roberta": (
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        "it counts positions from the number of its padding token",
    ),
}


class TestChooseLayouts:
    @pytest.mark.parametrize(
        "family",
        [
            *("llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "phi3", "gemma2", "gemma3_text"),
            *("cohere", "granite", "mixtral"),
        ],
    )
    @pytest.mark.parametrize("attention", ["eager", None])
    def test_attention_that_takes_segments_or_a_mask(self, family, attention):
        """`None`: the implementation that the family has by default."""
        model = build_family(family)
        model.set_attn_implementation(attention or model.config._attn_implementation)
        is_eager = model.config._attn_implementation == "eager"
        assert is_eager == (attention == "eager" or family == "gemma2")
        assert choose_layouts(model) == (("shared_prefix",) if is_eager else ("packed", "shared_prefix"), None)

    @pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2"])
    @pytest.mark.parametrize("family", OTHER_FAMILIES)
    def test_tokens_that_meet_without_attention_need_rows_of_their_own(self, family, attention):
        """Whatever the attention: they would run from one chain into the next."""
        options, reason = OTHER_FAMILIES[family]
        if options is None:
            model = build_family(family)
        else:
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**options))
        model.config._attn_implementation = attention
        assert choose_layouts(model) == ((), reason)

    @pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3"])
    def test_flash_attention(self, attention):
        """Set by hand, since the kernels need a GPU. The router sees the same tokens as in padded rows."""
        model = build_family("mixtral")
        model.config._attn_implementation = attention
        assert choose_layouts(model) == (("packed", "padding_free"), None)
        assert choose_layouts(model, aux_loss_enabled=True) == (("padding_free",), None)

    def test_kernel_of_the_hub(self, monkeypatch):
        """transformers registers it under the name of its repository, when it loads it."""
        monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))
        name = "kernels-community/flash-attn2"
        AttentionInterface.register(name, AttentionInterface()["flash_attention_2"])
        model = build_family("llama")
        model.config._attn_implementation = name
        assert choose_layouts(model) == (("packed", "padding_free"), None)

    @pytest.mark.parametrize("attention", ["flex_attention", "paged|eager", "my_attention"])
    def test_other_attention_needs_rows_of_its_own(self, attention):
        model = build_family("llama")
        model.config._attn_implementation = attention
        assert choose_layouts(model) == ((), f"its attention is {attention!r}, which takes no mask of ours")

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_auxiliary_loss_counts_tokens(self, attention):
        model = build_family("mixtral", attn_implementation=attention)
        candidates, reason = choose_layouts(model, aux_loss_enabled=True)
        assert candidates == ()
        assert "load-balancing loss counts tokens" in reason
        assert "`router_aux_loss_coef=0.0`" in reason

    def test_adapter_that_begins_at_a_token_of_the_row(self):
        """Of several adapters, one is enough."""
        plain, activated = LoraConfig(), LoraConfig(alora_invocation_tokens=[7, 8])
        model = build_family("llama")
        assert choose_layouts(model, adapters=[plain]) == (("packed", "shared_prefix"), None)
        reason = "its adapter (aLoRA) begins at the last `alora_invocation_tokens` of a row"
        assert choose_layouts(model, adapters=[plain, activated]) == ((), reason)

    def test_weights_of_four_bits_on_a_cpu(self):
        model = build_family("llama")
        model.is_loaded_in_4bit = True
        candidates, reason = choose_layouts(model)
        assert candidates == () and reason.startswith("on a CPU, 4-bit weights lose their gradient")
        assert choose_layouts(model.to("meta")) == (("packed", "shared_prefix"), None)


def slow_cost(lengths, num_parameters, config, padded_scores):
    """
    Operations of one forward pass, with a mask and in padded rows, counted one by one.

    `padded_scores` counts the scores of a padded row of some length.
    """
    size = getattr(config, "head_dim", None) or config.hidden_size / config.num_attention_heads
    # A score is a product of two vectors, and weights a vector: a multiplication and an addition per number.
    per_score = 2 * 2 * size * config.num_attention_heads * config.num_hidden_layers
    with_mask = max(map(sum, lengths))
    num_rows = sum(1 if s == r == 0 else 2 for s, _, r in lengths)  # a completion has no wrong chain
    width = max(max(s + c, s + r) for s, c, r in lengths)
    return (
        len(lengths) * (2 * with_mask * num_parameters + with_mask**2 * per_score),
        num_rows * (2 * width * num_parameters + padded_scores(width) * per_score),
    )


class TestSharingIsCheaper:
    CONFIG = LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=3)

    @staticmethod
    def batch(lengths) -> dict:
        lengths = torch.tensor(lengths)
        is_completion = (lengths[:, 0] == 0) & (lengths[:, 2] == 0)
        return {"pair_lengths": lengths, "is_completion": is_completion}

    def config(self, attention, **options):
        config = copy.copy(self.CONFIG)
        for name, value in {"_attn_implementation": attention, **options}.items():
            setattr(config, name, value)
        return config

    def test_worked_example(self):
        """
        A pair of 10 common tokens and 50 + 50 others: a row of 110 tokens with 110 ** 2 = 12,100 scores, or two of 60
        with 2 * 60 ** 2 = 7,200. A score costs 4 * 3 layers * 8 numbers = 96. So a mask costs 4,900 * 96 = 470,400
        operations more for the scores, and saves 10 tokens of two operations for each parameter: 23,520 parameters
        make up for it.

        SDPA computes half of the 7,200 scores: 8,500 * 96 / 20 = 40,800 parameters.
        """
        batch = self.batch([(10, 50, 50)])
        for attention, num_parameters in (("eager", 23_520), ("sdpa", 40_800)):
            config = self.config(attention)
            assert not sharing_is_cheaper(batch, num_parameters, config)
            assert sharing_is_cheaper(batch, num_parameters + 1, config)

    @given(
        lengths=st.lists(st.tuples(*[st.integers(0, 60)] * 3), min_size=1, max_size=4),
        num_parameters=st.integers(0, 20_000),
        attention=st.sampled_from(["eager", "sdpa"]),
        head_dim=st.sampled_from([None, 16]),
    )
    @settings(deadline=None, max_examples=200)
    def test_is_that_of_the_operations(self, lengths, num_parameters, attention, head_dim):
        assume(all(map(any, lengths)))
        config = self.config(attention, head_dim=head_dim)
        share = 1 if attention == "eager" else 0.5
        with_mask, padded = slow_cost(lengths, num_parameters, config, lambda width: share * width**2)
        assert sharing_is_cheaper(self.batch(lengths), num_parameters, config) == (with_mask < padded)

    @pytest.mark.parametrize("pair", [(5, 5), (40, 2), (100, 100)])
    def test_batch_of_the_collator(self, pair):
        """Pairs that share nothing, and much; a completion has one padded row."""
        start, rest = pair
        tokens = iter(range(1000))
        prompt, chosen, rejected, other = ([next(tokens) for _ in range(n)] for n in (start, rest, rest, rest))
        examples = [
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected},
            {"prompt_ids": prompt, "completion_ids": other},
        ]
        batch = DataCollatorForDualCoT(0, completion_weight=1.0, layout="shared_prefix")(examples)
        for num_parameters in (10, 1_000, 10_000, 100_000):
            width, long = start + 2 * rest, start + rest
            expected = 2 * (2 * width * num_parameters + 96 * width**2) < 3 * (
                2 * long * num_parameters + 96 * long**2
            )
            assert sharing_is_cheaper(batch, num_parameters, self.config("eager")) == expected

    def test_real_models_share_ordinary_pairs(self):
        """
        SmolLM2-135M: 106 million parameters without embeddings, 30 layers, 9 heads of 64. Pairs of 300 + 100 + 100
        tokens share. Rows of thousands of tokens do not.
        """
        options = {"hidden_size": 576, "num_attention_heads": 9, "num_hidden_layers": 30}
        config = LlamaConfig(**options)
        config._attn_implementation = "eager"
        assert sharing_is_cheaper(self.batch([(300, 100, 100)] * 4), 106_000_000, config)
        assert not sharing_is_cheaper(self.batch([(100, 4000, 4000)]), 106_000_000, config)


class TestTakesPositionIds:
    @pytest.mark.parametrize(
        ("family", "expected"), [("llama", True), ("opt", True), ("bloom", False), ("mamba", False)]
    )
    def test_forward_says_so(self, family, expected):
        assert takes_position_ids(build_family(family)) is expected

    @pytest.mark.parametrize("family", ["roberta", "camembert", "xlm-roberta-xl"])
    def test_those_that_count_from_their_padding_token_do_not(self, family):
        """Positions 0, 1, … give other logits than the positions that the model counts, which are 2, 3, …"""
        torch.manual_seed(0)
        options = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        config = CONFIG_MAPPING[family](**options, is_decoder=True, pad_token_id=1, initializer_range=0.2)
        model = AutoModelForCausalLM.from_config(config).eval()
        assert not takes_position_ids(model)
        input_ids = torch.arange(5, 10)[None]
        with torch.no_grad():
            own, from_0, from_2 = (
                model(input_ids, position_ids=positions).logits
                for positions in (None, torch.arange(5)[None], torch.arange(2, 7)[None])
            )
        torch.testing.assert_close(own, from_2)
        assert (own - from_0).abs().max() > 0.1
