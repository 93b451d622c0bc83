"""glmboxctl: its commands, and what it makes of what systemd and supervisord say."""

from __future__ import annotations

import json
import subprocess
import types

import glmbox_ctl
import pytest
from glmbox_ctl import CtlError, cli, launch, supervisord, systemd
from glmbox_ctl.commands import services


def test_help_tells_every_command_that_is_for_people(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in ("status", "start", "stop", "restart", "logs"))
    assert "ensure" not in said


def test_an_unknown_command_is_refused(capsys):
    assert cli.main(["nonsense"]) == 2
    assert "knows no command nonsense" in capsys.readouterr().err


def test_another_module_adds_a_command_and_lines_to_the_status(monkeypatch, capsys):
    added = types.SimpleNamespace(
        COMMANDS={"extra": ("do more", lambda given: len(given))}, section=lambda: ["more: 1"]
    )
    monkeypatch.setattr(cli, "modules", lambda: iter([services, added]))
    provider = types.SimpleNamespace(
        names=lambda: ["glmbox-demos"], look=lambda name: glmbox_ctl.Service(name, "running", "", 0)
    )
    monkeypatch.setattr(services, "provider", lambda: provider)
    monkeypatch.setattr(services, "settings", lambda: {"address": "http://203.0.113.7:1", "health_url": "http://x"})
    monkeypatch.setattr(services, "health", lambda: {"state": "ready", "detail": "fine"})
    assert cli.main(["extra", "a", "b"]) == 2
    assert cli.main(["status"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["glmbox-demos", "running", "0"]
    assert said[2:] == ["demos: ready: fine; 0 running, 0 waiting", "address: http://203.0.113.7:1", "more: 1"]


def test_services_are_named_with_or_without_the_prefix(monkeypatch):
    known = ["glmbox-demos", "glmbox-gateway"]
    monkeypatch.setattr(services, "provider", lambda: types.SimpleNamespace(names=lambda: known))
    assert services.chosen([]) == known
    assert services.chosen(["gateway", "glmbox-demos"]) == ["glmbox-gateway", "glmbox-demos"]
    with pytest.raises(CtlError, match="There is no service glmbox-x; there are glmbox-demos, glmbox-gateway"):
        services.chosen(["x"])


def test_loading_is_told_in_percent():
    said = {"state": "loading", "detail": "the model is being loaded", "loaded_percent": 42}
    assert services.told(said).startswith("loading (42 % of the model's files): the model is being loaded")
    assert services.told(None) == "no answer"


@pytest.mark.parametrize(
    ("info", "kept", "state"),
    [
        ({"statename": "RUNNING", "pid": 7}, {"pid": 7, "since": 1}, "running"),
        ({"statename": "RUNNING", "pid": 8}, {"pid": 7, "since": 1}, "starting"),
        ({"statename": "RUNNING", "pid": 7}, {"pid": 7}, "starting"),
        ({"statename": "RUNNING", "pid": 7}, {"pid": 7, "waits": True}, "restarting"),
        ({"statename": "STOPPED", "pid": 0}, {}, "stopped"),
        ({"statename": "EXITED", "pid": 0, "exitstatus": 0}, {}, "stopped"),
        ({"statename": "EXITED", "pid": 0, "exitstatus": 2}, {}, "failed"),
        ({"statename": "EXITED", "pid": 0, "exitstatus": launch.GIVEN_UP}, {}, "failed"),
        ({"statename": "FATAL", "pid": 0}, {}, "failed"),
    ],
)
def test_what_supervisord_says(monkeypatch, info, kept, state):
    monkeypatch.setattr(supervisord, "is_up", lambda: True)
    monkeypatch.setattr(supervisord, "call", lambda *_: info)
    monkeypatch.setattr(
        supervisord, "read_state", lambda _: {"pid": 0, "since": 0, "waits": False, "restarts": 3, **kept}
    )
    found = supervisord.look("x")
    assert (found.state, found.restarts) == (state, 3)
    assert bool(found.since) is (state == "running")


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ("ActiveState=active\nSubState=running\nNRestarts=1\n", ("running", 1)),
        ("ActiveState=activating\nSubState=auto-restart\nNRestarts=2\n", ("restarting", 2)),
        ("ActiveState=failed\nSubState=failed\nNRestarts=0\n", ("failed", 0)),
        ("ActiveState=inactive\nSubState=dead\nNRestarts=0\n", ("stopped", 0)),
        ("", ("stopped", 0)),
    ],
)
def test_what_systemd_says(monkeypatch, shown, found):
    since = "ExecMainStartTimestamp=Tue 2026-11-24 16:40:12 UTC\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(stdout=shown + since))
    one = systemd.look("x")
    assert (one.state, one.restarts) == found
    assert one.since == ("2026-11-24 16:40:12" if one.state == "running" else "")


class Box:
    """A supervisord that notes what it is told."""

    def __init__(self, monkeypatch, runs: bool, reread: tuple[list[str], list[str], list[str]]) -> None:
        self.told: list[str] = []
        self.runs, self.reread = runs, reread
        monkeypatch.setattr(supervisord, "is_up", lambda: True)
        monkeypatch.setattr(supervisord, "call", self.call)
        for name in ("forget", "started_by_hand", "wait_until_begun", "reload_files"):
            monkeypatch.setattr(supervisord, name, lambda one, name=name: self.told.append(name))
        state = {"pid": 7, "since": 1, "waits": False, "restarts": 0}
        monkeypatch.setattr(supervisord, "read_state", lambda _: state)

    def call(self, method: str, *_: str) -> object:
        if method == "getProcessInfo":
            return {"statename": "RUNNING" if self.runs else "STOPPED", "pid": 7}
        if method == "reloadConfig":
            return [self.reread]
        self.told.append(method)
        self.runs = {"startProcess": True, "addProcessGroup": True}.get(method, False)
        return True

    def calls(self) -> list[str]:
        return [one for one in self.told if "Process" in one or one == "reload_files"]


@pytest.mark.parametrize(
    ("runs", "reread", "state", "calls", "changed"),
    [
        (True, ([], [], []), "started", [], False),
        (False, ([], [], []), "started", ["stopProcess", "startProcess"], True),
        (True, ([], [], []), "restarted", ["stopProcess", "startProcess"], True),
        (True, ([], [], []), "reloaded", ["reload_files"], True),
        (False, ([], [], []), "reloaded", ["stopProcess", "startProcess"], True),
        (False, (["x"], [], []), "restarted", ["addProcessGroup"], True),
        (True, ([], ["x"], []), "started", ["stopProcess", "removeProcessGroup", "addProcessGroup"], True),
        (True, (["y"], [], []), "started", [], False),
        (True, ([], [], []), "absent", ["stopProcess", "removeProcessGroup"], True),
    ],
)
def test_a_service_is_made_what_is_wished(monkeypatch, runs, reread, state, calls, changed):
    looked = Box(monkeypatch, runs, reread)
    assert supervisord.ensure("x", state, check=False) is changed
    assert looked.calls() == calls


@pytest.mark.parametrize(
    ("runs", "state", "changed"), [(True, "started", False), (False, "started", True), (True, "reloaded", True)]
)
def test_a_check_changes_nothing(monkeypatch, runs, state, changed):
    looked = Box(monkeypatch, runs, ([], [], []))
    assert supervisord.ensure("x", state, check=True) is changed
    assert looked.told == []


def test_a_services_log_begins_at_its_last_start(monkeypatch, tmp_path, capsys):
    log = tmp_path / "x.log"
    log.write_text("glmbox: 2026: x starts\nold\nglmbox: 2026: x starts\nnew\nglmbox: 2026: x was started often\n")
    monkeypatch.setattr(supervisord, "look", lambda name: glmbox_ctl.Service(name, "failed", "", 2))
    monkeypatch.setattr(supervisord, "log_file", lambda name: str(log))
    services.show(["x"])
    said = json.loads(capsys.readouterr().out)
    assert said == {"state": "failed", "restarts": 2, "log": "new\nglmbox: 2026: x was started often\n"}
