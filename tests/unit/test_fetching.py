"""Fetching, as far as no bytes move: what failures are called, which sources are asked, and what is done next."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.fetching import fetcher, probe
from ansible_collections.glmbox.box.plugins.module_utils.fetching import transfer as module
from ansible_collections.glmbox.box.plugins.module_utils.fetching.aria2 import (
    DISK_FULL,
    STALLED,
    UNUSABLE,
    Aria2,
    reason_of,
)
from ansible_collections.glmbox.box.plugins.module_utils.fetching.follow import (
    Follower,
    forget,
    front_of,
    note,
    resume,
)
from ansible_collections.glmbox.box.plugins.module_utils.fetching.probe import Source
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf, looks_wrong
from ansible_collections.glmbox.box.plugins.module_utils.fetching.transfer import Broken, Transfer
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json

MIB = 2**20
SIZE = 4 * MIB
GOOD = os.urandom(SIZE)
ONE, TWO = "http://one.example/x", "http://two.example/x"
# As aria2c 1.36 writes it at six of sixteen pieces, and at a part of the seventh.
CONTROL = bytes.fromhex(
    "00010000000000000000001000000000000001000000000000000000000000000002fc0000000001000000060010000000000008ffffffff"
    "00000000"
)


# What aria2c says


SPOKEN = f"""
11/22 22:41:11 [ERROR] CUID#15 - Download aborted. URI={ONE}
Exception: [SocketCore.cc:874] errorCode=1 Failed to receive data, cause: Connection reset by peer

11/22 22:41:33 [ERROR] CUID#15 - Download aborted. URI={TWO}
Exception: [AbstractCommand.cc:351] errorCode=22 URI=http://elsewhere.example/_signed/1/x
  -> [HttpSkipResponseCommand.cc:239] errorCode=22 The response status is not successful. status=403
"""


def test_what_it_says_is_held_against_the_address_that_we_gave():
    aria2 = object.__new__(Aria2)
    aria2._lock, aria2._complaints, aria2._said = threading.Lock(), {}, []
    aria2._process = SimpleNamespace(stdout=SPOKEN.splitlines(keepends=True))
    aria2._listen()
    forbidden = "it answered 403 (forbidden, or too many connections)"
    assert aria2.complaints() == {ONE: "the connection broke", TWO: forbidden}
    assert aria2.complaints() == {}


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("The response status is not successful. status=429", "22", "it answered 429 (too many requests)"),
        ("status=500", "22", "it answered 500"),
        ("Got EOF from the server.", "1", "it closed the connection too early"),
        ("Failed to establish connection, cause: Connection refused", "1", "nothing listens there"),
        ("[DefaultBtProgressInfoFile.cc:298] errorCode=1 total length mismatch. expected: 1, actual: 2", "1", UNUSABLE),
        ("Too slow Downloading speed: 0 <= 1024(B/s), host:127.0.0.1", "5", STALLED),
        ("Timeout.", "2", STALLED),
        ("", "19", "its name does not resolve"),
        ("something new", "77", "aria2c's error 77"),
    ],
)
def test_a_failure_has_words(line, code, words):
    assert reason_of(line, code) == words


# Sources


def source(url: str, rate: float = 0.0, reason: str = "", proxy: str = "") -> Source:
    made = Source(url, proxy)
    made.rate, made.reason = rate, reason
    return made


def test_preferred_hosts_come_first_then_the_faster_and_who_is_out_not_at_all():
    slow, fast, out = source("http://slow/x", 1), source("http://fast:81/x", 9), source("http://out/x", 99, "gone")
    assert probe.ranked([slow, out, fast], []) == [fast, slow]
    assert probe.ranked([fast, out, slow], ["out", "slow"]) == [slow, fast]
    assert probe.ranked([slow, fast], ["fast"]) == [fast, slow]


def test_a_source_is_called_by_its_host_its_way_and_who_delivers_and_never_by_a_login():
    made = Source("https://me:secret@one.example:81/x", "http://me:secret@10.0.0.1:7890")
    made.delivers = "cdn.example"
    assert made.name() == "one.example:81 by cdn.example through 10.0.0.1:7890"


@pytest.mark.parametrize(
    ("status", "headers", "total"),
    [
        (206, {"Content-Range": "bytes 0-9/1234", "Content-Length": "10"}, 1234),
        (206, {"Content-Range": "bytes 0-9/*", "Content-Length": "10"}, None),
        (200, {"Content-Length": "99"}, 99),
        (200, {}, None),
    ],
)
def test_a_files_size_is_read_from_the_answer(status, headers, total):
    assert probe.total_of(status, headers) == total


@pytest.mark.parametrize(
    ("head", "kind", "words"),
    [
        (b"\n <!DOCTYPE html><html>", "", "an HTML page"),
        (b"<HTML>", "", "an HTML page"),
        (b"{}", "text/html; charset=utf-8", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "text/plain", "a git-lfs pointer"),
        (b"PK\x03\x04", "application/zip", ""),
        (b"", "", ""),
    ],
)
def test_what_is_no_artifact_is_seen_by_its_first_bytes(head, kind, words):
    assert looks_wrong(head, len(head), kind).startswith(words)
    assert bool(looks_wrong(head, len(head), kind)) == bool(words)


TURBO = """# AutoDL
export no_proxy=localhost,127.0.0.1
  export http_proxy=http://10.37.1.23:12798 && export https_proxy=http://10.37.1.23:12798
export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
"""


@pytest.mark.parametrize(
    ("environment", "turbo", "proxy"),
    [
        ({}, None, ""),
        ({}, TURBO, "http://10.37.1.23:12798"),
        ({}, "export https_proxy='http://10.0.0.1:1'\n", "http://10.0.0.1:1"),
        ({}, "#export http_proxy=http://10.0.0.1:1\nexport no_proxy=x\n", ""),
        ({"http_proxy": "http://10.0.0.2:2"}, TURBO, "http://10.0.0.2:2"),
        ({"HTTPS_PROXY": "http://10.0.0.3:3", "http_proxy": "http://10.0.0.2:2"}, None, "http://10.0.0.3:3"),
    ],
)
def test_the_boxs_proxy_is_of_its_environment_else_of_its_providers_accelerator(
    tmp_path, monkeypatch, environment, turbo, proxy
):
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if turbo is not None:
        (tmp_path / "turbo").write_text(turbo)
    assert probe.proxy_of_box(str(tmp_path / "turbo")) == proxy


def test_the_operators_proxy_comes_before_the_boxes_own(monkeypatch, tmp_path):
    told = tmp_path / "proxies.json"
    monkeypatch.setenv("https_proxy", "http://of-the-box:1")
    monkeypatch.setenv("GLMBOX_PROXIES", str(told))
    assert probe.proxy_of_box("/nonexistent") == "http://of-the-box:1"
    told.write_text("{}")
    assert probe.proxy_of_box("/nonexistent") == "http://of-the-box:1"
    told.write_text('{"http_proxy": "http://a:b@c:1", "https_proxy": "http://a:b@d:2", "no_proxy": "localhost"}')
    assert probe.proxy_of_box("/nonexistent") == "http://a:b@d:2"


# Hashing what grows, and what an earlier run left


def until(holds, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_file_is_hashed_while_it_grows(tmp_path):
    path = tmp_path / "part"
    follower = Follower(str(path))
    for end in (MIB, 3 * MIB):
        path.write_bytes(GOOD[:end])
        follower.follow(end)
    path.write_bytes(GOOD)
    assert follower.found is None
    follower.finish()
    follower.join(5)
    assert follower.found == hashlib.sha256(GOOD).hexdigest()


@pytest.mark.parametrize("data", [GOOD, b""])
def test_a_file_that_is_here_already_is_hashed_whole(tmp_path, data):
    (tmp_path / "part").write_bytes(data)
    follower = Follower(str(tmp_path / "part"))
    follower.finish()
    follower.join(5)
    assert follower.found == hashlib.sha256(data).hexdigest()


def test_a_file_that_is_given_up_or_gone_has_no_hash(tmp_path):
    (tmp_path / "part").write_bytes(GOOD)
    dropped, gone = Follower(str(tmp_path / "part")), Follower(str(tmp_path / "nothing"))
    dropped.follow(MIB)
    dropped.drop()
    gone.finish()
    for follower in (dropped, gone):
        follower.join(5)
        assert not follower.is_alive()
        assert follower.found is None


@pytest.mark.parametrize(
    ("bitfield", "front"), [("", 0), ("00", 0), ("7f", 0), ("80", 1), ("fc00", 6), ("ff7f", 8), ("ffff", 16)]
)
def test_the_front_is_what_has_no_holes(bitfield, front):
    assert front_of(bitfield, MIB) == front * MIB


@pytest.mark.parametrize(
    ("control", "goes_on"),
    [(CONTROL, True), (None, False), (b"", False), (CONTROL[:20], False), (bytes(len(CONTROL)), False)],
)
def test_only_what_its_control_file_tells_of_is_gone_on_with(tmp_path, control, goes_on):
    part = tmp_path / "part"
    part.write_bytes(GOOD)
    if control is not None:
        (tmp_path / "part.aria2").write_bytes(control)
    assert resume(str(part)) == goes_on
    assert sorted(os.listdir(tmp_path)) == (["part", "part.aria2"] if goes_on else [])
    forget(str(part))
    assert os.listdir(tmp_path) == []


def test_what_a_full_disk_holds_is_noted_but_for_a_piece_that_makes_room(tmp_path):
    part = tmp_path / "part"
    part.write_bytes(GOOD[: 3 * MIB + 5])
    (tmp_path / "part.aria2").touch()
    note(str(part), {"bitfield": "f0", "pieceLength": str(MIB), "totalLength": str(SIZE)})
    assert part.stat().st_size == 3 * MIB
    control = (tmp_path / "part.aria2").read_bytes()
    assert struct.unpack(">HIIIQQI", control[:34]) == (1, 0, 0, MIB, SIZE, 0, 1)
    assert control[34:] == b"\xe0" + bytes(4)
    assert resume(str(part))


# What is done next


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakeAria2:
    """In aria2c's place: notes what it was asked for. links: the addresses that it has connections to."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int]] = []
        self.links: set[str] = set()

    def add(self, urls, folder, name, connections, proxy) -> str:
        self.asked.append((urls, connections))
        return str(len(self.asked))

    def forget(self, gid) -> None:
        pass

    def connected(self, gid) -> set[str]:
        return self.links


class Way:
    """A transfer with a fake aria2c and a clock of its own."""

    def __init__(self, folder: Path, sources: list[Source], clock: Clock, connections: int = 8, **file) -> None:
        self.shelf, self.aria2, self.clock, self.said = Shelf(str(folder)), FakeAria2(), clock, []
        self.file = {"artifact": "a", "path": "x", "sha256": hashlib.sha256(GOOD).hexdigest(), "size": SIZE}
        self.file |= {"part": "part", "urls": [], **file}
        settings = {"stall_seconds": 10, "patience_seconds": 60, "keep_bad": False}
        os.makedirs(self.shelf.partial, exist_ok=True)
        self.transfer = Transfer(self.shelf, self.aria2, self.file, sources, settings, self.said.append)
        self.transfer.connections = connections
        self.part = Path(self.shelf.part(self.file))

    def turn(self, have: int, status: str = "active", complaints: dict | None = None, later: float = 0.1, **state):
        """Let time pass, then aria2c report."""
        self.clock.now += later
        front = "%02x" % (0xFF00 >> have // MIB & 0xFF)
        told = {"completedLength": have, "totalLength": SIZE, "status": status, "bitfield": front, "pieceLength": MIB}
        told |= {"errorCode": "1", "files": [{"uris": [{"uri": ONE, "status": "used"}]}], **state}
        return self.transfer.turn(told, complaints or {})

    def fail(self, have: int, complaints: dict, **state) -> None:
        """Let an attempt fail, and the next one begin where there is one."""
        self.turn(have, "error", complaints, **state)
        self.turn(have, later=10)

    def arrive(self, data: bytes) -> None:
        """Let all arrive and be proven."""
        self.part.write_bytes(data)
        self.turn(len(data), "complete")
        until(lambda: not self.transfer._follower.is_alive())


@pytest.fixture
def way(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(os, "chown", lambda *_: None)

    def make(*sources: Source, **more) -> Way:
        made = Way(tmp_path, list(sources), clock, **more)
        made.transfer.begin()
        return made

    return make


BROKE = "the connection broke"


def test_two_good_sources_serve_at_once_and_a_much_slower_one_waits(way):
    one, two, slow = source(ONE, 10), source(TWO, 4), source("http://slow/x", 2)
    assert way(one, two, slow).aria2.asked == [([ONE, TWO], 8)]
    assert way(one, slow).aria2.asked == [([ONE], 8)]
    assert way(one, two, connections=1).aria2.asked == [([ONE], 1)]


def test_a_fast_connection_is_enough_unless_only_its_sample_was_fast(way):
    fast = way(source(ONE, 100 * MIB))
    assert fast.aria2.asked == [([ONE], 1)]
    fast.turn(MIB, later=1)
    assert fast.aria2.asked == [([ONE], 1), ([ONE], 8)]


@pytest.mark.parametrize("status", ["403 (forbidden, or too many connections)", "429 (too many requests)", "503"])
def test_a_server_that_complains_gets_fewer_connections(way, status):
    made = way(source(ONE, 1))
    made.fail(MIB, {ONE: f"it answered {status}"})
    made.fail(MIB, {ONE: f"it answered {status}"})
    assert [connections for _, connections in made.aria2.asked] == [8, 4, 1]
    assert not made.transfer.sources[0].reason


def test_a_source_that_does_not_have_the_file_is_out_at_once(way):
    made = way(source(ONE, 1), connections=1)
    with pytest.raises(Broken) as caught:
        made.fail(0, {ONE: "it answered 404 (it does not have the file)"})
    assert str(caught.value) == (
        "x of a did not arrive. one.example: it answered 404 (it does not have the file). Add a mirror with "
        "fetch_extra_mirrors, or put the file into the bundle, and run again."
    )


def test_a_source_that_breaks_off_three_times_makes_room_for_another(way):
    one, two = source(ONE, 9), source(TWO, 1)
    made = way(one, two)
    for times in (1, 2, 3):
        assert made.aria2.asked[-1] == ([ONE], 8)
        made.fail(times * MIB, {ONE: BROKE})
    assert (one.reason, two.reason) == (BROKE, "")
    assert made.aria2.asked[-1] == ([TWO], 8)


def test_a_source_that_stalls_makes_room_at_once(way):
    one, two = source(ONE, 9), source(TWO, 1)
    made = way(one, two)
    made.turn(MIB)
    made.turn(MIB, later=12)
    assert (one.reason, two.reason) == (STALLED, "")
    made.turn(MIB, later=10)
    assert made.aria2.asked[-1] == ([TWO], 8)


def test_of_two_sources_only_the_one_that_failed_is_blamed(way):
    one, two = source(ONE, 1), source(TWO, 1)
    made = way(one, two)
    for times in (1, 2, 3):
        made.fail(times * MIB, {TWO: BROKE})
    assert (one.reason, two.reason) == ("", BROKE)
    assert made.aria2.asked[-1] == ([ONE], 8)


def test_of_two_sources_the_one_that_has_done_its_share_did_not_stall(way):
    one, two = source(ONE, 1), source(TWO, 1)
    made = way(one, two)
    made.aria2.links = {ONE}
    made.turn(MIB)
    made.turn(MIB, later=12)
    assert (one.reason, two.reason) == (STALLED, "")


def test_what_was_said_a_moment_before_the_end_counts(way):
    made = way(source(ONE, 1), connections=1)
    made.turn(0, complaints={ONE: "its name does not resolve"})
    with pytest.raises(Broken, match="one.example: its name does not resolve"):
        made.fail(0, {}, errorMessage="No URI available.")


def test_the_only_source_is_tried_again_as_long_as_it_grows_and_then_with_patience(way):
    one = source(ONE, 1)
    made = way(one, connections=1)
    for times in range(1, 4):
        made.fail(times * MIB, {ONE: BROKE})
    grew = made.clock.now - 10
    with pytest.raises(Broken, match=BROKE):
        while True:
            made.fail(3 * MIB, {ONE: BROKE})
    assert 60 <= made.clock.now - grew <= 60 + 25


def test_a_source_that_begins_from_nought_each_time_does_not_outlive_our_patience(way):
    """It refuses ranges and breaks off at half: bytes arrive, and nothing is gained."""
    made = way(source(ONE, 1), connections=1)
    begun = made.clock.now
    with pytest.raises(Broken, match=BROKE):
        while made.clock.now < begun + 1000:
            made.turn(MIB)
            made.fail(2 * MIB, {ONE: BROKE})
            made.turn(0)
    assert made.clock.now < begun + 100


def test_an_overloaded_source_that_never_sent_anything_is_tried_again_with_patience(way):
    made = way(source(ONE, 1), connections=1)
    made.fail(0, {ONE: "it answered 503 (it is overloaded)"})
    assert len(made.aria2.asked) == 2
    with pytest.raises(Broken, match="overloaded"):
        made.fail(0, {ONE: "it answered 503 (it is overloaded)"}, later=61)


def test_wrong_bytes_of_one_source_put_it_out(way):
    one, two = source(ONE, 9), source(TWO, 1)
    made = way(one, two)
    made.arrive(GOOD[::-1])
    assert not made.turn(SIZE)
    assert one.reason.startswith("it has sha256 ")
    assert one.reason.endswith(" was expected")
    assert not made.part.exists()
    made.turn(0)
    assert made.aria2.asked[-1][0] == [TWO]
    made.arrive(GOOD)
    assert made.turn(SIZE)
    assert Path(made.shelf.final(made.file)).read_bytes() == GOOD
    assert made.shelf.stamped(made.file)


def test_wrong_bytes_of_two_sources_let_each_be_asked_alone(way):
    one, two = source(ONE, 1), source(TWO, 1)
    made = way(one, two)
    both = [{"uris": [{"uri": url, "status": "used"} for url in (ONE, TWO)]}]
    made.part.write_bytes(GOOD[::-1])
    made.turn(SIZE, "complete", files=both)
    until(lambda: not made.transfer._follower.is_alive())
    made.turn(SIZE)
    assert (one.reason, two.reason) == ("", "")
    made.turn(0)
    assert made.aria2.asked[-1][0] == [ONE]


def test_wrong_bytes_that_an_earlier_run_may_have_left_are_nobodys_fault(tmp_path, way):
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "part").write_bytes(GOOD[:MIB])
    (tmp_path / ".partial" / "part.aria2").write_bytes(CONTROL)
    one = source(ONE, 1)
    made = way(one)
    made.arrive(GOOD[::-1])
    made.turn(SIZE)
    assert one.reason == ""
    assert not made.part.exists()


def test_what_a_killed_run_had_whole_is_proven_without_asking_anybody(tmp_path, way):
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "part").write_bytes(GOOD)
    made = way(source(ONE, 1))
    until(lambda: not made.transfer._follower.is_alive())
    assert made.turn(SIZE)
    assert made.aria2.asked == []
    assert made.transfer.report()["source"] == "nothing to send"


@pytest.mark.parametrize("sign", ["it has less than before", "a server refuses to go on"])
def test_bytes_that_are_written_anew_are_hashed_anew(way, sign):
    """What was hashed was right, what then stands there is not: the hash of the whole would be that of no file."""
    one = source(ONE, 9)
    made = way(one)
    made.part.write_bytes(GOOD[: 2 * MIB])
    made.turn(2 * MIB)
    time.sleep(0.1)  # it is hashed now, by a thread
    if sign == "it has less than before":
        made.turn(MIB)
    else:
        made.turn(2 * MIB, complaints={ONE: "it cannot resume"})
    made.arrive(GOOD[: 2 * MIB][::-1] + GOOD[2 * MIB :])
    made.turn(SIZE)
    assert one.reason.startswith("it has sha256 ")
    assert not os.path.exists(made.shelf.final(made.file))


def test_a_source_that_lies_about_the_length_is_out_and_what_it_sent_as_well(way):
    one, two = source(ONE, 9), source(TWO, 1)
    made = way(one, two)
    made.part.write_bytes(GOOD[:MIB])
    made.turn(MIB, totalLength=SIZE + 1000)
    assert one.reason == f"it says that the file has {SIZE + 1000} bytes, not {SIZE}"
    assert not made.part.exists()
    made.turn(0)
    assert made.aria2.asked[-1][0] == [TWO]


def test_a_control_file_that_aria2c_cannot_read_is_nobodys_fault(way):
    one = source(ONE, 1)
    made = way(one)
    made.part.write_bytes(GOOD[:MIB])
    made.turn(0, "error", {ONE: UNUSABLE})
    assert one.reason == ""
    assert not made.part.exists()
    made.turn(0)
    assert len(made.aria2.asked) == 2


def test_a_full_disk_ends_it_with_what_is_there_noted(way):
    made = way(source(ONE, 1))
    made.part.write_bytes(GOOD[: 2 * MIB])
    with pytest.raises(Broken, match=f"is full, with {2 * MIB} bytes of x there. Free some and run again"):
        made.turn(2 * MIB, "error", {ONE: "whatever"}, errorCode=DISK_FULL)
    assert made.part.stat().st_size == MIB
    assert resume(str(made.part))


def test_an_empty_file_is_made_here(way):
    made = way(source(ONE, 1), size=0, sha256=hashlib.sha256(b"").hexdigest())
    until(lambda: not made.transfer._follower.is_alive())
    assert made.turn(0)
    assert os.path.getsize(made.shelf.final(made.file)) == 0


def test_an_empty_file_that_should_not_be_one_is_asked_for(way):
    made = way(source(ONE, 1), size=0)
    until(lambda: not made.transfer._follower.is_alive())
    made.turn(0)
    made.turn(0)
    assert made.aria2.asked == [([ONE], 8)]


@pytest.mark.parametrize("reason", ["it answered 404 (it does not have the file)", "it sends an HTML page (a login)"])
def test_a_seafile_link_that_expired_is_told_apart(way, reason):
    out = source("https://cloud.example/seafhttp/files/1234/x", reason=reason)
    with pytest.raises(Broken) as caught:
        way(out)
    assert f"{reason}; this is a Seafile token link, which expires within hours: use the form" in str(caught.value)


# Many files


def waiting(*sizes: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(file={"size": size}, proving=False) for size in sizes]


def test_big_files_come_two_at_a_time_and_small_ones_eight():
    sizes = [20 * MIB + number for number in range(3)] + list(range(9))
    files = waiting(*sizes)
    begun = fetcher.startable(files, [])
    assert [one.file["size"] for one in begun] == sizes[:2] + sizes[3:11]
    left = [one for one in files if one not in begun]
    assert fetcher.startable(left, begun) == []
    begun[0].proving = True
    assert fetcher.startable(left, begun) == [left[0]]


def test_progress_is_one_line_with_the_rate_of_the_last_seconds(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fetcher, "time", clock)
    monkeypatch.setenv("JOB_PROGRESS", str(tmp_path / "progress.json"))
    progress = fetcher.Progress("thing", [{"size": 60 * MIB}, {"size": None, "estimate": 40 * MIB}])
    for second in range(21):
        clock.now += 1
        progress.write(second * MIB if second <= 10 else (2 * second - 10) * MIB, 1, ["a", "b", "c"])
    (item,) = read_json(str(tmp_path / "progress.json"))
    assert (item["label"], item["done"]) == ("thing (1 of 2 files here, now a, b)", 30 * MIB)
    assert (item["total"], item["unit"]) == (100 * MIB, "bytes")
    assert abs(item["rate"] - 2 * MIB) < 0.2 * MIB


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://user:secret@mirror.example/x", "mirror.example"),
        ("user:secret@10.0.0.1:3128", "10.0.0.1:3128"),
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080"),
    ],
)
def test_a_login_stands_in_no_name(address, host):
    assert probe.host_of(address) == host


def test_a_login_goes_into_a_header():
    assert probe.without_login("https://user:s%40cret@mirror.example/x?y") == (
        "https://mirror.example/x?y",
        "user:s@cret",
    )
    assert probe.without_login("https://mirror.example/x") == ("https://mirror.example/x", "")


def test_what_speaks_no_http_is_out_with_a_reason():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble():
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=babble, daemon=True).start()
        (source,) = probe.survey([f"http://127.0.0.1:{server.getsockname()[1]}/x"], "", None, 1024)
    assert source.reason


def test_who_drips_his_headers_is_not_waited_for():
    """A byte now and then never runs into a timeout of the connection."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            link, _ = server.accept()
            with link:
                while not done.wait(0.05):
                    link.sendall(b"H")

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        (source,) = probe.survey([f"http://127.0.0.1:{server.getsockname()[1]}/x"], "", None, 1024, seconds=0.3)
        done.set()
    assert source.reason == "no answer in time"
    assert time.monotonic() - begun < 3
