"""A client without manners: it sends any bytes, and tells what came back, or that nothing did."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

SECONDS = 60.0


@dataclass
class Reply:
    """What came back. status: 0 where the connection ended without an answer that is HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


@dataclass
class Door:
    """The one open port of a box, and the token that opens it."""

    host: str
    port: int
    token: str

    def connect(self, seconds: float = SECONDS, receive_buffer: int = 0) -> socket.socket:
        """Return a connection. seconds: patience of each of its steps; receive_buffer: in bytes, 0 for the usual."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(seconds)
        sock.connect((self.host, self.port))
        return sock

    def head(self, method: str, path: str, *headers: str, token: str | None = None) -> bytes:
        """Return a request's head. token: another than the right one, "" for none."""
        given = self.token if token is None else token
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close", *headers]
        # The pages take the password, programs the bearer.
        if given and (path.startswith("/v1") or path == "/metrics" or (method, path) == ("POST", "/")):
            lines.append(f"Authorization: Bearer {given}")
        elif given:
            lines.append("Authorization: Basic " + base64.b64encode(f"glmbox:{given}".encode()).decode())
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")

    def send(self, raw: bytes, method: str = "", close_after: bool = False, seconds: float = SECONDS) -> Reply:
        """Send bytes and return what comes back.

        method: HEAD has an answer without a body. close_after: say after them that no more will come.
        """
        begun = time.monotonic()
        try:
            with self.connect(seconds) as sock:
                try:
                    sock.sendall(raw)
                    if close_after:
                        sock.shutdown(socket.SHUT_WR)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # refused before all was sent: the answer may be there
                reply = http.client.HTTPResponse(sock, method=method)
                reply.begin()
                body = reply.read()
                headers = {key.lower(): value for key, value in reply.getheaders()}
                return Reply(reply.status, headers, body, time.monotonic() - begun)
        except (http.client.HTTPException, OSError, ValueError) as error:
            return Reply(0, {}, str(error).encode(), time.monotonic() - begun)

    def get(self, path: str, token: str | None = None) -> Reply:
        """Return the answer to a GET. token: as `head`."""
        return self.send(self.head("GET", path, token=token))

    def post(self, path: str, body: Any, token: str | None = None) -> Reply:
        """Return the answer to a JSON body. token: as `head`."""
        data = json.dumps(body).encode()
        headers = ("Content-Type: application/json", f"Content-Length: {len(data)}")
        return self.send(self.head("POST", path, *headers, token=token) + data)

    def ask(self, prompt: str, **more: Any) -> Reply:
        """Return the answer of api.py to a prompt. more: fields of the body."""
        return self.post("/", {"prompt": prompt, **more})

    def answers(self) -> bool:
        """Tell whether a normal question gets its answer."""
        reply = self.ask("你好")
        return reply.status == 200 and bool(json.loads(reply.body)["response"])

    def stream(self, prompt: str, receive_buffer: int = 0, **more: Any) -> socket.socket:
        """Begin a stream of openai_api.py and return its connection, of which nothing was read yet."""
        body = {"model": "chatglm2-6b", "stream": True, "messages": [{"role": "user", "content": prompt}], **more}
        data = json.dumps(body).encode()
        sock = self.connect(receive_buffer=receive_buffer)
        headers = ("Content-Type: application/json", f"Content-Length: {len(data)}")
        sock.sendall(self.head("POST", "/v1/chat/completions", *headers) + data)
        return sock


def until(true: Any, seconds: float, pause: float = 0.2) -> float:
    """Call `true` until it returns something true, and return after how many seconds; fail when they are over."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"not so within {seconds:.0f} s"
        time.sleep(pause)
    return time.monotonic() - begun
