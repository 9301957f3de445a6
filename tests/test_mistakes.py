"""
Tests of the classification of mistakes by a judge model.
"""

import pytest
from datasets import Dataset, List, Value
from dual_cot_teacher import (
    ERRING,
    RIGHT,
    RIGHT_COTS,
    WRONG_COTS,
    asked,
    one_ssl_context,  # noqa: F401
    prompt_of,
    refuse,
    run,
    steps_of,
    teach,
    teach_but,
    user,
)
from teacher import (
    Teacher,
    client_for,
    time_limit,  # noqa: F401
)

from edit_trl.chat import ChatClient
from edit_trl.synthesis import classify_mistakes, filter_mistakes
from edit_trl.synthesis.mistakes import read_verdict


pytest.importorskip("openai")


VERDICTS = [
    ("Category: a", "logical"),
    ("Category: b.", "knowledge"),
    ("Category: (c)", "calculation"),
    ("Category: d)", "other"),
    ("category: C", "calculation"),
    ("CATEGORY: A", "logical"),
    ("**Category: c**", "calculation"),
    ("**Category:** c", "calculation"),
    ("**Category**: **c**", "calculation"),
    ("Category: `c`", "calculation"),
    ("Category: $c$", "calculation"),
    ("Category: [c]", "calculation"),
    ("Category: (c) calculation", "calculation"),
    ("Category: c (calculation)", "calculation"),
    ("Category: a - logical", "logical"),
    ("Category: a logical", "logical"),
    ("Category c", "calculation"),
    ("## Category\n\nc", "calculation"),
    ("Category: a+c", "logical calculation"),
    ("Category: (a) + (c)", "logical calculation"),
    ("Category: **a** + **c**", "logical calculation"),
    ("Category: a, c", "logical calculation"),
    ("Category: a/c", "logical calculation"),
    ("Category: a; c", "logical calculation"),
    ("Category: a & c", "logical calculation"),
    ("Category: A and C.", "logical calculation"),
    ("Categories: a and c", "logical calculation"),
    ("Category: c + a", "logical calculation"),
    ("Category: c+c", "calculation"),
    ("Category: a, b, and d", "logical knowledge other"),
    ("Category: a+b+c+d", "logical knowledge calculation other"),
    ("Category: a fits badly.\nCategory: c", "calculation"),
    ("It could be category a.\n\nCategory: c", "calculation"),
    ("Category: c, a sum is wrong", "calculation"),
    ("Category: c\nand b is right", "calculation"),
    ("Category: c.\n\nA carry was lost.", "calculation"),
    ("第二步算错了。\nCategory：ｃ", "calculation"),
    ("Category: a和c", "logical calculation"),
    ("Category：a＋c。", "logical calculation"),
    ("Category: a、c", "logical calculation"),
    ("Category: c（计算）", "calculation"),
    ("Category: c計算の間違い", "calculation"),
    ("Category：计算错误，不是 a", None),
    ("Category: à revoir", None),
    ("Category: a calculation error", None),  # the letter is a word
    ("The mistake is in the carry.", None),
    ("Category: e", None),
    ("Category: calculation", None),
    ("Category:", None),
    ("Category: ?", None),
    ("I would say c.", None),
    ("", None),
]


class TestMistakes:
    @pytest.mark.parametrize(("reply", "expected"), VERDICTS)
    def test_verdict_is_read(self, reply, expected):
        assert read_verdict(reply) == (expected.split() if expected else None)

    @pytest.fixture
    def pairs(self, made):
        return made[0].pairs

    def test_each_pair_gets_the_kinds_of_its_mistake(self, pairs):
        with Teacher(teach) as teacher:
            classified = classify_mistakes(pairs, client_for(teacher))

        assert len(teacher.requests) == 16
        assert classified.features["mistake_kinds"] == List(Value("string"))
        assert classified.remove_columns("mistake_kinds").to_list() == pairs.to_list()
        assert classified["mistake_kinds"][:] == [[cot.mistake_kind] for cot in WRONG_COTS + RIGHT_COTS]

    def test_verdict_that_cannot_be_read_is_asked_for_again(self, pairs):
        script = teach_but({("classify", RIGHT.question): ["Hm.", "Category: e", "Category: a+b"]})
        with Teacher(script) as teacher:
            classified = classify_mistakes(pairs, client_for(teacher, seed=5))

        about = [request["seed"] for request in teacher.requests if asked(request)[1] is RIGHT]
        assert about == [5, 6, 7]
        kinds = dict(zip(classified["prompt"], classified["mistake_kinds"], strict=True))
        assert kinds[prompt_of(RIGHT)] == ["logical", "knowledge"]

    @pytest.mark.parametrize(("options", "num_requests"), [({}, 3), ({"temperature": 0}, 1)])
    def test_missing_verdict_is_none(self, options, num_requests, pairs):
        script = teach_but({("classify", RIGHT.question): ["Hm."] * 3})
        with Teacher(script) as teacher:
            classified = classify_mistakes(pairs, client_for(teacher, **options))

        assert len(teacher.requests) == 15 + num_requests
        kinds = dict(zip(classified["prompt"], classified["mistake_kinds"], strict=True))
        assert kinds[prompt_of(RIGHT)] is None
        assert list(kinds.values()).count(None) == 1

    def test_refused_request_and_spent_budget_leave_none(self, pairs):
        with Teacher(teach_but({("classify", ERRING.question): [refuse()]})) as teacher:
            client = client_for(teacher, max_requests=10)
            kinds = classify_mistakes(pairs, client)["mistake_kinds"][:]

        assert kinds[0] is None
        assert kinds.count(None) == 7
        assert len(teacher.requests) == 10

    def test_progress_counts_the_verdicts(self, pairs):
        script = teach_but({("classify", ERRING.question): ["Hm."], ("classify", RIGHT.question): ["Category: a+c"]})
        calls = []
        with Teacher(script) as teacher:
            classify_mistakes(
                pairs.select([0, 8]), client_for(teacher), max_attempts=1, on_progress=lambda *call: calls.append(call)
            )

        assert calls[-1] == ("classify", {"no verdict": 1, "logical+calculation": 1}, 2, 2)

    def test_pairs_without_rows_get_the_column(self, pairs):
        with Teacher(teach) as teacher:
            classified = classify_mistakes(pairs.select([]), client_for(teacher))

        assert classified.column_names == [*pairs.column_names, "mistake_kinds"]

    def test_own_prompt_is_used(self, pairs, tmp_path):
        (tmp_path / "mistake.txt").write_text("Category: which?\nQuestion: {{ prompt }}\n{{ chosen }}|{{ rejected }}")
        with Teacher(teach) as teacher:
            classify_mistakes(pairs.select([0]), client_for(teacher), template_dir=str(tmp_path))

        (request,) = teacher.requests
        assert request["messages"] == [
            user(f"Category: which?\nQuestion: {prompt_of(ERRING)}\n{ERRING.chosen}|{ERRING.rejected}")
        ]

    def test_recipe_asks_for_kinds_on_demand(self):
        script = teach_but({("classify", ERRING.question): ["Hm."] * 2})

        result, requests = run(script, cots=[ERRING, RIGHT], classify_mistakes=True, max_attempts=2)

        assert steps_of(requests)["classify"] == 3
        assert result.pairs["mistake_kinds"][:] == [None, [RIGHT.mistake_kind]]
        assert "1 of 2 pairs have no `mistake_kinds`" in result.report["notes"][-1]
        assert result.report["usage"]["requests"] == len(requests) == 7

    @pytest.mark.parametrize("missing", ["prompt", "chosen", "rejected"])
    def test_missing_column_is_refused(self, missing, pairs):
        with pytest.raises(ValueError, match="`pairs` must have the columns `prompt`, `chosen` and `rejected`, got "):
            classify_mistakes(pairs.remove_columns(missing), ChatClient("teacher", api_key_env=None))

    def test_messages_are_refused(self):
        rows = [{name: [user("Why?")] for name in ("prompt", "chosen", "rejected")}]
        with Teacher(teach) as teacher, pytest.raises(ValueError, match="must be text, got messages"):
            classify_mistakes(Dataset.from_list(rows), client_for(teacher))

        assert teacher.requests == []


class TestFilterMistakes:
    KINDS = [["logical"], ["calculation"], ["logical", "calculation"], None, [], ["other"]]

    @pytest.mark.parametrize(
        ("kinds", "expected"),
        [
            (["logical"], [0]),
            (["calculation", "logical"], [0, 1, 2]),
            ({"other"}, [5]),
            (("knowledge",), []),
            ([], []),
            (["logical", "knowledge", "calculation", "other"], [0, 1, 2, 5]),
        ],
    )
    def test_pairs_stay_whose_mistakes_are_all_of_these_kinds(self, kinds, expected):
        pairs = Dataset.from_dict({"number": range(6), "mistake_kinds": self.KINDS})

        assert filter_mistakes(pairs, kinds)["number"][:] == expected

    @pytest.mark.parametrize("kinds", ["logical", ["logic"], ["logical", "a"]])
    def test_unknown_kind_is_refused(self, kinds):
        pairs = Dataset.from_dict({"mistake_kinds": self.KINDS})

        with pytest.raises(ValueError, match="must be a list of 'logical', 'knowledge', 'calculation', 'other', got "):
            filter_mistakes(pairs, kinds)

    def test_missing_column_is_refused(self):
        with pytest.raises(
            ValueError, match="must have the column `mistake_kinds`.* Make it with `classify_mistakes`"
        ):
            filter_mistakes(Dataset.from_dict({"prompt": ["Why?"]}), ["logical"])
