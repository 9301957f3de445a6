"""
Tests of `edit_trl.synthesis.mend_mistakes`: a student's own mistakes as dual chains-of-thought.

The replies are chains of `edit_trl.tasks`, in which the mistake is known: the right chain of the same problem is the
reply mended with the least change.
"""

import json
from collections import Counter

import pytest
from datasets import Dataset, load_dataset
from dual_cot_teacher import one_ssl_context  # noqa: F401
from teacher import (
    Response,
    Teacher,
    client_for,
    time_limit,  # noqa: F401
)

from edit_trl.answers import answers_match, extract_answer
from edit_trl.evaluation import EvaluationConfig, Generation, evaluate
from edit_trl.synthesis import (
    MendingConfig,
    SynthesisConfig,
    estimate_mending,
    mend_mistakes,
    mix_with_replay,
    save_mended,
)
from edit_trl.synthesis.prompts import Prompts
from edit_trl.tasks import generate_dual_cots
from edit_trl.words import words


COTS = generate_dual_cots(6, tasks=["multistep_arithmetic", "object_counting"], seed=11)
RIGHT_CHAINS = {(cot.question, cot.rejected): cot.chosen for cot in COTS}


def reply(cot, text, **more):
    return {"question": cot.question, "answer": cot.answer, "task": cot.task, "text": f" {text}", **more}


def solve(question, wrong_chain, answer):
    """A solver that knows the problems of this file."""
    return RIGHT_CHAINS[question, wrong_chain]


def wrong_replies():
    return [reply(cot, cot.rejected) for cot in COTS]


def outcomes(result):
    return Counter((row["step"], row["reject_reason"]) for row in result.rejected)


def mend_script(request, number):
    """A teacher that mends: it looks up the question and the response of the last message."""
    lines = request["messages"][-1]["content"].splitlines()
    question, _, response = (line.partition(": ")[2] for line in lines[-3:])
    return RIGHT_CHAINS[question, response]


class TestPairs:
    def test_each_wrong_reply_becomes_a_pair_with_its_mended_chain(self):
        result = mend_mistakes(wrong_replies(), solve)

        columns = ["prompt", "chosen", "rejected", "answer", "task", "origin", "teacher", "right_share"]
        assert result.pairs.select_columns(columns).to_list() == [
            {
                "prompt": f"Q: {cot.question}\nA:",
                "chosen": f" {cot.chosen}",
                "rejected": f" {cot.rejected}",
                "answer": cot.answer,
                "task": cot.task,
                "origin": "student",
                "teacher": "solve",
                "right_share": 0.0,
            }
            for cot in COTS
        ]
        assert [(row["prompt"], row["completion"], row["origin"]) for row in result.sft] == [
            (f"Q: {cot.question}\nA:", f" {cot.chosen}", "student") for cot in COTS
        ]
        assert len(result.rejected) == 0

    def test_both_ends_are_read_as_a_student_is_scored(self):
        for pair in mend_mistakes(wrong_replies(), solve).pairs:
            assert answers_match(extract_answer(pair["chosen"]), pair["answer"])
            assert not answers_match(extract_answer(pair["rejected"]), pair["answer"])

    def test_words_of_a_script_without_spaces_are_counted_as_in_synthesis(self):
        wrong = "小明有三个苹果，又买了五个，一共七个。所以答案是7。"
        right = "小明有三个苹果，又买了五个，一共八个。所以答案是8。"
        question = {"question": "小明有三个苹果，又买了五个。一共几个？", "answer": "8"}

        (pair,) = mend_mistakes([{**question, "text": wrong}], lambda *_: right).pairs

        # The sum and the answer are changed.
        assert pair["similarity"] == pytest.approx(1 - 2 / len(words(right)), abs=1e-4)
        assert 0 < pair["key_token_ratio"] < 0.2

    def test_right_and_repeated_replies_are_counted_and_not_mended(self):
        first, second = COTS[:2]
        replies = [reply(first, first.rejected)] * 3 + [reply(first, first.chosen), reply(second, second.chosen)]

        result = mend_mistakes(replies, solve)

        counts = {"questions": 2, "replies": 5, "right": 2, "wrong": 1, "repeated": 2, "unusable": 0}
        assert result.report["student"] == counts
        assert [pair["right_share"] for pair in result.pairs] == [0.25]

    def test_verdict_of_the_record_is_not_believed(self):
        """Old records may have been scored by an older version."""
        cot = COTS[0]
        replies = [reply(cot, cot.chosen, is_right=False), reply(cot, cot.rejected, is_right=True)]

        assert mend_mistakes(replies, solve).pairs["rejected"] == [f" {cot.rejected}"]

    def test_what_a_student_writes_after_its_answer_is_cut(self):
        cot = COTS[0]
        replies = [reply(cot, f"{cot.rejected}\n\nQ: What is 1 + 1?\nA: 2")]

        assert mend_mistakes(replies, solve).pairs["rejected"] == [f" {cot.rejected}"]

    def test_chains_that_cannot_be_pairs_are_kept_with_their_reason(self):
        cots = dict(zip(("cut", "unparsed", "still_wrong", "not_mended", "too_different", "kept"), COTS, strict=True))
        replies = [reply(cot, cot.rejected) for cot in cots.values()]
        replies[0]["finish_reason"] = "length"
        replies[1]["text"] = " I do not know what to say here"
        other = "Something else is written here, and nothing of the reply is left in it."
        mended = {
            cots["still_wrong"].question: cots["still_wrong"].rejected,
            cots["not_mended"].question: None,
            cots["too_different"].question: f"{other} Therefore, the answer is {cots['too_different'].answer}.",
            cots["kept"].question: cots["kept"].chosen,
        }

        result = mend_mistakes(replies, lambda question, chain, answer: mended[question])

        assert outcomes(result) == {
            ("select", "cut"): 1,
            ("select", "unparsed"): 1,
            ("mend", "still_wrong"): 1,
            ("mend", "not_mended"): 1,
            ("mend", "too_different"): 1,
        }
        assert result.report["steps"] == {
            "select": {"chains": 6, "kept": 4, "rejected": {"cut": 1, "unparsed": 1}},
            "mend": {"chains": 4, "kept": 1, "rejected": {"still_wrong": 1, "not_mended": 1, "too_different": 1}},
        }
        assert result.pairs["prompt"] == [f"Q: {cots['kept'].question}\nA:"]

    def test_questions_never_answered_right_may_be_left_out(self):
        first, second = COTS[:2]
        replies = [reply(first, first.rejected), reply(first, first.chosen), reply(second, second.rejected)]

        result = mend_mistakes(replies, solve, MendingConfig(sometimes_right=True))

        assert result.pairs["answer"] == [first.answer]
        assert outcomes(result) == {("select", "never_right"): 1}

    def test_description_of_the_task_is_in_the_prompt(self):
        cot = COTS[0]
        own = reply(cot, cot.rejected, task_description="Add up.")

        assert mend_mistakes([own], solve).pairs["prompt"] == [f"Add up.\nQ: {cot.question}\nA:"]
        config = MendingConfig(task_description="Count.")
        assert mend_mistakes([reply(cot, cot.rejected)], solve, config).pairs["prompt"] == [
            f"Count.\nQ: {cot.question}\nA:"
        ]

    def test_nothing_wrong_makes_an_empty_dataset_with_all_columns(self):
        full = mend_mistakes(wrong_replies(), solve)
        empty = mend_mistakes([reply(cot, cot.chosen) for cot in COTS], solve)

        assert len(empty.pairs) == 0
        assert empty.pairs.features == full.pairs.features
        assert empty.report["pairs"] == 0

    def test_progress_is_told_after_each_chain(self):
        told = []
        mend_mistakes(wrong_replies(), solve, on_progress=lambda *values: told.append((values[0], *values[2:])))

        assert told == [("mend", number, 6) for number in range(1, 7)]


class TestReplies:
    def test_generations_of_an_evaluation_are_taken_as_they_are(self, tmp_path):
        """Two paths: one of each question is right, the other wrong."""
        by_prompt = {f"Q: {cot.question}\nA:": (cot.chosen, cot.rejected) for cot in COTS}

        def student(prompts, samples):
            pairs = zip(prompts, samples, strict=True)
            return [Generation(f" {by_prompt[prompt][sample]}", "stop", 9) for prompt, sample in pairs]

        asked = [{"question": cot.question, "answer": cot.answer, "task": cot.task} for cot in COTS]
        asked[0]["task_description"] = "Add up."
        by_prompt[f"Add up.\nQ: {COTS[0].question}\nA:"] = by_prompt.pop(f"Q: {COTS[0].question}\nA:")
        evaluate(asked, student, EvaluationConfig(output_dir=str(tmp_path), num_paths=2))
        lines = (tmp_path / "generations.jsonl").read_text().splitlines()

        result = mend_mistakes(map(json.loads, lines), solve)

        pairs = {(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in result.pairs}
        assert pairs == {(prompt, f" {right}", f" {wrong}") for prompt, (right, wrong) in by_prompt.items()}
        assert set(result.pairs["right_share"]) == {0.5}

    @pytest.mark.parametrize("missing", ["question", "answer", "text"])
    def test_row_without_a_text_is_named(self, missing):
        rows = wrong_replies()
        del rows[3][missing]

        with pytest.raises(ValueError, match=f"row 3 .* has no `{missing}`.* rename the columns"):
            mend_mistakes(rows, solve)

    @pytest.mark.parametrize("name", ["question", "answer", "task", "task_description"])
    def test_half_a_character_in_a_question_is_named(self, name):
        rows = [*wrong_replies(), {**reply(COTS[0], "5"), name: "half \ud83d"}]
        with pytest.raises(ValueError, match=f"`{name}` of row {len(COTS)} .* holds half a character: 'half"):
            mend_mistakes(rows, solve)

    def test_half_a_character_in_a_reply_costs_one_chain(self, tmp_path):
        """At its end, where the reply was cut, it is left out; two halves are one."""
        texts = [
            f"Well \ud83d! {COTS[0].rejected}",
            f"{COTS[1].rejected} \ud83d",
            f"Ha \ud83d\ude00! {COTS[2].rejected}",
        ]
        rights = {COTS[1].rejected: COTS[1].chosen, f"Ha \U0001f600! {COTS[2].rejected}": COTS[2].chosen}
        result = mend_mistakes(
            [reply(cot, text) for cot, text in zip(COTS, texts, strict=False)], lambda _, wrong, __: rights[wrong]
        )

        assert outcomes(result) == {("select", "garbled"): 1}
        assert result.pairs["rejected"] == [f" {wrong}" for wrong in rights]
        save_mended(result, MendingConfig(output_dir=str(tmp_path)))

    def test_half_a_character_of_the_function_costs_one_chain(self):
        result = mend_mistakes(
            wrong_replies(), lambda *row: solve(*row) + (" \ud83d!" if row[0] == COTS[0].question else "")
        )

        assert outcomes(result) == {("mend", "garbled"): 1}

    def test_invisible_characters_change_no_answer(self):
        cot = COTS[0]
        rows = [{**reply(cot, cot.rejected), "question": f"\ufeff{cot.question}", "answer": f"{cot.answer}\u200b"}]

        (pair,) = mend_mistakes(rows, solve).pairs
        assert (pair["prompt"], pair["answer"]) == (f"Q: {cot.question}\nA:", cot.answer)

    def test_two_answers_to_one_question_are_refused(self):
        cot = COTS[0]
        rows = [reply(cot, cot.rejected), {**reply(cot, cot.rejected), "answer": "-1"}]

        with pytest.raises(ValueError, match="must have one answer, but row 1 has '-1'"):
            mend_mistakes(rows, solve)

    def test_no_reply_is_an_error_that_says_how_to_make_some(self):
        with pytest.raises(ValueError, match="got none. .*edit-trl evaluate --num_paths 8 --temperature 1"):
            mend_mistakes([], solve)

    def test_texts_instead_of_rows_are_refused(self):
        with pytest.raises(TypeError, match="must be rows .* got 'a reply'"):
            mend_mistakes(["a reply"], solve)

    def test_function_must_return_text(self):
        with pytest.raises(TypeError, match="must return the mended chain as text, or `None`, got int"):
            mend_mistakes(wrong_replies(), lambda *_: 5)


class TestTeacher:
    @pytest.fixture(autouse=True)
    def needs_openai(self):
        pytest.importorskip("openai")

    def test_teacher_gets_the_answer_and_the_wrong_chain(self):
        with Teacher(mend_script) as teacher:
            result = mend_mistakes(wrong_replies(), client_for(teacher), MendingConfig(num_examples=1))

        assert result.pairs["chosen"] == [f" {cot.chosen}" for cot in COTS]
        assert result.pairs["teacher"] == ["teacher"] * 6
        assert set(result.pairs["prompt_version"]) == {Prompts().mend_version} != {Prompts().version}
        contents = {request["messages"][-1]["content"] for request in teacher.requests}
        assert contents == {
            f"Question: {cot.question}\nCorrect answer: {cot.answer}\nResponse: {cot.rejected}" for cot in COTS
        }
        first = teacher.requests[0]["messages"]
        assert [message["role"] for message in first] == ["user", "assistant", "user"]
        assert "copy it word for word up to its first mistake" in first[0]["content"]

    def test_next_attempt_is_made_if_the_first_fails_the_checks(self):
        cot = COTS[0]
        with Teacher(lambda request, number: cot.rejected if number == 0 else cot.chosen) as teacher:
            result = mend_mistakes([reply(cot, cot.rejected)], client_for(teacher))

        assert len(teacher.requests) == 2
        assert result.pairs["chosen"] == [f" {cot.chosen}"]

    def test_continued_run_pays_no_reply_twice(self, tmp_path):
        """After a budget of four requests, the same call sends the other two."""
        store = str(tmp_path / "replies.sqlite")
        with Teacher(mend_script) as teacher:
            with client_for(teacher, store=store, max_requests=4, max_concurrency=1) as client:
                stopped = mend_mistakes(wrong_replies(), client)
            with client_for(teacher, store=store) as client:
                finished = mend_mistakes(wrong_replies(), client)
            with client_for(teacher, store=store) as client:
                again = mend_mistakes(wrong_replies(), client)

        assert len(teacher.requests) == 6
        assert (len(stopped.pairs), outcomes(stopped)) == (4, {("mend", "not_asked"): 2})
        assert "4" in stopped.report["stopped"]
        assert finished.report["stopped"] is None
        assert again.pairs.to_list() == finished.pairs.to_list()
        assert finished.pairs["chosen"] == [f" {cot.chosen}" for cot in COTS]

    def test_another_round_asks_only_about_new_mistakes(self, tmp_path):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(mend_script) as teacher:
            for rounds in (COTS[:4], COTS[:4] + COTS[2:]):
                with client_for(teacher, store=store) as client:
                    result = mend_mistakes([reply(cot, cot.rejected) for cot in rounds], client)

        assert len(teacher.requests) == 6
        assert (len(result.pairs), result.report["student"]["repeated"]) == (6, 2)

    def test_refused_request_costs_one_chain(self):
        def script(request, number):
            if number == 2:
                return Response({"error": {"message": "too long"}}, 400, delay=0.3)
            return mend_script(request, number)

        with Teacher(script) as teacher:
            result = mend_mistakes(wrong_replies(), client_for(teacher))

        assert (len(result.pairs), outcomes(result)) == (5, {("mend", "endpoint_error"): 1})

    def test_kinds_of_mistakes_are_asked_for_after_mending(self):
        def script(request, number):
            is_judged = "Category:" in request["messages"][-1]["content"]
            return "The sum is wrong.\nCategory: c" if is_judged else mend_script(request, number)

        with Teacher(script) as teacher:
            result = mend_mistakes(wrong_replies(), client_for(teacher), MendingConfig(classify_mistakes=True))

        assert list(result.pairs["mistake_kinds"]) == [["calculation"]] * 6
        with pytest.raises(ValueError, match="`classify_mistakes` needs a teacher"):
            mend_mistakes(wrong_replies(), solve, MendingConfig(classify_mistakes=True))

    def test_estimate_is_the_number_of_wrong_replies(self):
        cot = COTS[0]
        replies = [*wrong_replies(), reply(cot, cot.chosen), reply(cot, cot.rejected)]
        with Teacher(mend_script) as teacher:
            client = client_for(teacher, prompt_price=1.0, completion_price=2.0)
            totals = estimate_mending(replies, client, MendingConfig(max_attempts=2))

        assert teacher.requests == []
        assert totals["least"]["requests"] == 6
        assert totals["limit"] == {name: 2 * value for name, value in totals["least"].items()}
        least = totals["least"]
        assert least["cost"] == pytest.approx((least["prompt_tokens"] + 2 * least["completion_tokens"]) / 1e6)


class TestMix:
    CHAINS = [{"prompt": f"Q: {i}?\nA:", "completion": f" {i}.", "origin": "right"} for i in range(5)]

    @pytest.mark.parametrize("share, number", [(0.5, 6), (0.25, 2), (0.8, 24)])
    def test_share_of_the_rows_are_chains_of_stage_1(self, share, number):
        pairs = mend_mistakes(wrong_replies(), solve).pairs

        mix = mix_with_replay(pairs, self.CHAINS, share)

        replayed = [row for row in mix if row["chosen"] is None]
        assert (len(mix), len(replayed)) == (6 + number, number)
        times = Counter(row["completion"] for row in replayed)
        assert max(times.values()) - (min(times.values()) if number >= 5 else 0) <= 1
        assert all(row["rejected"] is None and row["origin"] is None for row in replayed)
        kept = [row for row in mix if row["chosen"] is not None]
        assert sorted(kept, key=lambda row: row["prompt"]) == sorted(
            ({**pair, "completion": None} for pair in pairs), key=lambda row: row["prompt"]
        )

    def test_seed_decides_draw_and_order(self):
        pairs = mend_mistakes(wrong_replies(), solve).pairs
        mixes = [mix_with_replay(pairs, self.CHAINS, 0.25, seed).to_list() for seed in (0, 0, 1, 2, 3)]

        assert mixes[0] == mixes[1]
        assert len({json.dumps(mix) for mix in mixes}) > 1

    def test_trainer_takes_the_mix_in_one_run(self, tmp_path, tokenizer):
        from conftest import build_model

        from edit_trl import EDITConfig, EDITTrainer

        mix = mix_with_replay(mend_mistakes(wrong_replies(), solve).pairs, self.CHAINS)
        args = EDITConfig(
            output_dir=str(tmp_path),
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_steps=1,
            completion_weight=1.0,
            logging_steps=1,
            per_device_train_batch_size=12,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = EDITTrainer(build_model(), args, train_dataset=mix, processing_class=tokenizer)
        trainer.train()

        log = trainer.state.log_history[0]
        assert log["edit/completion_ratio"] == 0.5
        assert log["edit/key_token_ratio_chosen"] > 0

    @pytest.mark.parametrize("share", [0, 1, -0.5])
    def test_share_must_leave_room_for_both(self, share):
        with pytest.raises(ValueError, match="`replay_share` must lie between 0 and 1"):
            mix_with_replay(Dataset.from_list([{"prompt": "", "chosen": "", "rejected": ""}]), self.CHAINS, share)
        with pytest.raises(ValueError, match="`replay_share` must lie between 0 and 1"):
            MendingConfig(replay_share=share)

    def test_chains_need_their_columns(self):
        pairs = mend_mistakes(wrong_replies(), solve).pairs
        with pytest.raises(ValueError, match="row 1 without one of them"):
            mix_with_replay(pairs, [self.CHAINS[0], {"prompt": "Q: 2?"}])
        with pytest.raises(ValueError, match="row 0 without one of them, or with half a character"):
            mix_with_replay(pairs, [{"prompt": "Q: 2?", "completion": " \ud83d"}])
        with pytest.raises(ValueError, match="got none"):
            mix_with_replay(pairs, [])


class TestFiles:
    @pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
    def test_folder_is_a_dataset_with_its_card(self, tmp_path, file_format):
        config = MendingConfig(output_dir=str(tmp_path / "out"), file_format=file_format)
        rows = [*wrong_replies(), reply(COTS[0], "I cannot say")]
        result = mend_mistakes(rows, solve, config)
        mix = mix_with_replay(result.pairs, TestMix.CHAINS)

        files = save_mended(result, config, mix)

        names = [*(f"{name}.{file_format}" for name in ("dual_cots", "sft", "rejected", "mix"))]
        assert files == [str(tmp_path / "out" / name) for name in (*names, "report.json", "README.md")]
        load = {"cache_dir": str(tmp_path / "cache"), "split": "train"}
        pairs = load_dataset(str(tmp_path / "out"), "dual_cots", **load)
        assert pairs["rejected"] == result.pairs["rejected"]
        assert load_dataset(str(tmp_path / "out"), "mix", **load)["completion"] == mix["completion"]
        card = (tmp_path / "out" / "README.md").read_text()
        assert (
            "- Replies of the student: 7 to 6 questions: 0 right, 6 wrong, 0 wrong and repeated, 1 unusable." in card
        )
        assert "Pairs: 6. Mended by `solve`, " in card
        assert "| select: take the wrong replies of the student | 7 | 6 | 1 unparsed |" in card
        assert "- `unparsed`: no answer can be read from the reply" in card

    def test_config_has_no_options_that_do_nothing(self):
        with pytest.raises(TypeError, match="num_samples"):
            MendingConfig(num_samples=2)
        assert MendingConfig().output_dir != SynthesisConfig().output_dir
