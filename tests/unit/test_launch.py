"""What starts a service under supervisord: its count of starts, its leftovers, its environment."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

import pytest
from glmbox_ctl import launch

ME = pwd.getpwuid(os.getuid())
WHAT = {
    "name": "x",
    "command": "/bin/true",
    "user": ME.pw_name,
    "restarts": 3,
    "window_seconds": 600,
    "restart_seconds": 5,
    "environment": {},
}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that starts the service, which fails at once; it returns the exit code and the pause before."""
    monkeypatch.setattr(launch, "RUN", str(tmp_path))
    monkeypatch.setattr(launch, "forget", launch.started_by_hand)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(launch, "end_leftovers", lambda *_: None)
    monkeypatch.setattr(launch, "begin", lambda *_: os.open("/nonexistent", os.O_RDONLY))
    path = tmp_path / "description"

    def start(**change: object) -> tuple[int, float]:
        path.write_text(json.dumps({**WHAT, **change}))
        pauses.clear()
        with pytest.raises(SystemExit) as ended:
            launch.main(str(path))
        return ended.value.code, sum(pauses)

    return start


def test_a_service_that_fails_pauses_and_is_given_up_after_so_many_starts(service, capsys):
    assert [service() for _ in range(4)] == [(1, 0), (1, 5), (1, 5), (launch.GIVEN_UP, 0)]
    assert launch.read_state("x")["restarts"] == 2
    assert "x was started 3 times within 600 s, and is left alone" in capsys.readouterr().err


def test_starts_out_of_the_window_count_no_more(service, monkeypatch):
    for moment in (0, 250, 500, 750, 1000):
        monkeypatch.setattr(time, "monotonic", lambda moment=moment: 10_000 + moment)
        assert service()[0] == 1


def test_who_starts_it_by_hand_begins_to_count_anew(service):
    for _ in range(3):
        service()
    launch.started_by_hand("x")
    assert service() == (1, 0)
    assert launch.read_state("x")["restarts"] == 0


@pytest.mark.parametrize("change", [{"user": "nobody-of-this-name"}, {"restarts": None}])
def test_what_cannot_be_counted_is_not_started_for_ever(service, change):
    assert service(**change) == (launch.GIVEN_UP, 0)


def test_a_missing_description_is_given_up(tmp_path):
    with pytest.raises(SystemExit) as ended:
        launch.main(str(tmp_path / "nothing"))
    assert ended.value.code == launch.GIVEN_UP


def test_what_is_left_of_a_killed_group_is_ended_and_nobody_else():
    script = "sleep 60 & sleep 60 & wait"
    ours, others = (subprocess.Popen(["sh", "-c", script], start_new_session=True) for _ in range(2))
    try:
        ticks = launch.process_ticks(ours.pid)
        time.sleep(0.3)
        ours.kill()
        ours.wait()
        assert len(list(launch.leftovers(ours.pid, ticks, os.getuid()))) == 2
        assert list(launch.leftovers(others.pid, ticks + 12345, os.getuid())) == []
        launch.end_leftovers(ours.pid, ticks, os.getuid())
        assert list(launch.leftovers(ours.pid, ticks, os.getuid())) == []
        assert others.poll() is None
    finally:
        os.killpg(others.pid, signal.SIGKILL)
        others.wait()


def test_what_lies_in_tmp_is_the_services_own():
    what = {**WHAT, "environment": {"A": "/tmp/modules", "B": "/tmp", "C": "/tmpfs/x", "PATH": "/own"}}
    found = launch.environment_of(what, ME)
    assert (found["A"], found["B"], found["C"]) == ("/tmp/x/modules", "/tmp/x", "/tmpfs/x")
    assert found["TMPDIR"] == "/tmp/x"
    assert found["PATH"] == "/own"
    assert found["HOME"] == ME.pw_dir
    assert set(found) == {"A", "B", "C", "PATH", "LANG", "HOME", "LOGNAME", "USER", "SHELL", "TMPDIR"}


def test_a_folder_is_made_anew_and_a_link_in_its_place_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    place = tmp_path / "place"
    place.symlink_to(elsewhere)
    for _ in range(2):
        launch.fresh_folder(str(place), os.getuid(), 0o700)
        assert not place.is_symlink()
        assert list(place.iterdir()) == []
        (place / "old").touch()
    assert (elsewhere / "kept").exists()
