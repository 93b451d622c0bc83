"""The web page as a browser uses it: a password, a cookie, and a websocket that answers piece by piece."""

from __future__ import annotations

import asyncio
import json

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import opened, request, send, trusting
from test_outside import certificate_of
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


def websocket(settings: dict, path: str = "/queue/join", **headers: str):
    """Open a websocket through the gateway, gradio's queue unless another is named.

    In one thread: the client with two reads and writes a TLS connection at once, and may lose what it reads.
    """
    url = settings["gateway_public_url"].replace("http", "ws", 1) + path
    context = trusting(certificate_of(settings)) if url.startswith("wss:") else None
    return connect(url, additional_headers=headers, ssl=context, open_timeout=20)


def open_websocket(settings: dict, path: str = "/queue/join", **headers: str) -> str:
    """Open a websocket and close it; return its state between."""

    async def visit() -> str:
        async with websocket(settings, path, **headers) as socket:
            return socket.state.name

    return asyncio.run(visit())


async def ask_page(socket, prompt: str) -> list[dict]:
    """Press Submit as gradio 3.50's page does (function 0 of web_demo.py); return the server's messages."""
    messages = []
    async for text in socket:
        message = json.loads(text)
        messages.append(message)
        if message["msg"] == "send_hash":
            await socket.send(json.dumps({"fn_index": 0, "session_hash": "test"}))
        elif message["msg"] == "send_data":
            data = [prompt, [], 2048, 0.8, 0.95, None, None]
            await socket.send(json.dumps({"fn_index": 0, "session_hash": "test", "event_data": None, "data": data}))
        elif message["msg"] == "process_completed":
            break
    return messages


@pytest.fixture
def cookie(settings, token):
    """The cookie that a browser gets for the password."""
    asked = request(settings["gateway_public_url"] + "/", token=token, basic=True)
    with opened(asked, certificate_of(settings)) as reply:
        given = reply.headers["Set-Cookie"]
    assert "HttpOnly" in given
    assert "SameSite=Strict" in given
    return given.split(";")[0]


def test_the_page_answers_piece_by_piece_with_the_cookie_alone(settings, cookie):
    async def visit() -> list[dict]:
        async with websocket(settings, Cookie=cookie) as socket:
            return await ask_page(socket, "你好")

    messages = asyncio.run(visit())
    pieces = [message for message in messages if message["msg"] == "process_generating"]
    assert messages[-1]["success"] is True
    assert len(pieces) > 1
    assert pieces[-1]["output"]["data"][0]


def test_the_page_is_told_to_look_for_no_formulas(settings, cookie):
    """gradio 3.50's page shows nothing but the first piece of an answer where it looks for some."""
    asked = request(settings["gateway_public_url"] + "/config")
    asked.add_header("Cookie", cookie)
    status, text = send(asked, certificate_of(settings))
    assert status == 200
    chats = [part for part in json.loads(text)["components"] if part["type"] == "chatbot"]
    assert [chat["props"]["latex_delimiters"] for chat in chats] == [[]]


def test_a_websocket_needs_the_token_and_the_pages_own_origin(settings, cookie):
    name = cookie.split("=")[0]
    for headers in ({}, {"Cookie": name + "=" + "0" * 64}, {"Cookie": cookie, "Origin": "http://203.0.113.9"}):
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(settings, **headers)
        assert refused.value.response.status_code == 401


def test_a_cookie_opens_the_pages_and_not_the_api(settings, cookie):
    """Browsers send cookies to every port of a host, so whoever else gets it must not get the token with it."""
    asked = request(settings["gateway_public_url"] + "/")
    asked.add_header("Cookie", cookie)
    assert send(asked, certificate_of(settings))[0] == 200
    asked = request(settings["gateway_public_url"] + "/v1/models", token=cookie.split("=")[1])
    assert send(asked, certificate_of(settings))[0] == 401


def test_the_streamlit_page_stands_under_its_own_path(settings, cookie):
    url = settings["gateway_public_url"] + "/web_demo2"
    for path in ("", "/", "/_stcore/health"):
        assert send(request(url + path), certificate_of(settings))[0] == 401, path
        asked = request(url + path)
        asked.add_header("Cookie", cookie)
        assert send(asked, certificate_of(settings))[0] == 200, path
    assert open_websocket(settings, "/web_demo2/_stcore/stream", Cookie=cookie) == "OPEN"
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(settings, "/web_demo2/_stcore/stream")
    assert refused.value.response.status_code == 401


def test_the_well_known_curl_line_works_with_the_token(settings, token):
    asked = request(settings["gateway_public_url"] + "/", token=token, body={"prompt": "你好", "history": []})
    asked.add_header("Content-Type", "application/x-www-form-urlencoded")  # what `curl -d` sends
    status, text = send(asked, certificate_of(settings))
    assert status == 200
    assert json.loads(text)["response"]
