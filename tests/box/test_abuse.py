"""Strangers with a token and without manners: nothing that they send stops the box from answering the others."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from abuse.client import SECONDS, Door, Reply, until
from abuse.inside import SLOW_TOKEN_SECONDS, Inside, door_of, inside_of
from abuse.nonsense import Nonsense

REQUESTS, CLIENTS = 2100, 6
# Below the gateway's limit for one address, which all of this comes from.
PAUSE_SECONDS = CLIENTS / 45


@pytest.fixture(scope="module")
def door(served_box) -> Door:
    return door_of(served_box)


@pytest.fixture(scope="module")
def inside(served_box) -> Inside:
    return inside_of(served_box)


@pytest.fixture
def unharmed(door, inside):
    """Hold a test to it: the same processes serve afterwards, none was started anew, the line is empty."""
    before = {unit: inside.life(unit) for unit in inside.units()}
    yield
    until(lambda: inside.queue() == (0, 0), 60)
    assert {unit: inside.life(unit) for unit in inside.units()} == before
    until(lambda: door.ask("你好").status != 429, 20)
    assert door.answers()


@pytest.fixture(scope="module")
def slow(door, inside):
    """The box with a model as slow as a real one."""
    inside.slow_down()
    until(lambda: door.get("/healthz", token="").status == 200, 90)
    yield
    inside.speed_up()
    until(lambda: door.get("/healthz", token="").status == 200, 90)


def complaint(reply: Reply, valid: bool = True, odd_frame: bool = False) -> str:
    """Return what is wrong with an answer, if anything. valid, odd_frame: as of a Shot."""
    if reply.seconds >= SECONDS:
        return f"no answer within {SECONDS:.0f} s"
    if odd_frame and reply.status in (0, 501, 505):
        return ""
    if reply.status == 0:
        return f"cut off: {reply.body!r}"
    if reply.status in (429, 503):
        return "" if reply.headers.get("retry-after", "").isdigit() else f"{reply.status} without Retry-After"
    if reply.status >= 500 or (valid and reply.status != 200):
        return f"status {reply.status}: {reply.body[:300]!r}"
    return ""


def test_nothing_that_is_sent_is_answered_by_an_error_of_the_servers(door, inside, unharmed):
    seed = os.environ.get("GLMBOX_SEED") or str(random.randrange(10**6))
    print(f"GLMBOX_SEED={seed}")
    marker = f"Losungswort{seed}"
    statuses: Counter[int] = Counter()
    problems: list[str] = []

    def client(number: int) -> None:
        nonsense = Nonsense(f"{seed}-{number}", door, marker)
        left = REQUESTS // CLIENTS
        while left:
            shot = nonsense.shot()
            reply = door.send(shot.raw, shot.method, shot.close_after)
            statuses[reply.status] += 1
            wrong = complaint(reply, shot.valid, shot.odd_frame)
            if wrong:
                problems.append(f"{shot.told}\n    -> {wrong}")
            # What the limit has held back never met the demos.
            left -= reply.status != 429
            time.sleep(max(0.0, PAUSE_SECONDS - reply.seconds))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    print(dict(statuses))
    assert problems == [], f"seed {seed}, {len(problems)} problems:\n" + "\n".join(problems[:20])
    # They have met the demos and not one closed door.
    assert statuses[200] > REQUESTS // 10
    assert statuses[400] > REQUESTS // 10
    journal = inside.run("journalctl", "--no-pager", "--output", "cat")
    assert '"event": "generation"' in journal
    assert marker not in journal
    assert door.token not in journal


def test_two_hundred_clients_at_once_are_answered_or_told_to_come_back(door, inside, unharmed):
    limit = json.loads(inside.loopback("/healthz"))["queue"]["limit"]
    over = threading.Event()

    def watch() -> list[Reply]:
        seen = []
        while not over.wait(0.3):
            seen.append(door.get("/healthz", token=""))
        return seen

    with ThreadPoolExecutor(201) as pool:
        watching = pool.submit(watch)
        replies = list(pool.map(lambda _: door.ask("讲个故事"), range(200)))
        over.set()
        health = watching.result()
    statuses = Counter(reply.status for reply in replies)
    print(dict(statuses), f"health: {max(reply.seconds for reply in health):.2f} s at most")
    assert [complaint(reply) for reply in replies] == [""] * 200
    # Who was answered had a place: so many as may wait, and the one who is served.
    assert statuses[200] >= limit + 1
    assert statuses[503] + statuses[429] > 0
    assert max(reply.seconds for reply in replies if reply.status != 200) < 5
    assert max(reply.seconds for reply in health) < 1
    assert {reply.status for reply in health} <= {200, 429}


def test_fifty_clients_who_come_back_when_told_all_get_their_answer(door, unharmed):
    def client(number: int) -> int:
        patience = time.monotonic() + 60
        while time.monotonic() < patience:
            reply = door.ask("1+1等于几", max_length=64)
            if reply.status == 200:
                return number
            assert complaint(reply) == ""
            # As the clients of OpenAI do it: what they are told, and a little by chance.
            time.sleep(int(reply.headers["retry-after"]) * random.uniform(0.8, 1.2))
        return -1

    with ThreadPoolExecutor(50) as pool:
        assert sorted(pool.map(client, range(50))) == list(range(50))


def trickle(sock: socket.socket, data: bytes, seconds: float) -> float:
    """Send a byte a second for so long, and return after how many seconds the other side has closed; else 0.0."""
    begun = time.monotonic()
    sock.settimeout(1)
    for byte in data:
        if time.monotonic() - begun > seconds:
            return 0.0
        try:
            sock.send(bytes([byte]))
            if sock.recv(4096) == b"":
                return time.monotonic() - begun
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - begun
    return 0.0


def test_a_byte_a_second_holds_no_place(door, inside, unharmed):
    """In the head it is cut off. A body may take its time for who has a token, and meets no demo before it is whole."""
    data = json.dumps({"prompt": "你好", "history": [], "max_length": 64}).encode() + b" " * 5000
    length = ("Content-Type: application/json", f"Content-Length: {len(data)}")
    heads = [door.connect() for _ in range(20)]
    bodies = [door.connect() for _ in range(20)]
    for sock in bodies:
        sock.sendall(door.head("POST", "/", *length))
    # Without the token the refusal does not wait for the body.
    stranger = door.send(door.head("POST", "/", *length, token=""))
    assert (stranger.status, stranger.seconds < 2) == (401, True)
    slow_head = door.head("GET", "/v1/models", "X-Slow: " + "a" * 500)
    with ThreadPoolExecutor(40) as pool:
        cut_heads = [pool.submit(trickle, sock, slow_head, 30) for sock in heads]
        cut_bodies = [pool.submit(trickle, sock, data, 12) for sock in bodies]
        for _ in range(8):
            assert inside.queue() == (0, 0)
            assert door.answers()
            time.sleep(1)
        seconds = [cut.result() for cut in cut_heads]
        assert all(0 < cut < 20 for cut in seconds), seconds
        assert [cut.result() for cut in cut_bodies] == [0.0] * 20
    for sock in heads + bodies:
        sock.close()


def test_a_stream_that_is_cut_in_the_middle_frees_its_place(slow, door, inside, unharmed):
    cancelled = inside.generations("cancelled")
    streams = [door.stream("讲个故事") for _ in range(3)]
    # The first one speaks, two wait.
    seen = b""
    while b"data: " not in seen:
        seen += streams[0].recv(65536)
    until(lambda: inside.queue() == (1, 2), 5)
    for sock in streams:
        sock.close()
    seconds = until(lambda: inside.queue() == (0, 0), 5)
    until(lambda: inside.generations("cancelled") > cancelled, 5)
    print(f"free after {seconds:.1f} s")
    assert door.answers()


def test_who_does_not_read_the_answer_holds_up_nobody_for_long(slow, door, inside, unharmed):
    """An answer without end, at most 200 tokens long: it fills no buffer, and its place is free when it is written."""
    tokens = 200
    sock = door.stream("讲个故事", receive_buffer=1024, temperature=5, top_p=1, max_tokens=tokens)
    until(lambda: inside.queue() == (1, 0), 5)
    begun = time.monotonic()
    assert door.answers()
    waited = time.monotonic() - begun
    print(f"the next one waited {waited:.1f} s")
    assert waited < tokens * SLOW_TOKEN_SECONDS * 1.5 + 10
    sock.close()
