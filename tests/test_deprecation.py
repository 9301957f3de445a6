"""
Tests of old names: they have the same values as the new names, and the warning gives the new name.
"""

import importlib
import warnings

import pytest

from edit_trl.deprecation import REMOVED_IN, renamed, warn_of_old_name


# New name by old name, both with their module.
RENAMED = {
    "edit_trl.chat_client.BudgetReached": "edit_trl.chat.BudgetReached",
    "edit_trl.chat_client.ChatClient": "edit_trl.chat.ChatClient",
    "edit_trl.chat_client.ChatReply": "edit_trl.chat.ChatReply",
    "edit_trl.chat_client.EndpointError": "edit_trl.chat.EndpointError",
    "edit_trl.chat_client.Usage": "edit_trl.chat.Usage",
    "edit_trl.chat_client.estimate_tokens": "edit_trl.chat.estimate_tokens",
    "edit_trl.data_utils.check_columns": "edit_trl.data_utils.is_tokenized",
    "edit_trl.data_utils.check_weights": "edit_trl.weighting.read_weights",
    "edit_trl.data_utils.decode_part": "edit_trl.token_texts.decode_part",
    "edit_trl.data_utils.decode_pieces": "edit_trl.token_texts.decode_pieces",
    "edit_trl.data_utils.split_words": "edit_trl.token_texts.split_words",
    "edit_trl.questions.check_questions": "edit_trl.questions.normalize_questions",
    "edit_trl.synthesis.estimate": "edit_trl.synthesis.estimate_requests",
    "edit_trl.synthesis.keep_mistakes": "edit_trl.synthesis.filter_mistakes",
    "edit_trl.synthesis.save": "edit_trl.synthesis.save_dual_cots",
}


def value_of(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class TestRenamed:
    @pytest.mark.parametrize(("old", "new"), RENAMED.items(), ids=RENAMED)
    def test_old_name_warns_and_gives_what_the_new_one_gives(self, old, new):
        with pytest.warns(FutureWarning) as caught:
            value = value_of(old)

        assert value is value_of(new)
        (warning,) = caught
        assert str(warning.message) == f"`{old}` is now `{new}`. The old name will be removed in {REMOVED_IN}."
        assert warning.filename == __file__

    @pytest.mark.parametrize("new", sorted(set(RENAMED.values())))
    def test_new_name_does_not_warn(self, new):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value_of(new)

    @pytest.mark.parametrize("module", sorted({old.rpartition(".")[0] for old in RENAMED}))
    def test_name_that_never_was_is_an_attribute_error(self, module):
        with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
            value_of(f"{module}.nothing")

    def test_import_statement_warns_where_it_stands(self):
        with pytest.warns(FutureWarning, match="`edit_trl.synthesis.save_dual_cots`") as caught:
            from edit_trl.synthesis import save  # noqa: F401

        assert {warning.filename for warning in caught} == {__file__}

    def test_name_in_the_same_module_needs_no_path(self):
        look_up = renamed("edit_trl.questions", {"old": "student_prompt"})

        with pytest.warns(FutureWarning, match="`edit_trl.questions.old` is now `edit_trl.questions.student_prompt`"):
            assert look_up("old") is value_of("edit_trl.questions.student_prompt")


def test_warning_of_an_argument_points_at_its_caller():
    def takes_old_argument():
        warn_of_old_name("old", "new")

    with pytest.warns(FutureWarning, match="`old` is now `new`") as caught:
        takes_old_argument()

    assert caught[0].filename == __file__
