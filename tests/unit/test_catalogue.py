"""Artifact tables and the bundle."""

from __future__ import annotations

import os

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import (
    Bundle,
    CatalogueError,
    Mirrors,
    Trust,
    files_of,
    load,
    table_of,
)
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of

SHA = "a" * 64


def test_tables_are_merged_with_a_bundles_own(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "one.yml").write_text(f"one:\n  files: [{{path: a, sha256: {SHA}}}]\n")
    (tmp_path / "bundle" / "wheels").mkdir(parents=True)
    (tmp_path / "bundle" / "wheels" / "manifest.yml").write_text(f"wheels:\n  files: [{{path: b, sha256: {SHA}}}]\n")
    assert set(load(str(tmp_path / "tables"), str(tmp_path / "bundle"))) == {"one", "wheels"}


def test_an_artifact_that_stands_twice_is_an_error(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yml").write_text("same:\n  files: []\n")
    with pytest.raises(CatalogueError, match="same stands twice"):
        load(str(tmp_path), "/nonexistent")


def test_mirrors_are_filled_in_and_quoted():
    tables = {
        "a": {"mirrors": ["https://mirror.example/{path}"], "files": [{"path": "你 好.txt", "sha256": SHA, "size": 3}]}
    }
    (file,) = files_of(tables, ["a"])
    assert file["urls"] == ["https://mirror.example/%E4%BD%A0%20%E5%A5%BD.txt"]
    assert file["size"] == 3


def test_all_problems_come_at_once():
    tables = {"a-1": {"files": [{"path": "../x", "sha256": SHA}, {"path": "y", "sha256": "short"}]}}
    with pytest.raises(CatalogueError) as caught:
        files_of(tables, ["a-1", "a-2"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "leaves the artifact's folder" in lines[0]
    assert lines[1] == "The sha256 of y of a-1 is short, which is none."
    assert lines[2] == "No table knows the artifact a-2. Known are a-1."


def test_files_of_the_same_content_arrive_apart():
    tables = {"a": {"files": [{"path": "x", "sha256": SHA}, {"path": "y", "sha256": SHA}]}}
    assert len({file["part"] for file in files_of(tables, ["a"])}) == 2


def test_a_damaged_bundle_is_named_with_both_hashes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"right")
    right = sha256_of(str(tmp_path / "a" / "x"))
    file = files_of({"a": {"files": [{"path": "x", "sha256": right}]}}, ["a"])[0]
    assert Bundle(str(tmp_path)).problems([file]) == []
    (tmp_path / "a" / "x").write_bytes(b"wrong")
    (problem,) = Bundle(str(tmp_path)).problems([file])
    assert right in problem
    assert "damaged" in problem


def test_a_bundles_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"right")
    file = files_of({"a": {"files": [{"path": "x", "sha256": sha256_of(str(tmp_path / "a" / "x"))}]}}, ["a"])[0]
    assert Bundle(str(tmp_path)).problems([file]) == []
    monkeypatch.setattr(
        "ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf.sha256_of", lambda path: "read"
    )
    assert Bundle(str(tmp_path)).problems([file]) == []
    os.utime(tmp_path / "a" / "x", ns=(1, 1))
    assert "damaged" in Bundle(str(tmp_path)).problems([file])[0]


def test_a_folder_of_the_project_is_an_artifact_too(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.py").write_text("b")
    (tmp_path / "a.py").write_text("a")
    assert [file["path"] for file in table_of(str(tmp_path))["files"]] == ["a.py", "sub/b.py"]


TABLE = {"a": {"mirrors": ["https://one.example/{path}"], "files": [{"path": "x"}]}}


def test_what_has_no_hash_is_refused_until_it_is_named(tmp_path):
    record = str(tmp_path / "state" / "trusted.yml")
    with pytest.raises(CatalogueError, match="add a to fetch_trust_on_first_use") as caught:
        files_of(TABLE, ["a"], trust=Trust([], record))
    assert record in str(caught.value)
    (file,) = files_of(TABLE, ["a"], trust=Trust(["a"], record))
    assert file["sha256"] == ""


def test_a_recorded_hash_is_enforced_and_another_one_is_told(tmp_path):
    trust = Trust(["a"], str(tmp_path / "state" / "trusted.yml"))
    assert trust.record([{"artifact": "a", "path": "x", "sha256": SHA}]) == []
    (file,) = files_of(TABLE, ["a"], trust=Trust([], trust.path))
    assert file["sha256"] == SHA
    (problem,) = trust.record([{"artifact": "a", "path": "x", "sha256": "b" * 64}])
    assert SHA in problem
    assert "b" * 64 in problem
    assert trust.hash_of("a", "x") == SHA


def test_an_operators_mirrors_come_first_and_forbidden_hosts_never():
    extra = Mirrors({"a": ["http://10.0.0.5/{path}", "https://one.example/{path}"]}, ["one.example"])
    assert files_of(TABLE, ["a"], extra, Trust(["a"]))[0]["urls"] == ["http://10.0.0.5/x"]


def test_a_part_without_a_hash_belongs_to_its_mirrors():
    """Else bytes of one tree would be gone on with from another."""
    parts = {
        files_of(TABLE, ["a"], Mirrors(extra), Trust(["a"]))[0]["part"] for extra in ({}, {"a": ["http://10.0.0.5/x"]})
    }
    assert len(parts) == 2


def test_a_record_that_an_operator_emptied_or_broke(tmp_path):
    trust = Trust(["a"], str(tmp_path / "trusted.yml"))
    (tmp_path / "trusted.yml").write_text("a:\n")
    assert trust.hash_of("a", "x") == ""
    assert trust.record([{"artifact": "a", "path": "x", "sha256": SHA}]) == []
    (tmp_path / "trusted.yml").write_text("a: [")
    with pytest.raises(CatalogueError, match="is no YAML any more"):
        trust.hash_of("a", "x")


def test_a_part_keeps_its_name_when_its_hash_is_recorded(tmp_path):
    """Else a box that is half way would begin anew as soon as another one was done."""
    trust = Trust(["a"], str(tmp_path / "trusted.yml"))
    before = files_of(TABLE, ["a"], trust=trust)[0]["part"]
    trust.record([{"artifact": "a", "path": "x", "sha256": SHA}])
    assert files_of(TABLE, ["a"], trust=trust)[0]["part"] == before
