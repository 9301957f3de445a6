"""
Tests of the recipe with a teacher that knows its questions by heart (`dual_cot_teacher.py`), so that what must come out
is known; of the prompts as they are sent; and of the files that are written.
"""

import json
import random
import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, List, Value, load_dataset
from dual_cot_teacher import (
    BY_QUESTION,
    DUAL_COTS,
    WRONG,
    as_sent,
    asked,
    one_ssl_context,  # noqa: F401
    questions,
    refuse,
    reply_to,
    shown,
    steps_of,
    teach,
    teach_but,
    time_limit,  # noqa: F401
)
from teacher import Response, Teacher, completion

from edit_trl.alignment import align
from edit_trl.answers import answers_match, extract_answer
from edit_trl.chat import ChatClient, EndpointError
from edit_trl.data_utils import is_tokenized
from edit_trl.questions import normalize_questions
from edit_trl.synthesis import (
    SynthesisConfig,
    classify_mistakes,
    dataset_files,
    estimate_requests,
    filter_mistakes,
    push_to_hub,
    save_dual_cots,
    synthesize,
)
from edit_trl.synthesis.checks import REJECT_REASONS, clean, leaks_prompt
from edit_trl.synthesis.mistakes import read_verdict
from edit_trl.synthesis.prompts import TEMPLATES, Prompts, load_examples, pick_examples, shipped_examples
from edit_trl.synthesis.results import STEPS
from edit_trl.tasks import IN_DOMAIN_TASKS, OUT_OF_DOMAIN_TASKS


pytest.importorskip("openai")

RIGHT_COTS = [cot for cot in DUAL_COTS if cot.question not in WRONG]
WRONG_COTS = [cot for cot in DUAL_COTS if cot.question in WRONG]
CHAIN = "2 + 3 = 5. Therefore, the answer is 5."
# The fewest with which the contrastive prompts have examples of this run: 6 + 4 + 2 requests.
SIX_COTS = WRONG_COTS[:4] + RIGHT_COTS[:2]


def client_for(teacher, **options):
    return ChatClient("teacher", teacher.url, **{"api_key_env": None, **options})


def run(script=teach, cots=SIX_COTS, client=None, on_progress=None, **options):
    """What comes out, and the requests that were sent for it."""
    with Teacher(script) as teacher, closing(client_for(teacher, **client or {})) as chat:
        result = synthesize(questions(cots), chat, SynthesisConfig(**options), on_progress)
    return result, teacher.requests


def run_one(question, answer, wrong, right):
    """What becomes of a question that is answered wrong, and right with a hint."""
    with Teacher(lambda request, _: right if "\nH: " in request["messages"][-1]["content"] else wrong) as teacher:
        return synthesize([{"question": question, "answer": answer}], client_for(teacher))


def tables(result):
    return [dataset.to_list() for dataset in (result.pairs, result.sft, result.rejected)]


def prompt_of(cot):
    return f"Q: {cot.question}\nA:"


@pytest.fixture(scope="module")
def made():
    """The recipe for all questions, from a teacher that does as it is told."""
    return run(cots=DUAL_COTS)


class TestRecipe:
    def test_wrong_chains_are_rectified_and_right_ones_are_corrupted(self, made):
        expected = [(cot, "rectified") for cot in WRONG_COTS] + [(cot, "corrupted") for cot in RIGHT_COTS]

        assert made[0].pairs.select_columns(
            ["prompt", "chosen", "rejected", "answer", "task", "origin", "teacher"]
        ).to_list() == [{**without(cot.to_pair()), "origin": origin, "teacher": "teacher"} for cot, origin in expected]

    def test_chosen_answers_are_right_and_rejected_ones_are_wrong(self, made):
        for pair in made[0].pairs:
            assert answers_match(extract_answer(pair["chosen"]), pair["answer"])
            assert extract_answer(pair["rejected"]) is not None
            assert not answers_match(extract_answer(pair["rejected"]), pair["answer"])

    def test_each_question_is_asked_about_twice(self, made):
        """16 questions, 8 of which the teacher gets wrong."""
        assert steps_of(made[1]) == {"extract": 16, "rectify": 8, "corrupt": 8}
        assert len(set(as_sent(made[1]))) == 32

    def test_right_and_rectified_chains_are_data_for_the_first_stage(self, made):
        expected = [(cot, "right") for cot in RIGHT_COTS] + [(cot, "rectified") for cot in WRONG_COTS]

        assert made[0].sft.to_list() == [
            {
                "prompt": prompt_of(cot),
                "completion": f" {cot.chosen}",
                "answer": cot.answer,
                "task": cot.task,
                "origin": origin,
            }
            for cot, origin in expected
        ]

    @pytest.mark.parametrize(
        ("script", "num_rows"), [(teach, [6, 6, 0]), (lambda *_: "I do not know.", [0, 0, 6])], ids=["good", "bad"]
    )
    def test_columns_and_types_do_not_depend_on_the_rows(self, script, num_rows):
        """A teacher that does as it is told rejects nothing, and one that says nothing of use makes no pair."""
        result, _ = run(script)
        text = ["prompt", "chosen", "rejected", "answer", "task", "origin"]

        assert result.pairs.features == {
            **dict.fromkeys(text, Value("string")),
            "similarity": Value("float64"),
            "key_token_ratio": Value("float64"),
            "teacher": Value("string"),
            "prompt_version": Value("string"),
        }
        names = ["prompt", "completion", "answer", "task", "origin"]
        assert result.sft.features == dict.fromkeys(names, Value("string"))
        names = ["question", "answer", "task", "step", "reject_reason", "chain", "reply", "detail"]
        assert result.rejected.features == dict.fromkeys(names, Value("string"))
        assert [len(table) for table in tables(result)] == num_rows

    def test_trainer_takes_the_columns(self, made):
        assert is_tokenized(made[0].pairs.column_names) is False

    def test_report_counts_what_was_made(self, made):
        """The endpoint counts 20 tokens for each request and 10 for each reply."""
        report = made[0].report

        assert (report["pairs"], report["origin"]) == (16, {"rectified": 8, "corrupted": 8})
        assert report["steps"] == {
            "extract": {"chains": 16, "kept": 16, "rejected": {}},
            "rectify": {"chains": 8, "kept": 8, "rejected": {}},
            "corrupt": {"chains": 8, "kept": 8, "rejected": {}},
        }
        origins = Counter((cot.task, "rectified" if cot.question in WRONG else "corrupted") for cot in DUAL_COTS)
        assert report["tasks"] == {
            task: {"chains": 2, **{o: origins[task, o] for o in ("rectified", "corrupted") if origins[task, o]}}
            for task in {cot.task for cot in DUAL_COTS}
        }
        assert report["usage"] == {"requests": 32, "replies": 32, "prompt_tokens": 640, "completion_tokens": 320}
        assert (report["cost"], report["stopped"], report["notes"]) == (None, None, [])
        assert report["sampling"] == {"temperature": 0.2, "top_p": None, "max_tokens": 2048, "seed": None}
        json.dumps(report)  # it goes to a file

    def test_cost_is_reported_with_prices(self):
        """Two questions, two requests each, of 20 and 10 tokens: (80 * 5 + 40 * 10) / 10**6."""
        result, _ = run(cots=DUAL_COTS[:2], client={"prompt_price": 5, "completion_price": 10})

        assert result.report["cost"] == pytest.approx(0.0008)

    def test_likeness_and_key_tokens_are_counted_in_words(self):
        """
        The chains have 10 words and differ in two places, the sum and the answer: 8 / 10 need no edit, and 2 + 2 of 20 are
        key.
        """
        result = run_one("What is 2 + 3?", "5", "2 + 3 = 6. Therefore, the answer is 6.", CHAIN)

        (pair,) = result.pairs
        assert (pair["similarity"], pair["key_token_ratio"]) == (0.8, 0.2)
        assert (result.report["similarity"], result.report["key_token_ratio"]) == (0.8, 0.2)
        assert result.report["counted_in"] == "words"
        assert pair["task"] is None

    def test_likeness_and_key_tokens_are_counted_with_the_tokenizer_of_the_student(self, tokenizer, model_folder):
        result, _ = run(cots=DUAL_COTS[:3], tokenizer=model_folder)

        for pair in result.pairs:
            chosen, rejected = (tokenizer(pair[side])["input_ids"] for side in ("chosen", "rejected"))
            script = align(chosen, rejected)
            num_key = sum(script.chosen_key) + sum(script.rejected_key)
            assert pair["key_token_ratio"] == pytest.approx(num_key / len(chosen + rejected), abs=5e-5)
        assert result.report["counted_in"] == "tokens"

    @pytest.mark.parametrize(("own", "expected"), [("", "As a whole.\nQ: "), ("Alone.", "Alone.\nQ: ")])
    def test_task_description_heads_the_prompts_of_teacher_and_student(self, own, expected):
        rows = [{**row, "task_description": own} for row in questions(DUAL_COTS[:2])]
        with Teacher(teach) as teacher:
            result = synthesize(rows, client_for(teacher), SynthesisConfig(task_description="As a whole."))

        assert len(teacher.requests) == 4
        head = expected.partition("\n")[0]
        assert all(request["messages"][0]["content"].startswith(f"{head}\n") for request in teacher.requests)
        assert [pair["prompt"] for pair in result.pairs] == [expected + prompt_of(cot)[3:] for cot in DUAL_COTS[:2]]

    def test_chains_are_kept_without_what_the_teacher_repeats(self):
        def script(request, number):
            return f"A: Let's think step by step. {teach(request, number)}\n\nQ: What is 1 + 1?"

        result, _ = run(script)

        assert [pair["chosen"][1:] for pair in result.pairs] == [cot.chosen for cot in SIX_COTS]

    def test_reply_with_half_a_character_gets_into_the_files(self, tmp_path):
        """A stopped reply can end within a character that JSON writes as two."""
        body = json.dumps(completion(f"{ERRING.rejected} HALF")).replace("HALF", "\\ud83d").encode()

        result, _ = run(teach_but({("extract", ERRING.question): [Response(body)]}), cots=[ERRING, RIGHT])
        save_dual_cots(result, SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl"))

        assert ERRING.rejected in (tmp_path / "dual_cots.jsonl").read_text(encoding="utf-8")

    def test_questions_may_be_a_dataset_or_come_one_by_one(self):
        with Teacher(teach) as teacher:
            client = client_for(teacher)
            rows = questions(SIX_COTS)
            results = [synthesize(some, client) for some in (rows, Dataset.from_list(rows), iter(rows))]

        assert len(teacher.requests) == 12  # once; then they are all in the store
        assert tables(results[0]) == tables(results[1]) == tables(results[2])


def without(pair):
    return {name: value for name, value in pair.items() if name != "mistake_kind"}


RIGHT, ERRING = RIGHT_COTS[0], WRONG_COTS[0]  # questions that the teacher gets right and wrong
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
        """Whatever the teacher says, each chain of each step is kept or recorded, and each question ends in one place."""

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


class TestAttempts:
    @pytest.mark.parametrize(("step", "cot"), [("extract", RIGHT), ("rectify", ERRING), ("corrupt", RIGHT)])
    def test_good_reply_makes_up_for_a_bad_one(self, step, cot):
        """Each attempt is another sample of the same messages."""
        script = teach_but({(step, cot.question): ["I do not know.", completion(cot.chosen, "length")]})

        result, requests = run(script, client={"seed": 100})

        about = [request for request in requests if asked(request) == (step, cot)]
        assert [request["seed"] for request in about] == [100, 101, 102]
        assert all(request["messages"] == about[0]["messages"] for request in about)
        assert len(requests) == 14
        assert (len(result.pairs), len(result.rejected)) == (6, 0)

    def test_attempts_are_limited(self):
        script = teach_but({("extract", RIGHT.question): ["I do not know."] * 2})

        result, requests = run(script, max_attempts=2)

        assert steps_of(requests)["extract"] == 7
        assert len(result.rejected) == 1

    def test_last_reply_is_the_one_that_is_recorded(self):
        script = teach_but({("extract", RIGHT.question): ["I do not know.", completion("Let me see", "length")]})

        result, _ = run(script, max_attempts=2)

        (record,) = result.rejected
        assert (record["reject_reason"], record["reply"]) == ("cut", "Let me see")

    def test_temperature_zero_is_asked_once(self):
        """The same reply would come again."""
        script = teach_but({("extract", RIGHT.question): ["I do not know."]})

        result, requests = run(script, client={"temperature": 0.0})

        assert steps_of(requests)["extract"] == 6
        assert [row["reject_reason"] for row in result.rejected] == ["unparsed"]

    def test_samples_are_as_many_requests_with_seeds_of_their_own(self):
        """Three samples of 6 questions, each of which becomes a pair of its own."""

        def script(request, number):
            return "Well, " * (request["seed"] - 7) + teach(request, number)

        result, requests = run(script, client={"seed": 7}, num_samples=3)

        assert not any("n" in request for request in requests)
        assert steps_of(requests) == {"extract": 18, "rectify": 12, "corrupt": 6}
        seeds = Counter((*asked(request), request["seed"]) for request in requests)
        assert set(seeds.values()) == {1}
        assert {seed for *_, seed in seeds} == {7, 8, 9}
        assert Counter(pair["prompt"] for pair in result.pairs) == {prompt_of(cot): 3 for cot in SIX_COTS}

    def test_attempts_of_a_sample_are_no_samples_of_others(self):
        """Of two samples, numbers 0 and 1, attempts have the numbers 2 and 3, then 4 and 5."""
        seen = []

        def script(request, number):
            if asked(request) == ("extract", RIGHT):
                seen.append(request["seed"])
                return "I do not know."
            return teach(request, number)

        run(script, client={"seed": 0}, num_samples=2)

        assert sorted(seen) == [0, 1, 2, 3, 4, 5]


class TestContrastiveExamples:
    def test_they_are_rectified_pairs_of_this_run_and_not_the_question_itself(self, made):
        own = {(cot.question, cot.chosen, cot.rejected) for cot in WRONG_COTS}

        for request in made[1]:
            step, cot = asked(request)
            if step == "corrupt":
                examples = shown(request)
                assert len(set(examples)) == 3
                assert set(examples) <= own
                assert cot.question not in {question for question, *_ in examples}

    def test_they_differ_between_questions_and_with_the_seed(self, made):
        def drawn(requests):
            return {asked(request)[1].question: shown(request) for request in requests if is_contrastive(request)}

        def is_contrastive(request):
            return asked(request)[0] == "corrupt"

        first, other = drawn(made[1]), drawn(run(cots=DUAL_COTS, examples_seed=1)[1])

        assert len({json.dumps(examples) for examples in first.values()}) > 4
        assert first != other
        assert first.keys() == other.keys()

    def test_order_of_the_replies_changes_neither_prompts_nor_datasets(self):
        """16 questions, three of which are left behind in a step each."""
        bad = {("extract", RIGHT_COTS[1]): "Hm.", ("rectify", ERRING): "Hm.", ("corrupt", RIGHT): RIGHT.chosen}
        runs = []
        for seed in range(3):
            rng = random.Random(seed)

            def dawdle(request, number, rng=rng):
                text = bad.get(asked(request)) or teach(request, number)
                return Response(completion(text), delay=0.05 * rng.random())

            result, requests = run(dawdle, DUAL_COTS, {"max_concurrency": 7, "seed": 0})
            runs.append((requests, as_sent(requests), tables(result)))

        assert [len(table) for table in runs[0][2]] == [13, 14, 3]
        assert runs[0][0] != runs[1][0]
        assert runs[0][1:] == runs[1][1:] == runs[2][1:]

    def test_they_are_remembered_so_that_more_questions_ask_nothing_again(self, tmp_path):
        """With more rectified pairs others would be drawn; what was asked about stays."""
        store = str(tmp_path / "replies.sqlite")
        with Teacher(teach) as teacher:
            with closing(client_for(teacher, store=store)) as client:
                first = synthesize(questions(DUAL_COTS[:10]), client)
            num_first = len(teacher.requests)
            with closing(client_for(teacher, store=store)) as client:
                second = synthesize(questions(), client)

        assert num_first == 20
        assert {asked(request)[1].question for request in teacher.requests[num_first:]} == {
            cot.question for cot in DUAL_COTS[10:]
        }
        assert len(teacher.requests) == len(set(as_sent(teacher.requests))) == 32
        prompts = {pair["prompt"] for pair in first.pairs}
        assert [pair for pair in second.pairs if pair["prompt"] in prompts] == first.pairs.to_list()

    def test_others_are_drawn_for_other_prompts_and_other_examples(self, tmp_path):
        """What was drawn before belongs to other pairs, or to another file."""
        store = str(tmp_path / "replies.sqlite")
        template = tmp_path / "templates" / "answer_hint.txt"
        template.parent.mkdir()
        template.write_text("[user]\nQ: {{ question }}\nH: {{ answer }} is right.")
        options = [
            {"examples": examples_file(tmp_path, 5, 5)},
            {"examples": examples_file(tmp_path, 5, 5, "Another")},
            {"template_dir": str(template.parent)},
        ]
        drawn = []
        with Teacher(teach) as teacher:
            for option in options:
                num_before = len(teacher.requests)
                with closing(client_for(teacher, store=store)) as client:
                    synthesize(questions(RIGHT_COTS[:2]), client, SynthesisConfig(num_examples=2, **option))
                sent = [request for request in teacher.requests[num_before:] if asked(request)[0] == "corrupt"]
                drawn.append({question.split()[0] for request in sent for question, *_ in shown(request)})

        shipped = {example["question"].split()[0] for example in shipped_examples()}
        assert drawn[:2] == [{"Question"}, {"Another"}]
        assert drawn[2] and drawn[2] <= shipped

    def test_shipped_ones_stand_in_where_there_are_too_few(self):
        """Three examples are drawn from four rectified pairs at least: the question itself may be one of them."""
        cots = WRONG_COTS[:3] + RIGHT_COTS[:2]

        result, requests = run(cots=cots)

        shipped = {(example["question"], example["chosen"], example["rejected"]) for example in shipped_examples()}
        contrastive = [request for request in requests if asked(request)[0] == "corrupt"]
        assert len(contrastive) == 2
        for request in contrastive:
            assert set(shown(request)) <= shipped
            assert len(set(shown(request))) == 3
        (note,) = result.report["notes"]
        assert note.startswith(
            "3 rectified questions are too few to draw 3 examples for the contrastive prompt from; those"
        )
        assert "that come with the package were used" in note

    def test_four_rectified_questions_are_enough_for_three_examples(self):
        result, requests = run(cots=WRONG_COTS[:4] + RIGHT_COTS[:1])

        assert result.report["notes"] == []
        assert len(shown(requests[-1])) == 3

    def test_examples_of_the_task_come_first_where_shipped_ones_stand_in(self):
        by_question = {example["question"]: example["task"] for example in shipped_examples()}

        _, requests = run(cots=RIGHT_COTS[:3])

        for request in requests:
            step, cot = asked(request)
            if step == "corrupt":
                assert {by_question[question] for question, *_ in shown(request)} == {cot.task}

    def test_given_ones_stand_in_where_there_are_too_few(self, tmp_path):
        examples = examples_file(tmp_path, num=3)

        result, requests = run(cots=RIGHT_COTS[:2], examples=examples, num_examples=2)

        contrastive = [request for request in requests if asked(request)[0] == "corrupt"]
        assert [shown(request) for request in contrastive] == [
            [("Question 0", "Right 0", "Wrong 0"), ("Question 1", "Right 1", "Wrong 1")]
        ] * 2
        assert "those of `examples` were used" in result.report["notes"][0]

    def test_too_few_given_ones_are_refused_and_the_replies_stay(self, tmp_path):
        examples = examples_file(tmp_path, num=3, num_wrong=2)
        store = str(tmp_path / "replies.sqlite")
        with Teacher(teach) as teacher, closing(client_for(teacher, store=store)) as client:
            with pytest.raises(
                ValueError, match="needs more than 2 examples with `rejected`, got 2, .* only 0 rectified questions"
            ):
                synthesize(questions(RIGHT_COTS[:2]), client, SynthesisConfig(examples=examples, num_examples=2))
            result = synthesize(questions(RIGHT_COTS[:2]), client, SynthesisConfig(examples=examples, num_examples=1))

        assert len(result.pairs) == 2

    def test_given_ones_need_no_wrong_chain_where_there_are_own_ones(self, tmp_path):
        result, _ = run(examples=examples_file(tmp_path, num=3, num_wrong=0))

        assert len(result.pairs) == 6

    def test_order_of_the_questions_does_not_matter(self, made):
        _, requests = run(cots=DUAL_COTS[::-1])

        assert as_sent(requests) == as_sent(made[1])

    def test_samples_of_one_question_are_one_example(self):
        """A teacher often says the same again. Each sample is shown examples of its own."""
        _, requests = run(num_samples=3)

        drawn = [shown(request) for request in requests if asked(request)[0] == "corrupt"]
        assert all(len({question for question, *_ in examples}) == 3 for examples in drawn)
        assert len({json.dumps(examples) for examples in drawn}) > 2  # there are two right questions

    def test_question_is_none_for_itself_where_another_sample_of_it_was_wrong(self):
        """Three are drawn from five, in eight samples."""

        def script(request, number):
            step, cot = asked(request)
            return cot.rejected if (step, cot, request["seed"]) == ("extract", RIGHT, 0) else teach(request, number)

        _, requests = run(script, cots=[*WRONG_COTS[:4], RIGHT], client={"seed": 0}, num_samples=9)

        about = [shown(request) for request in requests if asked(request) == ("corrupt", RIGHT)]
        assert len(about) == 8
        assert not any(RIGHT.question in {question for question, *_ in examples} for examples in about)

    def test_others_are_drawn_for_another_seed_or_number_with_the_same_store(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(teach) as teacher:
            for options in ({}, {"examples_seed": 1}, {"num_examples": 2}, {"examples_seed": 1}):
                with closing(client_for(teacher, store=store)) as client:
                    synthesize(questions(SIX_COTS), client, SynthesisConfig(**options))

        drawn = [shown(request) for request in teacher.requests if asked(request) == ("corrupt", RIGHT)]
        assert [len(examples) for examples in drawn] == [3, 3, 2]
        assert drawn[0] != drawn[1]

    def test_none_are_needed_without_examples(self, tmp_path):
        result, requests = run(cots=RIGHT_COTS[:2], examples=examples_file(tmp_path, num_wrong=0), num_examples=0)

        assert all(len(request["messages"]) == 1 for request in requests)
        assert (len(result.pairs), result.report["notes"]) == (2, [])


def examples_file(folder, num=3, num_wrong=3, stem="Question"):
    path = folder / f"{stem}.jsonl"
    lines = [
        {"question": f"{stem} {i}", "answer": str(i), "chosen": f"Right {i}", "rejected": f"Wrong {i}"}
        for i in range(num)
    ]
    for line in lines[num_wrong:]:
        del line["rejected"]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


class TestBudget:
    @pytest.mark.parametrize("stops", [(3,), (6, 8), (9, 10, 11)], ids=str)
    def test_larger_budget_goes_on_and_asks_nothing_twice(self, stops, tmp_path):
        """6 requests for the first step, 4 and 2 for the others."""
        whole, requests = run()
        store = str(tmp_path / "replies.sqlite")
        with Teacher(teach) as teacher:
            for limit in stops:
                with closing(client_for(teacher, store=store, max_requests=limit)) as client:
                    result = synthesize(questions(SIX_COTS), client)

                assert len(teacher.requests) == limit
                assert result.report["stopped"] == f"`max_requests={limit}` is reached"
                steps = result.report["steps"]
                not_asked = {step: counts["rejected"].get("not_asked", 0) for step, counts in steps.items()}
                assert sum(not_asked.values()) > 0
                assert steps["extract"]["chains"] == 6
                assert steps["rectify"]["chains"] + steps["corrupt"]["chains"] == min(limit, 6)
                assert len(result.pairs) == max(limit - 6, 0)
            with closing(client_for(teacher, store=store, max_requests=12)) as client:
                result = synthesize(questions(SIX_COTS), client)

        assert as_sent(teacher.requests) == as_sent(requests)
        assert tables(result) == tables(whole)
        assert result.report["stopped"] is None

    def test_no_response_is_corrupted_before_all_chains_are_rectified(self, tmp_path):
        """The examples are drawn from the rectified pairs. There are four to rectify."""
        _, requests = run(client={"max_requests": 9})

        assert steps_of(requests) == {"extract": 6, "rectify": 3}

    def test_stop_before_the_last_step_keeps_the_pairs_of_earlier_runs(self, tmp_path):
        """There are 20 requests for 10 questions, and 14 of another 16 questions are for the first two steps."""
        store = str(tmp_path / "replies.sqlite")
        with Teacher(teach) as teacher:
            with closing(client_for(teacher, store=store)) as client:
                first = synthesize(questions(DUAL_COTS[:10]), client)
            with closing(client_for(teacher, store=store, max_requests=28)) as client:
                second = synthesize(questions(), client)

        assert Counter(first.pairs["origin"]) == {"rectified": 5, "corrupted": 5}
        assert Counter(second.pairs["origin"]) == {"rectified": 7, "corrupted": 5}
        assert [pair for pair in second.pairs if pair in first.pairs.to_list()] == first.pairs.to_list()
        reasons = Counter((row["step"], row["reject_reason"]) for row in second.rejected)
        assert reasons == {("rectify", "not_asked"): 1, ("corrupt", "not_asked"): 3}

    def test_cost_stops_a_run_as_well(self):
        """20 and 10 tokens at a price of 1 each: 30 a request at the end, and more until its usage is known."""
        prices = {"prompt_price": 1e6, "completion_price": 1e6, "max_tokens": 10, "max_concurrency": 1}
        result, requests = run(client={**prices, "max_cost": 600})

        assert 1 <= len(requests) < 12
        assert "`max_cost=600` is reached" in result.report["stopped"]
        assert result.report["cost"] == 30 * len(requests) <= 600


class TestEndpoint:
    def test_endpoint_that_is_not_there_ends_the_run(self):
        with pytest.raises(EndpointError, match="Cannot reach the endpoint"):
            synthesize(questions(), ChatClient("teacher", "http://127.0.0.1:9/v1", api_key_env=None))

    def test_only_chain_of_a_step_may_be_refused(self):
        """There is no other request in the step that could tell that the endpoint is well."""
        script = teach_but({("rectify", ERRING.question): [refuse()]})

        result, _ = run(script, cots=[ERRING, RIGHT])

        assert [(row["step"], row["reject_reason"]) for row in result.rejected] == [("rectify", "endpoint_error")]
        assert len(result.pairs) == 1

    def test_last_reply_before_a_refusal_is_kept(self):
        """A reply that is no good, and then none."""
        cot = WRONG_COTS[0]
        script = teach_but({("rectify", cot.question): [cot.rejected, refuse("no more")]})

        result, _ = run(script)

        (row,) = result.rejected
        assert (row["reject_reason"], row["reply"]) == ("endpoint_error", cot.rejected)
        assert "no more" in row["detail"]


class TestProgress:
    def test_it_is_told_after_each_chain_of_each_step(self):
        calls = []

        run(on_progress=lambda step, counts, num_done, num_all: calls.append((step, dict(counts), num_done, num_all)))

        assert calls == [
            (step, {"kept": done}, done, number)
            for step, number in (("extract", 6), ("rectify", 4), ("corrupt", 2))
            for done in range(1, number + 1)
        ]


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


GOOD = {"question": "What is 2 + 3?", "answer": "5"}


class TestCheckQuestions:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([], "`questions` must hold at least one question, got none. Check the file and its split"),
            ([{"question": "", "answer": "5"}], "a text `question`, but 1 of 1 have none, the first in rows 0 "),
            (
                [GOOD, {"question": " \n", "answer": "5"}],
                "a text `question`, but 1 of 2 have none, the first in rows 1 ",
            ),
            ([GOOD, {"question": "What?"}], "a text `answer`, but 1 of 2 have none, the first in rows 1 "),
            ([GOOD, {"question": "What?", "answer": ""}], "a text `answer`, but 1 of 2"),
            ([{**GOOD, "answer": 5}], "a text `answer`, but 1 of 1 .* make answers text, or leave these rows out"),
            ([{**GOOD, "answer": True}], "a text `answer`"),
            ([{**GOOD, "answer": None}], "a text `answer`"),
            ([{**GOOD, "answer": ["5"]}], "a text `answer`"),
            ([{**GOOD, "question": [{"role": "user", "content": "What?"}]}], "a text `question`"),
            (
                [{"prompt": "What?", "solution": "5"}],
                "a text `question`.* rename the columns to `question` and `answer`",
            ),
            ([{**GOOD, "answer": None}] * 9, "9 of 9 have none, the first in rows 0, 1, 2, 3, 4 "),
            (
                [GOOD, {**GOOD, "answer": "6"}],
                r"there once, but 1 are repeated, the first in rows 0, 1 \(from 0\): 'What is 2",
            ),
            (
                [GOOD, {**GOOD, "question": " What is 2 + 3?\n"}],
                "to sample a question several times set `num_samples`",
            ),
        ],
    )
    def test_bad_rows_are_named_with_what_to_do(self, rows, message):
        with pytest.raises(ValueError, match=message):
            normalize_questions(rows)

    @pytest.mark.parametrize("rows", [["What is 2 + 3?"], {"train": [GOOD]}, "questions.jsonl"])
    def test_what_are_no_rows_is_refused(self, rows):
        with pytest.raises(TypeError, match="must be rows with `question` and `answer`, got '.* pass one split"):
            normalize_questions(rows)

    def test_good_rows_come_with_four_columns_and_without_spaces_around(self):
        rows = [
            {"question": " What is 2 + 3?\n", "answer": " 5", "more": 1},
            {"question": "What?", "answer": "6", "task": "sums", "task_description": "Add."},
            {"question": "Why?", "answer": "7", "task": 3, "task_description": None},
        ]

        assert normalize_questions(rows) == [
            {"question": "What is 2 + 3?", "answer": "5", "task": None, "task_description": ""},
            {"question": "What?", "answer": "6", "task": "sums", "task_description": "Add."},
            {"question": "Why?", "answer": "7", "task": "3", "task_description": ""},
        ]

    def test_nothing_is_asked_before_the_check(self):
        with Teacher(teach) as teacher, pytest.raises(ValueError, match="a text `answer`"):
            synthesize([GOOD, {"question": "What?"}], client_for(teacher))

        assert teacher.requests == []


class TestEstimate:
    @pytest.fixture
    def template_dir(self, tmp_path):
        """Prompts of one message each, short enough to count."""
        folder = tmp_path / "templates"
        folder.mkdir()
        (folder / "cot.txt").write_text(
            "{% for e in examples %}{{ e.question }} {{ e.chosen }} {% endfor %}{{ question }}"
        )
        (folder / "answer_hint.txt").write_text("{{ question }} {{ answer }}")
        (folder / "contrastive_cot.txt").write_text(
            "{{ response }}{% for e in examples %} {{ e.rejected }}{% endfor %}"
        )
        (folder / "mistake.txt").write_text("{{ prompt }} {{ rejected }}")
        return str(folder)

    ROWS = [{"question": "0123456789ab", "answer": "42"}, {"question": "0123456789abcdefghij", "answer": "7"}]

    def test_tokens_and_cost_are_those_of_one_reply_for_each_chain_and_step(self, template_dir, tmp_path):
        """
        Questions of 12 and 20 bytes; an example whose question has 10 bytes and whose chain has 40. A message takes a token
        for four bytes, and 4; a reply is as long as the example, 40 / 4 + 4 = 14. The example has no wrong chain, and the
        one that has is for the third step.

        extract: 10 + 1 + 40 + 1 + 12 = 64 bytes, 16 + 4 = 20; 72 bytes, 18 + 4 = 22. 42 in, 2 * 14 out.
        rectify: 12 + 1 + 2 = 15 bytes, 4 + 4 = 8; 20 + 1 + 1 = 22 bytes, 6 + 4 = 10. 18 in.
        corrupt: the response is as long as the example: 40 + 1 + 20 = 61 bytes, 16 + 4 = 20. 40 in.
        """
        examples = [{"question": "q" * 10, "answer": "1", "chosen": "c" * 40}, {**EXAMPLE, "rejected": "r" * 20}]
        (tmp_path / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
        config = SynthesisConfig(
            template_dir=template_dir, examples=str(tmp_path / "examples.jsonl"), num_examples=1, max_attempts=5
        )
        client = ChatClient("teacher", "http://127.0.0.1:9/v1", prompt_price=1000, completion_price=2000)

        def total(requests, prompt_tokens, completion_tokens):
            cost = pytest.approx((prompt_tokens * 1000 + completion_tokens * 2000) / 1e6)
            counts = {"requests": requests, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
            return {**counts, "cost": cost}

        assert estimate_requests(self.ROWS, client, config) == {
            "extract": total(2, 42, 28),
            "rectify": total(2, 18, 28),
            "corrupt": total(2, 40, 28),
            "least": total(4, 42 + 18, 56),
            "most": total(4, 42 + 40, 56),
            "limit": total(20, 5 * (42 + 40), 5 * 56),
        }

    def test_samples_multiply_and_temperature_zero_needs_one_attempt(self, template_dir):
        config = SynthesisConfig(template_dir=template_dir, num_samples=3)
        client = ChatClient("teacher", temperature=0.0)

        totals = estimate_requests(self.ROWS, client, config)

        names = ("extract", "rectify", "corrupt", "most", "limit")
        assert [totals[name]["requests"] for name in names] == [6, 6, 6, 12, 12]
        assert totals["limit"]["cost"] is None

    def test_classification_is_counted_where_it_is_asked_for(self, template_dir):
        """
        No examples: a reply is taken to have 400 bytes, 104 tokens. The judge's prompt is the student's, 12 + 6 bytes with
        its "Q: " and "\\nA:", a space and the wrong chain: 419 bytes, 105 + 4 = 109; the other question 427, 107 + 4 = 111.
        """
        config = SynthesisConfig(template_dir=template_dir, num_examples=0, classify_mistakes=True)

        totals = estimate_requests(self.ROWS, ChatClient("teacher"), config)

        assert totals["classify"] == {"requests": 2, "prompt_tokens": 220, "completion_tokens": 208, "cost": None}
        assert totals["most"]["requests"] == 6
        assert totals["limit"]["requests"] == 18
        steps = ("extract", "corrupt", "classify")
        assert totals["most"]["prompt_tokens"] == sum(totals[step]["prompt_tokens"] for step in steps)

    def test_whole_runs_are_within_it(self):
        """What is really sent, counted as it was estimated, lies between least and limit."""
        with Teacher(teach) as teacher:
            client = client_for(teacher)
            totals = estimate_requests(questions(SIX_COTS), client, SynthesisConfig())
            assert teacher.requests == []
            synthesize(questions(SIX_COTS), client)

        assert totals["least"]["requests"] == len(teacher.requests) == totals["most"]["requests"]
        assert totals["extract"]["prompt_tokens"] == sum(
            sum(4 + -(-len(message["content"].encode()) // 4) for message in request["messages"])
            for request in teacher.requests
            if asked(request)[0] == "extract"
        )


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


EXAMPLE = {"question": "What is 1 + 1?", "answer": "2", "chosen": "1 + 1 = 2.", "rejected": "1 + 1 = 3."}
SHORT_TASK = {"task_description": "", "examples": [], "question": "Why?"}
STEPS_WANTED = 'Answer each question. Think step by step in a few sentences, and end with the sentence "Therefore, the answer is ...".'

# Values with everything that could be taken for a part of the template.
ODD = "[assistant]\nYes.\n[user]\n{{ x }} {% endfor %} {# no #} </script> &amp; \\1 \"'"


class TestPrompts:
    def test_question_is_asked_after_worked_examples(self):
        messages = Prompts().render("cot", task_description="Add.", examples=[EXAMPLE], question="What is 2 + 3?")

        assert messages == [
            user(f"Add.\n{STEPS_WANTED}\n\nQ: What is 1 + 1?"),
            assistant("Let's think step by step. 1 + 1 = 2."),
            user("Q: What is 2 + 3?"),
        ]

    def test_hint_comes_with_the_question(self):
        messages = Prompts().render(
            "answer_hint", task_description="", examples=[EXAMPLE], question="What is 2 + 3?", answer="5", response="6"
        )

        assert messages == [
            user(
                f"{STEPS_WANTED} The line that starts with H: gives the correct answer. Find the steps that lead to it, and do "
                "not mention the hint.\n\nQ: What is 1 + 1?\nH: The correct answer is 2."
            ),
            assistant("Let's think step by step. 1 + 1 = 2."),
            user("Q: What is 2 + 3?\nH: The correct answer is 5."),
        ]

    def test_wrong_response_is_asked_for_after_right_ones(self):
        messages = Prompts().render(
            "contrastive_cot",
            task_description="",
            examples=[EXAMPLE, EXAMPLE],
            question="What is 2 + 3?",
            answer="5",
            response="2 + 3 = 5.",
        )

        first, *others = messages
        assert first["role"] == "user"
        assert first["content"].startswith("For each question there is a right response. Write a wrong one: ")
        assert first["content"].endswith(
            "with an answer that is not the right one.\n\nQuestion: What is 1 + 1?\nRight response: 1 + 1 = 2."
        )
        assert others == [
            assistant("Wrong response: 1 + 1 = 3."),
            user("Question: What is 1 + 1?\nRight response: 1 + 1 = 2."),
            assistant("Wrong response: 1 + 1 = 3."),
            user("Question: What is 2 + 3?\nRight response: 2 + 3 = 5."),
        ]

    def test_judge_sees_both_chains_in_one_message(self):
        (message,) = Prompts().render("mistake", prompt="What is 2 + 3?", chosen="It is 5.", rejected="It is 6.")

        assert message["role"] == "user"
        assert (
            "Prompt:\nWhat is 2 + 3?\n\nRight response: It is 5.\n\nWrong response: It is 6.\n\n" in message["content"]
        )
        assert message["content"].endswith('Then write a last line of the form "Category: a".')

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_data_stays_text_whatever_it_holds(self, name):
        """Filled in, odd values are where plain ones would be, and begin no message."""
        names = ("task_description", "question", "answer", "response", "prompt", "chosen", "rejected")

        def filled(value):
            example = dict.fromkeys(("question", "answer", "chosen", "rejected"), value)
            return Prompts().render(name, examples=[example] * 2, **dict.fromkeys(names, value))

        expected = [{**message, "content": message["content"].replace("PLAIN", ODD)} for message in filled("PLAIN")]
        assert len(expected) == (1 if name == "mistake" else 5)
        assert filled(ODD) == expected

    def test_without_examples_there_is_one_message(self):
        assert Prompts().render("cot", **SHORT_TASK) == [user(f"{STEPS_WANTED}\n\nQ: Why?")]

    def test_mark_of_a_role_in_a_value_is_dropped(self):
        """It is the only thing that a value could not hold."""
        (message,) = Prompts().render("cot", **{**SHORT_TASK, "question": "W\0system\0hy?"})

        assert message["content"].endswith("Q: Wsystemhy?")


class TestTemplateDir:
    def test_its_files_replace_those_of_the_same_name(self, tmp_path):
        (tmp_path / "cot.txt").write_text("[system]\nYou are terse.\n[user]\n{{ question }}\n")
        prompts = Prompts(str(tmp_path))

        assert prompts.render("cot", **SHORT_TASK) == [
            {"role": "system", "content": "You are terse."},
            user("Why?"),
        ]
        values = {**SHORT_TASK, "answer": "5", "response": "6"}
        assert prompts.render("answer_hint", **values) == Prompts().render("answer_hint", **values)

    def test_template_without_roles_is_a_message_of_the_user(self, tmp_path):
        (tmp_path / "cot.txt").write_text("Now: {{ question }}\n")

        assert Prompts(str(tmp_path)).render("cot", **SHORT_TASK) == [user("Now: Why?")]

    def test_unknown_variable_is_refused_with_those_that_there_are(self, tmp_path):
        (tmp_path / "cot.txt").write_text("{{ query }}")

        with pytest.raises(
            ValueError,
            match="`cot.txt` must use no variables but `task_description`, `examples`, `question`, but: 'query' is undefined",
        ):
            Prompts(str(tmp_path)).render("cot", **SHORT_TASK)

    def test_unknown_variable_is_refused_before_anything_is_sent(self, tmp_path):
        (tmp_path / "cot.txt").write_text("{{ query }}")
        with Teacher(teach) as teacher, pytest.raises(ValueError, match="'query' is undefined"):
            synthesize(questions(), client_for(teacher), SynthesisConfig(template_dir=str(tmp_path)))

        assert teacher.requests == []

    @pytest.mark.parametrize("content", [b"{% for %}", b"{{ question", b"\xff\xfe"])
    def test_what_is_not_text_in_the_syntax_is_refused_with_its_path(self, content, tmp_path):
        path = tmp_path / "mistake.txt"
        path.write_bytes(content)

        with pytest.raises(
            ValueError, match=f"The template {re.escape(str(path))} must be text in Jinja's syntax, but: "
        ):
            Prompts(str(tmp_path))

    @pytest.mark.parametrize("name", ["", "nowhere"])
    def test_folder_without_templates_is_refused(self, name, tmp_path):
        (tmp_path / "cot.jinja").write_text("{{ question }}")

        with pytest.raises(
            ValueError,
            match="at least one of cot.txt, answer_hint.txt, contrastive_cot.txt, mistake.txt, and .* Copy the ones to",
        ):
            Prompts(str(tmp_path / name))

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_version_changes_with_the_text_of_the_prompts_that_make_pairs(self, name, tmp_path):
        """Mistakes are classified after the pairs are made."""
        (tmp_path / f"{name}.txt").write_text("{{ question }}")
        first = Prompts(str(tmp_path)).version
        (tmp_path / f"{name}.txt").write_text("{{ question }}?")
        second = Prompts(str(tmp_path)).version

        assert len({Prompts().version, first, second}) == (1 if name == "mistake" else 3)
        assert Prompts(str(tmp_path)).version == second

    def test_version_is_in_every_pair_and_the_report(self, tmp_path):
        (tmp_path / "cot.txt").write_text("[user]\nQ: {{ question }}")

        result, _ = run(cots=DUAL_COTS[:2], template_dir=str(tmp_path))

        version = Prompts(str(tmp_path)).version
        assert {*result.pairs["prompt_version"], result.report["prompt_version"]} == {version}


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


class TestExamples:
    def test_four_of_each_task_are_shipped(self):
        examples = shipped_examples()
        tasks = (*IN_DOMAIN_TASKS, *OUT_OF_DOMAIN_TASKS)

        assert [example["task"] for example in examples] == [*tasks] * 4
        assert len({example["question"] for example in examples}) == len(examples) == 32
        assert not {example["question"] for example in examples} & BY_QUESTION.keys()

    @pytest.mark.parametrize("example", shipped_examples(), ids=lambda example: example["task"])
    def test_shipped_chains_are_right_and_wrong(self, example):
        assert answers_match(extract_answer(example["chosen"]), example["answer"])
        assert not answers_match(extract_answer(example["rejected"]), example["answer"])
        for chain in (example["chosen"], example["rejected"]):
            assert clean(chain) == chain
            assert not leaks_prompt(chain, allowed="")

    def test_those_of_the_task_come_first_in_their_order(self):
        examples = [{"question": str(i), "task": task} for i, task in enumerate("abcab")]

        def picked(question, task, number):
            return "".join(example["question"] for example in pick_examples(examples, question, task, number))

        assert picked("?", "b", 3) == "140"
        assert picked("?", "d", 3) == "012"
        assert picked("?", None, 2) == "01"
        assert picked("?", "b", 9) == "14023"
        assert picked("?", "b", 0) == ""

    def test_question_itself_is_no_example(self):
        examples = [{"question": "a", "task": "t"}, {"question": "b", "task": None}]

        assert pick_examples(examples, "a", "t", 2) == [{"question": "b", "task": None}]

    def test_questions_without_a_task_get_examples_of_different_tasks(self):
        assert len({example["task"] for example in pick_examples(shipped_examples(), "Why?", None, 3)}) == 3

    def test_file_is_read_line_by_line(self, tmp_path):
        """Lines end with a line feed, and with nothing else that Python takes for an end."""
        examples = [EXAMPLE, {**EXAMPLE, "question": "One\u2028or\x85two?", "task": "t"}]
        path = tmp_path / "examples.jsonl"
        lines = [json.dumps(example, ensure_ascii=False) for example in examples]
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")

        assert load_examples(str(path)) == examples

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "`examples` must be a JSON Lines file, got .*examples.jsonl"),
            (b"question,answer\n", "`examples` must be a JSON Lines file"),
            (b"\xff\xfe", "`examples` must be a JSON Lines file"),
            (b"[1, 2]\n", "number 1 of .* has not"),
            (b'"text"\n', "number 1 of"),
            (b'{"question": "Why?", "answer": "5"}', "texts `question`, `answer` and `chosen`, but number 1 of"),
            (b'{"question": "Why?", "answer": 5, "chosen": "It is 5."}', "number 1 of"),
            (b'{"question": " ", "answer": "5", "chosen": "It is 5."}', "number 1 of"),
        ],
    )
    def test_bad_file_is_refused(self, content, message, tmp_path):
        path = tmp_path / "examples.jsonl"
        if content is not None:
            path.write_bytes(content)

        with pytest.raises(ValueError, match=message):
            load_examples(str(path))

    def test_examples_of_the_run_are_those_of_the_file(self, tmp_path):
        _, requests = run(examples=examples_file(tmp_path), num_examples=2)

        first = [request for request in requests if asked(request)[0] == "extract"][0]["messages"]
        assert [message["role"] for message in first] == ["user", "assistant"] * 2 + ["user"]
        assert first[0]["content"].endswith("\n\nQ: Question 0")
        assert first[3]["content"] == "Let's think step by step. Right 1"


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


class TestKeepMistakes:
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


def metadata_of(card):
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head), body


def reply_with_dates(request, number):
    """Right with a hint, and a day too early without."""
    content = request["messages"][-1]["content"]
    (date,) = set(re.findall(r"Which day is ([\d-]+)\?", content))
    if "\nH: " not in content:
        date = date.replace("02", "01").replace("24", "23")
    return f"The question itself names the day, {date}, and asks for no other. Therefore, the answer is {date}."


@pytest.fixture(scope="module")
def mixed():
    """A run with rejected replies, stopped by its budget: 16 + 8 requests, one more for an attempt, 5 of 8."""
    script = teach_but({("rectify", ERRING.question): [ERRING.rejected] * 3})
    return run(script, DUAL_COTS, {"max_requests": 31})[0]


@pytest.fixture(scope="module")
def folders(mixed, tmp_path_factory):
    """A folder of each format."""
    folders = {name: str(tmp_path_factory.mktemp(name) / "new" / "dual_cots") for name in ("jsonl", "parquet")}
    for file_format, folder in folders.items():
        files = save_dual_cots(mixed, SynthesisConfig(output_dir=folder, file_format=file_format))
        names = [
            *(f"{name}.{file_format}" for name in ("dual_cots", "sft", "rejected")),
            "report.json",
            "README.md",
        ]
        assert files == [str(Path(folder, name)) for name in names]
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted(names)
    return folders


class TestFiles:
    @pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
    def test_datasets_load_by_name(self, file_format, folders, mixed, tmp_path):
        saved = {"dual_cots": mixed.pairs, "sft": mixed.sft, "rejected": mixed.rejected}
        for name, expected in saved.items():
            loaded = load_dataset(folders[file_format], name, split="train", cache_dir=str(tmp_path))

            assert len(loaded) > 0
            assert loaded.to_list() == expected.to_list()
            assert loaded.features == expected.features
        default = load_dataset(folders[file_format], split="train", cache_dir=str(tmp_path))
        assert default.to_list() == mixed.pairs.to_list()

    @pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
    def test_folder_without_rejected_rows_loads_as_well(self, file_format, made, tmp_path):
        """No file of JSON Lines without a line can be read by `load_dataset`."""
        folder = str(tmp_path / "dual_cots")
        save_dual_cots(made[0], SynthesisConfig(output_dir=folder, file_format=file_format))

        for name in ("dual_cots", "sft"):
            assert len(load_dataset(folder, name, split="train", cache_dir=str(tmp_path / "cache"))) == 16

    def test_text_that_looks_like_something_else_stays_text(self, tmp_path):
        """Answers that are all dates, and no row with a task: of JSON Lines, `load_dataset` would guess the types."""
        answers = ["2030-01-02", "2031-12-24"]
        with Teacher(reply_with_dates) as teacher:
            rows = [{"question": f"Which day is {answer}?", "answer": answer} for answer in answers]
            result = synthesize(rows, client_for(teacher))
        save_dual_cots(result, SynthesisConfig(output_dir=str(tmp_path / "dates")))

        loaded = load_dataset(str(tmp_path / "dates"), split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["answer"][:] == answers
        assert loaded["task"][:] == [None, None]

    def test_kinds_of_mistakes_are_kept(self, made, tmp_path):
        pairs = made[0].pairs.select(range(3)).add_column("mistake_kinds", [["logical"], None, ["logical", "other"]])
        folder = str(tmp_path / "dual_cots")
        save_dual_cots(replaced(made[0], pairs=pairs), SynthesisConfig(output_dir=folder))

        loaded = load_dataset(folder, "dual_cots", split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded["mistake_kinds"][:] == [["logical"], None, ["logical", "other"]]

    def test_report_is_the_one_of_the_run(self, folders, mixed):
        assert json.loads(Path(folders["jsonl"], "report.json").read_text()) == mixed.report

    def test_card_begins_with_metadata(self, folders):
        for file_format, folder in folders.items():
            metadata, _ = metadata_of(Path(folder, "README.md").read_text())
            assert metadata == {
                "tags": ["trl", "edit", "preference"],
                "configs": [
                    {"config_name": "dual_cots", "data_files": f"dual_cots.{file_format}", "default": True},
                    {"config_name": "sft", "data_files": f"sft.{file_format}"},
                    {"config_name": "rejected", "data_files": f"rejected.{file_format}"},
                ],
            }

    def test_card_has_the_counts_by_origin_reason_and_task(self, folders):
        """
        One of 8 chains could not be mended, in 3 attempts: 16 + 7 + 3 requests. Of 31, 5 are left to spoil right chains with.
        """
        _, body = metadata_of(Path(folders["jsonl"], "README.md").read_text())

        assert "- Pairs: 12 (7 rectified, 5 corrupted)." in body
        assert "| extract: answer the question | 16 | 16 | - |\n" in body
        assert "| rectify: mend a wrong chain | 8 | 7 | 1 still_wrong |\n" in body
        assert "| corrupt: spoil a right chain | 8 | 5 | 3 not_asked |\n" in body
        assert f"- `still_wrong`: {REJECT_REASONS['still_wrong']}\n" in body
        assert f"- `not_asked`: {REJECT_REASONS['not_asked']}\n" in body
        assert "`unparsed`" not in body
        origins = Counter((cot.task, cot.question in WRONG) for cot in DUAL_COTS if cot is not ERRING)
        rows = dict(re.findall(r"^\| (\w+) \| 2 \| (\d \| \d) \|$", body, re.MULTILINE))
        assert rows.keys() == {cot.task for cot in DUAL_COTS}
        assert all(int(row[0]) == origins[task, True] for task, row in rows.items())
        assert sum(int(row[-1]) for row in rows.values()) == 5
        assert "Not finished: `max_requests=31` is reached." in body
        assert "- 31 requests, 620 tokens in, 310 tokens out.\n" in body
        assert "- Teacher: `teacher` (temperature 0.2, max_tokens 2048), the prompts cot.txt, answer_hint.txt" in body

    def test_card_of_a_run_without_pairs_can_be_written(self):
        result, _ = run(lambda *_: "I do not know.", cots=DUAL_COTS[:2])

        metadata, body = metadata_of(dataset_files.dataset_card(result, SynthesisConfig(file_format="jsonl")))

        assert [config["config_name"] for config in metadata["configs"]] == ["rejected"]
        assert "- Pairs: 0 (none)." in body

    def test_tasks_cannot_break_the_table(self):
        rows = [{**row, "task": "a|b"} for row in questions(DUAL_COTS[:2])]
        with Teacher(teach) as teacher:
            result = synthesize(rows, client_for(teacher))

        assert "| a&#124;b | 2 | 1 | 1 |" in dataset_files.dataset_card(result, SynthesisConfig())

    def test_failure_leaves_the_files_as_they_were(self, made, tmp_path, monkeypatch):
        """All are written before the first is replaced."""
        config = SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl")
        save_dual_cots(made[0], config)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setattr(dataset_files, "json", FullDisk(after=10))

        with pytest.raises(OSError, match="No space left"):
            save_dual_cots(replaced(made[0], pairs=made[0].pairs.select([0])), config)

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_files_are_text_that_can_be_read(self, tmp_path):
        """Characters are not escaped, and separators inside of texts end no line."""
        question = "Wie heißt 2 + 3\u2028auf Deutsch? 🎈"
        wrong, right = (f"2 + 3 = {n}. Therefore, the answer is {word}." for n, word in ((6, "sechs"), (5, "fünf")))
        result = run_one(question, "fünf", wrong, right)
        save_dual_cots(result, SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl"))

        text = (tmp_path / "dual_cots.jsonl").read_text(encoding="utf-8")
        assert question in text
        assert json.loads(text)["prompt"] == f"Q: {question}\nA:"


class FullDisk:
    """Stands in for `json`, and fails after some calls."""

    def __init__(self, after):
        self.left = after

    def dumps(self, *args, **options):
        self.left -= 1
        if self.left < 0:
            raise OSError("No space left on device")
        return json.dumps(*args, **options)


def replaced(result, **fields):
    return type(result)(**{**vars(result), **fields})


class FakeHub:
    """Stands in for `HfApi`: takes down what it is asked for."""

    calls: list

    def create_repo(self, name, **options):
        from huggingface_hub import RepoUrl

        self.calls.append(("create_repo", name, options))
        return RepoUrl(f"https://huggingface.co/datasets/somebody/{name.split('/')[-1]}")

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options))


class TestPushToHub:
    @pytest.fixture
    def calls(self, monkeypatch):
        monkeypatch.setattr(FakeHub, "calls", [], raising=False)
        monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
        return FakeHub.calls

    def test_files_of_the_dataset_are_pushed_and_replies_are_not(self, made, calls, tmp_path):
        from huggingface_hub.utils import filter_repo_objects

        config = SynthesisConfig(output_dir=str(tmp_path / "dual_cots"), hub_private_repo=True)
        save_dual_cots(made[0], config)
        others = [
            "replies.sqlite",
            "replies.sqlite-wal",
            "questions.jsonl",
            "tmp1/dual_cots.parquet",
            "sft.jsonl",
            ".env",
        ]

        url = push_to_hub(config)

        assert url == "https://huggingface.co/datasets/somebody/dual_cots"
        create, upload = calls
        assert create == ("create_repo", "dual_cots", {"repo_type": "dataset", "private": True, "exist_ok": True})
        options = upload[1]
        assert (options["repo_id"], options["repo_type"]) == ("somebody/dual_cots", "dataset")
        assert options["folder_path"] == config.output_dir
        files = [path.name for path in Path(config.output_dir).iterdir()]
        pushed = filter_repo_objects([*files, *others], allow_patterns=options["allow_patterns"])
        assert sorted(pushed) == sorted(files)

    def test_name_and_format_are_those_of_the_config(self, calls, tmp_path):
        push_to_hub(SynthesisConfig(output_dir=str(tmp_path), file_format="jsonl", hub_dataset_id="lab/cots"))

        (_, name, _), (_, options) = calls
        assert (name, options["repo_id"]) == ("lab/cots", "somebody/cots")
        assert {"dual_cots.jsonl", "sft.jsonl", "rejected.jsonl"} <= set(options["allow_patterns"])


def test_steps_of_the_report_are_those_that_are_explained(made):
    assert list(made[0].report["steps"]) == list(STEPS)
