"""Tokens: made once, renewed when asked, closed to others, gone with their names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ansible_collections.glmbox.box.plugins.action.tokens import settle


def files_of(folder: Path, *names: str) -> dict[str, str]:
    return {name: str(folder / ("token" + ("" if name == "glmbox" else f".{name}"))) for name in names}


def settled(folder: Path, *names: str, renew: tuple[str, ...] = (), act: bool = True) -> dict[str, list[str]]:
    return settle(str(folder / "token"), files_of(folder, *names), list(renew), act)


def test_each_name_gets_one_that_its_owner_alone_reads_and_keeps_it(tmp_path):
    folder = tmp_path / "a [b]" / ".state"
    assert settled(folder, "glmbox", "alice")["made"] == ["glmbox", "alice"]
    tokens = {file.name: file.read_text() for file in folder.iterdir()}
    assert sorted(tokens) == ["token", "token.alice"] and len(set(tokens.values())) == 2
    assert all(re.fullmatch("[0-9a-f]{48}\n", token) for token in tokens.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert not any(settled(folder, "glmbox", "alice").values())
    assert {file.name: file.read_text() for file in folder.iterdir()} == tokens


def test_one_is_renewed_and_the_other_is_not(tmp_path):
    settled(tmp_path, "glmbox", "alice")
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert settled(tmp_path, "glmbox", "alice", renew=("alice",))["made"] == ["alice"]
    assert (tmp_path / "token").read_text() == before["token"]
    assert (tmp_path / "token.alice").read_text() != before["token.alice"]


def test_who_is_gone_takes_the_token_along_and_nothing_else(tmp_path):
    settled(tmp_path, "glmbox", "alice", "bob")
    (tmp_path / "tokens").write_text("not ours")
    (tmp_path / "token.d").mkdir()
    assert settled(tmp_path, "bob")["removed"] == [str(tmp_path / "token"), str(tmp_path / "token.alice")]
    assert sorted(os.listdir(tmp_path)) == ["token.bob", "token.d", "tokens"]


def test_what_others_could_read_is_closed(tmp_path):
    settled(tmp_path, "glmbox")
    (tmp_path / "token").chmod(0o644)
    tmp_path.chmod(0o755)
    assert settled(tmp_path, "glmbox")["closed"] == [str(tmp_path / "token"), str(tmp_path)]
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600 and tmp_path.stat().st_mode & 0o777 == 0o700


def test_looking_changes_nothing(tmp_path):
    folder = tmp_path / ".state"
    assert settled(folder, "glmbox", act=False) == {"made": ["glmbox"], "removed": [], "closed": [str(folder)]}
    assert not folder.exists()
