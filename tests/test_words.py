"""
Tests of the words of texts and of tokens, in scripts with spaces and without.

Text with spaces must give what `str.split` and the rule of whitespace borders give, written here a second time.
"""

import itertools
import re
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from script_pairs import PAIRS

from edit_trl import DataCollatorForDualCoT
from edit_trl.alignment import align, similarity, word_lengths
from edit_trl.inspection import read_pairs
from edit_trl.synthesis.checks import chain_reject_reason, pair_reject_reason
from edit_trl.token_texts import decode_pieces, split_words
from edit_trl.weighting import weigh_pair
from edit_trl.words import split_text, unspaced_starts, words


# Two chains of one pair, translated. Only the two numbers differ, and all words that must be key are "42" and "43".
TRANSLATED = {
    "Chinese": "首先，12加30等于{0}。因此，答案是{0}。",
    "Chinese, full width": "首先，１２＋３０＝{0}。因此，答案是{0}。",
    "Japanese": "まず、12足す30は{0}です。したがって、答えは{0}です。",
    "Thai": "ขั้นแรก 12 บวก 30 เท่ากับ{0}ดังนั้นคำตอบคือ{0}",
    "Lao": "ກ່ອນອື່ນໝົດ12ບວກ30ເທົ່າກັບ{0}ດັ່ງນັ້ນຄຳຕອບແມ່ນ{0}",
    "Khmer": "ដំបូង១២បូក៣០ស្មើ{0}។ដូច្នេះចម្លើយគឺ{0}។",
    "Burmese": "ပထမ၁၂နှင့်၃၀ပေါင်းလျှင်{0}ဖြစ်သည်။ထို့ကြောင့်အဖြေမှာ{0}ဖြစ်သည်။",
    "Tibetan": "དང་པོ་12དང་30བསྡོམས་ན་{0}།དེར་བརྟེན་ལན་ནི་{0}།",
    "Chinese and English": "Tom有12个apples，再买30个，共{0}个。So答案是{0}。",
}
LATIN = st.characters(max_codepoint=0x24F)
WIDE = str.maketrans("0123456789", "０１２３４５６７８９")


class TestSplitText:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("答案是42。", "答|案|是|42|。"),
            ("答えは3.5です", "答|え|は|3.5|で|す"),
            ("トムはリンゴを", "トム|は|リンゴ|を"),
            ("ﾄﾑは", "ﾄﾑ|は"),
            ("らーめん ラーメン", "ら|ー|め|ん| ラーメン"),
            ("（４＋２）", "（|４|＋|２|）"),
            ("共１２３个", "共|１２３|个"),
            ("GPT-4说“x=5”。", "GPT-4|说|“x=5”|。"),
            ("คำตอบคือ๔๒", "คำ|ต|อ|บ|คื|อ|๔๒"),
            ("နှင့်ကား", "နှ|င့်|ကား"),
            ("ខ្មែរ\u200bល្អ", "ខ្មែ|រ|\u200bល្អ"),
            ("སྐད་ཡིག 42།དེ", "སྐད་|ཡིག| 42|།|དེ"),
            ("ሰላም፡ለዓለም", "ሰላም፡|ለዓለም"),
            ("葛\U000e0100飾区", "葛\U000e0100|飾|区"),
            ("が か\u3099", "が| か\u3099"),
            ("好👍🏽的👩\u200d👩\u200d👧家", "好|👍🏽|的|👩\u200d👩\u200d👧|家"),
            ("答案\u3000是 \u00a042", "答|案|\u3000是| \u00a042"),
            ("a\u200bb", "a|\u200bb"),
            ("한국어로 답은 42입니다.", "한국어로| 답은| 42입니다."),
            ("الجواب هو ٤٢.", "الجواب| هو| ٤٢."),
            ("می\u200cشود", "می\u200cشود"),
            ("התשובה היא 42.", "התשובה| היא| 42."),
            ("उत्तर ४२ है।", "उत्तर| ४२| है।"),
            ("x😀y cafe\u0301 3·4", "x😀y| cafe\u0301| 3·4"),
            ("", ""),
            (" \n\u3000", ""),
            ("。 ", "。"),
        ],
    )
    def test_words_of_many_scripts(self, text, expected):
        expected = expected.split("|") if expected else []
        assert split_text(text) == expected
        assert words(text) == [word.strip().strip("\u200b") for word in expected]

    @given(text=st.text())
    @settings(deadline=None, max_examples=300)
    def test_words_make_up_the_text(self, text):
        pieces = split_text(text)
        assert "".join(pieces) == re.sub(r"[\s\u200b]+\Z", "", text)
        assert all(piece.strip().strip("\u200b") for piece in pieces)

    @given(text=st.text(st.sampled_from("答案はคำ်ာကី\u0301\u3099ーラﾞ a4。👩\u200d👧\ufe0f\U000e0100")))
    @settings(deadline=None, max_examples=300)
    def test_no_character_is_torn(self, text):
        """No word starts inside a grapheme cluster."""
        ends = set(itertools.accumulate(map(len, regex.findall(r"\X", text)), initial=0))
        starts = itertools.accumulate(map(len, split_text(text)[:-1]), initial=0)
        assert ends.issuperset(starts)

    @given(text=st.text(LATIN))
    @settings(deadline=None, max_examples=300)
    def test_latin_text_is_split_at_its_spaces_alone(self, text):
        assert words(text) == text.split()
        assert split_text(text) == re.findall(r"\s*\S+", text)
        assert unspaced_starts(text) == set()


class TestSimilarity:
    @pytest.mark.parametrize("name", TRANSLATED)
    def test_translated_pair_is_dual_in_every_script(self, name):
        """Two words differ, those with the result; one word for each whole chain would give 0."""
        numbers = ("42", "43")
        if name == "Chinese, full width":
            numbers = tuple(number.translate(WIDE) for number in numbers)
        chosen, rejected = (TRANSLATED[name].format(number) for number in numbers)
        left, right = words(chosen), words(rejected)
        assert [pair for pair in zip(left, right, strict=True) if pair[0] != pair[1]] == [numbers] * 2
        assert similarity(left, right) == pytest.approx(1 - 2 / len(left))
        assert similarity(left, right) > 0.7


class TestPairs:
    def test_table_of_the_docs_is_computed_from_the_pairs(self):
        rows = []
        for name, pair in PAIRS.items():
            cells = []
            for split in (str.split, words):
                chains = [split(pair[side]) for side in ("chosen", "rejected")]
                script = align(*chains)
                ratio = (sum(script.chosen_key) + sum(script.rejected_key)) / sum(map(len, chains))
                cells += [f"{similarity(*chains):.2f}", f"{100 * ratio:.0f} %"]
            rows.append(f"| {name} | {' | '.join(cells)} |")
        page = (Path(__file__).parent.parent / "docs" / "inspection.md").read_text(encoding="utf-8")
        assert "\n".join(rows) in page

    @pytest.mark.parametrize("name", PAIRS)
    def test_inspection_keeps_the_pair_in_every_script(self, name):
        """Without a tokenizer. In the chains of all scripts exactly four words are key."""
        (pair,) = read_pairs([PAIRS[name]])
        assert "not_dual" not in pair.problems and pair.similarity > 0.6
        assert pair.num_chosen_key == pair.num_rejected_key == 4
        assert "".join(piece.text for piece in pair.chosen) == PAIRS[name]["chosen"]

    @pytest.mark.parametrize("name", ["Chinese", "Japanese", "Thai", "Lao", "Khmer", "Burmese"])
    def test_implicit_prompt_ends_at_a_word(self, name):
        chains = {side: PAIRS[name][side] for side in ("chosen", "rejected")}
        (pair,) = read_pairs([chains])
        assert pair.prompt and pair.chosen[0].is_key and pair.rejected[0].is_key
        assert chains["chosen"] == pair.prompt + "".join(piece.text for piece in pair.chosen)

    @pytest.mark.parametrize("name", PAIRS)
    def test_synthesis_takes_the_pair_in_every_script(self, name):
        right, wrong = (f"{PAIRS[name][side]}\n#### {number}" for side, number in (("chosen", 37), ("rejected", 38)))
        limits = {"min_similarity": 0.5, "max_similarity": 0.98}
        assert chain_reject_reason(wrong, "stop", 10, 100) is None
        assert pair_reject_reason(wrong, right, PAIRS[name]["prompt"], "37", False, **limits) is None
        assert pair_reject_reason(wrong, f"{PAIRS[name]['prompt']} #### 37", "", "37", False, **limits) == (
            "too_different"
        )


def borders_of_whitespace(texts: list[str], special: list[bool]) -> list[int]:
    """The rule of `word_lengths` for text with spaces."""
    lengths: list[int] = []
    for i, text in enumerate(texts):
        before = texts[i - 1] if i else " "
        if before[-1:].isspace() or text[:1].isspace() or special[i] or special[i - 1]:
            lengths.append(1)
        else:
            lengths[-1] += 1
    return lengths


class TestWordLengths:
    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (["答案", "是", "4", "2", "。"], [1, 1, 2, 1]),
            (["是4", "2。", "所"], [2, 1]),  # the border before the full stop lies inside a token
            (["ค", "ำ", "ต", "อบ"], [2, 1, 1]),
            (["か", "\u3099", "く"], [2, 1]),
            (["ラ", "ー", "メン", "は"], [3, 1]),
            (["a", "\u200b", "b"], [1, 1, 1]),
            (["答", "", "案"], [2, 1]),
            (["👩", "\u200d", "👧", "好"], [3, 1]),
        ],
    )
    def test_words_of_scripts_without_spaces(self, texts, expected):
        assert word_lengths(texts, [False] * len(texts)) == expected

    @given(tokens=st.lists(st.tuples(st.text(LATIN, max_size=3), st.booleans())))
    @settings(deadline=None, max_examples=300)
    def test_latin_text_has_the_borders_of_its_whitespace_alone(self, tokens):
        texts, special = [text for text, _ in tokens], [is_special for _, is_special in tokens]
        assert word_lengths(texts, special) == borders_of_whitespace(texts, special)


class TestSplitWords:
    @pytest.mark.parametrize("name", TRANSLATED)
    def test_bytes_are_joined_to_the_words_of_the_text(self, name, any_tokenizer):
        """Neither tokenizer knows these scripts: each character is several tokens, which are bytes."""
        text = TRANSLATED[name].format(42)
        found, lengths = split_words(any_tokenizer, any_tokenizer.encode(text, add_special_tokens=False))
        assert "".join(found).strip() == text
        assert [word.strip() for word in found if word.strip()] == words(text)
        assert all(lengths)

    @pytest.mark.parametrize("name", TRANSLATED)
    def test_key_words_of_training_are_the_numbers(self, name, any_tokenizer):
        ids = [
            any_tokenizer.encode(TRANSLATED[name].format(number), add_special_tokens=False) for number in ("42", "43")
        ]
        options = DataCollatorForDualCoT(pad_token_id=3, alignment_level="word", tokenizer=any_tokenizer)
        row = {"prompt_ids": [5], "chosen_ids": ids[0], "rejected_ids": ids[1]}
        pair = weigh_pair(row, options, any_tokenizer)

        key = [token for token, is_key in zip(ids[0], pair.chosen.is_key, strict=True) if is_key]

        assert any_tokenizer.decode(key).replace(" ", "") == "4242"

    def test_tokens_that_end_one_character_and_begin_the_next_are_read_together(self):
        """Byte-level tokenizers have such tokens: GPT-2 has one of the end of "ー" with the first byte of the next."""

        class Bytes:
            all_special_ids: list[int] = []
            tokens = [b"a", b"\xe3\x83", b"\xbc\xe3", b"\x83\xab\xe3\x82", b"\xab", b"b"]

            def encode(self, text, **options):
                return [0]

            def decode(self, ids, **options):
                return b"".join(self.tokens[token] for token in ids).decode(errors="replace")

        assert decode_pieces(Bytes(), [0, 1, 2, 3, 4, 5]) == [("a", 1), ("ールカ", 4), ("b", 1)]


def test_rare_letters_of_scripts_without_spaces_are_words_too():
    """Two letters of Bopomofo are far below the others of these scripts."""
    assert words("ab\u02eacd") == ["ab", "\u02ea", "cd"]
    assert words("abécd – ёж") == ["abécd", "–", "ёж"]
