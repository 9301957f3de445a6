"""
Tests of the options of the synthesis.
"""

import pytest

from edit_trl.synthesis import SynthesisConfig


class TestConfig:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
            ({"num_examples": -1}, "`num_examples` must be at least 0, got -1"),
            ({"max_attempts": 0}, "`max_attempts` must be at least 1, got 0"),
            ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
            ({"min_similarity": 0.9, "max_similarity": 0.8}, "`min_similarity` and `max_similarity` .* 0.9 and 0.8"),
            ({"max_similarity": 1.1}, "must lie between 0 and 1"),
            ({"min_similarity": -0.1}, "must lie between 0 and 1"),
            ({"file_format": "csv"}, "`file_format` must be 'parquet' or 'jsonl', got 'csv'"),
        ],
    )
    def test_bad_option_is_refused_at_once(self, options, message):
        with pytest.raises(ValueError, match=message):
            SynthesisConfig(**options)

    def test_every_field_is_explained_and_has_a_default(self):
        for field in SynthesisConfig.__dataclass_fields__.values():
            assert field.metadata["help"].endswith(".")
            assert f"{field.name} (`" in SynthesisConfig.__doc__
