"""
Tests of the recipe with a teacher that has fixed replies (`dual_cot_teacher.py`), so that the expected result is
known.
"""

import json
from collections import Counter
from contextlib import closing

import pytest
from datasets import Dataset
from dual_cot_teacher import (
    DUAL_COTS,
    ERRING,
    EXAMPLE,
    RIGHT,
    RIGHT_COTS,
    SIX_COTS,
    WRONG_COTS,
    as_sent,
    asked,
    one_ssl_context,  # noqa: F401
    prompt_of,
    questions,
    refuse,
    run,
    steps_of,
    tables,
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
from edit_trl.chat import ChatClient, EndpointError
from edit_trl.synthesis import SynthesisConfig, estimate_requests, save_dual_cots, synthesize


pytest.importorskip("openai")


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

    def test_nothing_is_asked_before_the_questions_are_checked(self):
        with Teacher(teach) as teacher, pytest.raises(ValueError, match="a text `answer`"):
            synthesize([*questions(SIX_COTS), {"question": "What?"}], client_for(teacher))

        assert teacher.requests == []


class TestProgress:
    def test_it_is_told_after_each_chain_of_each_step(self):
        calls = []

        run(on_progress=lambda step, counts, num_done, num_all: calls.append((step, dict(counts), num_done, num_all)))

        assert calls == [
            (step, {"kept": done}, done, number)
            for step, number in (("extract", 6), ("rectify", 4), ("corrupt", 2))
            for done in range(1, number + 1)
        ]


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
        Questions of 12 and 20 bytes; an example whose question has 10 bytes and whose chain has 40. A message takes a
        token for four bytes, and 4; a reply is as long as the example, 40 / 4 + 4 = 14. The example has no wrong
        chain, and the one that has is for the third step.

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
        No examples: a reply is taken to have 400 bytes, 104 tokens. The judge's prompt is the student's, 12 + 6 bytes
        with its "Q: " and "\\nA:", a space and the wrong chain: 419 bytes, 105 + 4 = 109; the other question 427,
        107 + 4 = 111.
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
