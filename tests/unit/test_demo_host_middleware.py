"""The gate, driven as an ASGI app directly."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from demo_host import middleware
from demo_host.config import Script
from demo_host.facade import Facade
from demo_host.middleware import Gate
from demo_host.state import Host
from demo_host_fakes import API, OPENAI, WEB, FakeModel, FakeTokenizer, log_lines, make_host

GOOD = json.dumps({"prompt": "hello"}).encode()
CHAT = "/v1/chat/completions"


class Client:
    """The server's side of one request: what the app receives, what it sends."""

    def __init__(self, pieces: list[bytes], stays: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.messages = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
        self.messages[-1]["more_body"] = not stays

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def scope(path: str = "/", method: str = "POST", headers: dict[str, str] | None = None) -> dict[str, Any]:
    raw = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    return {"type": "http", "method": method, "path": path, "headers": raw}


async def echo(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answer with the body as it came."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(host: Host, app: Any, pieces: list[bytes], script: Script = API, **of_scope: Any) -> Client:
    async def go() -> Client:
        client = Client(pieces)
        await asyncio.wait_for(Gate(app, host, script)(scope(**of_scope), client.receive, client.send), 10)
        return client

    return asyncio.run(go())


async def never(*_: Any) -> None:
    raise AssertionError("the script was reached")


def test_a_good_body_in_pieces_reaches_the_script_whole() -> None:
    client = ask(make_host(), echo, [GOOD[:3], b"", GOOD[3:]])
    assert (client.status, client.body) == (200, GOOD)


@pytest.mark.parametrize(("script", "path"), [(API, "/"), (OPENAI, CHAT), (WEB, "/upload"), (API, "/other")])
def test_bodies_over_the_limit(script: Script, path: str) -> None:
    host = make_host(max_body_bytes=1000)
    in_pieces = ask(host, never, [b"x" * 600, b"x" * 600], script, path=path)
    announced = ask(host, never, [b"x"], script, path=path, headers={"content-length": "1001"})
    absurd = ask(host, never, [b"x"], script, path=path, headers={"content-length": "9" * 5000})
    assert [in_pieces.status, announced.status, absurd.status] == [413] * 3
    assert host.state.counters()[1] == {(script.name, "size"): 3}


def test_a_body_at_the_limit_passes() -> None:
    body = b"x" * 1000
    assert ask(make_host(max_body_bytes=1000), echo, [body], WEB, path="/upload").body == body


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.02)

    async def go() -> int:
        client = Client([b"{"], stays=False)
        await Gate(never, make_host(), API)(scope(), client.receive, client.send)
        return client.status

    assert asyncio.run(go()) == 408


def test_a_client_that_leaves_before_its_body_is_there() -> None:
    async def go() -> list[Any]:
        client = Client([b"{"], stays=False)
        client.gone.set()
        await Gate(never, make_host(), API)(scope(), client.receive, client.send)
        return client.sent

    assert asyncio.run(go()) == []


def test_bad_input_is_refused_in_the_shape_of_the_api() -> None:
    host = make_host()
    client = ask(host, never, [b"{}"])
    assert (client.status, json.loads(client.body)) == (
        400,
        {"detail": "Invalid input: prompt must be text that is not empty."},
    )
    client = ask(host, never, [b"{}"], OPENAI, path=CHAT)
    assert client.status == 400
    assert json.loads(client.body)["error"]["type"] == "invalid_request_error"
    assert host.turns.counts() == (0, 0)


def test_what_has_no_body_is_passed_on_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(scope["type"] + scope.get("method", ""))

    host = make_host(queue_limit=0)
    host.turns.join()  # even while the model is busy
    for one in (scope(method="GET"), scope(method="OPTIONS"), {"type": "websocket"}, {"type": "lifespan"}):
        asyncio.run(Gate(app, host, API)(one, None, None))  # type: ignore[arg-type]
    assert seen == ["httpGET", "httpOPTIONS", "websocket", "lifespan"]


def test_a_full_line_is_refused_at_once() -> None:
    host = make_host(queue_limit=1)
    tickets = [host.turns.join(), host.turns.join()]
    client = ask(host, never, [GOOD])
    assert client.status == 503
    assert (b"retry-after", b"5") in client.sent[0]["headers"]
    assert host.state.counters()[1] == {("api", "queue"): 1}
    for ticket in tickets:
        ticket.leave()
    assert ask(host, echo, [GOOD]).status == 200


def test_other_routes_need_no_turn() -> None:
    host = make_host(queue_limit=0)
    host.turns.join()
    assert ask(host, echo, [b"x"], path="/other").status == 200


def streaming_app(host: Host, model: FakeModel, steps: threading.Semaphore | None = None) -> Any:
    facade = Facade(model, "openai_api", host)

    async def app(_: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for answer, _history in facade.stream_chat(FakeTokenizer(), "q"):
            if steps:
                steps.acquire(timeout=5)  # blocks its loop, as the upstream handlers do
            await send({"type": "http.response.body", "body": answer[-1:].encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def chat_body() -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "q"}]}).encode()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


def test_a_stream_goes_out_piece_by_piece_while_the_loop_stays_free() -> None:
    host, steps = make_host(), threading.Semaphore(0)

    async def go() -> bytes:
        client = Client([chat_body()])
        gate = Gate(streaming_app(host, FakeModel("abc"), steps), host, OPENAI)
        task = asyncio.ensure_future(gate(scope(CHAT), client.receive, client.send))
        for number in range(3):
            steps.release()
            await until(lambda wanted=number + 2: len(client.sent) >= wanted)  # type: ignore[misc]
        await task
        return client.body

    assert asyncio.run(go()) == b"abc"
    assert host.turns.counts() == (0, 0)


def test_a_client_that_leaves_a_stream_frees_the_model() -> None:
    host, steps, model = make_host(), threading.Semaphore(0), FakeModel("abcdefgh")

    async def go() -> None:
        client = Client([chat_body()])
        gate = Gate(streaming_app(host, model, steps), host, OPENAI)
        task = asyncio.ensure_future(gate(scope(CHAT), client.receive, client.send))
        steps.release()
        await until(lambda: len(client.sent) == 2)
        client.gone.set()
        await asyncio.sleep(0.05)
        steps.release(2)
        await task

    asyncio.run(go())
    assert (host.turns.counts(), model.closed) == ((0, 0), 1)
    assert [line["event"] for line in log_lines(host)] == ["generation"]  # and no error
    assert log_lines(host)[0]["outcome"] == "cancelled"


def test_a_client_that_leaves_while_waiting_frees_its_place() -> None:
    host = make_host()
    ticket = host.turns.join()

    async def go() -> None:
        client = Client([GOOD])
        task = asyncio.ensure_future(Gate(never, host, API)(scope(), client.receive, client.send))
        await until(lambda: host.turns.counts() == (1, 1))
        client.gone.set()
        await task

    asyncio.run(go())
    assert host.turns.counts() == (1, 0)
    ticket.leave()


def test_requests_run_in_order_of_arrival() -> None:
    host, order = make_host(queue_limit=5), []
    first = host.turns.join()

    async def app(_: Any, receive: Any, send: Any) -> None:
        order.append(json.loads((await receive())["body"])["prompt"])

    async def go() -> None:
        tasks = []
        for number in range(5):
            client = Client([json.dumps({"prompt": str(number)}).encode()])
            tasks.append(asyncio.ensure_future(Gate(app, host, API)(scope(), client.receive, client.send)))
            await until(lambda wanted=number + 1: host.turns.counts() == (1, wanted))  # type: ignore[misc]
        first.leave()
        await asyncio.gather(*tasks)

    asyncio.run(go())
    assert order == ["0", "1", "2", "3", "4"]


def refusing_app(host: Host, begins: bool) -> Any:
    facade = Facade(FakeModel(), "openai_api", host)

    async def app(_: Any, receive: Any, send: Any) -> None:
        start: dict[str, Any] = {"type": "http.response.start", "status": 200 if begins else 500, "headers": []}
        if begins:
            await send(start)
        try:
            facade.chat(FakeTokenizer(), "x" * 500)
        finally:
            if not begins:
                await send(start)  # what frameworks do with an exception
                await send({"type": "http.response.body", "body": b"Internal Server Error"})

    return app


def test_a_request_is_run_by_a_thread_that_knows_the_one_before() -> None:
    """torch keeps for each thread what a new one first has to make on the GPU."""
    known, seen = threading.local(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(hasattr(known, "mark"))
        known.mark = True
        await echo(scope, receive, send)

    for _ in range(10):
        assert ask(make_host(), app, [GOOD]).status == 200
        time.sleep(0.02)
    assert not seen[0]
    assert any(seen)


def test_a_refusal_by_the_facade_replaces_the_scripts_500() -> None:
    host = make_host()
    client = ask(host, refusing_app(host, begins=False), [chat_body()], OPENAI, path=CHAT)
    assert client.status == 400
    assert "no room" in json.loads(client.body)["error"]["message"]


def test_a_refusal_in_a_stream_that_began_is_its_last_event() -> None:
    host = make_host()
    client = ask(host, refusing_app(host, begins=True), [chat_body()], OPENAI, path=CHAT)
    assert client.status == 200
    assert client.body.startswith(b'data: {"error"')
    assert client.sent[-1]["more_body"] is False


def test_a_script_that_raises_is_logged_without_its_message() -> None:
    async def app(*_: Any) -> None:
        raise ValueError("secret")

    host = make_host()
    ask(host, app, [GOOD])
    assert log_lines(host)[0]["error"].startswith("ValueError at ")
    assert "secret" not in str(log_lines(host))
    assert host.turns.counts() == (0, 0)


def test_functions_of_the_page_are_called_over_its_queue_alone() -> None:
    for path in ("/run/predict", "/api/predict", "/api/predict/"):
        assert ask(make_host(), never, [b"{}"], script=WEB, path=path).status == 404


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_page_cannot_take_is_no_error_of_the_server(method: str) -> None:
    async def broken(*_: Any) -> None:
        raise OSError("File name too long: secret")

    host = make_host()
    client = ask(host, broken, [b"x"], script=WEB, path="/file=aaa", method=method)
    assert client.status == 400
    assert b"secret" not in client.body
    assert log_lines(host)[-1]["error"].startswith("OSError at ")
