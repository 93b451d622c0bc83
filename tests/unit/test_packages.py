"""Which packages go again: apt's own list is read, and nothing goes that something else needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.packages import in_state, removable

ROOT = Path(__file__).resolve().parent.parent.parent
# As apt 2.2 wrote it, by version 2 of the protocol.
APTS_LIST = """VERSION 2
APT::Architecture=amd64
Dir::Etc::sourcelist=sources.list

aria2 - < 1.35.0-3 /var/cache/apt/archives/aria2_1.35.0-3_amd64.deb
libc6 2.31-13+deb11u11 < 2.31-13+deb11u13 /var/cache/apt/archives/libc6_2.31-13+deb11u13_amd64.deb
oldlib 1.0 > - **REMOVE**
aria2 - < 1.35.0-3 **CONFIGURE**
"""


def row(name, depends="", recommends="", provides="", state="installed", essential="no"):
    return "\t".join([name, state, provides, "", depends, recommends, essential])


def goes(brought, *rows, before=""):
    return removable(in_state("\n".join(rows), "installed"), set(brought.split()), set(before.split()))


@pytest.fixture
def note():
    spec = importlib.util.spec_from_file_location("note", ROOT / "roles" / "box" / "files" / "note_packages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_what_is_new_is_noted(note):
    assert note.arriving(APTS_LIST) == ["aria2"]


def test_what_was_brought_goes_and_all_else_stays():
    rows = [row("bash"), row("make", "libc6"), row("libc6"), row("gone", state="config-files")]
    assert goes("make gone", *rows, before="bash libc6") == ["make"]


def test_what_somebody_elses_package_needs_stays_with_all_that_it_needs():
    rows = [
        row("theirs", "cpp (>= 1) | gcc:any, libz1 (= 2)"),
        row("gcc", "libgcc, binutils"),
        row("libgcc"),
        row("binutils", "libbfd"),
        row("libbfd"),
        row("libz1"),
        row("zstd"),
    ]
    assert goes("gcc libgcc binutils libbfd libz1 zstd", *rows) == ["zstd"]


def test_an_alternative_that_stays_is_enough():
    rows = [row("theirs", "mailer | nginx"), row("nginx"), row("exim", provides="mailer (= 3)")]
    assert goes("nginx", *rows, before="theirs exim") == ["nginx"]
    assert goes("nginx exim", *rows) == []


def test_a_recommendation_counts_only_for_what_came_later():
    rows = [row("theirs", recommends="zstd"), row("zstd")]
    assert goes("zstd", *rows, before="theirs") == ["zstd"]
    assert goes("zstd", *rows) == []


def test_one_of_ours_keeps_nothing():
    rows = [row("ours", "ours-lib", recommends="ours-data"), row("ours-lib"), row("ours-data")]
    assert goes("ours ours-lib ours-data", *rows) == ["ours", "ours-data", "ours-lib"]


def test_an_essential_package_never_goes():
    assert goes("dash", row("dash", essential="yes")) == []
