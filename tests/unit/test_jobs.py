"""Jobs, as real processes: found again, attached to, healed after every accident, ended whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils import job_processes, jobs
from ansible_collections.glmbox.box.plugins.modules import job as module


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A folder for jobs on a machine without systemd; what is left of them is ended afterwards."""
    monkeypatch.setattr(jobs, "systemd_is_booted", lambda: False)
    monkeypatch.setattr(job_processes, "TERM_SECONDS", 1.0)
    monkeypatch.setattr(job_processes, "POLL_SECONDS", 0.01)
    folder = str(tmp_path / "jobs")
    yield folder
    for name in jobs.names(folder):
        jobs.stop(folder, name)


@pytest.fixture
def count(tmp_path):
    """A command that notes that it was started, and a function that tells how often."""
    noted = tmp_path / "noted"
    noted.touch()

    def command(script: str) -> list[str]:
        return ["sh", "-c", f"echo started >>{noted}; {script}"]

    command.times = lambda: len(noted.read_text().splitlines())
    return command


def until(what, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ended(state: str, name: str = "x", seconds: float = 5.0) -> dict:
    """Return the job's status once it does not run any more."""
    (status,) = jobs.wait(state, [name], seconds)
    assert status["state"] != "running"
    return status


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def living(word: str) -> list[int]:
    """Return the processes that have a word of their own in their argument list."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and word.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def test_a_job_runs_once_and_is_found_done(state, count):
    command = count("echo hello; echo '[1]' >$JOB_PROGRESS; echo '{\"a\": 2}' >$JOB_RESULT; pwd >&2")
    begun = jobs.start(state, "x", command, {})
    assert (begun["started"], begun["name"]) == (True, "x")
    status = ended(state)
    assert (status["state"], status["exit_code"], status["pid"]) == ("done", 0, None)
    assert (status["progress"], status["result"]) == ([1], {"a": 2})
    assert status["last_lines"] == ["hello", f"{state}/x"]
    assert 0 <= status["seconds"] < 5
    again = jobs.start(state, "x", command, {})
    assert (again["started"], again["state"], count.times()) == (False, "done", 1)
    assert os.stat(f"{state}/x").st_mode & 0o777 == 0o700


def test_again_starts_it_again_and_forgets_what_it_had_said(state, count):
    command = count("test -e $JOB_RESULT && exit 9; echo 1 >$JOB_RESULT; echo one")
    jobs.start(state, "x", command, {})
    ended(state)
    assert jobs.start(state, "x", command, {}, again=True)["started"]
    assert (ended(state)["state"], count.times()) == ("done", 2)
    assert Path(f"{state}/x/log.1").read_text() == "one\n"


def test_a_running_job_is_attached_to(state, count):
    command = count("exec sleep 60")
    pid = jobs.start(state, "x", command, {})["pid"]
    found = jobs.start(state, "x", command, {}, again=True)
    assert (found["started"], found["state"], found["pid"], found["exit_code"]) == (False, "running", pid, None)
    time.sleep(0.3)
    assert 0.2 < jobs.status(state, "x")["seconds"] < 5


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_a_failed_job_is_started_again(state, count, script, code):
    jobs.start(state, "x", count(script), {})
    status = ended(state)
    assert (status["state"], status["exit_code"]) == ("failed", code)
    assert jobs.start(state, "x", count(script), {})["started"]


@pytest.mark.parametrize("command", [["exit", "0"], ["glmbox-no-such-program"]])
def test_only_programs_are_commands(state, command):
    jobs.start(state, "x", command, {})
    assert ended(state)["exit_code"] == 127


def test_another_command_is_refused_while_one_runs(state, count):
    jobs.start(state, "x", ["sleep", "60"], {"A": "1"})
    for command, environment in ((["sleep", "61"], {"A": "1"}), (["sleep", "60"], {"A": "2"})):
        with pytest.raises(jobs.JobError, match=r"x runs already, for 0 s, .*\(do: stop\), or set replace: true"):
            jobs.start(state, "x", command, environment)
    assert jobs.start(state, "x", count("exec sleep 60"), {}, replace=True)["started"]
    until(lambda: count.times() == 1)
    jobs.stop(state, "x")
    assert jobs.start(state, "x", ["true"], {})["started"]


def test_a_job_runs_as_long_as_anything_of_it(state):
    jobs.start(state, "x", ["sh", "-c", "sleep 0.7 & exit 0"], {})
    time.sleep(0.3)
    assert (jobs.status(state, "x")["state"], jobs.status(state, "x")["pid"]) == ("running", None)
    assert ended(state)["state"] == "done"


def test_a_job_whose_runner_was_killed_still_runs_and_is_dead_afterwards(state, count):
    command = count("exec sleep 0.8")
    kill(jobs.start(state, "x", command, {})["pid"])
    time.sleep(0.2)
    assert jobs.start(state, "x", command, {})["started"] is False
    status = ended(state)
    assert (status["state"], status["exit_code"], status["seconds"]) == ("dead", None, None)
    assert jobs.start(state, "x", command, {})["started"]
    until(lambda: count.times() == 2)


def test_a_child_that_gave_up_the_lock_does_not_outlive_a_new_start(state, tmp_path):
    """Python's subprocess closes descriptors; such a child of a killed command has neither lock nor parent."""
    script = "import subprocess, sys; subprocess.run(['sleep', sys.argv[1]])"
    command = [sys.executable, "-c", script, "4711.25"]
    jobs.start(state, "x", command, {})
    until(lambda: set(living("4711.25")) & set(living("sleep")))
    (child,) = set(living("4711.25")) & set(living("sleep"))
    for pid in set(living("4711.25")) - {child}:
        if pid != jobs.status(state, "x")["pid"]:
            kill(pid)
    assert ended(state)["state"] == "failed"
    assert living("4711.25") == [child]
    assert jobs.start(state, "x", ["true"], {})["started"]
    assert living("4711.25") == []


STOPPED = {
    "children": "sleep 4712.5 & sleep 4712.5",
    "deaf": "trap '' TERM; sleep 4712.5; sleep 4712.5",
    "well-behaved": "trap 'exit 0' TERM; sleep 4712.5 & wait",
    "without environment": "env -i sleep 4712.5",
    "in a session of its own": "setsid sleep 4712.5 & sleep 4712.5",
    "without anything": "exec env -i python3 -c 'import os; os.closerange(3, 9); os.system(\"sleep 4712.5\")'",
}


@pytest.mark.parametrize("script", STOPPED.values(), ids=STOPPED)
def test_stop_ends_all_of_a_job(state, script):
    jobs.start(state, "x", ["sh", "-c", script], {})
    until(lambda: living("4712.5"))
    assert jobs.stop(state, "x")["stopped"] is True
    assert (jobs.status(state, "x")["state"], living("4712.5")) == ("stopped", [])
    assert jobs.stop(state, "x")["stopped"] is False
    assert jobs.start(state, "x", ["sh", "-c", script], {})["started"]


def test_stop_spares_those_who_look(state):
    """A waiter has the lock's file open all the time."""
    jobs.start(state, "x", ["sleep", "60"], {})
    waiter = subprocess.Popen(
        [sys.executable, "-c", f"f = open({state + '/x/lock'!r}); print(flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    try:
        waiter.stdout.readline()
        assert jobs.stop(state, "x")["stopped"]
        assert waiter.poll() is None
    finally:
        waiter.kill()
        waiter.communicate()


def test_a_job_that_was_being_stopped_is_ended_and_started_again(state, count):
    """Whoever stopped it was killed before all of it was gone."""
    command = count("exec sleep 60")
    pid = jobs.start(state, "x", command, {})["pid"]
    until(lambda: count.times() == 1)
    Path(f"{state}/x/stopped.json").write_text('{"seconds": 1.0}')
    begun = jobs.start(state, "x", command, {})
    assert begun["started"] and begun["pid"] != pid
    until(lambda: count.times() == 2)


STARTER = """
import json, sys
from ansible_collections.glmbox.box.plugins.module_utils import jobs
jobs.systemd_is_booted = lambda: False
jobs.start(sys.argv[1], "x", json.loads(sys.argv[2]), {})
"""


def starter(state: str, command: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", STARTER, state, json.dumps(command)], stdout=subprocess.PIPE)


def test_starters_at_once_run_a_command_once(state, count):
    starters = [starter(state, count("sleep 2")) for _ in range(4)]
    assert [process.wait(20) for process in starters] == [0, 0, 0, 0]
    assert (jobs.status(state, "x")["state"], count.times()) == ("running", 1)


def start_and_die(state: str, command: list[str], line: int) -> bool:
    """Start a job from a process that is killed before its so many-th line of jobs.py; tell whether it was."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code.co_filename != jobs.__file__:
                return None
            left -= event == "line"
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        jobs.start(state, "x", command, {})
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_starter_that_is_killed_at_any_line_is_healed(state, count):
    command = count("exec sleep 60")
    line, died = 0, True
    while died:
        line += 1
        before = count.times()
        died = start_and_die(state, command, line)
        assert jobs.start(state, "x", command, {})["state"] == "running"
        until(lambda: count.times() > before)  # noqa: B023
        assert jobs.start(state, "x", command, {})["started"] is False
        assert jobs.stop(state, "x")["stopped"]
        assert count.times() == before + 1, line
    assert line > 30


def test_nothing_of_the_starter_is_kept_open(state):
    """ssh waits until nobody has its pipes open any more."""
    process = starter(state, ["sleep", "60"])
    assert process.communicate(timeout=20) == (b"", None)
    pid = jobs.status(state, "x")["pid"]
    held = {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)}
    assert held == {"/dev/null", f"{state}/x/log"}
    assert os.getsid(pid) == pid


def test_environment_reaches_the_command_and_no_argument_list(state):
    script = 'echo "$SECRET" | cut -c 1-4; tr "\\0" " " </proc/$PPID/cmdline; tr "\\0" " " </proc/self/cmdline'
    jobs.start(state, "x", ["sh", "-c", script], {"SECRET": "word-4713", "JOB_DIR": "elsewhere"})
    lines = ended(state)["last_lines"]
    assert lines[0] == "word" and len(lines) > 1
    kept = [path.read_text() for path in Path(state, "x").iterdir()]
    assert not any("4713" in text for text in kept)


def test_wait_ends_with_its_patience_and_with_the_last_job(state):
    jobs.start(state, "x", ["sleep", "60"], {})
    jobs.start(state, "y", ["sleep", "0.5"], {})
    begun = time.monotonic()
    assert jobs.wait(state, ["y"], 5.0)[0]["state"] == "done"
    assert [status["state"] for status in jobs.wait(state, ["y", "x"], 0.3)] == ["done", "running"]
    assert time.monotonic() - begun < 3
    assert jobs.names(state) == ["x", "y"]


def test_who_looks_does_not_disturb_who_starts(state, count):
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            jobs.status(state, "x")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(5):
            jobs.start(state, "x", count(":"), {}, again=True)
            ended(state)
    finally:
        stop.set()
        for looker in lookers:
            looker.join()
    assert count.times() == 5


def test_what_was_never_started_is_absent(state):
    assert jobs.status(state, "x")["state"] == "absent"
    assert jobs.stop(state, "x")["stopped"] is False
    assert jobs.wait(state, ["x"], 5.0)[0]["state"] == "absent"
    assert (jobs.names(state), os.path.exists(state)) == ([], False)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b", "x" * 101, "x\n"])
def test_a_name_cannot_lead_elsewhere(state, name):
    with pytest.raises(jobs.JobError, match="is no name for a job"):
        jobs.start(state, name, ["true"], {})


def test_a_job_that_cannot_begin_says_why(state, monkeypatch):
    monkeypatch.setattr(jobs, "systemd_is_booted", lambda: True)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(jobs.JobError, match="The job x cannot be started: .*systemd-run"):
        jobs.start(state, "x", ["true"], {})
    assert jobs.status(state, "x")["state"] == "dead"


def test_the_log_is_read_as_it_was_seen(state):
    jobs.start(state, "x", ["sh", "-c", r"seq 30; printf '10%%\r20%%\r\n\n\377done'"], {})
    lines = ended(state)["last_lines"]
    assert (len(lines), lines[0], lines[-2:]) == (15, "18", ["20%", "\ufffddone"])


@pytest.mark.parametrize(
    ("found", "part"),
    [
        ({"state": "failed", "exit_code": 3}, "failed with exit code 3 after 2.0 s. The log's last lines:\n  bad\n"),
        ({"state": "dead"}, "died without an end: the box was restarted"),
        ({"state": "stopped"}, "was stopped after 2.0 s"),
        ({"state": "absent"}, "No job x was ever started on this box. Start it first (do: start)."),
    ],
)
def test_a_wait_in_vain_says_why_and_what_to_do(found, part):
    known = {"name": "x", "exit_code": None, "seconds": 2.0, "last_lines": ["bad"], "log": "/l", **found}
    assert part in module.sentence_of(known)
    assert "start" in module.sentence_of(known).lower()
