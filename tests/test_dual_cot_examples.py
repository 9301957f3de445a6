"""
The examples that contrastive prompts show: where they come from, and that they are drawn once.
"""

import json
import random
from contextlib import closing

import pytest
from dual_cot_teacher import (
    DUAL_COTS,
    ERRING,
    RIGHT,
    RIGHT_COTS,
    SIX_COTS,
    WRONG_COTS,
    as_sent,
    asked,
    examples_file,
    one_ssl_context,  # noqa: F401
    questions,
    run,
    shown,
    tables,
    teach,
)
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.synthesis import SynthesisConfig, synthesize
from edit_trl.synthesis.prompts import shipped_examples


pytest.importorskip("openai")


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
            "3 rectified questions are too few to draw 3 examples for the contrastive prompt from; the examples"
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
        assert "the examples of `examples` were used" in result.report["notes"][0]

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
