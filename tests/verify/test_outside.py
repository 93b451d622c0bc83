"""What a deployed box must answer, asked from outside through its exposed port."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils import questions
from ansible_collections.glmbox.box.plugins.module_utils.questions import all_answers, request


def certificate_of(settings) -> str:
    """Return the file that the box's certificate is held against; nothing where there is no TLS."""
    if settings["gateway_public_url"].startswith("http:"):
        return ""
    return str(Path(settings["gateway_token_file"]).with_name("certificate.pem"))


@pytest.fixture
def send(settings):
    """The function `send`, which knows the box's certificate."""
    return functools.partial(questions.send, certificate=certificate_of(settings))


def test_every_question_is_answered_and_every_door_is_closed(settings, token):
    found, problems = all_answers(settings["gateway_public_url"], token, "你好", certificate=certificate_of(settings))
    assert problems == []
    assert found["answer"].strip()
    assert found["streamed"].strip()


def test_health_needs_no_token_and_names_the_model(settings, send):
    status, text = send(request(settings["gateway_public_url"] + "/healthz"))
    assert status == 200
    assert json.loads(text)["state"] == "ready"
    assert settings["weights_model"] in json.loads(text)["model"]


def test_health_alone_is_open(settings, send):
    for path in ("/healthz%0a", "/healthz/x", "//", "/config", "/v1%2fmodels", "/v1/../config", "/metrics"):
        assert send(request(settings["gateway_public_url"] + path))[0] == 401, path


def test_a_refusal_tells_what_to_send(settings, send):
    status, text = send(request(settings["gateway_public_url"] + "/v1/models"))
    assert status == 401
    assert "Authorization: Bearer" in json.loads(text)["error"]["message"]


def test_history_is_taken_and_given_back(settings, send, token):
    body = {"prompt": "你是谁", "history": [["你好", "你好！"]]}
    status, text = send(request(settings["gateway_public_url"] + "/", token=token, body=body))
    answer = json.loads(text)
    assert status == 200
    assert answer["history"][0] == ["你好", "你好！"]
    assert answer["history"][-1] == ["你是谁", answer["response"]]


def test_the_models_are_listed(settings, send, token):
    status, text = send(request(settings["gateway_public_url"] + "/v1/models", token=token))
    assert status == 200
    assert json.loads(text)["data"][0]["object"] == "model"


def test_a_page_from_elsewhere_cannot_use_a_browsers_password(settings, send, token):
    asked = request(settings["gateway_public_url"] + "/", token=token, basic=True)
    asked.add_header("Origin", "http://203.0.113.9")
    assert send(asked)[0] == 401


def test_a_password_does_not_open_the_api(settings, send, token):
    asked = request(settings["gateway_public_url"] + "/v1/models", token=token, basic=True)
    assert send(asked)[0] == 401


def test_bad_input_is_refused_with_a_sentence(settings, send, token):
    status, text = send(request(settings["gateway_public_url"] + "/", token=token, body={}))
    assert status == 400
    assert "prompt" in json.loads(text)["detail"]


def test_the_descriptions_of_the_interfaces_are_closed(settings, send, token):
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        assert send(request(settings["gateway_public_url"] + path))[0] == 401, path
        assert send(request(settings["gateway_public_url"] + path, token=token))[0] == 404, path


def test_metrics_take_the_bearer_alone(settings, send, token):
    url = settings["gateway_public_url"] + "/metrics"
    assert send(request(url, token=token, basic=True))[0] == 401
    status, text = send(request(url, token=token))
    assert status == 200
    assert "glmbox_demo_ready 1" in text.splitlines()


def test_a_refusal_of_the_size_is_told_as_the_api_would(settings, send, token):
    body = {"prompt": "x" * 2**21, "history": []}
    status, text = send(request(settings["gateway_public_url"] + "/", token=token, body=body))
    assert status == 413
    assert "larger than" in json.loads(text)["error"]["message"]


def test_browsers_are_told_what_not_to_do(settings, token):
    asked = request(settings["gateway_public_url"] + "/", token=token, basic=True)
    with questions.opened(asked, certificate_of(settings)) as reply:
        headers = reply.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["Referrer-Policy"] == "same-origin"
    secure = settings["gateway_public_url"].startswith("https:")
    assert ("Secure" in headers["Set-Cookie"]) is secure
    assert ("Strict-Transport-Security" in headers) is secure
    assert token not in headers["Set-Cookie"]
