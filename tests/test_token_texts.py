"""Tests of the texts of tokens, against whole texts decoded at once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from edit_trl.token_texts import decode_part, decode_pieces


class TestDecodePart:
    @given(text=st.text([*map(chr, range(32, 127)), "\n"], max_size=40))
    @settings(deadline=None)
    def test_texts_of_single_tokens_make_up_the_text(self, any_tokenizer, text):
        """A tokenizer in the manner of sentencepiece writes a space in front of a text that has none."""
        ids = any_tokenizer.encode(text, add_special_tokens=False)
        parts = [decode_part(any_tokenizer, [token]) for token in ids]

        expected = text
        if text and "unk_token" in any_tokenizer.special_tokens_map and not text.startswith(" "):
            expected = " " + text
        assert "".join(parts) == expected
        for cut in (0, len(ids) // 3, len(ids) // 2):
            assert decode_part(any_tokenizer, ids[cut:]) == "".join(parts[cut:])

    def test_leading_space_is_kept(self, any_tokenizer):
        ids = any_tokenizer.encode("The answer is", add_special_tokens=False)
        assert decode_part(any_tokenizer, ids[-1:]) == " is"

    def test_no_tokens_have_no_text(self, any_tokenizer):
        assert decode_part(any_tokenizer, []) == ""

    def test_special_tokens_are_written_out(self, any_tokenizer):
        eos = any_tokenizer.eos_token
        (word,) = any_tokenizer.encode(" answer", add_special_tokens=False)
        ids = [word, any_tokenizer.eos_token_id, word]
        assert decode_part(any_tokenizer, ids) == f" answer{eos} answer"
        assert decode_part(any_tokenizer, ids[1:]) == f"{eos} answer"
        assert decode_part(any_tokenizer, ids[1:2]) == eos

    def test_bytes_of_one_character_are_read_together(self, any_tokenizer):
        ids = any_tokenizer.encode("x😀y", add_special_tokens=False)
        assert decode_part(any_tokenizer, ids).strip() == "x😀y"


class TestDecodePieces:
    def test_marks_belong_to_their_letter(self, any_tokenizer):
        """Each letter and each mark is several tokens of a byte."""
        text = "น้ำ e\u0301 👩\u200d👧 か\u3099"
        ids = any_tokenizer.encode(text, add_special_tokens=False)
        pieces = decode_pieces(any_tokenizer, ids)
        assert [piece.strip() for piece, _ in pieces if piece.strip()] == text.split()
        assert sum(length for _, length in pieces) == len(ids)

    def test_special_token_is_a_piece_of_its_own(self, any_tokenizer):
        mark = any_tokenizer.encode("x\u0301", add_special_tokens=False)[-2:]
        eos = any_tokenizer.eos_token_id
        pieces = decode_pieces(any_tokenizer, [eos, *mark, eos])
        assert pieces == [(any_tokenizer.eos_token, 1), ("\u0301", 2), (any_tokenizer.eos_token, 1)]
