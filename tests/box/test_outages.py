"""What befalls a box: killed processes, a full disk, a boot. It comes back by itself, and lets nobody in meanwhile."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import box
import pytest
from abuse.client import Door, Reply, until
from abuse.inside import Inside, door_of, inside_of

BACK_SECONDS = 90
# Bodies that nginx holds in memory, and ones that it would write to a disk.
SIZES = (10, 100_000)
WRITTEN = ("/var/lib/glmbox/gateway", "/var/lib/glmbox/data/cache")
WRITERS = ("glmbox-gateway", "glmbox-demos")
PORTS_AT_A_TIME = 500


@pytest.fixture(scope="module")
def door(served_box) -> Door:
    return door_of(served_box)


@pytest.fixture(scope="module")
def inside(served_box) -> Inside:
    return inside_of(served_box)


@contextmanager
def nobody_is_let_in(door: Door) -> Iterator[list[Reply]]:
    """Ask without a token and with a wrong one all the while, and hold every answer to it that it gives nothing."""
    over, seen = threading.Event(), []

    def poll(token: str, pause: float) -> None:
        while not over.wait(pause):
            seen.extend([door.get("/v1/models", token=token), door.get("/", token=token)])
            seen.append(door.post("/", {"prompt": "你好"}, token=token))

    threads = [threading.Thread(target=poll, args=given) for given in (("", 0.2), ("0" * 48, 3))]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()
    # 0: nothing listens, or the connection ends. 429: the wrong token has been tried too often.
    statuses = {reply.status for reply in seen}
    assert statuses <= {0, 401, 429, 503}, statuses
    assert 401 in statuses
    assert not any(b"response" in reply.body or b"chatglm" in reply.body.lower() for reply in seen if reply.status)


def is_ready(door: Door) -> bool:
    return door.get("/healthz", token="").status == 200 and door.answers()


def test_every_process_that_is_killed_is_replaced(door, inside):
    assert is_ready(door)
    times = {}
    with nobody_is_let_in(door):
        for unit in inside.units():
            # The main process last: with it go the others.
            for pid in reversed(inside.pids(unit)):
                main = pid == int(inside.shown(unit, "MainPID"))
                inside.run("kill", "-9", str(pid))
                until(lambda pid=pid: not inside.alive(pid), 10)
                seconds = until(lambda: is_ready(door), BACK_SECONDS)
                until(lambda unit=unit: inside.shown(unit, "ActiveState") == "active", BACK_SECONDS)
                times[f"{unit} {'main' if main else 'worker'}"] = round(seconds, 1)
                assert inside.shown(unit, "MainPID") != str(pid)
    print(times)
    assert {unit for unit in inside.units() if inside.shown(unit, "NRestarts") == "0"} == set()


@pytest.fixture
def small_disk(door, inside):
    """The folders that the services write, on a disk of 4 MiB."""
    for folder in WRITTEN:
        inside.shell(f"mount -t tmpfs -o size=4m,mode=0750,uid=$(id -u glmbox),gid=$(id -g glmbox) small {folder}")
    inside.restart(*WRITERS)
    until(lambda: is_ready(door), BACK_SECONDS)
    yield
    for folder in WRITTEN:
        inside.shell(f"umount {folder}")
    inside.restart(*WRITERS)
    until(lambda: is_ready(door), BACK_SECONDS)


def fill(inside: Inside) -> None:
    for folder in WRITTEN:
        inside.shell(
            f"dd if=/dev/zero of={folder}/filler bs=64k 2>/dev/null; test $(df --output=avail {folder} | tail -1) = 0"
        )


def test_a_full_disk_stops_no_answer(door, inside, small_disk):
    before = {unit: inside.life(unit) for unit in inside.units()}
    fill(inside)
    for size in SIZES:
        # White space, which JSON allows and no model reads.
        reply = door.post("/", {"prompt": "你好", "history": [], "x": " " * size})
        assert reply.status in (200, 503), (size, reply.status, reply.body[:300])
    assert door.answers()
    assert door.get("/").status == 200
    for folder in WRITTEN:
        inside.shell(f"rm {folder}/filler")
    reply = door.post("/", {"prompt": "你好", "history": [], "x": " " * SIZES[-1]})
    assert reply.status == 200
    assert {unit: inside.life(unit) for unit in inside.units()} == before


def test_exactly_two_ports_are_open(inside):
    """The container's own address, past the port map."""
    address = box.podman("inspect", "--format", "{{.NetworkSettings.IPAddress}}", inside.name)
    assert open_ports(address) == [22, 3389]


def open_ports(address: str) -> list[int]:
    """Return which of all TCP ports of an address accept a connection."""
    found = []
    for first in range(1, 65536, PORTS_AT_A_TIME):
        waiting = {}
        poller = select.poll()
        for port in range(first, min(first + PORTS_AT_A_TIME, 65536)):
            sock = socket.socket()
            sock.setblocking(False)
            begun = sock.connect_ex((address, port))
            assert begun in (0, errno.EINPROGRESS, errno.ECONNREFUSED), f"port {port}: {errno.errorcode[begun]}"
            waiting[sock.fileno()] = sock
            poller.register(sock, select.POLLOUT)
        deadline = time.monotonic() + 10
        while waiting:
            # A port that does not answer at all would be a firewall's, which no box of ours has.
            assert time.monotonic() < deadline, f"ports near {first} do not answer"
            for number, _ in poller.poll(1000):
                poller.unregister(number)
                with waiting.pop(number) as sock:
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        found.append(sock.getpeername()[1])
    return sorted(found)


def test_a_boot_brings_everything_back(door, inside):
    with nobody_is_let_in(door):
        box.podman("restart", "--time", "10", inside.name)
        box.wait_until_up(inside.name)
        seconds = until(lambda: is_ready(door), BACK_SECONDS)
        for unit in inside.units():
            until(lambda unit=unit: inside.shown(unit, "ActiveState") == "active", BACK_SECONDS)
    print(f"ready {seconds:.1f} s after systemd was up")
