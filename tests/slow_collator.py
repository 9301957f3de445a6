"""
Slow implementation of what the collator returns, by the method's definitions, one token at a time.

The alignment itself is tested in `test_alignment.py`; here it is taken to be right.
"""

import math

import torch
from hypothesis import strategies as st

from edit_trl.alignment import align
from edit_trl.shared_attention import segment_inputs


PAD = 99
LAYOUTS = ("padded", "shared_prefix", "packed", "padding_free")
SCORED = ("scored_rows", "scored_positions", "scored_ids", "scored_weights", "scored_key", "scored_chains")
DTYPES = {
    "input_ids": torch.long,
    "attention_mask": torch.long,
    "position_ids": torch.long,
    "scored_rows": torch.long,
    "scored_positions": torch.long,
    "scored_ids": torch.long,
    "scored_weights": torch.float,
    "scored_key": torch.bool,
    "scored_chains": torch.long,
    "is_completion": torch.bool,
    "num_completion_tokens": torch.long,
    "num_key_tokens": torch.long,
    "num_tokens": torch.long,
}
PAIRS = {"pair_lengths": torch.long}
BORDERS = {"cu_seq_lens_q": torch.int32, "cu_seq_lens_k": torch.int32}
LONGEST = ("max_length_q", "max_length_k")


def dtypes(batch: dict) -> dict:
    """Types of the tensors of a batch; all else but the name of the layout has none, and two lengths are numbers."""
    assert all(type(batch[name]) is int for name in LONGEST if name in batch)
    return {name: value.dtype for name, value in batch.items() if name not in ("layout", *LONGEST)}


token_ids = st.lists(st.integers(0, 4), max_size=7)
pair_dicts = st.fixed_dictionaries({"prompt_ids": token_ids, "chosen_ids": token_ids, "rejected_ids": token_ids})
# With and without the empty columns that prepared data has.
completion_dicts = st.fixed_dictionaries(
    {"prompt_ids": token_ids, "completion_ids": st.lists(st.integers(0, 4), min_size=1, max_size=7)},
    optional={"chosen_ids": st.just([]), "rejected_ids": st.sampled_from([[], None])},
)
examples_lists = st.lists(st.one_of(pair_dicts, completion_dicts), min_size=1, max_size=4)
options_dicts = st.fixed_dictionaries(
    {"completion_weight": st.sampled_from([0.7, 2.0])},
    optional={
        "chosen_key_weight": st.sampled_from([0.0, 1.0, 2.0]),
        "rejected_key_weight": st.sampled_from([0.0, 0.025, 1.0]),
        "chosen_other_weight": st.sampled_from([0.0, 0.3]),
        "tie_break": st.sampled_from(["symmetric", "reference"]),
        "max_length": st.one_of(st.none(), st.integers(1, 12)),
        "truncation_mode": st.sampled_from(["keep_start", "keep_end"]),
        "pad_to_multiple_of": st.sampled_from([None, 4, 8]),
    },
)


def example(prompt, chosen, rejected, **weights):
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, **weights}


def slow_rows(examples, options):
    """
    Kept tokens of each chain, its scored tokens, and its numbers of completion and key tokens, by the definitions. The
    wrong chain of a completion has none of them.
    """
    max_length, keep_start = options.get("max_length"), options.get("truncation_mode", "keep_start") == "keep_start"
    alpha, beta = options.get("chosen_key_weight", 1.0), options.get("rejected_key_weight", 0.025)
    gamma = options.get("chosen_other_weight", 0.0)
    rows, scored, num_completion_tokens, num_key_tokens = [], [], [], []
    for side in ("chosen", "rejected"):
        for pair in examples:
            completion = pair.get(f"{side}_ids")
            if "completion_ids" in pair:
                completion = pair["completion_ids"] if side == "chosen" else []
                weights, keys = [options["completion_weight"]] * len(completion), [False] * len(completion)
            elif "chosen_weights" in pair:
                weights = pair[f"{side}_weights"]
                keys = [weight != 0 for weight in weights]
            else:
                script = align(
                    pair["chosen_ids"], pair["rejected_ids"], tie_break=options.get("tie_break", "symmetric")
                )
                keys = getattr(script, f"{side}_key")
                weights = [(alpha if key else gamma) if side == "chosen" else (-beta if key else 0.0) for key in keys]
            # One record per token: ID, whether it is of the completion, weight, key.
            is_absent = "completion_ids" in pair and side == "rejected"
            tokens = [] if is_absent else [(token, False, 0.0, False) for token in pair["prompt_ids"]]
            tokens += [
                (token, True, weight, key) for token, weight, key in zip(completion, weights, keys, strict=True)
            ]
            if max_length is not None and len(tokens) > max_length:
                tokens = tokens[:max_length] if keep_start else tokens[len(tokens) - max_length :]
            row = len(rows)
            for position, (token, is_completion, weight, key) in enumerate(tokens):
                if is_completion and position > 0 and (key or weight != 0):
                    scored.append((row, position - 1, token, weight, key, row))
            rows.append([token for token, *_ in tokens])
            num_completion_tokens.append(sum(is_completion for _, is_completion, *_ in tokens))
            num_key_tokens.append(sum(keys))
    return rows, scored, num_completion_tokens, num_key_tokens


def check_batch(batch, examples, options):
    """Every tensor against the slow reading. All chains have a row, but for the wrong chain of a completion."""
    chains, scored, num_completion_tokens, num_key_tokens = slow_rows(examples, options)
    absent = [len(examples) + b for b, pair in enumerate(examples) if "completion_ids" in pair]
    with_row = [number for number in range(2 * len(examples)) if number not in absent]
    rows = [chains[number] for number in with_row]
    scored = [(with_row.index(row), *rest) for row, *rest in scored]
    assert batch["is_completion"].tolist() == ["completion_ids" in pair for pair in examples]
    multiple = options.get("pad_to_multiple_of") or 1
    width = math.ceil(max(map(len, rows)) / multiple) * multiple
    assert batch["layout"] == "padded"
    assert dtypes(batch) == DTYPES

    padding = [width - len(row) for row in rows]
    assert batch["input_ids"].tolist() == [row + [PAD] * n for row, n in zip(rows, padding, strict=True)]
    assert batch["attention_mask"].tolist() == [[1] * len(row) + [0] * n for row, n in zip(rows, padding, strict=True)]
    assert batch["position_ids"].tolist() == [
        [*range(len(row))] + [0] * n for row, n in zip(rows, padding, strict=True)
    ]

    found = list(zip(*(batch[name].tolist() for name in SCORED), strict=True))
    single = torch.tensor([entry[3] for entry in scored]).tolist()
    expected = [(*entry[:3], weight, *entry[4:]) for entry, weight in zip(scored, single, strict=True)]
    assert sorted(found) == sorted(expected)  # each exactly once, and none other
    for row, position, token, _, _, chain in found:
        assert batch["input_ids"][row, position + 1] == token
        assert batch["attention_mask"][row, position] == batch["attention_mask"][row, position + 1] == 1
        assert chain == with_row[row]

    assert batch["num_completion_tokens"].tolist() == num_completion_tokens
    assert batch["num_key_tokens"].tolist() == num_key_tokens
    assert batch["num_tokens"].item() == sum(map(len, rows)) == batch["attention_mask"].sum()


def places_of_chains(batch):
    """Row and place of each token of each chain, by what the class says of its layouts."""
    num_pairs = len(batch["is_completion"])
    if batch["layout"] == "padded":
        places, row = [], 0
        for chain in range(2 * num_pairs):
            has_row = chain < num_pairs or not batch["is_completion"][chain - num_pairs]
            length = int(batch["attention_mask"][row].sum()) if has_row else 0
            places.append([(row, place) for place in range(length)])
            row += has_row
        return places
    right, wrong = [], []
    row, place = 0, 0
    for number, (shared, chosen, rejected) in enumerate(batch["pair_lengths"].tolist()):
        if batch["layout"] == "shared_prefix":
            row, place = number, 0
        parts = []
        for length in (shared, chosen, rejected):
            parts.append([(row, place + offset) for offset in range(length)])
            place += length
        right.append(parts[0] + parts[1])
        wrong.append(parts[0] + parts[2])
    return right + wrong


def check_keys(batch):
    """The keys of the layout and no others, and the tensors that describe how its tokens attend."""
    layout = batch["layout"]
    lengths = batch["pair_lengths"].tolist() if layout != "padded" else []
    extra = {
        "padded": {},
        "shared_prefix": {**PAIRS, "branch_ids": torch.long},
        "packed": {**PAIRS, **BORDERS, "segment_keys": torch.long},
        "padding_free": {**PAIRS, **BORDERS},
    }[layout]
    expected = DTYPES | extra
    if layout == "padding_free":
        expected.pop("attention_mask")
        assert all(shared == 0 for shared, *_ in lengths)
    assert dtypes(batch) == expected
    if layout == "shared_prefix":
        for row, (shared, chosen, rejected) in enumerate(lengths):
            branches = [0] * shared + [1] * chosen + [2] * rejected
            padding = [0] * (batch["input_ids"].size(1) - len(branches))
            assert batch["branch_ids"][row].tolist() == branches + padding
    if layout in ("packed", "padding_free"):
        padding = batch["input_ids"].size(1) - batch["num_tokens"].item()
        inputs = segment_inputs([*lengths, (0, padding, 0)])
        segment_keys = inputs.pop("attention_mask")
        assert layout == "padding_free" or torch.equal(batch["segment_keys"], segment_keys)
        for name, value in inputs.items():
            assert torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(value))
    if "attention_mask" in batch:
        assert batch["attention_mask"].sum() == batch["num_tokens"]


def check_layout(batch, examples, options):
    """Every tensor of any layout against the slow reading: its chains, and what is scored of each."""
    chains, scored, num_completion_tokens, num_key_tokens = slow_rows(examples, options)
    check_keys(batch)
    places = places_of_chains(batch)
    assert [[batch["input_ids"][place].item() for place in chain] for chain in places] == chains
    assert [[batch["position_ids"][place].item() for place in chain] for chain in places] == [
        [*range(len(chain))] for chain in chains
    ]
    # The rest is padding, at the end of a row.
    used = {place for chain in places for place in chain}
    lengths = [sum(r == row for r, _ in used) for row in range(len(batch["input_ids"]))]
    multiple = options.get("pad_to_multiple_of") or 1
    assert batch["input_ids"].size(1) == math.ceil(max(lengths) / multiple) * multiple
    assert batch["num_tokens"].item() == sum(lengths)
    for row, (ids, length) in enumerate(zip(batch["input_ids"].tolist(), lengths, strict=True)):
        assert {place for r, place in used if r == row} == set(range(length))
        assert ids[length:] == [PAD] * (len(ids) - length)
        if "attention_mask" in batch:
            assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (len(ids) - length)

    # Each entry where its chain has the token before it.
    found = list(zip(*(batch[name].tolist() for name in SCORED), strict=True))
    single = torch.tensor([entry[3] for entry in scored]).tolist()
    expected = [
        (*places[chain][t], token, weight, key, chain)
        for (chain, t, token, _, key, _), weight in zip(scored, single, strict=True)
    ]
    assert sorted(found) == sorted(expected)
    for row, place, token, *_, chain in found:
        assert chains[chain][places[chain].index((row, place)) + 1] == token

    assert batch["num_completion_tokens"].tolist() == num_completion_tokens
    assert batch["num_key_tokens"].tolist() == num_key_tokens


def key_places(batch, row, prompt_length):
    """Which tokens of a row's completion are key."""
    chosen = (batch["scored_rows"] == row) & batch["scored_key"]
    return [position + 1 - prompt_length for position in batch["scored_positions"][chosen].tolist()]
