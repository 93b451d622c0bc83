"""The controller's cache: what is not whole, or not what it says, is never used, and it stays below its limit."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.glmbox.box.plugins.action import cached_builds
from ansible_collections.glmbox.box.plugins.module_utils.building import packs
from ansible_collections.glmbox.box.plugins.module_utils.building.identity import stem_of
from ansible_collections.glmbox.box.plugins.module_utils.files import write_json
from ansible_collections.glmbox.box.plugins.module_utils.packs_cache import Cache, table

SYSTEM = {"architecture": "x86_64", "glibc": "2.31", "distribution": "debian 11", "compiler": "gcc 10"}


def inputs(version: str = "1", **system: str | None) -> dict:
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


MANIFEST = {"inputs": inputs(), "size": 6, "sha256": "0" * 64, "seconds": 1.5, "packages": ["libstdc++6", "zlib1g"]}


def refused(cache: Cache, change: dict) -> str:
    """Return why a manifest is refused that differs so from a good one."""
    manifest = {"stem": stem_of(inputs()), **MANIFEST}
    assert cache.refusal(manifest) == ""
    if isinstance(change.get("inputs"), dict):
        change = {**change, "stem": stem_of(change["inputs"])}
    return cache.refusal({**manifest, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"stem": "../../.ssh/authorized_keys"},
        {"stem": "hello-1-000000000000"},
        {"inputs": {"name": "../hello", "version": "1", "system": SYSTEM}},
        {"inputs": "none"},
    ],
)
def test_a_box_cannot_write_where_it_likes(cache, change):
    assert "is not what its inputs make it" in refused(cache, change)


NONSENSE = [
    {"size": "many"},
    {"size": -1},
    {"sha256": "0" * 63},
    {"sha256": None},
    {"seconds": "long"},
    {"seconds": float("nan")},
    {"packages": "zlib1g"},
    {"packages": ["zlib1g", "--allow-unauthenticated"]},
    {"packages": ["openssh-server-"]},
    {"packages": [7]},
    {"inputs": inputs(glibc=None)},
    {"inputs": {**inputs(), "system": "debian"}},
    {"inputs": {**inputs(), "version": 7}},
]


@pytest.mark.parametrize("change", NONSENSE)
def test_a_box_cannot_bring_what_breaks_the_cache_or_the_next_box(cache, change):
    assert "makes no sense" in refused(cache, change)


@pytest.mark.parametrize("change", [*NONSENSE, {"inputs": {"x": 1}}, {"inputs": 7}])
def test_one_bad_manifest_breaks_no_table_and_is_not_used(cache, change):
    """As earlier releases let them in."""
    brought(cache, b"packed", inputs("2"))
    given = change.get("inputs", inputs())
    stem = stem_of(given) if isinstance(given, dict) and "name" in given else "hello-1-x"
    os.makedirs(cache.folder, exist_ok=True)
    Path(cache.path(stem)).write_bytes(b"packed")
    write_json(f"{cache.folder}/{stem}.json", {**MANIFEST, **change})
    assert len(table(cache.listed(), 0)) == 2
    assert cache.get(stem, given)[0] == {}
    assert not cache.has(stem)


def test_what_the_table_shows_moves_no_cursor(cache):
    brought(cache, b"packed", inputs(distribution="debian\x1b[2J\n11"))
    assert "debian 11 x86_64" in table(cache.listed(), 0)[1]


def test_a_cache_that_one_may_only_read_is_used(cache, monkeypatch):
    brought(cache, b"packed", inputs())

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.get(stem_of(inputs()), inputs())[0]["size"] == 6


class Box(cached_builds.ActionModule):
    """The action that brings packs, on a box whose folder of packs is one of this machine's."""

    def __init__(self, folder: Path, cache: Cache) -> None:
        args = {"dir": cache.folder, "box_dir": str(folder), "install_dir": "/", "jobs_dir": "/"}
        self._task = SimpleNamespace(args=args, check_mode=False, async_val=0)
        shell = SimpleNamespace(tmpdir="/tmp", quote=shlex.quote)
        self._connection = SimpleNamespace(_shell=shell, exec_command=self._run)
        self.shown: list[str] = []
        self._display = SimpleNamespace(display=self.shown.append)
        self.cut = False

    def _run(self, command, sudoable):
        ended = subprocess.run(command, shell=True, capture_output=True, check=False)
        return (255, b"", b"Connection closed") if self.cut else (ended.returncode, ended.stdout, ended.stderr)

    def _execute_module(self, name, arguments, task_vars):
        folder = arguments["box_dir"]
        if arguments["step"] == "drop":
            for stem in arguments["stems"]:
                packs.drop(folder, stem)
        return {"packs": packs.listed(folder), "running": [], "notes": ["build-x: a note"], "apart": False}

    def keep(self) -> dict:
        return self.run(task_vars={"inventory_hostname": "box"})


@pytest.fixture
def on(tmp_path, cache) -> Box:
    """A box with two packs."""
    folder = tmp_path / "box"
    for version in ("1", "2"):
        brought(Cache(str(folder)), b"packed", inputs(version))
    return Box(folder, cache)


def test_packs_are_brought_and_the_notes_of_their_jobs_told(on, cache):
    did = on.keep()
    assert (did["changed"], sorted(did["brought"])) == (True, sorted(stem_of(inputs(one)) for one in ("1", "2")))
    assert len(cache.listed()) == 2
    assert on.shown == ["box  cache  build-x: a note"]


def test_a_pull_that_is_cut_fails_no_run_and_loses_no_pack(on, cache):
    on.cut = True
    did = on.keep()
    assert (did["changed"], did.get("failed", False), did["brought"]) == (False, False, [])
    assert "Finished builds were not brought" in on.shown[1]
    assert "Connection closed" in on.shown[1]
    on.cut = False
    assert len(on.keep()["brought"]) == 2


def test_a_folder_that_cannot_be_written_fails_no_run(on, cache):
    Path(cache.folder).parent.mkdir(exist_ok=True)
    Path(cache.folder).write_text("a file")
    did = on.keep()
    assert (did["changed"], did.get("failed", False)) == (False, False)
    assert "Finished builds were not brought" in on.shown[1]


def test_a_damaged_draft_costs_its_own_pack_alone(on, cache):
    stem = stem_of(inputs("1"))
    os.makedirs(cache.folder)
    Path(cache.path(stem) + ".draft").write_bytes(b"POISON")
    did = on.keep()
    assert (did.get("failed", False), did["brought"]) == (False, [stem_of(inputs("2"))])
    assert "arrived damaged" in on.shown[1]
    assert on.keep()["brought"] == [stem]


def test_a_pack_that_is_refused_costs_its_own_alone(on, cache, tmp_path):
    write_json(str(tmp_path / "box" / f"{stem_of(inputs('1'))}.json"), {**MANIFEST, "packages": ["--x"]})
    did = on.keep()
    assert (did.get("failed", False), did["brought"]) == (False, [stem_of(inputs("2"))])
    assert "makes no sense (packages)" in on.shown[1]
