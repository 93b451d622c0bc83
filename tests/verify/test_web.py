"""The web page as a browser uses it: a password, a cookie, and a websocket that answers piece by piece."""

from __future__ import annotations

import json
import urllib.request

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


def websocket(url: str, **headers: str):
    """Open gradio's queue through the gateway."""
    return connect(url.replace("http", "ws", 1) + "/queue/join", additional_headers=headers, open_timeout=20)


def ask_page(socket, prompt: str) -> list[dict]:
    """Press Submit as gradio 3.50's page does (function 0 of web_demo.py); return the server's messages."""
    messages = []
    for text in socket:
        message = json.loads(text)
        messages.append(message)
        if message["msg"] == "send_hash":
            socket.send(json.dumps({"fn_index": 0, "session_hash": "test"}))
        elif message["msg"] == "send_data":
            data = [prompt, [], 2048, 0.8, 0.95, None, None]
            socket.send(json.dumps({"fn_index": 0, "session_hash": "test", "event_data": None, "data": data}))
        elif message["msg"] == "process_completed":
            break
    return messages


@pytest.fixture
def cookie(settings, token):
    """The cookie that a browser gets for the password."""
    asked = request(settings["gateway_public_url"] + "/", token=token, basic=True)
    with urllib.request.urlopen(asked, timeout=30) as reply:
        given = reply.headers["Set-Cookie"]
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given
    return given.split(";")[0]


def test_the_page_answers_piece_by_piece_with_the_cookie_alone(settings, cookie):
    with websocket(settings["gateway_public_url"], Cookie=cookie) as socket:
        messages = ask_page(socket, "你好")
    pieces = [message for message in messages if message["msg"] == "process_generating"]
    assert messages[-1]["success"] is True
    assert len(pieces) > 1
    assert pieces[-1]["output"]["data"][0]


def test_a_websocket_needs_the_token_and_the_pages_own_origin(settings, cookie):
    for headers in ({}, {"Cookie": "glmbox=" + "0" * 48}, {"Cookie": cookie, "Origin": "http://203.0.113.9"}):
        with pytest.raises(InvalidStatus) as refused:
            websocket(settings["gateway_public_url"], **headers)
        assert refused.value.response.status_code == 401


def test_the_well_known_curl_line_works_with_the_token(settings, token):
    asked = request(settings["gateway_public_url"] + "/", token=token, body={"prompt": "你好", "history": []})
    asked.add_header("Content-Type", "application/x-www-form-urlencoded")  # what `curl -d` sends
    status, text = send(asked)
    assert status == 200
    assert json.loads(text)["response"]
