"""Folders that a user has to pass: which are closed, and that closing takes back what opening did."""

from __future__ import annotations

import getpass
import os
import pwd
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.modules import passage


def test_the_folders_above_are_told_from_the_root_on_and_once():
    assert passage.above(["/root/autodl-tmp/glmbox", "/root/other/"]) == ["/root", "/root/autodl-tmp"]
    assert passage.above(["/glmbox"]) == []


@pytest.mark.parametrize(("mode", "closed"), [(0o700, True), (0o711, False), (0o755, False), (0o750, True)])
def test_a_folder_is_closed_to_who_may_not_pass(tmp_path: Path, mode: int, closed: bool):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    stranger = next(one.pw_name for one in pwd.getpwall() if one.pw_uid != os.getuid())
    assert passage.is_closed(str(folder), stranger) is closed
    assert not passage.is_closed(str(folder), getpass.getuser())
    assert not passage.is_closed(str(tmp_path / "nothing"), stranger)


def test_without_acls_the_mode_opens_and_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passage.shutil, "which", lambda _: None)
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    opened = passage.open_one(str(folder), "somebody")
    assert opened == {"path": str(folder), "by": "mode"}
    assert folder.stat().st_mode & 0o777 == 0o701
    passage.close_one(opened, "somebody")
    assert folder.stat().st_mode & 0o777 == 0o700
