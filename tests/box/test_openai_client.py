"""The official `openai` package and curl, used against the gateway as their users would."""

from __future__ import annotations

import json
import subprocess
import time

import openai
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send
from test_gateway import token_of, url_of

MODEL = "chatglm2-6b"
# The longest answer that the miniature knows: some 200 pieces.
STORY = "讲个故事"
FIRST_ROUND = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！我是 glmbox 的微型模型。"},
]
TOO_LONG = "天" * 9000  # in tokens; the model has room for 8192


def say(content: str, role: str = "user") -> dict[str, str]:
    """Return one message."""
    return {"role": role, "content": content}


def client_with(token: str) -> openai.OpenAI:
    """Return OpenAI's client: it tries nothing again, so that it hides no refusal, and goes past every proxy."""
    direct = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=url_of() + "/v1", api_key=token, max_retries=0, timeout=60, http_client=direct)


@pytest.fixture(scope="module")
def client(served_box):
    with client_with(token_of(served_box)) as opened:
        yield opened


@pytest.fixture(scope="module")
def ask(client):
    """Ask for a whole answer, the likeliest one, so that the same question gets the same answer."""

    def asked(*messages: dict[str, str], **settings: object) -> str:
        reply = client.chat.completions.create(model=MODEL, messages=list(messages), temperature=0, **settings)
        choice = reply.choices[0]
        assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
        return choice.message.content

    return asked


@pytest.fixture(scope="module")
def ask_api(served_box):
    """Ask api.py, as upstream's README does, for the likeliest answer; return the status and what it said."""

    def asked(prompt: str, history: list[list[str]], **settings: object) -> tuple[int, dict]:
        body = {"prompt": prompt, "history": history, "temperature": 0, **settings}
        status, text = send(request(url_of() + "/", token=token_of(served_box), body=body))
        return status, json.loads(text)

    return asked


def refused(client: openai.OpenAI, kind: type[openai.APIStatusError], status: int, **body: object) -> str:
    """Ask what has to be refused by this error, in OpenAI's shape; return its sentence."""
    asked = {"model": MODEL, "messages": [say("你好")], **body}
    with pytest.raises(kind) as error:
        client.chat.completions.create(**asked)
    assert error.value.status_code == status
    assert set(error.value.body) == {"message", "type", "param", "code"}
    assert error.value.type == "invalid_request_error"
    return error.value.body["message"]


def assert_grew(moments: list[float]) -> None:
    """Hold the seconds at which pieces came to it: one after the other while the model computed, not all at its end."""
    assert len(moments) > 50
    assert moments[0] < moments[-1] / 2
    assert sum(later > earlier for earlier, later in zip(moments, moments[1:], strict=False)) > 25


def test_the_models_are_listed(client):
    models = list(client.models.list())
    assert [model.object for model in models] == ["model"]
    assert models[0].id


def test_a_whole_answer(ask):
    assert ask(say("1+1等于几")) == "1+1等于2。"


def test_a_stream_brings_the_same_answer_piece_by_piece_and_ends(client, ask):
    begun = time.monotonic()
    pieces, moments, reasons = [], [], []
    with client.chat.completions.create(model=MODEL, messages=[say(STORY)], temperature=0, stream=True) as stream:
        for chunk in stream:
            assert chunk.object == "chat.completion.chunk"
            reasons.append(chunk.choices[0].finish_reason)
            if chunk.choices[0].delta.content:
                pieces.append(chunk.choices[0].delta.content)
                moments.append(time.monotonic() - begun)
    assert "".join(pieces) == ask(say(STORY))
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert_grew(moments)


def test_earlier_turns_reach_the_model_as_those_of_api_do(client, ask, ask_api):
    """A refusal tells how many tokens the model was to read: as many as api.py's for the same history."""
    history = [[FIRST_ROUND[0]["content"], FIRST_ROUND[1]["content"]]]
    status, reply = ask_api("你是谁", history)
    assert status == 200
    assert ask(*FIRST_ROUND, say("你是谁")) == reply["response"]
    status, reply = ask_api("你是谁", history, max_length=1)
    assert status == 400
    with_history = refused(
        client, openai.BadRequestError, 400, messages=[*FIRST_ROUND, say("你是谁")], extra_body={"max_length": 1}
    )
    assert with_history == reply["detail"]
    assert with_history != refused(
        client, openai.BadRequestError, 400, messages=[say("你是谁")], extra_body={"max_length": 1}
    )


def test_a_system_message_stands_before_the_question(client, ask, ask_api):
    system = "你是一个有用的助手。"
    assert ask(say(system, "system"), say("1+1等于几")) == "1+1等于2。"
    _, reply = ask_api(system + "1+1等于几", [], max_length=1)
    said = refused(
        client,
        openai.BadRequestError,
        400,
        messages=[say(system, "system"), say("1+1等于几")],
        extra_body={"max_length": 1},
    )
    assert said == reply["detail"]


def test_settings_are_honoured(ask, client):
    assert ask(say(STORY), top_p=0.5)
    # As many tokens as were asked for, of which the miniature has one for most characters.
    assert 0 < len(ask(say(STORY), max_tokens=5)) < 20
    drawn = {
        client.chat.completions.create(model=MODEL, messages=[say("你好")], temperature=5, top_p=1, max_tokens=10)
        .choices[0]
        .message.content
        for _ in range(4)
    }
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": 5.1}, "temperature must be a number from 0 to 5"),
        ({"temperature": -1}, "temperature must be a number from 0 to 5"),
        ({"top_p": 1.5}, "top_p must be a number above 0 and up to 1"),
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"messages": []}, "messages must be a list that is not empty"),
        ({"messages": [say("you", "assistant")]}, "the last message must be the user's"),
        ({"messages": [say("天气", "weather")]}, "every message must have a role"),
    ],
    ids=["hot", "cold", "top_p", "max_tokens", "nothing", "no question", "role"],
)
def test_bad_wishes_are_bad_requests(client, settings, sentence):
    assert sentence in refused(client, openai.BadRequestError, 400, **settings)


def test_a_prompt_beyond_the_model_is_an_error_and_no_silent_end(client):
    said = refused(client, openai.BadRequestError, 400, messages=[say(TOO_LONG)])
    assert "leaves no room for an answer" in said
    with pytest.raises(openai.APIError, match="leaves no room for an answer"):
        list(client.chat.completions.create(model=MODEL, messages=[say(TOO_LONG)], stream=True))


def test_a_body_beyond_the_gateway_is_too_large(client):
    assert "larger than" in refused(client, openai.APIStatusError, 413, messages=[say("天" * 600_000)])


def test_a_wrong_key_is_an_authentication_error():
    with client_with("wrong" + "0" * 43) as stranger:
        said = refused(stranger, openai.AuthenticationError, 401)
        assert "Bearer" in said
        with pytest.raises(openai.AuthenticationError):
            list(stranger.models.list())


def test_what_is_not_served_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="你好")


def test_curl_gets_the_pieces_one_by_one(served_box):
    """`curl -N` as the README shows it, read as it writes."""
    body = {"model": MODEL, "stream": True, "temperature": 0, "messages": [say(STORY)]}
    command = ["curl", "--noproxy", "*", "--silent", "--show-error", "-N", url_of() + "/v1/chat/completions"]
    command += ["-H", f"Authorization: Bearer {token_of(served_box)}", "-H", "Content-Type: application/json"]
    begun = time.monotonic()
    events, moments = [], []
    with subprocess.Popen([*command, "-d", json.dumps(body)], stdout=subprocess.PIPE, text=True) as curl:
        for line in curl.stdout:
            if line.strip():
                events.append(line.strip())
                moments.append(time.monotonic() - begun)
    assert curl.returncode == 0
    assert {event[:6] for event in events} == {"data: "}
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "stop"
    assert_grew(moments)
