"""The box's half of `artifact`: what is accepted, and what a wrong file is told to be."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.fetching import shelf as shelf_module
from ansible_collections.glmbox.box.plugins.module_utils.fetching.aria2 import aria2_input
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf, Wrong
from ansible_collections.glmbox.box.plugins.modules import artifact

CONTENT = b"the right bytes"


def entry(content: bytes = CONTENT, **more) -> dict:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"artifact": "a", "path": "x.bin", "sha256": sha256, "size": len(content), "part": "part", "urls": []} | more


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *_: None)
    (tmp_path / ".arriving").mkdir()
    return Shelf(str(tmp_path))


def arrive(shelf, content: bytes) -> None:
    with open(shelf.part(entry()), "wb") as file:
        file.write(content)


def test_a_proven_file_gets_its_name_and_a_stamp(shelf):
    arrive(shelf, CONTENT)
    shelf.accept(entry(), "a mirror", keep_bad=False)
    assert open(shelf.final(entry()), "rb").read() == CONTENT
    assert Shelf(shelf.dest).stands(entry(), recheck=False)


def test_a_stamp_spares_the_reading_until_the_file_changes(shelf, monkeypatch):
    arrive(shelf, CONTENT)
    shelf.accept(entry(), "a mirror", keep_bad=False)
    monkeypatch.setattr(shelf_module, "sha256_of", lambda path: "read")
    assert Shelf(shelf.dest).stands(entry(), recheck=False)
    assert not Shelf(shelf.dest).stands(entry(), recheck=True)
    os.utime(shelf.final(entry()), ns=(1, 1))
    assert not Shelf(shelf.dest).stands(entry(), recheck=False)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_an_unstamped_file_is_read(shelf, size):
    assert not shelf.stands(entry(size=size), recheck=False)
    os.makedirs(os.path.dirname(shelf.final(entry())))
    with open(shelf.final(entry()), "wb") as file:
        file.write(CONTENT)
    assert shelf.stands(entry(size=size), recheck=False)
    with open(shelf.final(entry()), "wb") as file:
        file.write(CONTENT[::-1])
    assert not shelf.stands(entry(size=size), recheck=False)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer of 56 bytes"),
        (b"\n<!DOCTYPE html><html>expired</html>", "is an HTML page of 36 bytes"),
        (CONTENT[:5], "has 5 bytes where 15 were expected"),
        (CONTENT[::-1], f"has sha256 {hashlib.sha256(CONTENT[::-1]).hexdigest()} where"),
    ],
)
def test_a_wrong_file_is_named_and_never_gets_the_final_name(shelf, content, sentence):
    arrive(shelf, content)
    with pytest.raises(Wrong) as caught:
        shelf.accept(entry(), "mirror.example", keep_bad=False)
    assert sentence in str(caught.value)
    assert "x.bin of a from mirror.example" in str(caught.value)
    assert not os.path.exists(shelf.final(entry()))
    assert not os.path.exists(shelf.part(entry()))


def test_a_wrong_file_is_kept_only_when_asked(shelf):
    arrive(shelf, b"wrong")
    with pytest.raises(Wrong):
        shelf.accept(entry(), "mirror.example", keep_bad=True)
    assert open(shelf.final(entry()) + ".bad", "rb").read() == b"wrong"


def test_a_file_that_nobody_has_is_a_sentence(shelf):
    fetched, problems = artifact.bring(
        shelf, [entry(in_bundle=False)], {"connections": 1, "keep_bad": False, "pushed": ""}
    )
    assert fetched == []
    assert problems == [
        "x.bin of a has no mirror and is not in the bundle. Fill the bundle on a machine that has it, then run again."
    ]


def test_aria2_gets_all_mirrors_of_a_file_in_one_line(shelf):
    text = aria2_input(shelf, [entry(urls=["https://one.example/x", "https://two.example/x"])])
    assert text.splitlines()[0] == "https://one.example/x\thttps://two.example/x"
    assert f"  out={entry()['part']}" in text.splitlines()


def test_a_download_that_was_given_up_is_no_hindrance_to_a_push(shelf):
    arrive(shelf, CONTENT)
    with open(shelf.part(entry()) + ".aria2", "wb") as file:
        file.write(b"of an earlier run")
    params = {"connections": 1, "keep_bad": False, "pushed": ""}
    fetched, problems = artifact.bring(shelf, [entry(in_bundle=True)], params)
    assert problems == []
    assert fetched[0]["source"] == "the bundle"
    assert os.listdir(shelf.arriving) == []


def test_what_a_killed_push_left_goes(shelf):
    for name in ("push-old.tar", "push-new.tar"):
        with tarfile.open(os.path.join(shelf.arriving, name), "w") as tar:
            member = tarfile.TarInfo("part")
            member.size = len(CONTENT)
            tar.addfile(member, io.BytesIO(CONTENT))
    with open(os.path.join(shelf.arriving, "push-old.tar"), "wb") as file:
        file.write(b"half")
    artifact.unpack_push(shelf, "push-new.tar")
    assert os.listdir(shelf.arriving) == ["part"]
