"""
Tests of checks: which replies of a teacher are rejected, and which part of the other replies is kept.
"""

import json
import random
from collections import Counter

import pytest
from dual_cot_teacher import (
    CHAIN,
    DUAL_COTS,
    ERRING,
    RIGHT,
    SIX_COTS,
    asked,
    one_ssl_context,  # noqa: F401
    prompt_of,
    refuse,
    reply_to,
    run,
    run_one,
    teach,
    teach_but,
)
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.answers import answers_match, extract_answer
from edit_trl.synthesis import synthesize
from edit_trl.synthesis.checks import REJECT_REASONS, clean


pytest.importorskip("openai")


FILLER = "Now look at it once more, slowly and with great care. " * 30  # 330 words

# For each reason: a step, the question of a reply, what the teacher says at which step, and what else it takes.
MISBEHAVIOURS = {
    "cut": ("extract", RIGHT, {"extract": completion(RIGHT.chosen, "length")}),
    "not_finished": ("rectify", ERRING, {"rectify": completion(ERRING.chosen, "tool_calls")}),
    "refused": ("rectify", ERRING, {"rectify": completion(ERRING.chosen, "SAFETY")}),
    "empty": ("corrupt", RIGHT, {"corrupt": completion(None)}),
    "garbled": ("extract", RIGHT, {"extract": f"Well \ufffd done. {RIGHT.chosen}"}),
    "unparsed": ("extract", RIGHT, {"extract": "It is one or the other, I do not know."}),
    "no_reasoning": ("extract", RIGHT, {"extract": f"That's easy. Therefore, the answer is {RIGHT.answer}."}),
    "still_wrong": ("rectify", ERRING, {"rectify": ERRING.rejected}),
    "still_right": ("corrupt", RIGHT, {"corrupt": RIGHT.chosen}),
    "leaks_prompt": ("rectify", ERRING, {"rectify": f"As the hint says. {ERRING.chosen}"}),
    "only_answer_differs": (
        "corrupt",
        RIGHT,
        {"corrupt": f"{RIGHT.chosen.rpartition(' Therefore,')[0]} Therefore, the answer is {RIGHT.wrong_answer}."},
    ),
    "too_different": (
        "rectify",
        ERRING,
        {"rectify": f"I count it on my fingers, one by one. So the answer is {ERRING.answer}."},
    ),
    "too_similar": ("corrupt", RIGHT, {"extract": FILLER + RIGHT.chosen, "corrupt": FILLER + RIGHT.rejected}),
    "too_long": ("extract", RIGHT, {"extract": FILLER * 4 + RIGHT.chosen}),
    "duplicate": ("corrupt", RIGHT, {"corrupt": RIGHT.rejected}),
    "endpoint_error": ("corrupt", RIGHT, {"corrupt": refuse("the context is too long")}),
    "not_asked": ("corrupt", RIGHT, {}),
}
OPTIONS = {
    "duplicate": {"num_samples": 2},
    "not_asked": {"client": {"max_requests": 10}},  # the third step needs two more
}
DETAILS = {
    "cut": "finish reason: length",
    "not_finished": "finish reason: tool_calls",
    "refused": "finish reason: content_filter",
    "duplicate": "",
    "endpoint_error": "The endpoint refused the request: the context is too long",
    "not_asked": "`max_requests=10` is reached",
}


def text_of(reply):
    """What a teacher says in a reply of a script."""
    if isinstance(reply, dict):
        return reply["choices"][0]["message"]["content"] or ""
    return reply if isinstance(reply, str) else ""


class TestRejectedReplies:
    def test_each_reason_is_tested(self):
        assert set(MISBEHAVIOURS) == set(REJECT_REASONS)

    @pytest.mark.parametrize("reason", MISBEHAVIOURS)
    def test_reason_is_recorded_with_the_reply(self, reason):
        step, cot, replies = MISBEHAVIOURS[reason]
        script = teach_but({(at, cot.question): [reply] * 3 for at, reply in replies.items()})

        result, _ = run(script, **OPTIONS.get(reason, {}))

        record = next(row for row in result.rejected if row["question"] == cot.question)
        assert DETAILS.get(reason, "finish reason: stop") in record.pop("detail")
        assert record == {
            "question": cot.question,
            "answer": cot.answer,
            "task": cot.task,
            "step": step,
            "reject_reason": reason,
            "chain": "" if step == "extract" else replies.get("extract", reply_to("extract", cot)),
            "reply": text_of(replies.get(step)),
        }
        assert result.report["steps"][step]["rejected"][reason] >= 1
        if reason not in OPTIONS:  # which concern the other chains as well
            assert len(result.rejected) == 1
            assert [pair["prompt"] for pair in result.pairs] == [
                prompt_of(other) for other in SIX_COTS if other is not cot
            ]

    def test_words_of_the_question_and_of_the_first_chain_leak_nothing(self):
        right = "The hint and two mistakes make 1 + 2 = 3. Therefore, the answer is 3."

        result = run_one(
            "Eve has a hint and makes two mistakes. How many are they?", "3", right.replace("3", "4"), right
        )

        assert len(result.pairs) == 1

    @pytest.mark.parametrize("seed", range(3))
    def test_every_chain_is_accounted_for(self, seed):
        """Whatever the teacher says, each chain of each step is kept or recorded, and each question ends once."""

        def misbehave(request, number):
            step, cot = asked(request)
            replies = [
                *[reply_to(step, cot)] * 3,
                completion(cot.chosen, "length"),
                cot.chosen,
                cot.rejected,
                "I do not know.",
                f"The answer is {cot.answer}.",
                f"It is a mistake. {cot.rejected}",
                refuse(),
            ]
            return random.Random(f"{seed}/{step}/{cot.question}/{request['seed']}").choice(replies)

        outcomes = {}
        result, _ = run(
            misbehave,
            DUAL_COTS,
            {"seed": 0},
            on_progress=lambda step, counts, *nums: outcomes.update({step: (dict(counts), *nums)}),
            num_samples=2,
            max_attempts=2,
        )

        steps = result.report["steps"]
        assert steps["extract"]["chains"] == 32
        assert steps["rectify"]["chains"] + steps["corrupt"]["chains"] == steps["extract"]["kept"]
        for step, counts in steps.items():
            assert counts["kept"] + sum(counts["rejected"].values()) == counts["chains"]
            recorded = Counter(row["reject_reason"] for row in result.rejected if row["step"] == step)
            assert counts["rejected"] == recorded
            # Progress knows of no duplicates, which show in the end.
            recorded["kept"] = counts["kept"] + recorded.pop("duplicate", 0)
            assert outcomes[step] == (recorded, counts["chains"], counts["chains"])
        assert steps["rectify"]["kept"] + steps["corrupt"]["kept"] == len(result.pairs) == result.report["pairs"]
        ends = Counter(pair["prompt"] for pair in result.pairs)
        ends.update(f"Q: {row['question']}\nA:" for row in result.rejected)
        assert ends == {prompt_of(cot): 2 for cot in DUAL_COTS}

    @pytest.mark.parametrize("seed", range(3))
    def test_no_row_is_there_twice_and_every_pair_is_right_and_wrong(self, seed):
        def say_anything(request, number):
            step, cot = asked(request)
            replies = [cot.chosen, cot.rejected, f"{FILLER[:54]} {cot.chosen}", f"Well. {cot.rejected}"]
            return random.Random(f"{seed}/{step}/{cot.question}/{request['seed']}").choice(replies)

        result, _ = run(say_anything, client={"seed": 0}, num_samples=4)

        for table in (result.pairs, result.sft):
            rows = [json.dumps(row) for row in table.remove_columns(["origin"])]
            assert len(rows) == len(set(rows)) > 6
        for pair in result.pairs:
            assert answers_match(extract_answer(pair["chosen"]), pair["answer"])
            assert not answers_match(extract_answer(pair["rejected"]), pair["answer"])
        for row in result.sft:
            assert answers_match(extract_answer(row["completion"]), row["answer"])
        chosen = {(pair["prompt"], pair["chosen"]) for pair in result.pairs}
        sft = {(row["prompt"], row["completion"]) for row in result.sft}
        assert sft >= chosen
        # What is in no pair is a right chain that could not be corrupted.
        assert sft - chosen <= {(f"Q: {row['question']}\nA:", f" {row['chain']}") for row in result.rejected}


ENDS = {
    "eos": None,
    "end_turn": None,
    "STOP": None,
    "COMPLETE": None,
    "stop_sequence": None,
    None: None,
    "length": "cut",
    "max_tokens": "cut",
    "MAX_TOKENS": "cut",
    "model_length": "cut",
    "content_filter": "refused",
    "SAFETY": "refused",
    "refusal": "refused",
    "tool_calls": "not_finished",
    "something new": "not_finished",
}


class TestEnds:
    @pytest.mark.parametrize("reason", ENDS)
    def test_end_of_a_reply_is_what_the_service_means(self, reason):
        script = teach_but({("rectify", ERRING.question): [completion(ERRING.chosen, reason)] * 3})

        result, requests = run(script)

        assert [row["reject_reason"] for row in result.rejected] == [ENDS[reason]] * (ENDS[reason] is not None)
        assert len(requests) == 12 + 2 * (ENDS[reason] is not None)

    @pytest.mark.parametrize(
        ("message", "reason", "reply"),
        [
            ({"content": None, "refusal": "I cannot help."}, "refused", "I cannot help."),
            ({"content": None, "tool_calls": [{"id": "1"}]}, "empty", ""),
            ({"content": ""}, "empty", ""),
            ({"content": None, "reasoning_content": "2 + 3"}, "empty", ""),
            ({"content": "<think>2 + 3"}, "empty", ""),
        ],
        ids=["refusal", "tool", "empty", "thinking", "open thinking"],
    )
    def test_reply_without_text_is_counted_as_what_it_is(self, message, reason, reply):
        """It is asked for as often as other bad replies, and not five times for each of them."""
        body = completion(None)
        body["choices"][0]["message"] = {"role": "assistant", **message}

        result, requests = run(teach_but({("extract", RIGHT.question): [body] * 3}), client={"max_retries": 5})

        assert [(row["reject_reason"], row["reply"]) for row in result.rejected] == [(reason, reply)]
        assert len([request for request in requests if asked(request) == ("extract", RIGHT)]) == 3


class TestInvisibleCharacters:
    @pytest.mark.parametrize("character", ["\0", "\ufeff", "\u200b", "\u2060", "\x07", "\r", "\x1b[0m", "\u00ad"])
    @pytest.mark.parametrize("place", ["reply", "answer", "question"])
    def test_right_chain_is_right_with_them(self, character, place):
        question, answer, right = (
            "What is 2 + 3, counted out?",
            "5",
            "We count 2 + 3 = 5 here. Therefore, the answer is 5.",
        )
        if place == "reply":
            right = right.replace("is 5", f"is{character} 5{character}")
        elif place == "answer":
            answer = f"{character}5{character}"
        else:
            question = f"{character}{question}{character}"

        result = run_one(question, answer, "We count 2 + 3 = 6 here. Therefore, the answer is 6.", right)

        (pair,) = result.pairs
        assert pair["origin"] == "rectified"
        assert pair["answer"] == "5"
        assert not set("\0\ufeff\u200b\u2060\x07\r\x1b\u00ad") & set(pair["prompt"] + pair["chosen"])

    def test_half_a_character_in_the_middle_is_in_no_pair(self):
        """JSON writes some characters as two; one of them alone is none."""
        body = json.dumps(completion(f"HALF {ERRING.chosen}")).replace("HALF", "\\ud83d").encode()

        result, _ = run(teach_but({("rectify", ERRING.question): [Response(body)] * 3}))

        assert [row["reject_reason"] for row in result.rejected] == ["garbled"]
        assert all("?" not in pair["chosen"] for pair in result.pairs)

    @pytest.mark.parametrize("name", ["question", "answer", "task_description"])
    def test_half_a_character_in_a_question_is_named(self, name):
        rows = [{"question": "What is 2 + 3?", "answer": "5", "task_description": ""}]
        rows.append({**rows[0], "question": "What is 2 + 4?", name: "half \ud83d"})
        with Teacher(teach) as teacher, client_for(teacher) as client:
            with pytest.raises(ValueError, match=f"`{name}` of row 1 .* holds half a character: 'half"):
                synthesize(rows, client)

        assert teacher.requests == []

    def test_answer_of_invisible_characters_is_named(self):
        with Teacher(teach) as teacher, client_for(teacher) as client:
            with pytest.raises(ValueError, match="row 0 .* only invisible characters"):
                synthesize([{"question": "What is 2 + 3?", "answer": "\u200b"}], client)


class TestClean:
    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            (CHAIN, CHAIN),
            (f"\n\n {CHAIN}\n", CHAIN),
            (f"Let's think step by step. {CHAIN}", CHAIN),
            (f"Let\u2019s think step by step.\n\n{CHAIN}", CHAIN),
            (f"Let's think step-by-step: {CHAIN}", CHAIN),
            (f"let us think step by step...\n{CHAIN}", CHAIN),
            (f"A: Let's think step by step. {CHAIN}", CHAIN),
            (f"Answer: {CHAIN}", CHAIN),
            (f"**Answer:** {CHAIN}", CHAIN),
            (f"**Answer**: {CHAIN}", CHAIN),
            (f"Response: {CHAIN}", CHAIN),
            (f"Q: What is 2 + 3?\nA: {CHAIN}", CHAIN),
            (f"**Question:** What is 2 + 3?\n\n{CHAIN}", CHAIN),
            (f"Q: What is 2 + 3?\nH: The correct answer is 5.\nA: Let's think step by step. {CHAIN}", CHAIN),
            ("H: The correct answer is 5. So it is 5.", "H: The correct answer is 5. So it is 5."),  # which leaks
            (f"Wrong response: {CHAIN}", CHAIN),
            (f"**Wrong response:**\n{CHAIN}", CHAIN),
            (f"wrong Response : {CHAIN}", CHAIN),
            (f"Right response: {CHAIN}\nWrong response: 2 + 3 = 6.", CHAIN),
            (f"{CHAIN}\n\nQ: What is 1 + 1?\nA: 2", CHAIN),
            (f"{CHAIN}\nQuestion: What is 1 + 1?", CHAIN),
            (f"{CHAIN}\n\n**Question:** What is 1 + 1?", CHAIN),
            (f"{CHAIN}\nH: The correct answer is 5.", CHAIN),
            ("First, 2 + 3.\n\nThen = 5.", "First, 2 + 3.\n\nThen = 5."),
            ("A ball: 1. A bat: 2.", "A ball: 1. A bat: 2."),
            ("Answering this needs care: 5.", "Answering this needs care: 5."),
            ("* 2 + 3 = 5", "* 2 + 3 = 5"),
            ("Wrong response: **2** + 3 = 6", "**2** + 3 = 6"),
            ("We ask Q: is it 5? It is.", "We ask Q: is it 5? It is."),
            ("Let's think step by step.", ""),
            ("", ""),
        ],
    )
    def test_reply_becomes_a_chain(self, reply, expected):
        assert clean(reply) == expected

    @pytest.mark.parametrize("cot", DUAL_COTS, ids=lambda cot: cot.task)
    def test_chain_stays_as_it_is(self, cot):
        assert clean(cot.chosen) == cot.chosen
        assert clean(cot.rejected) == cot.rejected
