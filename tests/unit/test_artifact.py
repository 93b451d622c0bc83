"""The box's half of `artifact`: what is accepted, and what a wrong file is told to be."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.fetching import shelf as shelf_module
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf, Wrong
from ansible_collections.glmbox.box.plugins.modules import artifact

CONTENT = b"the right bytes"


def entry(content: bytes = CONTENT, **more) -> dict:
    sha256 = hashlib.sha256(content).hexdigest()
    found = {"artifact": "a", "path": "x.bin", "sha256": sha256, "size": len(content), "part": "part", "urls": []}
    return found | {"estimate": None, "in_bundle": True} | more


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *_: None)
    (tmp_path / ".arriving").mkdir()
    return Shelf(str(tmp_path))


def arrive(shelf, content: bytes) -> None:
    with open(shelf.pushed(entry()), "wb") as file:
        file.write(content)


def accept(shelf, file: dict, keep_bad: bool = False, found: str | None = None) -> None:
    shelf.accept(file, shelf.pushed(file), "mirror.example", keep_bad, found)
    shelf.save()


def stands(shelf, file: dict, recheck: bool = False) -> bool:
    return Shelf(shelf.dest).missing([file], recheck) == []


def test_a_proven_file_gets_its_name_and_a_stamp(shelf):
    arrive(shelf, CONTENT)
    accept(shelf, entry())
    assert open(shelf.final(entry()), "rb").read() == CONTENT
    assert stands(shelf, entry())


def test_a_stamp_spares_the_reading_until_the_file_changes(shelf, monkeypatch):
    arrive(shelf, CONTENT)
    accept(shelf, entry())
    monkeypatch.setattr(shelf_module, "sha256_of", lambda path: "read")
    assert stands(shelf, entry())
    assert not stands(shelf, entry(), recheck=True)
    os.utime(shelf.final(entry()), ns=(1, 1))
    assert not stands(shelf, entry())


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_an_unstamped_file_is_read(shelf, size):
    assert not stands(shelf, entry(size=size))
    os.makedirs(os.path.dirname(shelf.final(entry())))
    with open(shelf.final(entry()), "wb") as file:
        file.write(CONTENT)
    assert stands(shelf, entry(size=size))
    with open(shelf.final(entry()), "wb") as file:
        file.write(CONTENT[::-1])
    assert not stands(shelf, entry(size=size))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer of 56 bytes"),
        (
            b"\n<!DOCTYPE html><html>expired</html>",
            "is an HTML page (a login, an error, or a share link that expired) of 36 bytes",
        ),
        (CONTENT[:5], "has 5 bytes where 15 were expected"),
        (CONTENT[::-1], f"has sha256 {hashlib.sha256(CONTENT[::-1]).hexdigest()} where"),
    ],
)
def test_a_wrong_file_is_named_and_never_gets_the_final_name(shelf, content, sentence):
    arrive(shelf, content)
    with pytest.raises(Wrong) as caught:
        accept(shelf, entry())
    assert sentence in str(caught.value)
    assert "x.bin of a from mirror.example" in str(caught.value)
    assert not os.path.exists(shelf.final(entry()))
    assert not os.path.exists(shelf.pushed(entry()))


def test_a_wrong_file_is_kept_only_when_asked(shelf):
    arrive(shelf, b"wrong")
    with pytest.raises(Wrong):
        accept(shelf, entry(), keep_bad=True)
    assert open(shelf.final(entry()) + ".bad", "rb").read() == b"wrong"


def test_a_hash_taken_on_the_way_is_believed_only_if_it_is_right(shelf, monkeypatch):
    """A wrong one may be the follower's mistake, so the file is read once more; a right one spares the reading."""
    arrive(shelf, CONTENT)
    accept(shelf, entry(), found="0" * 64)
    assert stands(shelf, entry())
    os.unlink(shelf.final(entry()))
    arrive(shelf, CONTENT)
    monkeypatch.setattr(shelf_module, "sha256_of", lambda path: "read")
    accept(shelf, entry(), found=entry()["sha256"])


def test_the_first_arrival_without_a_hash_is_the_right_one(shelf):
    arrive(shelf, CONTENT)
    file = entry(sha256="")
    accept(shelf, file)
    assert Shelf(shelf.dest).first_hashes([file]) == [
        {"artifact": "a", "path": "x.bin", "sha256": hashlib.sha256(CONTENT).hexdigest()}
    ]
    assert stands(shelf, file, recheck=True)
    with open(shelf.final(file), "wb") as opened:
        opened.write(CONTENT[::-1])
    assert not stands(shelf, file, recheck=True)


@pytest.mark.parametrize("content", [b"<html>log in</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_page_is_no_first_arrival(shelf, content):
    arrive(shelf, content)
    with pytest.raises(Wrong):
        accept(shelf, entry(sha256="", size=None))


def test_what_was_pushed_is_taken_and_what_was_not_is_a_sentence(shelf):
    arrive(shelf, CONTENT)
    taken, problems = artifact.take_pushed(shelf, [entry()], keep_bad=False)
    assert (taken[0]["source"], problems) == ("the bundle", [])
    taken, problems = artifact.take_pushed(shelf, [entry(part="other")], keep_bad=False)
    assert (taken, problems) == ([], ["x.bin of a was not pushed whole. Run again."])


def test_a_part_with_holes_counts_what_has_arrived(shelf):
    os.makedirs(shelf.partial)
    with open(shelf.part(entry()), "wb") as file:
        file.seek(8 * 2**20)
        file.write(b"x" * 8192)
    assert 8192 <= shelf.here(entry()) < 2**20


def test_what_a_killed_push_left_goes(shelf):
    for name in ("push-old.tar", "push-new.tar"):
        with tarfile.open(os.path.join(shelf.arriving, name), "w") as tar:
            member = tarfile.TarInfo("part")
            member.size = len(CONTENT)
            tar.addfile(member, io.BytesIO(CONTENT))
    with open(os.path.join(shelf.arriving, "push-old.tar"), "wb") as file:
        file.write(b"half")
    os.utime(os.path.join(shelf.arriving, "push-old.tar"), (1, 1))
    artifact.unpack_push(shelf, "push-new.tar")
    assert os.listdir(shelf.arriving) == ["part"]


def test_another_runs_push_is_left_alone(shelf):
    """Two controllers may push to one box."""
    with open(os.path.join(shelf.arriving, "push-others.tar"), "wb") as file:
        file.write(b"on its way")
    artifact.unpack_push(shelf, "")
    assert os.listdir(shelf.arriving) == ["push-others.tar"]


def test_nothing_is_followed_that_the_login_user_laid_down(shelf, tmp_path):
    secret = tmp_path / "shadow"
    secret.write_text("secret")
    os.symlink(secret, shelf.pushed(entry()))
    assert artifact.take_pushed(shelf, [entry(sha256="")], keep_bad=False)[0] == []
    with tarfile.open(os.path.join(shelf.arriving, "push-1.tar"), "w") as tar:
        member = tarfile.TarInfo("part")
        member.size = len(CONTENT)
        tar.addfile(member, io.BytesIO(CONTENT))
    artifact.unpack_push(shelf, "push-1.tar")
    assert secret.read_text() == "secret"
    assert not os.path.islink(shelf.pushed(entry()))


def test_a_trusted_file_that_was_put_there_by_hand_is_taken_as_it_is(shelf):
    """Where nobody knows a hash, what the operator laid down is the first arrival, and a page is none."""
    os.makedirs(os.path.dirname(shelf.final(entry())))
    for content, taken in ((CONTENT, True), (b"<html>log in</html>", False)):
        with open(shelf.final(entry()), "wb") as file:
            file.write(content)
        file = entry(sha256="", size=None)
        fresh = Shelf(shelf.dest)
        assert (fresh.missing([file], recheck=False) == []) == taken
        if taken:
            fresh.stamp(file)
            assert fresh.first_hashes([file])[0]["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_stamps_of_two_writers_are_both_kept(shelf):
    """A push and a job may stamp files of one artifact side by side."""
    first, second = Shelf(shelf.dest), Shelf(shelf.dest)
    for one, path in ((first, "x.bin"), (second, "y.bin")):
        one.stamps("a")
        with open(one.pushed(entry()), "wb") as file:
            file.write(CONTENT)
        one.accept(entry(path=path), one.pushed(entry()), "mirror.example", False)
    first.save()
    second.save()
    assert Shelf(shelf.dest).missing([entry(), entry(path="y.bin")], recheck=False) == []
    assert set(Shelf(shelf.dest).stamps("a")) == {"x.bin", "y.bin"}


def test_what_was_told_is_not_told_again_and_what_is_new_is(tmp_path, monkeypatch):
    """Two runs may bring the same file in the same time."""
    result = {"fetched": [{"path": "x.bin", "seconds": 0.2}], "problems": []}
    status = {"state": "done", "log": str(tmp_path / "log"), "result": result}
    monkeypatch.setattr(artifact.jobs, "status", lambda state_dir, name: status)
    (tmp_path / "result.json").write_text("{}")
    tell = [artifact.reports({"jobs_dir": "jobs"}, ["a"], failures=True)["fetched"] for _ in range(2)]
    assert tell == [result["fetched"], []]
    os.utime(tmp_path / "result.json", ns=(1, 1))
    assert artifact.reports({"jobs_dir": "jobs"}, ["a"], failures=True)["fetched"] == result["fetched"]
