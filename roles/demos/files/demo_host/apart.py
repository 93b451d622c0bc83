"""Runs one request of an ASGI app in a thread and an event loop that no other request has meanwhile.

The upstream handlers are ``async def`` and compute without ever giving their loop back. On the server's
own loop nobody else would be read, refused or noticed to be gone until a generation is over.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from demo_host.request import CURRENT, ClientGone, Request

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[..., Awaitable[None]]

SEND_SECONDS = 30.0  # for a client to read what is sent before it counts as gone
# Threads are used again, since torch keeps for each what a new one first has to make on the GPU. Far more than have
# their turn at a time: a request of a client that left may still be at its last token.
THREADS = ThreadPoolExecutor(256, thread_name_prefix="request")


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

    THREADS.submit(work)
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
