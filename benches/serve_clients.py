"""The clients of `make bench-serve`: what asks the demos in the box, and how long they take. Runs in the box."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

PATIENCE_SECONDS = 300.0  # for one answer, and for a client that is told to come back


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` of them do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def content_of(line: bytes) -> str:
    """Return the text that a line of an event stream of /v1/chat/completions brings, "" for any other line."""
    text = line.decode("utf-8").strip()
    if not text.startswith("data: {"):
        return ""
    return json.loads(text[len("data: ") :])["choices"][0]["delta"].get("content") or ""


class Server:
    """A port of loopback that serves openai_api.py: the gateway's, with its token, or the script's own, without."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port = port
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection of its own, opened."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        connection.connect()
        return connection

    def ask(
        self, connection: http.client.HTTPConnection, prompt: str, **settings: Any
    ) -> tuple[http.client.HTTPResponse, int]:
        """Return the reply to ``prompt``, its body unread, and how often the server had no room before.

        Raises:
            OSError: any status but 200, or no room for too long.
        """
        body = {"model": "chatglm2-6b", "messages": [{"role": "user", "content": prompt}], **settings}
        content, end, refused = json.dumps(body).encode(), time.monotonic() + PATIENCE_SECONDS, 0
        while True:
            connection.request("POST", "/v1/chat/completions", content, self.headers)
            reply = connection.getresponse()
            if reply.status == 503 and time.monotonic() < end:
                reply.read()
                refused += 1
                time.sleep(float(reply.headers.get("Retry-After", "1")))
            elif reply.status != 200:
                raise OSError(f"port {self.port} answered {reply.status}: {reply.read()[:300]!r}")
            else:
                return reply, refused

    def first_bytes(self, connection: http.client.HTTPConnection, prompt: str, tokens: int) -> tuple[float, float]:
        """Return the seconds to the first byte of a stream (its role), and to the first one of the answer."""
        begun, first = time.perf_counter(), 0.0
        reply, _ = self.ask(connection, prompt, stream=True, max_tokens=tokens)
        for line in reply:
            first = first or time.perf_counter() - begun
            if content_of(line):
                seconds = time.perf_counter() - begun
                reply.read()
                return first, seconds
        raise OSError("a stream ended without a word")

    def healthz(self) -> tuple[float, dict[str, Any]]:
        """Return the seconds of a GET /healthz on a connection of its own, as probes ask, and what it said."""
        begun = time.perf_counter()
        connection = self.connect()
        connection.request("GET", "/healthz", headers=self.headers)
        said = json.loads(connection.getresponse().read())
        connection.close()
        return time.perf_counter() - begun, said


class LongAnswer:
    """Context manager: while it lasts, the model writes an answer of up to ``tokens``, and nobody waits for its end."""

    def __init__(self, server: Server, tokens: int) -> None:
        self._connection = server.connect()
        self._reply, _ = server.ask(self._connection, "你好", stream=True, max_tokens=tokens)
        self._over = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while not self._over and self._reply.readline():
                pass
        finally:
            self._connection.close()

    def __enter__(self) -> LongAnswer:
        return self

    def __exit__(self, *_: Any) -> None:
        self._over = True  # seen at the next piece; the host then stops the generation


def crowd(server: Server, prompts: Sequence[str], clients: int, **settings: Any) -> tuple[float, int, int]:
    """Return the seconds that ``clients``, all at once, take for ``prompts``, how many got no answer, and the refusals.

    Each client asks its share one after the other on a connection of its own, and comes back when it is told to.
    """
    lost, refused, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(clients + 1)

    def client(own: Sequence[str]) -> None:
        nonlocal lost, refused
        connection = server.connect()
        gate.wait()
        for prompt in own:
            times = 0
            try:
                reply, times = server.ask(connection, prompt, **settings)
                answered = bool(json.load(reply)["choices"][0]["message"]["content"])
            except (OSError, ValueError, KeyError, http.client.HTTPException):
                answered = False
                connection.close()  # opened anew by the next request
            with lock:
                lost, refused = lost + (not answered), refused + times
        connection.close()

    threads = [threading.Thread(target=client, args=(prompts[number::clients],)) for number in range(clients)]
    for thread in threads:
        thread.start()
    gate.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, lost, refused
