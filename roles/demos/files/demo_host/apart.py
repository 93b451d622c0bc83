"""Runs one request of an ASGI app in a thread and an event loop of its own.

The upstream handlers are ``async def`` and compute without ever giving their loop back. On the server's
own loop nobody else would be read, refused or noticed to be gone until a generation is over.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from demo_host.request import CURRENT, ClientGone, Request

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[..., Awaitable[None]]

SEND_SECONDS = 30.0  # for a client to read what is sent before it counts as gone


async def run_apart(app: App, scope: dict[str, Any], body: bytes, request: Request, send: Send) -> None:
    """Run ``app`` on one request whose whole ``body`` is known, and return when it is done.

    Messages go out through ``send`` on the calling loop, each as it comes. The app receives the body once,
    then ``http.disconnect`` when the request's client is gone.
    """
    server_loop = asyncio.get_running_loop()
    done: Future[None] = Future()
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await _until(request.gone)
        return {"type": "http.disconnect"}

    async def send_across(message: Message) -> None:
        sent = asyncio.run_coroutine_threadsafe(_awaited(send, message), server_loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(sent), SEND_SECONDS)
        except asyncio.TimeoutError:
            request.client_left()
            raise ClientGone from None

    async def run() -> None:
        CURRENT.set(request)
        await app(scope, receive, send_across)

    def work() -> None:
        try:
            # asyncio.run closes async generators at the end: an abandoned stream gives its turn back here.
            asyncio.run(run())
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=work, name="request", daemon=True).start()
    await asyncio.shield(asyncio.wrap_future(done))


async def _until(future: "Future[None]") -> None:
    # asyncio.wrap_future would cancel the future with this wait, and complain once this loop is closed.
    loop, flag = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: "Future[None]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the request is over and nobody waits
            loop.call_soon_threadsafe(flag.set)

    future.add_done_callback(tell)
    await flag.wait()


async def _awaited(send: Send, message: Message) -> None:
    await send(message)
