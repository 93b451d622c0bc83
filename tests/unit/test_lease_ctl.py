"""`glmboxctl lease`, and what `glmboxctl status` shows of it: a module that stands for itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent.parent / "roles/service/files/glmbox_ctl/commands/lease.py"


@pytest.fixture
def commands(tmp_path):
    """The module, with a program that notes what it is asked and ends with 3."""
    spec = importlib.util.spec_from_file_location("ctl_lease", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PROGRAM = str(tmp_path / "glmbox-lease")
    return module


def give(commands: object, script: str) -> None:
    program = Path(commands.PROGRAM)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_without_a_lease_that_is_said(commands, capsys):
    assert commands.section()[0].startswith("lease: No lease: the box runs, and costs money")
    assert commands.lease(["+2h"]) == 1
    assert "lease_hours" in capsys.readouterr().err


def test_the_lease_is_shown_among_the_services(commands):
    give(commands, 'echo "It ends in 2 h, by its hours."; echo more; test "$*" = show || echo wrong; exit 1')
    assert commands.section() == ["lease: It ends in 2 h, by its hours.", "       more"]
    give(commands, "exit 1")
    assert commands.section()[0].endswith("says nothing")


def test_words_and_exit_code_go_through(commands, capfd):
    give(commands, 'echo "asked: $*"; exit 3')
    assert commands.COMMANDS["lease"][1](["+2h"]) == 3
    assert capfd.readouterr().out == "asked: +2h\n"
