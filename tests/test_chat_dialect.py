"""
Tests of what the client learns from refusals: error bodies of services, and the requests that follow.
"""

import json
import logging
from collections import Counter

import pytest
from chat_helpers import (
    answer,
    answers,
    ask,
    ask_one,
    question_of,
    questions,
    quick_backoff,  # noqa: F401
    refusal,
)
from teacher import (
    Response,
    Teacher,
    client_for,
    completion,
    time_limit,  # noqa: F401
)

from edit_trl.chat import EndpointError
from edit_trl.chat.dialect import refused_field, request_fields


pytest.importorskip("openai")

ALL = ["temperature", "top_p", "max_tokens", "seed", "stop"]


def openai_body(message, param=None, code=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


NO_MAX_TOKENS = openai_body(
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "max_tokens",
    "unsupported_parameter",
)
NO_TEMPERATURE = openai_body(
    "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
    "temperature",
    "unsupported_value",
)
PYDANTIC = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 42}]

# The service, the body of its refusal, and the field that is refused.
REFUSALS = [
    ("OpenAI", NO_MAX_TOKENS, "max_tokens"),
    ("OpenAI", NO_TEMPERATURE, "temperature"),
    ("OpenAI", openai_body("Unsupported parameter: 'top_p' is not supported with this model.", "top_p"), "top_p"),
    ("OpenAI", openai_body("Unsupported parameter: 'stop' is not supported with this model.", "stop"), "stop"),
    ("OpenAI", openai_body("Unknown parameter: 'seed'.", "seed", "unknown_parameter"), "seed"),
    ("OpenAI", openai_body("Unrecognized request argument supplied: seed"), "seed"),
    ("OpenAI", openai_body("this model is not supported MaxTokens, please use MaxCompletionTokens"), "max_tokens"),
    ("Azure", {"error": {**NO_MAX_TOKENS["error"], "code": "BadRequest", "param": None}}, "max_tokens"),
    (
        "Azure",
        {
            "error": {
                "code": "400",
                "message": "1 validation error for Request\nbody -> seed\n  extra fields not permitted",
            }
        },
        "seed",
    ),
    (
        "Azure AI",
        {
            "error": {
                "message": "Extra parameters ['seed'] are not allowed when extra-parameters is not set to 'drop'."
            }
        },
        "seed",
    ),
    ("vLLM", {"object": "error", "message": str(PYDANTIC), "type": "BadRequestError", "code": 400}, "seed"),
    ("vLLM", {"error": {"message": "Per-request seed is not supported on TPU", "code": 400}}, "seed"),
    ("Mistral", {"object": "error", "message": {"detail": PYDANTIC}, "type": "invalid_request_error"}, "seed"),
    ("Mistral", {"detail": PYDANTIC}, "seed"),
    (
        "Anthropic",
        openai_body("`temperature` and `top_p` cannot both be specified for this model. Please use only one."),
        "top_p",
    ),
    ("Anthropic", {"type": "error", **openai_body("`temperature` is deprecated for this model.")}, "temperature"),
    ("Anthropic", openai_body("`temperature` may only be set to 1 when thinking is enabled."), "temperature"),
    ("Anthropic", openai_body("seed: Extra inputs are not permitted"), "seed"),
    (
        "Gemini",
        [
            {
                "error": {
                    "code": 400,
                    "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
                }
            }
        ],
        "seed",
    ),
    ("Groq", {"error": {"message": "property 'seed' is unsupported", "type": "invalid_request_error"}}, "seed"),
    ("Together", openai_body("Unsupported parameter: seed"), "seed"),
    ("Fireworks", openai_body("Extra inputs are not permitted, field: 'seed', value: 1"), "seed"),
    ("DeepSeek", openai_body("The following parameters are not supported by deepseek-reasoner: top_p"), "top_p"),
    (
        "xAI",
        {"code": "Client specified an invalid argument", "error": "Model grok-4 does not support parameter stop."},
        "stop",
    ),
    ("xAI", {"error": "Argument not supported on this model: stop"}, "stop"),
    ("Moonshot", openai_body("invalid temperature: only 1 is allowed for this model"), "temperature"),
    ("LiteLLM", openai_body("openai does not support parameters: {'temperature': 0.2}, for model=o1."), "temperature"),
    (
        "OpenRouter",
        {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(NO_MAX_TOKENS)}}},
        "max_tokens",
    ),
    ("Go", {"error": 'json: unknown field "top_p"'}, "top_p"),
    ("Python", "completion() got an unexpected keyword argument 'top_p'", "top_p"),
    ("others", {"message": "The parameter `seed` is not supported."}, "seed"),
    ("others", {"message": "This model does not support the temperature parameter."}, "temperature"),
    ("others", {"message": "temperature must be 1.0 for this model"}, "temperature"),
]

# Refusals for another reason: a value out of its range, a context that is too long, a prompt.
OTHER_REFUSALS = [
    "max_tokens is too large: 50000. This model supports at most 16384 completion tokens, whereas you provided 50000.",
    "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (1000 in the messages, "
    "4000 in the completion). Please reduce the length of the messages or completion.",
    "'max_tokens' or 'max_completion_tokens' is too large: 32768. This model's maximum context length is 32768 tokens "
    "and your request has 100 input tokens (32768 > 32768-100).",
    "max_tokens must be at least 1, got -5.",
    "temperature must be non-negative, got -1.",
    "max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens",
    "`max_tokens` must be less than or equal to `32768`",
    "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 400 `inputs` tokens and 4096 `max_new_tokens`",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
    "temperature: Input should be less than or equal to 1",
    "Invalid value for 'temperature': must be between 0 and 2",
    "Invalid type for 'temperature': expected a decimal, but got a string instead.",
    "deepseek-reasoner does not support successive user or assistant messages",
    "Budget 0 is invalid. This model only works in thinking mode.",
    "max_tokens: Field required",
    "The context is too long.",
    "Unrecognized request argument supplied: chat_template_kwargs",
    "Failed to parse: The temperature of water is 5. Images are not supported here",
]


class TestRefusedField:
    @pytest.mark.parametrize(
        ("service", "body", "field"), REFUSALS, ids=lambda value: value if isinstance(value, str) else ""
    )
    def test_field_is_read_from_the_words_of_the_service(self, service, body, field):
        assert refused_field(body, ALL) == field

    @pytest.mark.parametrize("message", OTHER_REFUSALS)
    def test_other_refusals_concern_no_field(self, message):
        for body in (message, {"error": {"message": message}}, [{"error": {"message": message}}], {"detail": message}):
            assert refused_field(body, ALL) is None

    def test_field_that_was_not_sent_is_not_refused(self):
        assert refused_field(NO_MAX_TOKENS, ["temperature", "seed"]) is None


def o3(request, number=0):
    """An endpoint of OpenAI's reasoning kind. It names one field at a time."""
    for body, name in ((NO_MAX_TOKENS, "max_tokens"), (NO_TEMPERATURE, "temperature")):
        if name in request and request[name] != 1:
            return Response(body, 400)
    for name in ("top_p", "stop", "seed", "presence_penalty"):
        if name in request:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            return Response(openai_body(message, name, "unsupported_parameter"), 400)
    return answer(request, number)


class TestLearning:
    def test_reasoning_model_is_asked_in_its_own_way_after_its_first_refusals(self, caplog):
        with Teacher(o3) as teacher:
            client = client_for(teacher, max_concurrency=1, max_retries=0, top_p=0.9, seed=1)
            assert ask(client, questions(6)) == answers(6)
            assert ask(client, ["again"]) == ["again: answered"]

        assert len(teacher.requests) == 4 + 7
        assert set(teacher.requests[-1]) == {"model", "messages", "max_completion_tokens"}
        assert teacher.requests[-1]["max_completion_tokens"] == 2048
        assert client.usage.requests == 11
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) == 4
        assert (
            "refuses `max_tokens`; requests have `max_completion_tokens` in its place. It says: Unsupported" in said[0]
        )
        assert "refuses `temperature`; requests leave it out. It says: Unsupported value" in said[1]
        assert client.sampling == {"temperature": None, "top_p": None, "max_completion_tokens": 2048, "seed": None}
        assert len(client.refused) == 4

    def test_many_at_a_time_learn_together_and_say_it_once(self, caplog):
        def script(request, number):
            if "max_tokens" in request:
                return Response(NO_MAX_TOKENS, 400, until=lambda: teacher.most_open == 16)
            return o3(request, number)

        with Teacher(script) as teacher:
            client = client_for(teacher, max_concurrency=16, max_retries=0)
            assert ask(client, questions(40)) == answers(40)

        assert len(caplog.messages) == len(client.refused) == 2
        assert 40 + 16 + 1 <= len(teacher.requests) <= 40 + 16 + 16

    def test_what_was_learned_is_kept_in_the_store(self, tmp_path, caplog):
        store = str(tmp_path / "replies.sqlite")
        with Teacher(o3) as teacher:
            with client_for(teacher, store=store, max_concurrency=1) as client:
                ask(client, questions(1))
            num_sent = len(teacher.requests)
            caplog.clear()
            with client_for(teacher, store=store) as client:
                assert ask(client, questions(5)) == answers(5)
                assert len(client.refused) == 2

        assert len(teacher.requests) - num_sent == 4
        assert caplog.messages == []

    def test_other_url_begins_anew(self, tmp_path):
        """A store without a reply takes other settings, and then nothing is known of the endpoint."""
        store = str(tmp_path / "replies.sqlite")
        with Teacher(lambda request, number: Response(NO_TEMPERATURE, 400) if not number else refusal(404)) as teacher:
            with client_for(teacher, store=store) as client, pytest.raises(EndpointError):
                ask(client, questions(1))
            teacher.script = answer
            with (
                client_for(teacher, store=store, model_is="other")
                if False
                else client_for(teacher, store=store, max_tokens=99) as client
            ):
                ask(client, questions(1))
                assert client.refused == []

        assert teacher.requests[-1]["temperature"] == 0.2

    def test_mistral_answers_with_422(self):
        def script(request, number):
            return Response({"detail": PYDANTIC}, 422) if "seed" in request else answer(request, number)

        with Teacher(script) as teacher:
            assert ask(client_for(teacher, seed=1, max_concurrency=1), questions(3)) == answers(3)

        assert len(teacher.requests) == 4
        assert teacher.requests[-1]["temperature"] == 0.2

    def test_gemini_answers_with_a_list(self):
        body = [
            {
                "error": {
                    "code": 400,
                    "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
                }
            }
        ]
        with Teacher(lambda r, n: Response(body, 400) if "seed" in r else answer(r, n)) as teacher:
            assert ask(client_for(teacher, seed=1), questions(1)) == answers(1)
            teacher.script = lambda *_: Response([{"error": {"code": 400, "message": "API key not valid."}}], 400)
            (error,) = ask(client_for(teacher), questions(1))

        assert str(error) == f"{teacher.url}: The endpoint refused the request: API key not valid. (400). [status 400]"

    def test_endpoint_that_takes_neither_length_refuses_the_request(self):
        """Without a limit, the price of a reply is not known."""

        def script(request, number):
            name = next(name for name in ("max_tokens", "max_completion_tokens") if name in request)
            return Response(openai_body(f"Unsupported parameter: '{name}'", name, "unsupported_parameter"), 400)

        with Teacher(script) as teacher:
            (error,) = ask(client_for(teacher), questions(1))

        assert isinstance(error, EndpointError)
        assert "'max_completion_tokens'" in str(error)
        assert len(teacher.requests) == 2

    def test_longer_name_may_be_the_one_that_is_refused(self):
        message = "Unrecognized request argument supplied: max_completion_tokens"
        options = {"extra_body": {"max_completion_tokens": 64}}
        with Teacher(
            lambda r, n: Response(openai_body(message), 400) if "max_completion_tokens" in r else answer(r, n)
        ) as teacher:
            assert ask(client_for(teacher, **options), questions(1)) == answers(1)

        assert teacher.requests[-1]["max_tokens"] == 64

    @pytest.mark.parametrize("field", ["chat_template_kwargs", "reasoning_effort", "guided_choice"])
    def test_field_that_is_no_sampling_is_for_the_user_to_remove(self, field):
        body = openai_body(f"Unrecognized request argument supplied: {field}", field, "unknown_parameter")
        with Teacher(lambda *_: Response(body, 400)) as teacher:
            (error,) = ask(client_for(teacher, extra_body={field: "low"}), questions(1))

        assert f"Unrecognized request argument supplied: {field}" in str(error)
        assert len(teacher.requests) == 1

    @pytest.mark.parametrize("message", OTHER_REFUSALS)
    def test_other_refusal_is_an_error_at_once(self, message):
        with Teacher(lambda *_: refusal(400, message)) as teacher:
            (error,) = ask(client_for(teacher), questions(1))

        assert message.rstrip(".") in " ".join(str(error).split())
        assert len(teacher.requests) == 1

    def test_endpoint_that_repeats_itself_is_not_asked_for_ever(self):
        with Teacher(lambda *_: Response(NO_TEMPERATURE, 400)) as teacher:
            (error,) = ask(client_for(teacher), questions(1))

        assert "temperature" in str(error)
        assert len(teacher.requests) == 2

    @pytest.mark.parametrize(
        "body",
        [
            openai_body(
                "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                "messages[0].role",
                "unsupported_value",
            ),
            {"object": "error", "message": "System role not supported", "type": "BadRequestError", "code": 400},
            [{"error": {"code": 400, "message": "Developer instruction is not enabled for models/gemma-3-27b-it"}}],
            {"error": {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}},
            {"error": {"message": "This model does not support the system role."}},
        ],
    )
    def test_system_messages_go_to_the_user_where_they_are_refused(self, body):
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Q1"},
            {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2"},
        ]

        def script(request, number):
            return Response(body, 400) if request["messages"][0]["role"] == "system" else answer(request, number)

        with Teacher(script) as teacher:
            client = client_for(teacher)
            (reply,) = client.for_each([messages], client.chat)

        assert reply.text == "Q2: answered"
        assert teacher.requests[1]["messages"] == [{"role": "user", "content": "Be brief.\n\nQ1"}, *messages[2:]]
        assert "messages of the system" in client.refused[0]

    @pytest.mark.parametrize("roles", [("system", "user"), ("developer", "user"), ("user", "user"), ("user",)])
    @pytest.mark.parametrize("num_slots", [1, 4])
    def test_endpoint_that_refuses_every_role_is_not_asked_for_ever(self, roles, num_slots):
        """Each request is sent at most once with a message of the system, and once without."""
        body = {"error": {"message": "Conversation roles must alternate user/assistant/user/assistant/..."}}
        asked = [[{"role": role, "content": f"Question {number}"} for role in roles] for number in range(4)]
        with Teacher(lambda *_: Response(body, 400)) as teacher:
            client = client_for(teacher, max_concurrency=num_slots)
            errors = client.for_each(asked, client.chat)

        assert all("must alternate" in str(error) for error in errors)
        sent = Counter(str(request["messages"]) for request in teacher.requests)
        assert set(sent.values()) == {1}
        assert len(sent) <= 4 + (num_slots if roles[0] != "user" else 0)

    @pytest.mark.parametrize(
        "body",
        [
            openai_body("The response was filtered due to the prompt triggering ...", "prompt", "content_filter"),
            openai_body("Your prompt was flagged as potentially violating our usage policy.", code="invalid_prompt"),
            {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}},
            openai_body("Content Exists Risk"),
        ],
    )
    def test_prompt_that_a_filter_refuses_is_a_reply_and_not_asked_again(self, body):
        with Teacher(lambda r, n: Response(body, 400) if question_of(r) == "bad" else answer(r, n)) as teacher:
            client = client_for(teacher, max_concurrency=1)
            reply = ask_one(client, "bad")
            ask_one(client, "bad")

        assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (
            "",
            "content_filter",
            0,
            0,
        )
        assert len(teacher.requests) == 1


class TestExtraBody:
    SETTINGS = {"temperature": 0.2, "top_p": None, "max_tokens": 64, "seed": 5}

    @pytest.mark.parametrize(
        ("extra_body", "expected"),
        [
            (None, {"temperature": 0.2, "max_tokens": 64, "seed": 5}),
            ({"temperature": 1.0}, {"temperature": 1.0, "max_tokens": 64, "seed": 5}),
            ({"max_tokens": 9, "seed": 1}, {"temperature": 0.2, "max_tokens": 9, "seed": 1}),
            ({"top_p": 0.5}, {"temperature": 0.2, "top_p": 0.5, "max_tokens": 64, "seed": 5}),
            ({"temperature": None}, {"max_tokens": 64, "seed": 5}),
            ({"max_completion_tokens": 9}, {"temperature": 0.2, "max_completion_tokens": 9, "seed": 5}),
            (
                {"max_completion_tokens": None},
                {"temperature": 0.2, "max_tokens": 64, "seed": 5, "max_completion_tokens": None},
            ),
            ({"stop": ["Q:"]}, {"temperature": 0.2, "max_tokens": 64, "seed": 5, "stop": ["Q:"]}),
        ],
    )
    def test_its_fields_win(self, extra_body, expected):
        assert request_fields({**self.SETTINGS, "extra_body": extra_body}) == expected

    def test_its_seed_is_counted_up_by_the_sample(self):
        with Teacher(answer) as teacher:
            client = client_for(teacher, extra_body={"seed": 7, "max_tokens": 9})
            ask_one(client, sample=2)

        assert (teacher.requests[0]["seed"], teacher.requests[0]["max_tokens"]) == (9, 9)

    def test_its_temperature_decides_on_the_attempts(self):
        with Teacher(answer) as teacher:
            assert client_for(teacher, extra_body={"temperature": 0}).num_attempts(3) == 1
            assert client_for(teacher, temperature=0, extra_body={"temperature": 1}).num_attempts(3) == 3

    def test_its_length_counts_for_the_budget(self):
        """32 * 0.001 + 200 * 0.002 = 0.432; with 0.04 spent, it exceeds 0.47."""
        options = {"prompt_price": 1000.0, "completion_price": 2000.0, "max_cost": 0.47, "max_concurrency": 1}
        with Teacher(lambda *_: completion("5")) as teacher:
            client = client_for(teacher, extra_body={"max_tokens": 200}, **options)
            ask(client, questions(3))

        assert len(teacher.requests) == 1
