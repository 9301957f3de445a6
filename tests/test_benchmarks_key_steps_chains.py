"""
Tests of the tokens of the key-step benchmark: the same tokens as in the trainer, with the right characters.
"""

import json
import subprocess
import sys
from pathlib import Path

import key_steps_chains
import pytest
from benchmark_pairs import generated_examples, small_tokenizers, token_chain
from datasets import Dataset
from key_steps_chains import build_tokenizers, tokenize

from edit_trl.data_utils import prepare_dual_cots


class TestTokenizers:
    @pytest.mark.parametrize("name", ["bpe", "unigram", "words", "characters"])
    def test_tokens_are_those_of_the_trainer_and_spell_the_chain(self, name):
        tokenizer = small_tokenizers()[name]
        pairs = [example.to_pair() for example in generated_examples()]
        prepared = prepare_dual_cots(Dataset.from_list(pairs), tokenizer, eos_token=tokenizer.eos_token)
        for example, pair, row in zip(generated_examples(), pairs, prepared, strict=True):
            for text, ids in ((example.chosen, row["chosen_ids"]), (example.rejected, row["rejected_ids"])):
                chain = tokenize(tokenizer, pair["prompt"], text)

                assert chain.ids == ids
                assert "".join(text[a:b] for a, b in chain.offsets) == text
                assert chain.offsets[-1] == (len(text), len(text))

    @pytest.mark.slow
    def test_same_texts_give_the_same_tokens_in_another_process(self):
        """Hashes of strings, and with them the order of hash maps, differ between processes."""
        texts = [example.chosen for example in generated_examples()]
        code = (
            "import json, sys\n"
            f"sys.path.insert(0, {str(Path(key_steps_chains.__file__).parent)!r})\n"
            "from key_steps_chains import build_tokenizers\n"
            "texts = json.load(sys.stdin)\n"
            "built = build_tokenizers(texts, 300).values()\n"
            "print(json.dumps([tokenizer(texts)['input_ids'] for tokenizer in built]))\n"
        )
        process = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
        )

        built = build_tokenizers(texts, 300).values()
        assert json.loads(process.stdout) == [tokenizer(texts)["input_ids"] for tokenizer in built]


class TestTouches:
    def test_tokens_with_a_character_of_a_span_are_touched(self):
        """The span `b c` touches both tokens, `4` of 42 the one token of 42."""
        chain = token_chain("a b c 42 d.")

        assert chain.touches(2, 5) == [False, True, True, False, False, False, False]
        assert chain.touches(6, 7) == [False, False, False, True, False, False, False]

    def test_whitespace_at_the_ends_of_a_span_is_left_out(self):
        """The space after a forgotten step belongs to the token of the next step."""
        chain = token_chain("One. Two. Three.")
        assert chain.text[5:10] == "Two. "

        assert chain.touches(5, 10) == [False, False, True, True, False, False, False]
        assert chain.touches(4, 9) == chain.touches(5, 10)
