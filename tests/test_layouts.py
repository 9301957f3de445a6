"""
Tests of shared rows against a slow implementation of their definition: a token belongs to one chain or to both, and
sees the tokens before it in its own chain.
"""

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from test_model_families import SIZES, build_family
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from edit_trl.data_collator import DataCollatorForDualCoT
from edit_trl.layouts import (
    CHOSEN,
    REJECTED,
    SHARED,
    attention_masks,
    choose_layout,
    share_prefix,
    takes_position_ids,
    to_padded,
)


PAD = 99
SIDES = (CHOSEN, REJECTED)
# Pairs whose chains first differ in the middle, at the start, at the end of the shorter chain, or never.
EDGES = [
    ([], []),
    ([], [1]),
    ([1], []),
    ([1], [1]),
    ([1], [2]),
    ([1], [1, 2]),
    ([1, 2], [1]),
    ([1, 2], [2, 1]),
    ([1, 2, 3], [1, 2, 3]),
    ([1, 1, 1], [1, 1]),
]

token_ids = st.lists(st.integers(0, 2), max_size=6)
# (common start, rest of the right chain, rest of the wrong chain); the rests may begin alike.
chain_pairs = st.builds(
    lambda start, *rests: tuple(start + rest for rest in rests),
    st.lists(st.integers(0, 4), max_size=8),
    token_ids,
    token_ids,
)


def common_start(chosen, rejected):
    """Number of tokens before the first difference, counted one by one."""
    count = 0
    while count < min(len(chosen), len(rejected)) and chosen[count] == rejected[count]:
        count += 1
    return count


def places_of(branch_ids, side, stop=None):
    """Which places of a shared row a chain consists of, in order. `stop` is where the row's padding begins."""
    return [place for place, branch in enumerate(branch_ids[:stop]) if branch in (SHARED, side)]


def rows_of(pairs, width=None):
    """Padded branch and position IDs of a batch of shared rows, and the rows' lengths."""
    rows = [share_prefix(*pair) for pair in pairs]
    lengths = [len(input_ids) for input_ids, *_ in rows]
    width = width or max(lengths)
    return *(
        torch.tensor([row[k] + [0] * (width - len(row[k])) for row in rows], dtype=torch.long) for k in (2, 1)
    ), lengths


def slow_mask(branch_ids, position_ids, window=None):
    """Which tokens each token of a row without padding sees: those of a chain of its own, up to itself."""
    length = len(branch_ids)
    mask = [[False] * length for _ in range(length)]
    for query in range(length):
        for key in range(length):
            for side in SIDES:
                if {branch_ids[query], branch_ids[key]} <= {SHARED, side}:
                    distance = position_ids[query] - position_ids[key]
                    mask[query][key] |= distance >= 0 and (window is None or distance < window)
    return mask


def config_of(config_class=LlamaConfig, attention="sdpa", **options):
    config = config_class(num_hidden_layers=2, **options)
    config._attn_implementation = attention
    return config


class TestSharePrefix:
    def test_worked_example(self):
        """
        Common start 5 6 7, then 8 9 of the right chain, then 1 of the wrong one, at position 3 again: 6 tokens instead
        of 5 + 4.
        """
        input_ids, position_ids, branch_ids = share_prefix([5, 6, 7, 8, 9], [5, 6, 7, 1])

        assert input_ids == [5, 6, 7, 8, 9, 1]
        assert position_ids == [0, 1, 2, 3, 4, 3]
        assert branch_ids == [0, 0, 0, 1, 1, 2]

    @pytest.mark.parametrize(
        ("chosen", "rejected", "shared"),
        [
            ([1, 2], [3, 4], 0),  # nothing in common
            ([1, 2], [1, 3], 1),
            ([1, 2, 3], [1, 2, 4], 2),
            ([1, 2, 3], [1, 2, 3], 3),  # identical
            ([1, 2, 3, 4], [1, 2], 2),  # one begins like the other
            ([1, 2], [1, 2, 3, 4], 2),
            ([1, 2, 3], [4, 2, 3], 0),  # a common end is no common start
            ([1], [1], 1),
            ([1], [2], 0),
            ([], [], 0),
            ([], [1, 2], 0),
            ([1, 2], [], 0),
        ],
    )
    def test_number_of_shared_tokens(self, chosen, rejected, shared):
        assert share_prefix(chosen, rejected)[2].count(SHARED) == shared

    @given(pair=chain_pairs)
    @settings(deadline=None)
    def test_common_start_is_shared(self, pair):
        assert share_prefix(*pair)[2].count(SHARED) == common_start(*pair)

    @given(pair=chain_pairs)
    @settings(deadline=None)
    def test_each_chain_is_the_shared_tokens_and_its_branch(self, pair):
        input_ids, position_ids, branch_ids = share_prefix(*pair)

        for side, chain in zip(SIDES, pair, strict=True):
            places = places_of(branch_ids, side)
            assert [input_ids[place] for place in places] == chain
            assert [position_ids[place] for place in places] == list(range(len(chain)))
        assert set(branch_ids) <= {SHARED, CHOSEN, REJECTED}
        assert places_of(branch_ids, CHOSEN) == list(range(len(pair[0])))  # token t is token t of the row
        assert len(input_ids) == len(position_ids) == len(branch_ids) == sum(map(len, pair)) - branch_ids.count(SHARED)


class TestAttentionMasks:
    def test_worked_example(self):
        """Row 5 6 | 7 8 | 3 1 of the chains "5 6 7 8" and "5 6 3 1": the second branch does not see the first."""
        branch_ids, position_ids, _ = rows_of([([5, 6, 7, 8], [5, 6, 3, 1])])

        mask = attention_masks(branch_ids, position_ids, config_of(), torch.float32)

        assert mask.shape == (1, 1, 6, 6)
        assert mask[0, 0].int().tolist() == [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 1, 1],
        ]

    def test_window_counts_positions_of_the_chain(self):
        """
        With a window of two a token sees itself and one token before. 3, at place 4, follows 6, which is three places
        to its left.
        """
        branch_ids, position_ids, _ = rows_of([([5, 6, 7, 8], [5, 6, 3, 1])])

        mask = attention_masks(branch_ids, position_ids, config_of(MistralConfig, sliding_window=2), torch.float32)

        assert mask[0, 0].int().tolist() == [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 1, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 1, 0, 0, 1, 0],
            [0, 0, 0, 0, 1, 1],
        ]

    @given(
        pairs=st.lists(chain_pairs, min_size=1, max_size=3),
        window=st.one_of(st.none(), st.integers(1, 5)),
        padding=st.integers(0, 3),
    )
    @example(pairs=EDGES, window=None, padding=2)
    @example(pairs=EDGES, window=2, padding=0)
    @settings(deadline=None)
    def test_masks_are_those_of_the_definition(self, pairs, window, padding):
        """Every token sees the past of its chain, within the window, and nothing else; no row of a mask is empty."""
        width = max(sum(map(len, pair)) for pair in pairs) + padding
        assume(width > 0)
        branch_ids, position_ids, lengths = rows_of(pairs, width)

        masks = attention_masks(
            branch_ids, position_ids, config_of(MistralConfig, sliding_window=window), torch.float32
        )

        assert masks.shape == (len(pairs), 1, width, width)
        assert masks.any(dim=-1).all()  # the softmax of a row that sees nothing is NaN
        for pair, mask, length, branches, positions in zip(
            pairs, masks[:, 0].tolist(), lengths, branch_ids.tolist(), position_ids.tolist(), strict=True
        ):
            assert [row[:length] for row in mask[:length]] == slow_mask(branches[:length], positions[:length], window)
            assert not any(any(row[length:]) for row in mask[:length])  # no real token sees padding
            input_ids = share_prefix(*pair)[0]
            for side, chain in zip(SIDES, pair, strict=True):
                for t, place in enumerate(places_of(branches, side, length)):
                    seen = [input_ids[key] for key in range(length) if mask[place][key]]
                    assert seen == chain[max(t + 1 - (window or t + 1), 0) : t + 1]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_eager_adds_the_lowest_number_to_what_is_hidden(self, dtype):
        branch_ids, position_ids, _ = rows_of([([5, 6, 7, 8], [5, 6, 9]), ([1], [2])])
        visible = attention_masks(branch_ids, position_ids, config_of(), dtype)
        assert visible.dtype == torch.bool  # whatever the type of the hidden states

        mask = attention_masks(branch_ids, position_ids, config_of(attention="eager"), dtype)

        assert mask.dtype == dtype
        expected = [0.0 if sees else torch.finfo(dtype).min for sees in visible.flatten().tolist()]
        assert mask.flatten().tolist() == expected
        assert len(set(expected)) == 2

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize(
        ("config_class", "options", "windows"),
        [
            # no layer types: the window, if there is one, is that of all layers
            (LlamaConfig, {}, None),
            (MistralConfig, {"sliding_window": 3}, 3),
            (MistralConfig, {"sliding_window": None}, None),
            # all layers of one type
            (Gemma3TextConfig, {"sliding_window": 3, "layer_types": ["full_attention"] * 2}, None),
            (Gemma3TextConfig, {"sliding_window": 3, "layer_types": ["sliding_attention"] * 2}, 3),
            (Qwen2Config, {"sliding_window": 3, "use_sliding_window": False}, None),
            (Qwen2Config, {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 0}, 3),
            # one mask per type
            (
                Gemma3TextConfig,
                {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
                {"full_attention": None, "sliding_attention": 3},
            ),
            (
                Qwen2Config,
                {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 1},
                {"full_attention": None, "sliding_attention": 3},
            ),
        ],
    )
    def test_masks_are_those_of_the_layer_types(self, config_class, options, windows, attention):
        config = config_of(config_class, attention, **options)
        branch_ids, position_ids, _ = rows_of([([5, 6, 7, 8, 9, 4, 3], [5, 6, 7, 8, 1, 2])])

        masks = attention_masks(branch_ids, position_ids, config, torch.float32)

        row = branch_ids[0].tolist(), position_ids[0].tolist()
        assert slow_mask(*row) != slow_mask(*row, 3)
        assert isinstance(masks, dict) == isinstance(windows, dict)
        if not isinstance(windows, dict):
            masks, windows = {"all": masks}, {"all": windows}
        assert masks.keys() == windows.keys()
        for name, window in windows.items():
            mask = masks[name] if attention == "sdpa" else masks[name] == 0
            assert mask.tolist() == [[slow_mask(*row, window)]]

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize(
        ("family", "options"),
        [
            ("llama", {}),
            ("mistral", {"sliding_window": 4}),
            ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}),
            ("phi3", {"sliding_window": 4}),
            ("gpt2", {}),
            ("opt", {}),
            ("gemma3_text", {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
        ],
    )
    def test_hidden_states_are_those_of_rows_of_their_own(self, family, options, attention):
        """The logits of every token, against a row per chain and the model's own masks."""
        model = build_family(family, **options).eval()
        model.set_attn_implementation(attention)
        pairs = [
            ([*range(20, 30), 40, 41, 42, 43, 44], [*range(20, 30), 50, 51, 52, 53, 54, 55, 56]),
            ([60, 61], [60, 62, 63]),
        ]
        examples = [
            {"prompt_ids": chosen[:1], "chosen_ids": chosen[1:], "rejected_ids": rejected[1:]}
            for chosen, rejected in pairs
        ]
        batch = DataCollatorForDualCoT(pad_token_id=3, layout="shared_prefix")(examples)
        masks = attention_masks(batch["branch_ids"], batch["position_ids"], model.config, torch.float32)

        with torch.no_grad():
            logits = model(batch["input_ids"], attention_mask=masks, position_ids=batch["position_ids"]).logits
            for row, pair in enumerate(pairs):
                for side, chain in zip(SIDES, pair, strict=True):
                    stop = int(batch["attention_mask"][row].sum())
                    places = places_of(batch["branch_ids"][row].tolist(), side, stop)
                    expected = model(torch.tensor([chain])).logits[0]
                    torch.testing.assert_close(logits[row, places], expected, rtol=1e-4, atol=1e-5)


LAYOUT_KEYS = {"branch_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
weights = st.sampled_from([0.0, 1.5, -0.5])


@st.composite
def examples_lists(draw):
    """One to four pairs; some bring weights, some have no key token, some share less than their prompt."""
    examples = []
    for _ in range(draw(st.integers(1, 4))):
        chosen, rejected = draw(chain_pairs)
        pair = {"prompt_ids": draw(token_ids), "chosen_ids": chosen, "rejected_ids": rejected}
        if chosen and draw(st.integers(0, 4)) == 0:
            examples.append({"prompt_ids": pair["prompt_ids"], "completion_ids": chosen})
            continue
        if draw(st.integers(0, 3)) == 0:
            pair["rejected_ids"] = list(chosen)
        if draw(st.booleans()):
            for side in ("chosen", "rejected"):
                length = len(pair[f"{side}_ids"])
                pair[f"{side}_weights"] = draw(st.lists(weights, min_size=length, max_size=length))
        examples.append(pair)
    return examples


class TestToPadded:
    def test_worked_example(self):
        """Shared row 1 2 | 3 | 4: both 3 and 4 are predicted by 2, at place 1."""
        collator = DataCollatorForDualCoT(pad_token_id=PAD, layout="shared_prefix")
        batch = collator([{"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4]}])
        assert batch["input_ids"].tolist() == [[1, 2, 3, 4]]
        assert batch["scored_positions"].tolist() == [1, 1]

        padded = to_padded(batch)

        assert padded["input_ids"].tolist() == [[1, 2, 3], [1, 2, 4]]
        assert padded["position_ids"].tolist() == [[0, 1, 2]] * 2
        assert padded["attention_mask"].tolist() == [[1, 1, 1]] * 2
        assert padded["scored_rows"].tolist() == [0, 1]
        assert padded["scored_positions"].tolist() == [1, 1]
        assert padded["scored_ids"].tolist() == [3, 4]
        assert padded["num_tokens"].item() == 6

    @given(
        examples=examples_lists(),
        layout=st.sampled_from(["shared_prefix", "padding_free"]),
        max_length=st.one_of(st.none(), st.integers(1, 12)),
        truncation_mode=st.sampled_from(["keep_start", "keep_end"]),
        pad_to_multiple_of=st.sampled_from([None, 8]),
        chosen_other_weight=st.sampled_from([0.0, 0.3]),
    )
    @settings(deadline=None, max_examples=300)
    def test_batch_is_that_of_the_padded_layout(self, examples, layout, pad_to_multiple_of, **options):
        assume(any(any(pair.values()) for pair in examples))
        options["completion_weight"] = 0.7
        expected = DataCollatorForDualCoT(pad_token_id=PAD, **options)(examples)
        collator = DataCollatorForDualCoT(
            pad_token_id=PAD, layout=layout, pad_to_multiple_of=pad_to_multiple_of, **options
        )
        batch = collator(examples)
        before = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

        padded = to_padded(batch)

        assert LAYOUT_KEYS & batch.keys() and padded.keys() == expected.keys()
        assert padded.pop("layout") == expected.pop("layout") == "padded"
        assert {name: value.dtype for name, value in padded.items()} == {
            name: value.dtype for name, value in expected.items()
        }
        for name, value in expected.items():
            if name == "input_ids":  # the value of the padding is not known here
                value = value.where(expected["attention_mask"].bool(), padded["input_ids"])
            assert torch.equal(padded[name], value), name
        for name, value in before.items():  # the batch itself is as it was
            assert torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value

    def test_chains_of_one_pair_may_be_longer_than_any_shared_row(self):
        """Of two pairs, the one with the longest chain need not have the longest row."""
        examples = [
            {"prompt_ids": [1] * 6, "chosen_ids": [2], "rejected_ids": [3]},
            {"prompt_ids": [4], "chosen_ids": [5, 6, 7, 8], "rejected_ids": [9, 5, 6, 7]},
        ]
        batch = DataCollatorForDualCoT(pad_token_id=PAD, layout="shared_prefix")(examples)
        assert batch["attention_mask"].sum(dim=1).tolist() == [8, 9]  # 6 + 1 + 1 and 1 + 4 + 4

        assert to_padded(batch)["attention_mask"].sum(dim=1).tolist() == [7, 5, 7, 5]


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


class TestChooseLayout:
    @pytest.mark.parametrize(
        "family",
        [
            *("llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "phi3", "gemma2", "gemma3_text"),
            *("cohere", "granite", "mixtral"),
        ],
    )
    @pytest.mark.parametrize("attention", ["eager", None])
    def test_attention_that_takes_a_mask_shares_rows(self, family, attention):
        """`None`: the implementation that the family has by default."""
        model = build_family(family)
        model.set_attn_implementation(attention or model.config._attn_implementation)
        assert choose_layout(model) == ("shared_prefix", None)

    @pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
    @pytest.mark.parametrize("family", OTHER_FAMILIES)
    def test_tokens_that_meet_without_a_mask_need_rows_of_their_own(self, family, attention):
        """Whatever the attention: without padding they would run from one chain into the next."""
        options, reason = OTHER_FAMILIES[family]
        if options is None:
            model = build_family(family)
        else:
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**options))
        model.config._attn_implementation = attention
        assert choose_layout(model) == ("padded", reason)

    @pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2"])
    def test_flash_attention_goes_without_padding(self, attention):
        """Set by hand, since the kernels need a GPU. The router sees the same tokens as in padded rows."""
        model = build_family("mixtral")
        model.config._attn_implementation = attention
        assert choose_layout(model) == ("padding_free", None)
        assert choose_layout(model, aux_loss_enabled=True) == ("padding_free", None)

    @pytest.mark.parametrize("attention", ["flex_attention", "paged|eager", "my_attention"])
    def test_attention_without_our_mask_needs_rows_of_their_own(self, attention):
        model = build_family("llama")
        model.config._attn_implementation = attention
        reason = f"its attention is {attention!r}, which takes no mask of ours"
        assert choose_layout(model) == ("padded", reason)

    def test_auxiliary_loss_counts_tokens(self):
        model = build_family("mixtral")
        layout, reason = choose_layout(model, aux_loss_enabled=True)
        assert layout == "padded"
        assert "load-balancing loss counts tokens" in reason
        assert "`router_aux_loss_coef=0.0`" in reason

    def test_adapter_that_begins_at_a_token_of_the_row(self):
        """Of several adapters, one is enough."""
        plain, activated = LoraConfig(), LoraConfig(alora_invocation_tokens=[7, 8])
        model = build_family("llama")
        assert choose_layout(model, adapters=[plain]) == ("shared_prefix", None)
        reason = "its adapter (aLoRA) begins at the last `alora_invocation_tokens` of a row"
        assert choose_layout(model, adapters=[plain, activated]) == ("padded", reason)


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
