"""Requests that nobody should send, drawn from a seed: the same seed draws the same ones."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from abuse.client import Door

API, CHAT = "/", "/v1/chat/completions"
PAGES = (
    "/",
    "/healthz",
    "/config",
    "/info",
    "/theme.css",
    "/queue/status",
    "/queue/join",
    "/startup-events",
    "/robots.txt",
)
POSTS = (
    "/run/predict",
    "/run/predict/",
    "/api/predict",
    "/api/send",
    "/api/",
    "/queue/push",
    "/queue/data",
    "/reset",
    "/upload",
)
ODD_PATHS = (
    "/v1/models", "/v1/models/x", "/v1", "/v1/", "/metrics", "/docs", "/redoc", "/openapi.json", "/web_demo2/",
    "/web_demo2/_stcore/health", "/web_demo2/_stcore/stream", "/web_demo2/../config", "/file=/etc/passwd",
    "/file=../../etc/shadow", "/file=%2e%2e/%2e%2e/etc/passwd", "/file/", "/file=", "/file=" + "a" * 3000, "/static/",
    "/static/%2e%2e/%2e%2e/etc/passwd", "/assets/../../config", "/stream/x", "/proxy=http://127.0.0.1:8100/metrics",
    "/proxy=https://x.hf.space/", "/login", "/token", "/app_id", "//", "/%00", "/%ff%fe", "/%0d%0aX:y",
    "/..%2f..%2fetc",
    "/v1/../metrics", "/v1%2fmodels", "/v1/chat/completions/", "/?" + "q=1&" * 500, "/nobody/knows/this", "*",
    "http://127.0.0.1:8100/metrics", "/\u4f60\u597d", "/%E4%BD%A0", "/;", "/.git/config", "/heartbeat/x",
    "/component_server",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get", "X" * 40, "CONNECT")
TYPES = (
    "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
    "multipart/form-data; boundary=x", "application/json; charset=utf-16", "image/png", "", "\u00e4", "x" * 2000,
)  # fmt: skip
INCOMPLETE = (["Content-Length: 99999"], ["Transfer-Encoding: chunked"])
# JSON as text, since some of it is none.
WORDS = (
    "null", "true", "0", "-1", "1", "64", "0.5", "1e308", "-0.0", "1e999", "-1e999", "NaN", "Infinity", "1e-320",
    "9" * 400, "9" * 5000, '" "', '"x"', '"64"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\u202e"', "[]", "{}",
    "1e-9", "[[]]", "[null]", '[["a"]]', '[["a","b"]]', '[["a","b","c"]]', '[["\\ud800","b"]]', "undefined", "'x'",
    "\x00", "[" * 40000 + "]" * 40000, '{"a":' * 3000 + "1" + "}" * 3000, '"' + "\u957f" * 9000 + '"',
)  # fmt: skip
FIELDS = (
    "prompt",
    "history",
    "messages",
    "stream",
    "temperature",
    "top_p",
    "max_length",
    "max_tokens",
    "model",
    "stop",
    "n",
)
PAGE_FIELDS = ("fn_index", "data", "session_hash", "event_data", "event_id", "username", "batched", "request")


@dataclass
class Shot:
    """One request.

    valid: whether it has to be answered with 200 as long as the line has room. odd_frame: whether it is so far from
    HTTP that nginx itself refuses it (501, 505), or ends the connection without a word. close_after: see `Door.send`.
    """

    raw: bytes
    method: str
    told: str
    valid: bool = False
    odd_frame: bool = False
    close_after: bool = False


class Nonsense:
    """Draws requests to a door. marker: a word that stands in all prompts, to be looked for in logs."""

    def __init__(self, seed: str, door: Door, marker: str) -> None:
        self.random, self.door, self.marker = random.Random(seed), door, marker

    def shot(self) -> Shot:
        """Return the next request."""
        draw = self.random.choices(
            (self._valid, self._fields, self._page, self._path, self._bytes, self._frame), (15, 40, 15, 20, 15, 10)
        )[0]
        return draw()

    def _valid(self) -> Shot:
        prompt = json.dumps(f"{self.marker} {self.random.randrange(99)}")
        if self.random.random() < 0.5:
            body = f'{{"prompt": {prompt}, "history": [], "max_length": 64, "temperature": 0.5}}'
            return self._json("POST", API, body.encode(), valid=True)
        stream = self.random.choice(("true", "false"))
        messages = f'[{{"role": "user", "content": {prompt}}}]'
        body = f'{{"model": "x", "messages": {messages}, "stream": {stream}, "max_tokens": 5}}'
        return self._json("POST", CHAT, body.encode(), valid=True)

    def _fields(self) -> Shot:
        """A body of known fields, one or more of which hold something odd."""
        chat = self.random.random() < 0.5
        prompt = json.dumps(f"{self.marker} {self.random.randrange(99)}")
        fields = {"prompt": prompt, "history": "[]", "max_length": "64", "temperature": "1", "top_p": "0.7"}
        if chat:
            fields = {"model": '"x"', "messages": self._messages(prompt), "stream": "true", "max_tokens": "5"}
        for _ in range(self.random.randint(1, 3)):
            fields[self.random.choice(FIELDS)] = self.random.choice(WORDS)
        if self.random.random() < 0.1:
            fields.pop(self.random.choice(list(fields)))
        body = "{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}"
        return self._json("POST", CHAT if chat else API, body.encode())

    def _messages(self, prompt: str) -> str:
        role = self.random.choice(('"user"', '"system"', '"assistant"', '"function"', self.random.choice(WORDS)))
        content = self.random.choice((prompt, self.random.choice(WORDS)))
        messages = [f'{{"role": {role}, "content": {content}}}' for _ in range(self.random.randint(0, 3))]
        return "[" + ", ".join([*messages, f'{{"role": "user", "content": {prompt}}}']) + "]"

    def _page(self) -> Shot:
        """A body for the routes of the web page."""
        names = self.random.sample(PAGE_FIELDS, self.random.randint(0, 5))
        values = {name: self.random.choice(WORDS) for name in names}
        if self.random.random() < 0.5:
            values["fn_index"] = self.random.choice(("0", "1", "2", "3", "99", "-1"))
            asked = json.dumps([self.marker, [], 64, 0.7, 0.9, None, None])
            values["data"] = self.random.choice(("[]", "[null]", asked, self.random.choice(WORDS)))
        body = "{" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}"
        return self._json(self.random.choice(("POST", "POST", "GET")), self.random.choice(POSTS), body.encode())

    def _path(self) -> Shot:
        path = self.random.choice(self.random.choice((PAGES, POSTS, ODD_PATHS, ODD_PATHS)))
        method = self.random.choice(self.random.choice((("GET",), METHODS)))
        body = self.random.choice((b"", b"", b"{}", b"x" * 3000))
        return self._json(method, path, body)

    def _bytes(self) -> Shot:
        """A body that is not JSON, or not whole, or not of the type that it names."""
        good = json.dumps({"prompt": self.marker, "history": [], "max_length": 64}, ensure_ascii=False).encode()
        body = self.random.choice((
            b"", good[: self.random.randrange(len(good))], b"\xff\xfe" + good, good.replace(b"e", b"\xc3"),
            good.decode().encode("utf-16"), b"\xef\xbb\xbf" + good, self.random.randbytes(300), b"[" * 100000, good * 2,
            b'{"prompt": "' + b"a" * 1_200_000 + b'"}', b'{"prompt": "' + b"\xe4\xbd\xa0" * 30000 + b'"}', b"--x\r\n",
        ))  # fmt: skip
        path = self.random.choice((API, CHAT, self.random.choice(POSTS)))
        return self._json("POST", path, body, kind=self.random.choice(TYPES))

    def _frame(self) -> Shot:
        """A request whose frame is odd: its length, its chunks, its headers, its version."""
        good = json.dumps({"prompt": self.marker, "history": [], "max_length": 64}).encode()
        chunk, end = b"%x\r\n%s\r\n" % (len(good), good), b"0\r\n\r\n"
        headers, body = self.random.choice((
            (["Content-Length: 99999"], good), (["Content-Length: 5"], good), (["Content-Length: -1"], good),
            (["Content-Length: x"], good), (["Content-Length: " + "9" * 30], good), ([], good),
            (["Content-Length: 5", f"Content-Length: {len(good)}"], good), (["Transfer-Encoding: chunked"], b""),
            (["Transfer-Encoding: chunked"], chunk + end),
            (["Transfer-Encoding: chunked"], chunk), (["Transfer-Encoding: chunked"], b"zz\r\n" + good),
            (["Transfer-Encoding: chunked"], b"ffffffffffffffffff\r\n"), (["Transfer-Encoding: x"], good),
            (["Transfer-Encoding: chunked", "Content-Length: 5"], chunk + end), (["X-Long: " + "a" * 60000], good),
            ([f"X-Many-{number}: a" for number in range(300)], good), (["Host: other.example"], good),
            (["Content-Encoding: gzip", f"Content-Length: {len(good)}"], good), (["\x00: x"], good), ([": x"], good),
            (["Expect: 100-continue", f"Content-Length: {len(good)}"], good), (["Range: bytes=0-0,1-1"], b""),
            (["Upgrade: websocket", "Connection: Upgrade"], b""), (["Upgrade: h2c", "Connection: Upgrade"], b""),
            (["Authorization: Bearer x"], b""), (["Cookie: " + "glmbox=x; " * 200], b""), (["X-Http-Method: GET"], b""),
        ))  # fmt: skip
        method = self.random.choice(("POST", "POST", "GET"))
        path = self.random.choice((API, CHAT, "/queue/join", "/run/predict"))
        raw = self.door.head(method, path, *headers) + body
        version = self.random.choice((b"HTTP/1.1",) * 8 + (b"HTTP/1.0", b"HTTP/9.9", b"HTTP/", b""))
        raw = raw.replace(b"HTTP/1.1", version, 1)
        told = f"frame {method} {path} {headers[0][:40] if headers else ''} {version!r}"
        # Who promises more than is sent would wait for an answer as nginx waits for the rest.
        return Shot(raw, method, told, odd_frame=True, close_after=headers[:1] in INCOMPLETE)

    def _json(self, method: str, path: str, body: bytes, kind: str = TYPES[0], valid: bool = False) -> Shot:
        head = self.door.head(method, path, f"Content-Type: {kind}", f"Content-Length: {len(body)}")
        # Of a body that is refused unread, the refusal may be lost with the connection.
        return Shot(head + body, method, f"{method} {path[:80]} {body[:200]!r}", valid, odd_frame=len(body) > 2**20)
