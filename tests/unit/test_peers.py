"""Neighbours: what the forced command refuses, and how a file is taken through a stub of ssh that runs it here."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.fetching.peers import Neighbours, last_words
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf

SERVE = Path(__file__).resolve().parent.parent.parent / "roles" / "fetch" / "files" / "serve_peer.py"
CONTENT = random.Random(1).randbytes(300_000)  # the same in every worker: it stands in names of tests
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "weights/你 好's.bin"
# Stands in for ssh: notes what is asked of whom, then does what the host's mode says.
STUB = f"""#!/bin/sh
for word; do before=$last; last=$word; done
echo "$before ${{last##* }}" >>"$STUB_FOLDER/asked"
export SSH_ORIGINAL_COMMAND="$last"
serve() {{ exec {shlex.quote(sys.executable)} -I -X utf8 {shlex.quote(str(SERVE))} "$STUB_FOLDER/shelf"; }}
case "$(cat "$STUB_FOLDER/$before" 2>/dev/null || echo well)" in
    well) serve ;;
    halting) serve | head -c 100000; exit 255 ;;
    stalling) (serve) | head -c 100000; exec sleep 60 ;;
    gone) echo 'ssh: connect to host 192.0.2.9 port 22: Connection refused' >&2; exit 255 ;;
    endless) exec cat /dev/zero ;;
esac
"""


def entry(**more) -> dict:
    size = {"size": len(CONTENT), "estimate": None}
    return {"artifact": "a-1.0", "path": PATH, "sha256": SHA256, "part": "part", "urls": [], **size} | more


def standing(folder: Path, content: bytes = CONTENT) -> Shelf:
    """Return a shelf on which the file stands, proven."""
    shelf = Shelf(str(folder))
    final = Path(shelf.final(entry()))
    final.parent.mkdir(parents=True)
    final.write_bytes(content)
    shelf.stamp(entry())
    shelf.save()
    return shelf


def serve(shelf: Shelf, asked: str) -> subprocess.CompletedProcess:
    """Run the forced command as sshd would."""
    environment = {"SSH_ORIGINAL_COMMAND": asked, "LC_ALL": "C"}
    command = [sys.executable, "-I", "-X", "utf8", str(SERVE), shelf.dest]
    return subprocess.run(command, capture_output=True, env=environment, check=False)


def request(artifact: str = "a-1.0", path: str = PATH, sha256: str = SHA256, offset: object = 0) -> str:
    return " ".join(shlex.quote(str(word)) for word in (artifact, path, sha256, offset))


@pytest.mark.parametrize("offset", [0, 1, 299_999, 300_000])
def test_a_proven_file_is_served_from_the_offset_on(tmp_path, offset):
    ended = serve(standing(tmp_path), request(offset=offset))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, CONTENT[offset:], b"")


NOTHING_ELSE = "This key reads proven artifacts and nothing else"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("", NOTHING_ELSE),
        ("id", NOTHING_ELSE),
        ("cat /etc/shadow", NOTHING_ELSE),
        (request() + " more", NOTHING_ELSE),
        (request()[1:] + " 'open", NOTHING_ELSE),
        (request(offset=-1), NOTHING_ELSE),
        (request(offset="1e3"), NOTHING_ELSE),
        (request(offset="²"), NOTHING_ELSE),
        (request(offset="9" * 40), NOTHING_ELSE),
        (request(artifact="../a-1.0"), NOTHING_ELSE),
        (request(artifact=".stamps"), NOTHING_ELSE),
        (request(artifact="/etc"), NOTHING_ELSE),
        (request(offset=300_001), "ends before byte 300001"),
        (request(artifact="b"), "is not proven here"),
        (request(path="unstamped.bin"), "is not proven here"),
        (request(path="../a-1.0/" + PATH), "is not proven here"),
        (request(path="../../secret"), "is not proven here"),
        (request(path="/etc/passwd"), "is not proven here"),
        (request(path="."), "is not proven here"),
        (request(sha256="0" * 64), "is here with another content"),
    ],
)
def test_anything_else_is_refused(tmp_path, asked, sentence):
    shelf = standing(tmp_path / "shelf")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "shelf" / "a-1.0" / "unstamped.bin").write_bytes(CONTENT)
    ended = serve(shelf, asked)
    assert (ended.returncode, ended.stdout) == (3, b"")
    assert sentence in ended.stderr.decode()
    assert len(ended.stderr.decode().splitlines()) == 1


def test_what_was_changed_since_is_refused(tmp_path):
    shelf = standing(tmp_path)
    final = Path(shelf.final(entry()))
    with final.open("r+b") as file:
        file.write(b"X")
    ended = serve(shelf, request())
    assert (ended.returncode, ended.stdout) == (3, b"")
    assert "was changed after it was proven" in ended.stderr.decode()
    final.unlink()
    assert "cannot be read: No such file" in serve(shelf, request()).stderr.decode()


@pytest.mark.parametrize("link", [PATH, "weights"])
def test_a_link_that_leaves_the_shelf_is_refused(tmp_path, link):
    """Even where its target bears the stamp's size, time and inode."""
    shelf = standing(tmp_path / "shelf")
    inside, outside = tmp_path / "shelf" / "a-1.0" / link, tmp_path / "outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    ended = serve(shelf, request())
    assert (ended.returncode, ended.stdout) == (3, b"")
    assert "leads out of the artifact's folder" in ended.stderr.decode()


class Taking:
    """A box that takes from neighbours, each of which is the stub."""

    def __init__(self, folder: Path, neighbours: int) -> None:
        self.folder, self.said, self.moves = folder, [], []  # type: Path, list[str], list[int]
        self.shelf = Shelf(str(folder / "here"))
        Path(self.shelf.partial).mkdir(parents=True)
        peers = [{"name": f"box{n}", "host": f"192.0.2.{n}", "port": 22, "user": "u"} for n in range(neighbours)]
        settings = {"peers": peers, "stall_seconds": 1, "keep_bad": False}
        self.neighbours = Neighbours(self.shelf, settings, self.said.append)
        self.part = Path(self.shelf.part(entry()) + ".peer")

    def mode(self, mode: str, neighbour: int = 0) -> None:
        (self.folder / f"192.0.2.{neighbour}").write_text(mode)

    def take(self, **more) -> dict:
        return self.neighbours.take(entry(**more), self.moves.append)

    def stands(self) -> bool:
        return Shelf(self.shelf.dest).missing([entry()], recheck=False) == []

    def asked(self) -> list[str]:
        """Return whom the stub was to ask from which byte on."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def taking(request, tmp_path, monkeypatch):
    """A box with one neighbour, or as many as the test is parametrized with."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(STUB)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("STUB_FOLDER", str(tmp_path))
    monkeypatch.setattr(os, "chown", lambda *_: None)
    standing(tmp_path / "shelf")
    return Taking(tmp_path, getattr(request, "param", 1))


def test_a_file_comes_from_a_neighbour_and_is_proven(taking):
    got = taking.take()
    assert {key: got[key] for key in ("artifact", "path", "bytes", "source", "verified")} == {
        "artifact": "a-1.0",
        "path": PATH,
        "bytes": 300_000,
        "source": "box0 (a neighbour)",
        "verified": "sha256",
    }
    assert got["seconds"] > 0
    assert taking.stands()
    assert taking.moves[-1] == 300_000
    assert os.listdir(taking.shelf.partial) == []


def test_what_an_earlier_run_left_is_gone_on_with(taking):
    taking.part.write_bytes(CONTENT[:123_456])
    assert taking.take()["bytes"] == 300_000
    assert taking.asked() == ["192.0.2.0 123456"]
    assert taking.said[0] == f"{PATH} goes on after 123456 bytes"


def test_what_an_earlier_run_left_is_not_believed(taking):
    taking.part.write_bytes(bytes(123_456))
    assert taking.take()["bytes"] == 300_000
    assert taking.asked() == ["192.0.2.0 123456", "192.0.2.0 0"]
    assert taking.stands()


def test_a_connection_that_breaks_is_made_again_as_long_as_it_brings_something(taking):
    taking.mode("halting")
    assert taking.take()["bytes"] == 300_000
    assert taking.asked() == ["192.0.2.0 0", "192.0.2.0 100000", "192.0.2.0 200000"]


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("gone", "box0 (a neighbour): ssh: connect to host 192.0.2.9 port 22: Connection refused, so it is out"),
        ("stalling", "box0 (a neighbour): it sent nothing for 1 s, so it is out"),
        ("endless", f"box0 (a neighbour): it sends more than the 300000 bytes of {PATH}, so it is out"),
    ],
)
def test_a_neighbour_that_fails_is_asked_no_more(taking, mode, sentence):
    taking.mode(mode)
    assert taking.take(urls=["https://mirror.example/x"]) == {}
    assert taking.said == [sentence]
    assert os.listdir(taking.shelf.partial) == []
    taking.mode("well")
    assert taking.take() == {}
    assert len(taking.asked()) == 1


def test_what_came_stays_where_there_is_no_mirror(taking):
    taking.mode("stalling")
    assert taking.take() == {}
    assert taking.part.read_bytes() == CONTENT[:100_000]


def test_wrong_bytes_are_not_accepted(taking):
    """They were changed so that size, time and inode tell nothing."""
    final = taking.folder / "shelf" / "a-1.0" / PATH
    before = final.stat()
    with final.open("r+b") as file:
        file.write(b"not these")
    os.utime(final, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert taking.take() == {}
    assert not os.path.exists(taking.shelf.final(entry()))
    assert taking.said[0].startswith(f"box0 (a neighbour): {PATH} of a-1.0 from box0 (a neighbour) has sha256 ")
    assert taking.take() == {}
    assert len(taking.asked()) == 1


def test_a_neighbour_without_the_file_is_asked_for_the_next_one_and_given_up_after_some(taking):
    for _ in range(5):
        assert taking.take(path="other.bin") == {}
    assert taking.said == ["box0 (a neighbour) gives no other.bin: other.bin of a-1.0 is not proven here"] * 3
    assert len(taking.asked()) == 3


@pytest.mark.parametrize("taking", [2], indirect=True)
def test_the_next_neighbour_goes_on_where_one_failed(taking):
    taking.mode("stalling")
    assert taking.take()["source"] == "box1 (a neighbour)"
    assert taking.asked() == ["192.0.2.0 0", "192.0.2.1 100000"]


@pytest.mark.parametrize("taking", [2], indirect=True)
def test_the_next_neighbour_is_not_blamed_for_anothers_bytes(taking):
    taking.part.write_bytes(bytes(100_000))
    taking.mode("gone")
    assert taking.take()["source"] == "box1 (a neighbour)"
    assert taking.asked() == ["192.0.2.0 100000", "192.0.2.1 100000", "192.0.2.1 0"]


def test_a_whole_file_that_was_not_proven_yet_is_not_asked_for_again(taking):
    taking.part.write_bytes(CONTENT)
    assert taking.take()["bytes"] == 300_000
    assert taking.asked() == []


def test_an_empty_file_and_one_of_unknown_size_arrive(taking):
    shelf = Shelf(str(taking.folder / "shelf"))
    empty = entry(path="empty", sha256=hashlib.sha256().hexdigest(), size=0)
    Path(shelf.final(empty)).touch()
    shelf.stamp(empty)
    shelf.save()
    assert taking.neighbours.take(empty, taking.moves.append)["bytes"] == 0
    assert taking.take(size=None)["bytes"] == 300_000


def test_a_file_that_nobody_knows_the_hash_of_is_not_taken(taking):
    assert taking.take(sha256="") == {}
    assert taking.asked() == []


def test_what_a_neighbour_says_cannot_spoil_the_log():
    assert last_words(b"first\n\x1b[2J\xffgone.\n\n") == "?[2J\ufffdgone"
    assert last_words(b"") == "it closed the connection"
    assert len(last_words(b"x" * 5000)) == 300
