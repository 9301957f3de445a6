"""
Tests of shared rows against a slow implementation of their definition: a token belongs to one chain or to both, and
sees the tokens before it in its own chain.
"""

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_model_families import build_family
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from edit_trl.data_collator import DataCollatorForDualCoT
from edit_trl.layouts import (
    CHOSEN,
    REJECTED,
    SHARED,
    attention_masks,
    join_chains,
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


def branches_of(lengths):
    """Branch of each token of a row."""
    return [side for side, length in zip((SHARED, CHOSEN, REJECTED), lengths, strict=True) for _ in range(length)]


def rows_of(pairs, width=None):
    """Padded branch and position IDs of a batch of shared rows, and the rows' lengths."""
    rows = [
        (branches_of(lengths), position_ids) for _, position_ids, lengths in (join_chains(*pair) for pair in pairs)
    ]
    lengths = [len(branches) for branches, _ in rows]
    width = width or max(lengths)
    return *(
        torch.tensor([values + [0] * (width - len(values)) for values in column], dtype=torch.long)
        for column in zip(*rows, strict=True)
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


class TestJoinChains:
    def test_worked_example(self):
        """
        Common start 5 6 7, then 8 9 of the right chain, then 1 of the wrong one, at position 3 again: 6 tokens instead
        of 5 + 4.
        """
        input_ids, position_ids, lengths = join_chains([5, 6, 7, 8, 9], [5, 6, 7, 1])

        assert input_ids == [5, 6, 7, 8, 9, 1]
        assert position_ids == [0, 1, 2, 3, 4, 3]
        assert lengths == (3, 2, 1)

    def test_whole_chains(self):
        joined = join_chains([5, 6, 7], [5, 6], share=False)

        assert joined == ([5, 6, 7, 5, 6], [0, 1, 2, 0, 1], (0, 3, 2))

    @pytest.mark.parametrize(
        ("chosen", "rejected", "lengths"),
        [
            ([1, 2], [3, 4], (0, 2, 2)),  # nothing in common
            ([1, 2], [1, 3], (1, 1, 1)),
            ([1, 2, 3], [1, 2, 4], (2, 1, 1)),
            ([1, 2, 3], [1, 2, 3], (3, 0, 0)),  # identical
            ([1, 2, 3, 4], [1, 2], (2, 2, 0)),  # one begins like the other
            ([1, 2], [1, 2, 3, 4], (2, 0, 2)),
            ([1, 2, 3], [4, 2, 3], (0, 3, 3)),  # a common end is no common start
            ([1], [1], (1, 0, 0)),
            ([1], [2], (0, 1, 1)),
            ([], [], (0, 0, 0)),
            ([], [1, 2], (0, 0, 2)),
            ([1, 2], [], (0, 2, 0)),
        ],
    )
    def test_lengths(self, chosen, rejected, lengths):
        assert join_chains(chosen, rejected)[2] == lengths

    @given(pair=chain_pairs, share=st.booleans())
    @settings(deadline=None)
    def test_each_chain_is_the_common_start_and_its_rest(self, pair, share):
        input_ids, position_ids, lengths = join_chains(*pair, share=share)

        assert lengths[0] == (common_start(*pair) if share else 0)
        branch_ids = branches_of(lengths)
        for side, chain in zip(SIDES, pair, strict=True):
            places = places_of(branch_ids, side)
            assert [input_ids[place] for place in places] == chain
            assert [position_ids[place] for place in places] == list(range(len(chain)))
        assert places_of(branch_ids, CHOSEN) == list(range(len(pair[0])))  # token t is token t of the row
        assert len(input_ids) == len(position_ids) == sum(lengths) == sum(map(len, pair)) - lengths[0]


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
            input_ids = join_chains(*pair)[0]
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


COMPACT = ("shared_prefix", "packed", "padding_free")
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
    @pytest.mark.parametrize("layout", ["shared_prefix", "packed"])
    def test_worked_example(self, layout):
        """Row 1 2 | 3 | 4: both 3 and 4 are predicted by 2, at place 1."""
        collator = DataCollatorForDualCoT(pad_token_id=PAD, layout=layout)
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
        layout=st.sampled_from(COMPACT),
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

        assert batch["layout"] == layout and padded.keys() == expected.keys()
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

    def test_pairs_of_one_row(self):
        """
        Row 1 2 3 | 1 2 4 5, 6, 7 8 of a pair that shares nothing of what is scored, a completion, and a pair of equal
        chains, in whole chains. Rows are right 0, completion 1, right 2, wrong 0, wrong 2.
        """
        examples = [
            {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
            {"prompt_ids": [], "completion_ids": [6]},
            {"prompt_ids": [7], "chosen_ids": [8], "rejected_ids": [8]},
        ]
        expected = [[1, 2, 3, 0], [6, 0, 0, 0], [7, 8, 0, 0], [1, 2, 4, 5], [7, 8, 0, 0]]
        rows = {"padding_free": [1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 7, 8], "packed": [1, 2, 3, 4, 5, 6, 7, 8]}
        for layout, row in rows.items():
            batch = DataCollatorForDualCoT(pad_token_id=PAD, completion_weight=1.0, layout=layout)(examples)
            assert batch["input_ids"].tolist() == [row]
            assert to_padded(batch)["input_ids"].tolist() == expected

    def test_chains_of_one_pair_may_be_longer_than_any_shared_row(self):
        """Of two pairs, the one with the longest chain need not have the longest row."""
        examples = [
            {"prompt_ids": [1] * 6, "chosen_ids": [2], "rejected_ids": [3]},
            {"prompt_ids": [4], "chosen_ids": [5, 6, 7, 8], "rejected_ids": [9, 5, 6, 7]},
        ]
        batch = DataCollatorForDualCoT(pad_token_id=PAD, layout="shared_prefix")(examples)
        assert batch["attention_mask"].sum(dim=1).tolist() == [8, 9]  # 6 + 1 + 1 and 1 + 4 + 4

        assert to_padded(batch)["attention_mask"].sum(dim=1).tolist() == [7, 5, 7, 5]
