"""`artifact` on a real box, against servers of its own loopback that do what mirrors do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest
from fetch_box import DEAD, MIB, content, fetch_box, told
from misbehaving.client import behave, counts

# Large enough for many connections.
CONTENT = content(16 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Way:
    """What a server does. sentence: what a run says where no other source helps, or two parted by " | "; none: the file
    arrives all the same.

    signed: what the server does to which the first one redirects. seen: a status that it must have answered with.
    entry: what is different in the table.
    """

    does: dict
    sentence: str = ""
    signed: dict | None = None
    seen: str = ""
    entry: dict = field(default_factory=dict)


WAYS = {
    "refuses ranges": Way({"no_ranges": True, "rate": 16 * MIB}),
    "one connection": Way({"one_connection": True, "rate": 8 * MIB}, seen="403"),
    "429 to a second connection": Way({"max_connections": 1, "refuse_status": 429, "rate": 8 * MIB}, seen="429"),
    "503 to a third connection": Way({"max_connections": 2, "rate": 8 * MIB}, seen="503"),
    "429": Way({"status": 429}, "it answered 429 (too many requests)"),
    "403": Way({"status": 403}, "it answered 403 (forbidden, or too many connections)"),
    "capped rate": Way({"rate": 2 * MIB}),
    "stalls for good at half": Way({"stall_at": 0.5}, "it stopped sending"),
    "stalls for good at half, capped": Way({"stall_at": 0.5, "rate": 4 * MIB}, "it stopped sending"),
    "resets at half": Way({"reset_at": 0.5}, "the connection broke"),
    "resets at half, capped": Way({"reset_at": 0.5, "rate": 4 * MIB}, "the connection broke"),
    "wrong bytes": Way({"wrong_bytes": True}, f"where {SHA256} was expected"),
    "a page": Way({"html": True}, "it sends an HTML page (a login, an error, or a share link that expired)"),
    "a pointer": Way({"lfs_pointer": True}, "it sends a git-lfs pointer"),
    "redirects": Way({}, signed={}),
    # aria2c asks a link for the length, then for the bytes.
    "redirects, to a link that expires": Way({}, signed={"signed_lives": 2, "reset_at": 0.5, "reset_times": 1}),
    "redirects, to a link that never lives": Way({}, "it answered 403", signed={"signed_lives": 0}),
    "says longer": Way({"lie_length": "longer"}, f"says that the file has {len(CONTENT) + 1000} bytes, not"),
    "says shorter": Way({"lie_length": "shorter"}, f"says that the file has {len(CONTENT) - 1000} bytes, not"),
    "says longer, of an unknown size": Way(
        {"lie_length": "longer"}, "it closed the connection too early", entry={"size": None}
    ),
    "says shorter, of an unknown size": Way({"lie_length": "shorter"}, "it has sha256 ", entry={"size": None}),
    # Which of its two faults is met last depends on how much of the first try was written down.
    "refuses ranges and resets at half": Way(
        {"no_ranges": True, "reset_at": 0.5}, "the connection broke | it cannot resume"
    ),
    "truncates": Way({"truncate": True}, "it closed the connection too early"),
    "down": Way({"down": True}, "the connection broke"),
    "dies and comes back": Way({"down_after_bytes": 6 * MIB, "down_seconds": 1.5}),
    "slow to answer": Way({"slow_headers": 1}),
    "trickles": Way({"rate": 300}, "it stopped sending"),
}


@pytest.fixture(scope="module")
def on(tmp_path_factory):
    """A box with five servers: two and two that misbehave, each pair one and whom it redirects to, and a good one."""
    with fetch_box("fetch", tmp_path_factory.mktemp("fetch"), 5) as made:
        made.publish({"file.bin": CONTENT})
        yield made


@pytest.fixture(autouse=True)
def afresh(on):
    on.behave_all()


def misbehave(port: int, signed: int, way: Way) -> None:
    behave(port, **way.does, **({} if way.signed is None else {"redirect_to": f"http://127.0.0.1:{signed}"}))
    behave(signed, **(way.signed or {}))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_bad_source_alone_and_beside_a_good_one(on, way):
    """Alone: the file arrives all the same, or a sentence says what the source did. Beside a good one, which is asked
    after it: the file arrives, and the report says from whom."""
    lone, lone_signed, other, other_signed, good = on.ports
    misbehave(lone, lone_signed, way)
    misbehave(other, other_signed, way)
    on.table("alone", {"file.bin": CONTENT}, [lone, DEAD], **way.entry)
    # By another name of the same host, since hosts are what is preferred.
    on.table("beside", {"file.bin": CONTENT}, [f"http://127.0.0.2:{other}/{{path}}", good], **way.entry)
    got = on.fetch("alone", "beside", preferred_hosts=["127.0.0.2"])
    if way.sentence:
        assert f"file.bin of alone did not arrive. 127.0.0.1:{lone}" in got.failure
        assert any(sentence in got.failure for sentence in way.sentence.split(" | ")), got.failure
        assert f"127.0.0.1:{DEAD}: nothing listens there" in got.failure
        assert "of beside" not in got.failure
        assert on.standing("alone") == []
    else:
        assert got.failure == ""
        assert on.sha256("alone/file.bin") == SHA256
    assert on.sha256("beside/file.bin") == SHA256
    (fetched,) = [file for file in told(got)["fetched"] if file["artifact"] == "beside"]
    assert (fetched["path"], fetched["bytes"], fetched["verified"]) == ("file.bin", len(CONTENT), "sha256")
    assert f"127.0.0.1:{good}" in fetched["source"] or not way.sentence
    assert fetched["source"] in got.output
    if way.seen:
        assert counts(lone)["statuses"][way.seen] > 0
