"""What reaches a script: the checks of the JSON bodies, table by table."""

import json
from typing import Any

import pytest
from demo_host.checks import check_api, check_openai, parse_object
from demo_host.refusals import refusal_messages, sentence_of, stream_error_message

USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"prompt": NaN}',
        b'{"top_p": Infinity}',
        b'{"top_p": -Infinity}',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"prompt": "\xff"}',
        b"[" * 200_000,
        b'{"max_length": ' + b"9" * 5000 + b"}",
    ],
)
def test_bodies_that_are_no_json_object(body: bytes) -> None:
    assert parse_object(body) == ({}, parse_object(body)[1])
    assert parse_object(body)[1].startswith("the body must be")


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"history": None},
        {"history": []},
        {"history": [["a", "b"], ["c", ""]]},
        {"max_length": 1},
        {"max_length": 32768},
        {"top_p": 1, "temperature": 0.01},
        {"temperature": 0},
        {"top_p": None, "temperature": None, "max_length": None},
        {"unknown": 1},
    ],
)
def test_good_api_bodies(extra: dict[str, Any]) -> None:
    assert check_api({"prompt": "你好", **extra}) == []


SAMPLING = [
    ("max_length", 0),
    ("max_length", -5),
    ("max_length", 32769),
    ("max_length", 10**400),
    ("max_length", 100.0),
    ("max_length", "100"),
    ("max_length", True),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_p", -0.1),
    ("top_p", True),
    ("top_p", "0.8"),
    ("top_p", float("inf")),
    ("top_p", float("nan")),
    ("top_p", 10**400),
    ("temperature", -0.1),
    ("temperature", 5.1),
    ("temperature", False),
    ("temperature", float("nan")),
    ("temperature", [1]),
]


@pytest.mark.parametrize(("key", "value"), SAMPLING)
def test_bad_sampling(key: str, value: Any) -> None:
    for problems in (
        check_api({"prompt": "x", key: value}),
        check_openai({"model": "m", "messages": [USER], key: value}),
    ):
        assert len(problems) == 1
        assert problems[0].startswith(key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", None),
        ("prompt", ""),
        ("prompt", " \n"),
        ("prompt", 5),
        ("prompt", ["x"]),
        ("prompt", {"x": 1}),
        ("prompt", json.loads('"\\ud800"')),
        ("history", "text"),
        ("history", {}),
        ("history", [[]]),
        ("history", [["a"]]),
        ("history", [["a", "b", "c"]]),
        ("history", [["a", None]]),
        ("history", [["a", 1]]),
        ("history", [{"a": "b"}]),
        ("history", ["ab"]),
        ("history", [["a", json.loads('"\\udfff"')]]),
    ],
)
def test_bad_api_text(key: str, value: Any) -> None:
    problems = check_api({"prompt": "x", key: value})
    assert len(problems) == 1
    assert problems[0].startswith(key)


@pytest.mark.parametrize(
    "messages",
    [[USER], [{"role": "system", "content": ""}, USER], [USER, {"role": "assistant", "content": ""}, USER]],
)
@pytest.mark.parametrize("stream", [True, False, None])
def test_good_openai_bodies(messages: Any, stream: Any) -> None:
    assert check_openai({"model": "m", "messages": messages, "stream": stream, "n": 1}) == []


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "text",
        [None],
        ["hello"],
        [{}],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "tool", "content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "  "}],
        [USER, {"role": "assistant", "content": "x"}],
        [{"role": "user", "content": 5}, USER],
    ],
)
def test_bad_messages(messages: Any) -> None:
    assert len(check_openai({"model": "m", "messages": messages})) == 1


@pytest.mark.parametrize(("key", "value"), [("stream", 1), ("stream", "true"), ("model", None), ("model", 3)])
def test_other_bad_openai_fields(key: str, value: Any) -> None:
    problems = check_openai({"model": "m", "messages": [USER], key: value})
    assert [problem.split()[0] for problem in problems] == [key]


def test_all_problems_in_one_sentence_and_no_input_in_it() -> None:
    problems = check_api({"prompt": 5, "history": "secret words", "max_length": -1, "top_p": 9, "temperature": 9})
    sentence = sentence_of(problems)
    assert len(problems) == 5
    assert sentence.count(".") == 1
    assert "secret" not in sentence


def test_the_two_shapes_of_a_refusal() -> None:
    start, body = refusal_messages("/", 503, "Busy.")
    assert start["status"] == 503
    assert dict(start["headers"])[b"retry-after"] == b"5"
    assert json.loads(body["body"]) == {"detail": "Busy."}
    _, body = refusal_messages("/v1/chat/completions", 400, "No.")
    error = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}
    assert json.loads(body["body"]) == {"error": error}
    event = stream_error_message("/v1/chat/completions", 400, "No.")["body"]
    assert json.loads(event.removeprefix(b"data: ")) == {"error": error}
