"""The controller's cache: what is not whole, or not what it says, is never used, and it stays below its limit."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.building.identity import stem_of
from ansible_collections.glmbox.box.plugins.module_utils.packs_cache import Cache, table

SYSTEM = {"architecture": "x86_64", "glibc": "2.31", "distribution": "debian 11", "compiler": "gcc 10"}


def inputs(version: str = "1", **system: str) -> dict:
    return {"name": "hello", "version": version, "system": {**SYSTEM, **system}}


def brought(cache: Cache, content: bytes, given: dict, sha256: str = "") -> str:
    """Let the cache take in a pack, and return what it says."""
    os.makedirs(cache.folder, exist_ok=True)
    draft = Path(cache.folder, "draft")
    draft.write_bytes(content)
    manifest = {
        "stem": stem_of(given),
        "inputs": given,
        "size": len(content),
        "sha256": sha256 or hashlib.sha256(content).hexdigest(),
        "seconds": 125.0,
        "packages": [],
    }
    return cache.put(manifest, str(draft))


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(str(tmp_path / "builds"))


def test_what_was_brought_is_found_by_its_inputs(cache):
    assert brought(cache, b"packed", inputs()) == ""
    manifest, complaint = cache.get(stem_of(inputs()), inputs())
    assert (manifest["size"], complaint) == (6, "")
    assert cache.has(stem_of(inputs()))


@pytest.mark.parametrize("part", list(SYSTEM))
def test_a_pack_of_another_system_is_not_found(cache, part):
    brought(cache, b"packed", inputs())
    other = inputs(**{part: "other"})
    assert cache.get(stem_of(other), other) == ({}, "")


def test_a_pack_that_bears_another_builds_name_is_removed(cache):
    """As somebody would lay it there who wants a box with another glibc to take it."""
    brought(cache, b"packed", inputs())
    other = inputs(glibc="2.36")
    for ending in (".json", ".tar.zst"):
        os.rename(f"{cache.folder}/{stem_of(inputs())}{ending}", f"{cache.folder}/{stem_of(other)}{ending}")
    assert not cache.has(stem_of(other))
    manifest, complaint = cache.get(stem_of(other), other)
    assert manifest == {}
    assert "is not the build that its name says" in complaint
    assert os.listdir(cache.folder) == []


def test_a_poisoned_pack_is_removed(cache):
    brought(cache, b"packed", inputs())
    Path(cache.path(stem_of(inputs()))).write_bytes(b"poison")
    manifest, complaint = cache.get(stem_of(inputs()), inputs())
    assert manifest == {}
    assert "does not have the sha256 of its manifest" in complaint
    assert os.listdir(cache.folder) == []


def test_what_arrives_damaged_is_not_taken(cache):
    assert "arrived damaged" in brought(cache, b"packed", inputs(), sha256="0" * 64)
    assert os.listdir(cache.folder) == []


def test_half_a_pack_is_none(cache):
    brought(cache, b"packed", inputs())
    Path(cache.path(stem_of(inputs()))).write_bytes(b"pack")
    assert cache.listed() == []


def test_what_was_used_longest_ago_goes_first(cache):
    for age, version in enumerate(("1", "2", "3")):
        brought(cache, bytes(700_000), inputs(version))
        os.utime(cache.path(stem_of(inputs(version))), (1000 - age, 1000 - age))
    cache.get(stem_of(inputs("3")), inputs("3"))  # used now
    assert cache.prune(limit_mib=1) == [stem_of(inputs("1")), stem_of(inputs("2"))]
    assert [one["inputs"]["version"] for one in cache.listed()] == ["3"]
    assert cache.prune(limit_mib=0) == [stem_of(inputs("3"))]


def test_the_table_tells_what_each_pack_is_for(cache):
    brought(cache, bytes(3 * 2**20), inputs())
    (found,) = cache.listed()
    assert table([found], found["used"] + 7200)[1].split("  ")[0] == "hello"
    for part in ("debian 11 x86_64, glibc 2.31, gcc 10", "3 MiB", "2 min 5 s", "2 h ago"):
        assert part in table([found], found["used"] + 7200)[1]


@pytest.mark.parametrize(
    "change",
    [
        {"stem": "../../.ssh/authorized_keys"},
        {"stem": "hello-1-000000000000"},
        {"inputs": {"name": "../hello", "version": "1", "system": SYSTEM}},
        {"inputs": "none"},
        {"size": "many"},
    ],
)
def test_a_box_cannot_write_where_it_likes(cache, change):
    manifest = {"stem": stem_of(inputs()), "inputs": inputs(), "size": 6}
    assert cache.refusal(manifest) == ""
    if isinstance(change.get("inputs"), dict):
        change = {**change, "stem": stem_of(change["inputs"])}
    assert "is not what its inputs make it" in cache.refusal({**manifest, **change})
