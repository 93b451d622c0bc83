"""The gate in front of a script's ASGI app: size, input, place in the line; nothing is buffered on the way out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from demo_host.apart import App, Message, Send, run_apart
from demo_host.checks import CHECKS, Check, parse_object, unheeded
from demo_host.config import Script
from demo_host.refusals import refusal_messages, sentence_of, stream_error_message
from demo_host.request import Refused, Request
from demo_host.state import Host
from demo_host.turns import QueueFull

Receive = Callable[[], Awaitable[Message]]
Scope = dict[str, Any]

# gradio's routes that call a function past its queue: a generator is begun there, holds its turn, and nobody goes on
# with it. The page does not use them.
DIRECT = ("/run/", "/api/")
BODY_SECONDS = 30.0  # for each piece of a body to arrive


class Gate:
    """ASGI app around ``app``, which belongs to ``script``."""

    def __init__(self, app: App, host: Host, script: Script) -> None:
        self._app, self._host, self._script = app, host, script
        self._checks = CHECKS.get(script.file, {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what needs no gate (GET, websockets, lifespan); gate all that has a body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"].startswith(DIRECT):
                raise self._refused("input", 404, "The page's functions are called over its queue alone.")
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self._app_or_refusal(scope, receive, send)
                return
            body = await self._read_body(scope, receive)
            if body is None:
                return
            check = self._checks.get((scope["method"], scope["path"]))
            if check is None:
                await self._app_or_refusal(scope, _replay(body, receive), send)
            else:
                await self._generate(check, scope, body, receive, send)
        except Refused as refused:
            for message in refusal_messages(scope["path"], refused.status, str(refused)):
                await send(message)

    async def _app_or_refusal(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what does not reach the model; what the script cannot take is the request's fault and no 500."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            self._host.log.write("error", script=self._script.name, error=self._host.log.describe(error))
            if not started:
                raise Refused(400, "The server cannot make sense of this request.") from error

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, None if the client went away before it was sent."""
        limit = self._host.config.max_body_bytes
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > limit:
            raise self._refused("size", 413, f"The body is larger than {limit} bytes.")
        body, more = bytearray(), True
        while more:
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except asyncio.TimeoutError:
                raise self._refused("size", 408, "The body did not arrive in time.") from None
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise self._refused("size", 413, f"The body is larger than {limit} bytes.")
        return bytes(body)

    async def _generate(self, check: Check, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        data, problem = parse_object(body)
        problems = [problem] if problem else check(data)
        if problems:
            raise self._refused("input", 400, sentence_of(problems))
        try:
            ticket = self._host.turns.join()
        except QueueFull as full:
            raise self._refused("queue", 503, str(full)) from full
        request = Request(ticket, unheeded(self._script.file, data))
        watch = asyncio.ensure_future(_watch(receive, request))
        try:
            # Waited for here, where it holds no thread and a client that leaves is noticed at once.
            waits = [asyncio.wrap_future(ticket.turn), asyncio.wrap_future(request.gone)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not request.gone.done():
                await self._run_app(scope, body, request, send)
        finally:
            watch.cancel()
            ticket.leave()
            request.client_left()

    async def _run_app(self, scope: Scope, body: bytes, request: Request, send: Send) -> None:
        started = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            # The script knows nothing of a refusal by the facade and answers 500: the reason is told instead.
            if request.refusal is None:
                started = True
                await send(message)

        try:
            await run_apart(self._app, scope, body, request, send_unless_refused)
        except Exception as error:
            # Whatever a script raises because its client left is no error.
            if request.refusal is None and not request.gone.done():
                # The facade has logged what the model raised; this also names what the script itself raised.
                self._host.log.write("error", script=self._script.name, error=self._host.log.describe(error))
        refusal = request.refusal
        if refusal is None or request.gone.done():
            return
        if not started:
            raise refusal
        # Only an event stream begins to answer before the model is asked.
        await send(stream_error_message(scope["path"], refusal.status, str(refusal)))

    def _refused(self, reason: str, status: int, sentence: str) -> Refused:
        self._host.state.count_rejected(self._script.name, reason)
        self._host.log.write("refused", script=self._script.name, status=status, reason=reason)
        return Refused(status, sentence)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive() that gives ``body`` first and then whatever ``receive`` brings (the disconnect)."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return unread.pop() if unread else await receive()

    return replayed


async def _watch(receive: Receive, request: Request) -> None:
    # The body is read, so the only news can be that the client left.
    while (await receive())["type"] != "http.disconnect":
        pass
    request.client_left()
