"""What a deployed box must answer, asked from outside through its exposed port."""

from __future__ import annotations

import json

from ansible_collections.glmbox.box.plugins.module_utils.questions import all_answers, request, send


def test_every_question_is_answered_and_every_door_is_closed(settings, token):
    found, problems = all_answers(settings["gateway_public_url"], token, "你好")
    assert problems == []
    assert found["answer"].strip()
    assert found["streamed"].strip()


def test_health_needs_no_token_and_names_the_model(settings):
    status, text = send(request(settings["gateway_public_url"] + "/healthz"))
    assert status == 200
    assert json.loads(text)["state"] == "ready"
    assert settings["weights_model"] in json.loads(text)["model"]


def test_health_alone_is_open(settings):
    for path in ("/healthz%0a", "/healthz/x", "//", "/config", "/v1%2fmodels", "/v1/../config", "/metrics"):
        assert send(request(settings["gateway_public_url"] + path))[0] == 401, path


def test_a_refusal_tells_what_to_send(settings):
    status, text = send(request(settings["gateway_public_url"] + "/v1/models"))
    assert status == 401
    assert "Authorization: Bearer" in json.loads(text)["error"]["message"]


def test_history_is_taken_and_given_back(settings, token):
    body = {"prompt": "你是谁", "history": [["你好", "你好！"]]}
    status, text = send(request(settings["gateway_public_url"] + "/", token=token, body=body))
    answer = json.loads(text)
    assert status == 200
    assert answer["history"][0] == ["你好", "你好！"]
    assert answer["history"][-1] == ["你是谁", answer["response"]]


def test_the_models_are_listed(settings, token):
    status, text = send(request(settings["gateway_public_url"] + "/v1/models", token=token))
    assert status == 200
    assert json.loads(text)["data"][0]["object"] == "model"


def test_a_page_from_elsewhere_cannot_use_a_browsers_password(settings, token):
    asked = request(settings["gateway_public_url"] + "/", token=token, basic=True)
    asked.add_header("Origin", "http://203.0.113.9")
    assert send(asked)[0] == 401


def test_a_password_does_not_open_the_api(settings, token):
    asked = request(settings["gateway_public_url"] + "/v1/models", token=token, basic=True)
    assert send(asked)[0] == 401


def test_bad_input_is_refused_with_a_sentence(settings, token):
    status, text = send(request(settings["gateway_public_url"] + "/", token=token, body={}))
    assert status == 400
    assert "prompt" in json.loads(text)["detail"]
