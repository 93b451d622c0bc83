"""A static file server that misbehaves on command and counts: python3 server.py --port P --folder DIR.

One file of the standard library, Python 3.8 or newer: tests copy it into a box. Its first line on stdout is `listening
PORT`. GET and HEAD, single ranges, keep-alive. A path is written as it is below the folder: decoded, no slash first.

    PUT /_control     a JSON object of the keys below replaces what was asked before; {} is good behaviour
    GET /_counts      {"sent": {path: body bytes}, "requests": {path: n}, "statuses": {"206": n},
                       "most_connections": bodies being sent at once, "range_requests": n}
    DELETE /_counts   begin again at nought

    only              [path]: these misbehave, the others do not
    no_ranges         200 and the whole file for a range, Accept-Ranges: none
    one_connection    403 to a GET of a path while another one of it is being sent
    max_connections   n: more bodies than these at once get refuse_status (503 unless told)
    status            n: the answer to everything; 429 comes with Retry-After: 1
    rate              bytes a second a connection
    stall_at          bytes from the file's start, or a fraction of it with a point (0.5): nothing is sent from there
                      on, in whatever request, and the connection stays; with stall_seconds each waits only so long
    reset_at          likewise: RST there; with reset_times: n only the first n times
    wrong_bytes       the right size, each byte inverted
    html              200 and a login page, whatever is asked for
    lfs_pointer       200 and the file's git-lfs pointer
    redirect_to       URL: 302 to URL/_signed/N/path, a fresh N each time; any server here serves such a link
    signed_lives      n: each /_signed/N/path is answered n times, then 403
    lie_length        "longer": claims bytes that the file lacks, closes after the real ones; "shorter": lacks the end
    truncate          the right length, but closes after half of what was asked for
    down              RST to every request, and to what is being sent
    down_after_bytes  n: after n body bytes in all it is down for down_seconds, once
    slow_headers      seconds before the answer

What concerns the sending (rate, stall_at, reset_at, down) also takes hold of bodies that are on their way. Bytes count
as sent when the kernel has taken them: a client that breaks off may have read fewer.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import itertools
import json
import re
import socket
import socketserver
import struct
import sys
import termios
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

CHUNK = 256 * 1024
NEVER = float("inf")
INVERTED = bytes(255 - byte for byte in range(256))
LOGIN = b"<!DOCTYPE html><html><body><h1>Log in</h1><p>Log in to go on to your download.</p></body></html>\n"
# From the table above: a misspelled key must not pass for good behaviour.
KEYS = {*re.findall(r"^    ([a-z_]+)  ", str(__doc__), re.M), *"refuse_status stall_seconds reset_times".split()}
KEYS.add("down_seconds")


class State:
    """What the server was told to do, and what it has done."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.Lock()
        self.being_sent: Counter[str] = Counter()
        self.link_uses: Counter[str] = Counter()
        # Two servers must not hand out the same link, so the numbers begin at the clock.
        self.links = itertools.count(time.time_ns() // 1000)
        self.behave({})
        self.reset_counts()

    def behave(self, keys: dict) -> None:
        with self.lock:
            self.keys, self.down_until = keys, 0.0
            self.done: Counter[str] = Counter()

    def reset_counts(self) -> None:
        with self.lock:
            most = sum(self.being_sent.values())
            self.counts: dict[str, Any] = {"sent": Counter(), "requests": Counter(), "statuses": Counter()}
            self.counts.update(most_connections=most, range_requests=0)

    def count(self, counter: dict, key: str, more: int = 1) -> int:
        with self.lock:
            counter[key] += more
            return counter[key]

    def count_sent(self, path: str, more: int) -> None:
        self.count(self.counts["sent"], path, more)
        keys = self.keys_for(path)
        if keys and self.count(self.done, "bytes", more) >= keys.get("down_after_bytes", NEVER):
            self.down_until = self.down_until or time.monotonic() + keys.get("down_seconds", 0)

    def keys_for(self, path: str) -> dict:
        return self.keys if path in self.keys.get("only", [path]) else {}

    def is_down(self, path: str) -> bool:
        keys = self.keys_for(path)
        return bool(keys.get("down") or (keys and time.monotonic() < self.down_until))

    def enter(self, path: str, keys: dict) -> int:
        """Take a place among the bodies that are being sent; return 0, or the status that refuses it."""
        with self.lock:
            if keys.get("one_connection") and self.being_sent[path]:
                return 403
            if sum(self.being_sent.values()) >= keys.get("max_connections", NEVER):
                return keys.get("refuse_status", 503)
            self.being_sent[path] += 1
            self.counts["most_connections"] = max(self.counts["most_connections"], sum(self.being_sent.values()))
            return 0


def offset(place: float | None, size: int) -> float:
    """Return the byte that a *_at key names: never, a fraction of the size, or the byte itself."""
    if place is None:
        return NEVER
    return int(place * size) if isinstance(place, float) and place <= 1 else place


def read_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte of a Range and the one after its last; None: not a range that is heeded."""
    match = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", header.strip())
    if not match:
        return None
    first, last, tail = match.groups()
    if tail:
        return max(0, size - int(tail)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: State

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        keys = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        unknown = set(keys) - KEYS
        if unknown or self.path != "/_control":
            return self.say(400, f"{self.path} does not know {unknown}")
        self.state.behave(keys)
        self.say(200, "{}")

    def do_DELETE(self) -> None:
        self.state.reset_counts()
        self.say(200, "{}")

    def do_GET(self) -> None:
        if self.path == "/_counts":
            with self.state.lock:
                text = json.dumps(self.state.counts)
            return self.say(200, text)
        url = self.path.partition("?")[0]
        signed = re.fullmatch(r"/_signed/[^/]+(/.*)", url)
        self.answer(unquote(signed.group(1) if signed else url).lstrip("/"), url if signed else "")

    do_HEAD = do_GET

    def begin(self, status: int, length: int, headers: dict) -> None:
        if not self.path.startswith(("/_control", "/_counts")):
            self.state.count(self.state.counts["statuses"], str(status))
        self.send_response(status)
        for name, value in {"Content-Length": length, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def say(self, status: int, text: str = "refused\n", **headers: object) -> None:
        """Answer with a text that does not count as a body sent."""
        headers = {"Content-Type": "text/plain", **headers, **({"Retry-After": 1} if status == 429 else {})}
        self.begin(status, len(text.encode()), headers)
        self.wfile.write(b"" if self.command == "HEAD" else text.encode())

    def answer(self, path: str, signed_url: str) -> None:
        """Answer a request for a file. signed_url: as which it was asked for, or nothing."""
        state = self.state
        keys = state.keys_for(path)
        state.count(state.counts["requests"], path)
        state.count(state.counts, "range_requests", "Range" in self.headers)
        if state.is_down(path):
            self.reset()
        time.sleep(keys.get("slow_headers", 0))
        if "status" in keys:
            return self.say(keys["status"])
        if "redirect_to" in keys and not signed_url:
            return self.say(302, "", Location=f"{keys['redirect_to']}/_signed/{next(state.links)}/{quote(path)}")
        if signed_url and state.count(state.link_uses, signed_url) > keys.get("signed_lives", NEVER):
            return self.say(403)
        if keys.get("html"):
            return self.send_body(path, keys, io.BytesIO(LOGIN), len(LOGIN), "text/html; charset=utf-8")
        file = (state.folder / path).resolve()
        if state.folder not in file.parents or not file.is_file():
            return self.say(404)
        size = file.stat().st_size
        if keys.get("lfs_pointer"):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
            return self.send_body(path, keys, io.BytesIO(text), len(text), "text/plain")
        with file.open("rb", buffering=0) as opened:
            self.send_body(path, keys, opened, size)

    def send_body(self, path: str, keys: dict, body: io.IOBase, size: int, page: str = "") -> None:
        """Answer with a body of `size` bytes, or a range of it. page: its content type, if it is not the file."""
        more = {"longer": 1000, "shorter": -min(1000, size // 2)}.get(keys.get("lie_length", ""), 0)
        claimed, status, start, end = size + more, 200, 0, size + more
        ranges = "none" if page or keys.get("no_ranges") else "bytes"
        headers = {"Content-Type": page or "application/octet-stream", "Accept-Ranges": ranges}
        asked = read_range(self.headers.get("Range", ""), claimed)
        if asked and self.command == "GET" and ranges == "bytes":
            status, (start, end) = 206, asked
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{claimed}"
            if start >= end:
                return self.say(416, **{"Content-Range": f"bytes */{claimed}"})
        if self.command == "HEAD":
            return self.begin(status, end - start, headers)
        refused = self.state.enter(path, keys)
        if refused:
            return self.say(refused)
        stop = start + (end - start) // 2 if keys.get("truncate") else min(end, size)
        self.close_connection = self.close_connection or stop < end
        try:
            self.begin(status, end - start, headers)
            body.seek(start)
            last = self.send_bytes(path, body, start, stop, size)
            self.state.count_sent(path, len(last))
        finally:
            self.state.count(self.state.being_sent, path, -1)
        # Only now: a client that has it all may ask again at once, and must not be counted as still busy.
        self.connection.sendall(last)

    def send_bytes(self, path: str, body: io.IOBase, position: int, stop: int, size: int) -> bytes:
        """Send the bytes from position to stop (excluded), but for the last one: return that."""
        state, due, stalled, last = self.state, time.monotonic(), False, b""
        while position < stop:
            keys = state.keys_for(path)
            stall_at, reset_at = offset(keys.get("stall_at"), size), offset(keys.get("reset_at"), size)
            if position >= stall_at and not stalled:
                stalled = True
                self.stall(path, keys.get("stall_seconds", NEVER))
            if position >= reset_at and state.count(state.done, "resets") <= keys.get("reset_times", NEVER):
                self.reset()
            step = min(CHUNK, *(int(goal) - position for goal in (stop, stall_at, reset_at) if position < goal < NEVER))
            if "down_after_bytes" in keys and not state.down_until:
                step = max(1, min(step, keys["down_after_bytes"] - state.done["bytes"]))
            if "rate" in keys:
                step = max(1, min(step, int(keys["rate"] / 10)))
                # Too long a sleep is made up for, but not the time in which the client took nothing.
                due = max(due, time.monotonic() - 0.1) + step / keys["rate"]
                time.sleep(max(0, due - time.monotonic()))
            if state.is_down(path):
                self.reset()
            chunk = body.read(step)
            if not chunk:
                raise ConnectionAbortedError("the file has become shorter")
            chunk = chunk.translate(INVERTED) if keys.get("wrong_bytes") else chunk
            position += len(chunk)
            if position == stop:
                chunk, last = chunk[:-1], chunk[-1:]
            while chunk:
                count = self.connection.send(chunk)
                state.count_sent(path, count)
                chunk = chunk[count:]
        return last

    def stall(self, path: str, seconds: float) -> None:
        """Send nothing for so long, unless the server goes down; end with the connection if the client leaves."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.state.is_down(path):
            time.sleep(min(0.1, seconds))
            try:
                if not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    raise ConnectionAbortedError("the client has left")
            except BlockingIOError:
                pass

    def reset(self) -> None:
        """End the connection with an RST, once the client's kernel has what was sent: the RST would discard it."""
        patience = time.monotonic() + 1
        while fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)) != bytes(4) and time.monotonic() < patience:
            time.sleep(0.001)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Closed here, as socketserver would send a FIN before it closes; the file holds the socket open.
        self.rfile.close()
        self.connection.close()
        raise ConnectionAbortedError("reset, as was asked")


class Server(socketserver.ThreadingTCPServer):
    """ThreadingHTTPServer without its look-up of the host's name, which can take seconds in a container."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def server_activate(self) -> None:
        # What lies unread in the kernel counts as sent: little of it, for exact counts of a client that breaks off.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
        super().server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True, help="0 picks a free one")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--bind", default="127.0.0.1")
    arguments = parser.parse_args()
    Handler.state = State(arguments.folder.resolve())
    with Server((arguments.bind, arguments.port), Handler) as server:
        print("listening", server.server_address[1], flush=True)
        server.serve_forever()
