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
    teach_but,
)
from teacher import (
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.answers import answers_match, extract_answer
from edit_trl.synthesis.checks import REJECT_REASONS, clean, leaks_prompt


pytest.importorskip("openai")


FILLER = "Now look at it once more, slowly and with great care. " * 30  # 330 words

# For each reason: a step, the question of a reply, what the teacher says at which step, and what else it takes.
MISBEHAVIOURS = {
    "cut": ("extract", RIGHT, {"extract": completion(RIGHT.chosen, "length")}),
    "not_finished": ("rectify", ERRING, {"rectify": completion(ERRING.chosen, "content_filter")}),
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
    "not_finished": "finish reason: content_filter",
    "duplicate": "",
    "endpoint_error": "The endpoint refused the request: the context is too long",
    "not_asked": "`max_requests=10` is reached",
}


def text_of(reply):
    """What a teacher says in a reply of a script."""
    if isinstance(reply, dict):
        return reply["choices"][0]["message"]["content"]
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


class TestLeaksPrompt:
    @pytest.mark.parametrize(
        "chain",
        [
            "The hint says 5, so the answer is 5.",
            "As hinted, it is 5.",
            "Using the hints, it is 5.",
            "H: The correct answer is 5. 2 + 3 = 5.",
            "Given the correct answer, 2 + 3 = 5.",
            "Knowing that the correct answer is 5, we add.",
            "Since the right answer is 5, 2 + 3 = 5.",
            "We know the correct answer is 5.",
            "This agrees with the given answer.",
            "The provided correct answer is 5.",
            "Here is a wrong response: 2 + 3 = 6.",
            "Sure! The incorrect response is as follows.",
            "Unlike the right response, I add 4.",
            "Therefore, the wrong answer is 6.",
            "The mistake is in the sum.",
            "Mistakenly, one adds 4.",
            "(Note: there are two mistakes.)",
            "2 + 3 = 6 (an intentional error).",
            "I deliberately add 4.",
        ],
    )
    def test_chain_that_speaks_of_the_prompt_leaks(self, chain):
        assert leaks_prompt(chain, allowed="What is 2 + 3? 2 + 3 = 5.")

    @pytest.mark.parametrize(
        "chain",
        [
            CHAIN,
            "Therefore, the correct answer is 5.",
            "The right side is 5, the wrong side is 6.",
            "Given that 2 + 3 = 5, the answer is 5.",
            "Since the answer has one digit, it is 5.",
            "Statement H: true.",
            "He responds correctly.",
            "Turn right. That is correct.",
            "She hinges the door.",
        ],
    )
    def test_chain_that_does_not_is_kept(self, chain):
        assert not leaks_prompt(chain, allowed="What is 2 + 3?")

    def test_words_of_the_question_may_be_quoted(self):
        assert not leaks_prompt("The hint is red.", allowed="Eve hides a hint. Which colour has it?")
