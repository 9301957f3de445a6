"""
Tests of the alignment: invariants of the edit script, the authors' tie order cell by cell, weights and words.

The slow computations are written here from the definitions and share no code with the library.
"""

import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from edit_trl.alignment import Alignment, align, similarity, token_weights, word_lengths


try:
    from editdistance import eval as edit_distance
except ImportError:  # there are no wheels for Python 3.13
    edit_distance = Levenshtein.distance

BBH_PAIRS = Path(__file__).parents[1].parent / "shared" / "data" / "bbh_dual_cots.jsonl"

# Few different tokens, so that most pairs have several minimum scripts.
chains = st.integers(1, 4).flatmap(lambda size: st.lists(st.integers(0, size - 1), max_size=24))
# Python gives -1 and -2 the same hash; 0x10FFFF is the last character; one alphabet has no order among its elements.
ALPHABETS = {
    "negative": [-1, -2, -3, 5],
    "huge": [0x10FFFF, 0x110000, 2**31, 2**63, 2**61 - 1, 0],
    "surrogates": [0xD7FF, 0xD800, 0xDFFF, 0xE000],
    "words": ["the", " the", "", "The"],
    "tuples": [(1, "a"), ("a", 1), (1, 2), ()],
    "mixed": [1, "a", None, -1, -2, (1, "a"), 2.5],
    "byte order marks": [0xFEFF, 0xFFFE, 0, 0xFFFF],
    "surrogate pairs": [0xD83D, 0xDE00, 0x1F600],
    "booleans": [True, False, 1, 0, 2],
    "equal numbers": [1, 1.0, True, 0, 0.0],
}
# Pairs over one of the alphabets, of equal length more often than chance has it: then the elements' order decides.
alphabet_pairs = st.sampled_from(list(ALPHABETS.values())).flatmap(
    lambda alphabet: st.one_of(
        st.tuples(*[st.lists(st.sampled_from(alphabet), max_size=16)] * 2),
        st.lists(st.tuples(*[st.sampled_from(alphabet)] * 2), max_size=16).map(
            lambda pairs: ([a for a, _ in pairs], [b for _, b in pairs])
        ),
    )
)
TIE_BREAKS = ["symmetric", "reference"]
# What an unambiguous script must be, and both tie orders have to find.
UNIQUE = [
    ("", "", "", "", 0),
    ("abc", "", "xxx", "", 3),
    ("", "ab", "", "xx", 2),
    ("abc", "abc", "...", "...", 0),
    ("abc", "axc", ".x.", ".x.", 1),
    ("abcd", "ad", ".xx.", "..", 2),
    ("ad", "abcd", "..", ".xx.", 2),
    ("abcde", "abXcde", ".....", "..x...", 1),
    ("abc", "xyz", "xxx", "xxx", 3),
]
# Pairs with several minimum scripts, and the one that counts. `blocks` are those of the script from chosen to
# rejected.
PINNED = [
    ("ab", "ba", ".x", "x.", [(0, 1, 1, 2)]),
    ("ba", "ab", "x.", ".x", [(1, 2, 0, 1)]),
    ("aba", "bab", "..x", "x..", [(0, 2, 1, 3)]),
    ("abab", "baba", "...x", "x...", [(0, 3, 1, 4)]),
    ("aa", "a", ".x", ".", [(0, 1, 0, 1)]),
    ("aabbcc", "abc", ".x.xx.", "...", [(0, 1, 0, 1), (2, 3, 1, 2), (5, 6, 2, 3)]),
    ("abcd", "acbd", "..x.", ".x..", [(0, 1, 0, 1), (1, 2, 2, 3), (3, 4, 3, 4)]),
    ("bab", "abba", "..x", "x.x.", [(0, 1, 1, 2), (1, 2, 3, 4)]),
    ("acabc", "cacb", "x..x.", "...x", [(1, 3, 0, 2), (4, 5, 2, 3)]),
    ("abba", "baab", ".x.x", "x.x.", [(0, 1, 1, 2), (2, 3, 3, 4)]),
]


def mask(pattern):
    return [character == "x" for character in pattern]


def distance_table(a, b):
    """Edit distances of all prefixes, by the textbook recurrence."""
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (0 if a[i - 1] == b[j - 1] else 1)
            )
    return table


def reference_mask(source, target):
    """The authors' walk back, cell by cell: delete, else insert, else diagonal, on what follows the common prefix."""
    prefix = 0
    while prefix < len(source) and prefix < len(target) and source[prefix] == target[prefix]:
        prefix += 1
    a, b = source[prefix:], target[prefix:]
    table = distance_table(a, b)
    key = [False] * len(a)
    i, j = len(a), len(b)
    while (i, j) != (0, 0):
        if i > 0 and table[i][j] == table[i - 1][j] + 1:
            key[i - 1] = True
            i -= 1
        elif j > 0 and table[i][j] == table[i][j - 1] + 1:
            j -= 1
        else:
            key[i - 1] = a[i - 1] != b[j - 1]
            i, j = i - 1, j - 1
    return [False] * prefix + key


def symmetric_alignment(chosen, rejected):
    """What rapidfuzz finds from the smaller sequence to the larger, one element and one matching block at a time."""

    def order(chain):
        for kind in (int, str):
            if all(isinstance(x, kind) for x in [*chosen, *rejected]):
                return len(chain), list(chain)
        return len(chain), [(type(x).__name__, repr(x)) for x in chain]

    swap = order(rejected) < order(chosen)
    source, target = (rejected, chosen) if swap else (chosen, rejected)
    codes = {}
    script = Levenshtein.editops(*("".join(codes.setdefault(x, chr(len(codes))) for x in s) for s in (source, target)))
    blocks = [(i, i + size, j, j + size) for i, j, size in script.as_matching_blocks() if size]
    if swap:
        blocks = [(j, j_end, i, i_end) for i, i_end, j, j_end in blocks]
    kept = {i for start, stop, _, _ in blocks for i in range(start, stop)}
    rejected_kept = {j for _, _, start, stop in blocks for j in range(start, stop)}
    return Alignment(
        [i not in kept for i in range(len(chosen))],
        [j not in rejected_kept for j in range(len(rejected))],
        len(script),
        blocks,
    )


def check_script(alignment, chosen, rejected):
    """Every fact that makes blocks and masks a minimum edit script from `chosen` to `rejected`."""
    chosen, rejected = list(chosen), list(rejected)
    assert len(alignment.chosen_key) == len(chosen)
    assert len(alignment.rejected_key) == len(rejected)

    # Blocks are in order, not empty, and equal on both sides.
    end, rejected_end, num_edits, replayed = 0, 0, 0, []
    kept, rejected_kept = set(), set()
    for start, stop, rejected_start, rejected_stop in [*alignment.blocks, (len(chosen),) * 2 + (len(rejected),) * 2]:
        assert start >= end and rejected_start >= rejected_end
        assert stop - start == rejected_stop - rejected_start
        assert chosen[start:stop] == rejected[rejected_start:rejected_stop]
        num_edits += max(start - end, rejected_start - rejected_end)
        # Replaying: what the gap inserts comes from the wrong chain, what a block keeps from the right one.
        replayed += [rejected[j] for j in range(rejected_end, rejected_start) if alignment.rejected_key[j]]
        replayed += [chosen[i] for i in range(start, stop) if not alignment.chosen_key[i]]
        kept |= set(range(start, stop))
        rejected_kept |= set(range(rejected_start, rejected_stop))
        end, rejected_end = stop, rejected_stop
    assert all(start < stop for start, stop, _, _ in alignment.blocks)

    assert replayed == rejected
    assert kept == {i for i, key in enumerate(alignment.chosen_key) if not key}
    assert rejected_kept == {j for j, key in enumerate(alignment.rejected_key) if not key}
    assert num_edits == alignment.distance


def check_swap(chosen, rejected):
    """Swapping the arguments swaps masks and blocks and changes nothing else."""
    one, other = align(chosen, rejected), align(rejected, chosen)
    assert one.chosen_key == other.rejected_key
    assert one.rejected_key == other.chosen_key
    assert one.distance == other.distance
    assert one.blocks == [(i, i_end, j, j_end) for j, j_end, i, i_end in other.blocks]


def edited(rng, chain, num_edits, size):
    """A copy of `chain` with random insertions, deletions and replacements."""
    chain = list(chain)
    for _ in range(num_edits):
        place, token = rng.randrange(len(chain) + 1), rng.randrange(size)
        chain[place : place + rng.randrange(2)] = [token] if rng.random() < 0.7 else []
    return chain


def long_pair(length, num_edits, size, seed=0):
    rng = random.Random(seed)
    chosen = [rng.randrange(size) for _ in range(length)]
    return chosen, edited(rng, chosen, num_edits, size)


class TestAlign:
    @settings(deadline=None, max_examples=200)
    @given(chosen=chains, rejected=chains)
    @example(chosen=[], rejected=[])
    @example(chosen=[], rejected=[0, 0])
    def test_distance_is_the_edit_distance(self, chosen, rejected):
        distance = align(chosen, rejected).distance

        assert distance == edit_distance(chosen, rejected)
        assert distance == distance_table(chosen, rejected)[-1][-1]

    @settings(deadline=None, max_examples=200)
    @given(chosen=chains, rejected=chains)
    def test_script_turns_chosen_into_rejected(self, chosen, rejected):
        check_script(align(chosen, rejected), chosen, rejected)

    @settings(deadline=None, max_examples=200)
    @given(chosen=chains, rejected=chains)
    def test_swapping_the_chains_swaps_the_masks(self, chosen, rejected):
        check_swap(chosen, rejected)

    @pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
    def test_any_hashable_is_compared_by_equality(self, alphabet):
        rng = random.Random(0)
        for _ in range(300):
            chosen, rejected = (rng.choices(alphabet, k=rng.randrange(9)) for _ in range(2))

            alignment = align(chosen, rejected)

            check_script(alignment, chosen, rejected)
            check_swap(chosen, rejected)
            assert alignment.distance == distance_table(chosen, rejected)[-1][-1]

    @pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
    def test_reference_compares_any_hashable_by_equality(self, alphabet):
        rng = random.Random(1)
        for _ in range(100):
            chosen, rejected = (rng.choices(alphabet, k=rng.randrange(9)) for _ in range(2))

            alignment = align(chosen, rejected, tie_break="reference")

            assert alignment.chosen_key == reference_mask(chosen, rejected)
            assert alignment.rejected_key == reference_mask(rejected, chosen)

    @settings(deadline=None, max_examples=400)
    @given(pair=alphabet_pairs)
    def test_script_is_the_one_from_the_smaller_sequence_to_the_larger(self, pair):
        assert align(*pair) == symmetric_alignment(*pair)
        check_swap(*pair)

    @settings(deadline=None, max_examples=150)
    @given(chosen=st.lists(st.integers(-3, 3) | st.integers(0, 2**33)), rejected=st.lists(st.integers(-3, 3)))
    def test_integers_of_any_size_are_elements(self, chosen, rejected):
        assert align(chosen, rejected) == symmetric_alignment(chosen, rejected)
        assert align(chosen, chosen[::-1]) == symmetric_alignment(chosen, chosen[::-1])

    @pytest.mark.parametrize("size", [4, 300, 49152, 151936])
    @pytest.mark.parametrize("length", [65, 200, 1100, 2200])
    def test_long_chains_have_the_same_script_too(self, length, size):
        """rapidfuzz has other ways for more than 64 elements, and from about 2,000 on."""
        chosen, rejected = long_pair(length, length // 10, size, seed=length)
        for pair in ((chosen, rejected), (chosen, rejected[:length] + chosen[: length - len(rejected)])):
            assert align(*pair) == symmetric_alignment(*pair)
            check_swap(*pair)

    def test_every_code_point_is_an_element_like_others(self):
        """Surrogates, byte order marks and the last character are token IDs; no two of them are taken for one."""
        ids = [0xFEFF, 0xFFFE, 0, 0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
        for first, second in itertools.permutations(ids, 2):
            assert align([first, second], [second, first]).distance == 2
            assert align([first, 1, second], [first, second]).chosen_key == [False, True, False]

    def test_bytes_are_sequences_of_integers(self):
        """Four bytes are four elements, not one integer of the machine."""
        assert align(b"2+2=4...", b"2+2=5...") == align(list(b"2+2=4..."), list(b"2+2=5..."))
        assert align(bytearray(b"abcd"), b"abcde").rejected_key == mask("....x")

    def test_elements_whose_order_is_partial_are_symmetric_too(self):
        """Of two disjoint sets neither is less than the other, so `<` cannot tell which chain comes first."""
        sets = [frozenset({0}), frozenset({1})]
        for chosen, rejected in itertools.product(itertools.product(sets, repeat=3), repeat=2):
            check_swap(chosen, rejected)

    def test_equal_numbers_of_different_types_are_equal(self):
        assert align([1, 0, 2], [1.0, False, 2]).distance == 0

    def test_elements_of_equal_hash_are_told_apart(self):
        """hash(-1) == hash(-2), and hash(2**61 - 1) == hash(0)."""
        assert hash(-1) == hash(-2) and hash(2**61 - 1) == hash(0)
        assert align([5, -1, 0], [5, -2, 2**61 - 1]).chosen_key == [False, True, True]
        assert align(["x", -1], ["x", -2]).rejected_key == [False, True]

    @pytest.mark.parametrize(("length", "num_edits", "size"), [(2000, 60, 32000), (1500, 200, 4), (700, 2000, 3)])
    def test_long_chains_keep_every_invariant(self, length, num_edits, size):
        chosen, rejected = long_pair(length, num_edits, size)

        alignment = align(chosen, rejected)

        check_script(alignment, chosen, rejected)
        check_swap(chosen, rejected)
        assert alignment.distance == edit_distance(chosen, rejected)

    @given(chain=chains)
    @settings(deadline=None)
    def test_identical_chains_have_no_key_tokens(self, chain):
        expected = Alignment([False] * len(chain), [False] * len(chain), 0, [(0, len(chain)) * 2] if chain else [])
        for tie_break in TIE_BREAKS:
            assert align(chain, chain, tie_break=tie_break) == expected

    @pytest.mark.parametrize("tie_break", TIE_BREAKS)
    @pytest.mark.parametrize(("chosen", "rejected", "chosen_key", "rejected_key", "distance"), UNIQUE)
    def test_only_script_is_found(self, chosen, rejected, chosen_key, rejected_key, distance, tie_break):
        alignment = align(chosen, rejected, tie_break=tie_break)

        assert alignment.chosen_key == mask(chosen_key)
        assert alignment.rejected_key == mask(rejected_key)
        assert alignment.distance == distance

    @pytest.mark.parametrize(("chosen", "rejected", "chosen_key", "rejected_key", "blocks"), PINNED)
    def test_symmetric_rule_has_not_moved(self, chosen, rejected, chosen_key, rejected_key, blocks):
        """A failure here means that a release of rapidfuzz picks other scripts, and so marks other tokens."""
        for to_tokens in (list, lambda text: [ord(character) for character in text]):
            alignment = align(to_tokens(chosen), to_tokens(rejected))

            assert alignment.chosen_key == mask(chosen_key)
            assert alignment.rejected_key == mask(rejected_key)
            assert alignment.blocks == blocks

    @pytest.mark.parametrize("tie_break", TIE_BREAKS)
    @pytest.mark.parametrize("convert", [tuple, np.array, lambda ids: [np.int64(i) for i in ids]])
    def test_other_sequences_give_what_lists_give(self, convert, tie_break):
        chosen, rejected = long_pair(40, 10, 5)

        alignment = align(convert(chosen), convert(rejected), tie_break=tie_break)

        assert alignment == align(chosen, rejected, tie_break=tie_break)
        assert {type(key) for key in alignment.chosen_key + alignment.rejected_key} == {bool}
        assert {type(alignment.distance), *(type(border) for block in alignment.blocks for border in block)} == {int}

    @pytest.mark.parametrize("ids", [[9, 10], [-1, -9], [9 * 10**9, 10**10]])
    def test_order_of_numpy_integers_is_that_of_integers(self, ids):
        """Written out, 10 comes before 9, and -1 before -9; as integers, after."""
        chosen, rejected = ids, ids[::-1]

        assert align(np.array(chosen), np.array(rejected)) == align(chosen, rejected)
        assert align(np.array(rejected), np.array(chosen)) == align(rejected, chosen)

    def test_inputs_are_not_changed(self):
        chosen, rejected = [1, 2, 3], [3, 1]
        for tie_break in TIE_BREAKS:
            align(chosen, rejected, tie_break=tie_break)
        assert (chosen, rejected) == ([1, 2, 3], [3, 1])

    @pytest.mark.parametrize("tie_break", ["Symmetric", "", None, "authors"])
    def test_unknown_tie_break_is_refused(self, tie_break):
        with pytest.raises(ValueError, match="`tie_break` must be one of 'symmetric', 'reference', got"):
            align([1], [2], tie_break=tie_break)


class TestReferenceTieBreak:
    def test_masks_are_those_of_the_walk_back_on_random_pairs(self):
        rng = random.Random(0)
        num_asymmetric = 0
        for _ in range(3000):
            size = rng.choice([2, 3, 4])
            chosen = [rng.randrange(size) for _ in range(rng.randrange(13))]
            if rng.random() < 0.5:
                rejected = edited(rng, chosen, rng.randrange(5), size)
            else:
                rejected = [rng.randrange(size) for _ in range(rng.randrange(13))]

            alignment = align(chosen, rejected, tie_break="reference")

            assert alignment.chosen_key == reference_mask(chosen, rejected), (chosen, rejected)
            assert alignment.rejected_key == reference_mask(rejected, chosen), (chosen, rejected)
            assert alignment.distance == distance_table(chosen, rejected)[-1][-1]
            # The blocks are those of the script from right to wrong, so its own inserted tokens follow from them.
            kept = {j for _, _, start, stop in alignment.blocks for j in range(start, stop)}
            inserted = [j not in kept for j in range(len(rejected))]
            check_script(
                Alignment(alignment.chosen_key, inserted, alignment.distance, alignment.blocks), chosen, rejected
            )
            num_asymmetric += inserted != alignment.rejected_key
        assert num_asymmetric > 50  # the two directions do disagree, so the test tells them apart

    def test_masks_are_those_of_the_walk_back_on_long_chains(self):
        for seed, size in enumerate([3, 50]):
            chosen, rejected = long_pair(200, 40, size, seed)

            alignment = align(chosen, rejected, tie_break="reference")

            assert alignment.chosen_key == reference_mask(chosen, rejected)
            assert alignment.rejected_key == reference_mask(rejected, chosen)

    @settings(deadline=None, max_examples=200)
    @given(pair=alphabet_pairs)
    def test_masks_are_those_of_the_walk_back_on_any_elements(self, pair):
        chosen, rejected = pair

        alignment = align(chosen, rejected, tie_break="reference")

        assert alignment.chosen_key == reference_mask(chosen, rejected)
        assert alignment.rejected_key == reference_mask(rejected, chosen)
        assert alignment.distance == distance_table(chosen, rejected)[-1][-1]

    def test_swapping_the_chains_swaps_the_masks(self):
        """Each direction has its own script, so the right chain's mask is the wrong chain's of the swapped pair."""
        chosen, rejected = long_pair(120, 40, 3)

        one = align(chosen, rejected, tie_break="reference")
        other = align(rejected, chosen, tie_break="reference")

        assert (one.chosen_key, one.rejected_key) == (other.rejected_key, other.chosen_key)
        assert one.distance == other.distance

    def test_directions_may_disagree(self):
        """
        From "ab" to "ba", cell (2, 2) of the table holds 2 and its upper neighbour 1: delete "b". Then "a" against
        "ba" is 1, above it 2, to its left 1: no deletion, no insertion, so the diagonal matches "a". Last comes the
        insertion of "b". So "b" is key in "ab", and by the same steps "a" is key in "ba".
        """
        alignment = align("ab", "ba", tie_break="reference")

        assert alignment.chosen_key == [False, True]
        assert alignment.rejected_key == [False, True]
        assert alignment.blocks == [(0, 1, 1, 2)]
        assert align("ab", "ba").rejected_key == [True, False]

    @given(prefix=chains, chosen=chains, rejected=chains)
    @settings(deadline=None)
    def test_common_prefix_is_never_key(self, prefix, chosen, rejected):
        alignment = align(prefix + chosen, prefix + rejected, tie_break="reference")

        assert not any(alignment.chosen_key[: len(prefix)] + alignment.rejected_key[: len(prefix)])
        assert align(prefix + chosen, prefix, tie_break="reference").chosen_key == mask(
            "." * len(prefix) + "x" * len(chosen)
        )


class TestRealPairs:
    @pytest.mark.skipif(not BBH_PAIRS.exists(), reason="the BIG-Bench Hard pairs are not here")
    def test_scripts_of_real_pairs_keep_every_invariant(self):
        with open(BBH_PAIRS, encoding="utf-8") as file:
            pairs = [json.loads(line) for line in file]
        assert len(pairs) == 42
        for pair in pairs:
            chosen, rejected = pair["chosen"].split(), pair["rejected"].split()

            alignment = align(chosen, rejected)

            check_script(alignment, chosen, rejected)
            check_swap(chosen, rejected)
            assert alignment.distance == edit_distance(chosen, rejected) > 0
            reference = align(chosen, rejected, tie_break="reference")
            assert reference.chosen_key == reference_mask(chosen, rejected)
            assert reference.rejected_key == reference_mask(rejected, chosen)
            assert similarity(chosen, rejected) == 1 - alignment.distance / max(len(chosen), len(rejected))


class TestExpand:
    def test_tokens_are_key_where_their_group_is(self):
        """
        Right words a b c of 1, 2, 3 tokens, wrong words a x c y of 1, 3, 2, 1 tokens: b is replaced by x, y inserted.
        """
        alignment = align(["a", "b", "c"], ["a", "x", "c", "y"])

        expanded = alignment.expand([1, 2, 3], [1, 3, 2, 1])

        assert expanded.chosen_key == mask(".xx...")
        assert expanded.rejected_key == mask(".xxx..x")
        assert expanded.blocks == [(0, 1, 0, 1), (3, 6, 4, 6)]
        assert expanded.distance == alignment.distance == 2

    @given(pair=st.tuples(chains, chains), data=st.data())
    @settings(deadline=None)
    def test_projection_fits_both_chains(self, pair, data):
        groups = [
            data.draw(st.lists(st.integers(1, 4), min_size=len(chain), max_size=len(chain)), label="lengths")
            for chain in pair
        ]
        alignment = align(*pair)

        expanded = alignment.expand(*groups)

        for key, expanded_key, lengths in zip(
            (alignment.chosen_key, alignment.rejected_key),
            (expanded.chosen_key, expanded.rejected_key),
            groups,
            strict=True,
        ):
            owners = np.repeat(np.arange(len(lengths)), lengths)
            assert expanded_key == [key[group] for group in owners]
        assert [i for start, stop, _, _ in expanded.blocks for i in range(start, stop)] == [
            i for i, key in enumerate(expanded.chosen_key) if not key
        ]
        assert [j for _, _, start, stop in expanded.blocks for j in range(start, stop)] == [
            j for j, key in enumerate(expanded.rejected_key) if not key
        ]

    def test_groups_of_one_token_change_nothing(self):
        alignment = align("abcabc", "bcxab")
        assert alignment.expand([1] * 6, [1] * 5) == alignment

    @pytest.mark.parametrize(
        ("lengths", "name"), [(([1], [1, 1]), "chosen_lengths"), (([1, 1], [1, 1, 1]), "rejected_lengths")]
    )
    def test_wrong_number_of_groups_is_refused(self, lengths, name):
        with pytest.raises(ValueError, match=f"`{name}` must hold one length per aligned group, expected 2, got"):
            align([1, 2], [1, 3]).expand(*lengths)


class TestTokenWeights:
    alignment = align([7, 8, 9], [7, 5, 6, 9])

    def test_defaults_are_those_of_the_paper(self):
        assert token_weights(self.alignment) == ([0.0, 1.0, 0.0], [0.0, -0.025, -0.025, 0.0])

    def test_other_tokens_of_the_right_chain_alone_can_have_a_weight(self):
        weights = token_weights(
            self.alignment, chosen_key_weight=2.0, rejected_key_weight=0.5, chosen_other_weight=0.25
        )
        assert weights == ([0.25, 2.0, 0.25], [0.0, -0.5, -0.5, 0.0])

    def test_strength_of_zero_is_positive_zero(self):
        """-0.0 == 0.0, so the sign is compared with `copysign`."""
        chosen, rejected = token_weights(self.alignment, chosen_key_weight=0.0, rejected_key_weight=0.0)
        assert [math.copysign(1.0, weight) for weight in chosen + rejected] == [1.0] * 7
        assert set(chosen + rejected) == {0.0}

    def test_empty_chains_have_no_weights(self):
        assert token_weights(align([], [])) == ([], [])


class TestSimilarity:
    @pytest.mark.parametrize(
        ("chosen", "rejected", "expected"),
        [
            ([], [], 1.0),
            ([1], [], 0.0),
            ([1, 2, 3], [1, 2, 3], 1.0),
            ([1, 2, 3, 4], [1, 2, 5, 4], 1 - 1 / 4),
            ([1, 2, 3, 4], [1, 2], 1 - 2 / 4),
            ([1, 2], [3, 4, 5], 0.0),
            (["a", "b", "c"], ["a", "x", "c", "d"], 1 - 2 / 4),
        ],
    )
    def test_value_is_one_minus_distance_over_longer_length(self, chosen, rejected, expected):
        assert similarity(chosen, rejected) == expected

    @given(chosen=chains, rejected=chains)
    @settings(deadline=None)
    def test_value_is_symmetric_and_agrees_with_the_script(self, chosen, rejected):
        value = similarity(chosen, rejected)

        assert 0 <= value <= 1
        assert value == similarity(rejected, chosen)
        longer = max(len(chosen), len(rejected), 1)
        assert value == pytest.approx(1 - align(chosen, rejected).distance / longer)

    def test_elements_of_equal_hash_are_told_apart(self):
        """hash(-1) == hash(-2), yet nothing is shared."""
        assert similarity([-1], [-2]) == 0.0

    @given(pair=alphabet_pairs | st.tuples(chains, chains))
    @settings(deadline=None)
    def test_value_is_the_same_without_editdistance(self, pair):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edit_trl.alignment._edit_distance", Levenshtein.distance)
            without = similarity(*pair)

        assert without == similarity(*pair)

    def test_package_works_without_editdistance(self):
        code = (
            "import sys\nsys.modules['editdistance'] = None\n"
            "from edit_trl import align, similarity\n"
            "print(similarity([1, 2, 3, 4], [1, 2, 5, 4]), align([1, 2], [1, 3]).chosen_key)"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)

        assert done.stdout == "0.75 [False, True]\n"


class TestWordLengths:
    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            ([], []),
            (["The", " ans", "wer", " is", " 4", "2", "."], [1, 2, 1, 3]),
            ([" The", " end"], [1, 1]),
            (["a", "b", "c"], [3]),
            (["end", ".", "\n", "So", " x"], [2, 1, 1, 1]),
            (["end", ".\n", "So"], [2, 1]),
            (["end", "\n\nSo", "on"], [1, 2]),
            (["a", " ", "b"], [1, 1, 1]),
            (["a", " ", " ", " b"], [1, 1, 1, 1]),
            (["a ", "b ", "c"], [1, 1, 1]),
            (["a", "\tb", "c"], [1, 2]),
            ([" ", "a"], [1, 1]),
            (["a", ""], [2]),
        ],
    )
    def test_words_start_at_whitespace_borders(self, texts, expected):
        assert word_lengths(texts, [False] * len(texts)) == expected

    def test_special_token_is_a_word_of_its_own(self):
        """Neither the end of sequence nor what follows a special token joins a word without a space between."""
        texts = ["<s>", "4", "2", "</s>", "</s>", "x"]
        assert word_lengths(texts, [True, False, False, True, True, False]) == [1, 2, 1, 1, 1]

    @given(texts=st.lists(st.text("ab \n\t\u3000", min_size=1, max_size=4), max_size=20))
    @settings(deadline=None)
    def test_borders_are_those_of_the_text(self, texts):
        """A token starts a word where the joined text has whitespace on either side of the token's start."""
        text = "".join(texts)
        offsets = list(itertools.accumulate(map(len, texts), initial=0))[:-1]
        starts = [i for i, at in enumerate(offsets) if at == 0 or text[at - 1].isspace() or text[at].isspace()]
        expected = [stop - start for start, stop in itertools.pairwise([*starts, len(texts)])]

        lengths = word_lengths(texts, [False] * len(texts))

        assert lengths == expected
        assert sum(lengths) == len(texts)

    def test_one_flag_per_token_is_needed(self):
        with pytest.raises(ValueError):
            word_lengths(["a", "b"], [False])
