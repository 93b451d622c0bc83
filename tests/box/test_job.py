"""`job` on boxes with and without systemd: it outlives SSH and controller, and is found again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import box
import pytest
import yaml
from support import ROOT, Outcome, run_ansible

JOBS = "/var/lib/glmbox/jobs"
PATIENCE_SECONDS = 60
PROGRESS = json.dumps([{"label": "thing.bin", "done": 3 * 2**20, "total": 6 * 2**20, "unit": "bytes", "rate": 2**20}])
HALF = "50%  3.0 MiB of 6.0 MiB  1.0 MiB/s  3 s left"


@dataclass
class Box:
    """A box of this test, and what stands where on this machine."""

    name: str
    systemd: bool
    inventory: Path
    folder: Path

    def inside(self, *command: str) -> str:
        """Return what a command prints inside the box, run past SSH."""
        return box.podman("exec", box.container(self.name), *command)

    def playbook(self, *tasks: dict) -> str:
        """Write a play whose tasks are calls of `job`, named after what they do; return its path."""
        named = [{"name": task.get("do", "start"), "glmbox.box.job": task} for task in tasks]
        path = self.folder / f"play-{time.monotonic_ns()}.yml"
        path.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": named}]))
        return str(path)

    def play(self, *tasks: dict, **how) -> Outcome:
        return run_ansible(self.inventory, playbook=self.playbook(*tasks), **how)

    def job(self, name: str, **task) -> dict:
        """Return the job of a play's one task, which has to succeed."""
        played = self.play({"name": name, **task})
        assert played.failure == ""
        return played.result(task.get("do", "start"))["job"]

    def times(self, name: str) -> int:
        """Return how often a gated command was started."""
        return len(self.inside("sh", "-c", f"cat /root/{name}.noted 2>/dev/null || true").splitlines())

    def living(self, word: str) -> str:
        """Return the pids of the box's processes that have a word in their arguments; this one's own is hidden."""
        return self.inside("sh", "-c", f"grep -laE '[{word[0]}]{word[1:]}' /proc/[0-9]*/cmdline 2>/dev/null || true")


@pytest.fixture(scope="module", params=[True, False], ids=["systemd", "without systemd"])
def on(request, tmp_path_factory):
    name = "job" if request.param else "job-bare"
    inventory = box.start_test_box(name, systemd=request.param)
    yield Box(name, request.param, inventory, tmp_path_factory.mktemp(name))
    box.stop_test_box(name)


def gated(name: str) -> list[str]:
    """Return a command that notes its start, tells its progress, and ends when /root/<name>.go stands."""
    return [
        "sh",
        "-c",
        f"echo started >>/root/{name}.noted; echo '{PROGRESS}' >draft; mv draft $JOB_PROGRESS; "
        f"until [ -e /root/{name}.go ]; do sleep 0.2; done; echo '{{\"files\": 2}}' >draft; mv draft $JOB_RESULT",
    ]


class Run:
    """An ansible-playbook in a process group of its own."""

    def __init__(self, inventory: Path, playbook: str) -> None:
        self.printed: list[str] = []
        self.process = subprocess.Popen(
            ["ansible-playbook", playbook, "-i", str(inventory)],
            cwd=ROOT,
            # What is printed is followed, and Python would keep it back from a pipe.
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.reader = threading.Thread(target=lambda: self.printed.extend(self.process.stdout), daemon=True)
        self.reader.start()

    def until_printed(self, word: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(word in line for line in self.printed):
            assert time.monotonic() < deadline and self.process.poll() is None, "".join(self.printed)
            time.sleep(0.1)

    def end(self) -> str:
        """Wait for the end and return what was printed."""
        self.process.wait(PATIENCE_SECONDS)
        self.reader.join(PATIENCE_SECONDS)
        return "".join(self.printed)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.end()


def test_a_job_outlives_controller_and_ssh_and_is_attached_to(on):
    fetch = {"name": "fetch", "command": gated("fetch")}
    first = Run(on.inventory, on.playbook(fetch, {"name": "fetch", "do": "wait"}))
    first.until_printed("TASK [wait]")
    time.sleep(1)
    first.kill()
    # The sessions on the box: all of sshd's processes but the one that listens.
    on.inside("sh", "-c", "kill -9 $(pgrep -f '^sshd: root')")
    assert on.inside("sh", "-c", "pgrep -f '^sshd: root' || true") == ""
    second = Run(on.inventory, on.playbook(fetch, {"name": "fetch", "do": "wait", "seconds": 50}))
    second.until_printed(HALF)
    on.inside("touch", "/root/fetch.go")
    printed = second.end()
    assert f"test_box  fetch  thing.bin  {HALF}" in printed.splitlines()
    assert second.process.returncode == 0
    assert "changed=0" in printed
    assert on.times("fetch") == 1
    status = on.job("fetch", do="status")
    assert (status["state"], status["exit_code"], status["result"]) == ("done", 0, {"files": 2})
    assert status["seconds"] > 5
    assert on.play(fetch, {"name": "fetch", "do": "wait"}).changed == []
    assert on.play({**fetch, "again": True}, {"name": "fetch", "do": "wait"}).changed == ["start"]
    assert on.times("fetch") == 2


def test_two_starters_at_once_run_a_command_once(on):
    starters = [Run(on.inventory, on.playbook({"name": "both", "command": gated("both")})) for _ in range(2)]
    printed = [starter.end() for starter in starters]
    assert [starter.process.returncode for starter in starters] == [0, 0], printed
    assert sum("changed=1" in text for text in printed) == 1, printed
    assert on.times("both") == 1


def test_another_command_is_refused_then_replaces_and_stop_ends_all_of_it(on):
    on.job("swap", command=["sh", "-c", "sleep 4711.5 & setsid sleep 4711.5 & sleep 4711.5"])
    other = {"name": "swap", "command": ["sh", "-c", "sleep 4712.5 & env -i sleep 4712.5"]}
    refused = on.play(other)
    assert "The job swap runs already" in refused.failure
    assert "replace: true" in refused.failure
    assert on.living("4711.5") != ""
    looked = on.play({**other, "replace": True}, {"name": "swap", "do": "stop"}, cmdline="--check")
    assert (looked.failure, looked.changed) == ("", ["start", "stop"])
    assert on.living("4711.5") != ""
    assert on.job("swap", command=other["command"], replace=True)["started"]
    assert (on.living("4711.5"), on.living("4712.5") != "") == ("", True)
    if on.systemd:
        assert (
            on.inside("systemctl", "list-units", "--plain", "--no-legend", "glmbox-job-swap-*.scope").count("\n") == 0
        )
    stopped = on.job("swap", do="stop")
    assert (stopped["stopped"], stopped["state"]) == (True, "stopped")
    assert on.living("4712.5") == ""
    assert on.play({"name": "swap", "do": "stop"}).changed == []


def test_a_failed_job_says_why_and_values_of_its_environment_stand_nowhere(on):
    script = 'echo "The password begins with $(echo $SECRET | cut -c 1-4) and ONE is $ONE."; sleep 0.$ONE; exit 3'
    task = {"name": "bad", "command": ["sh", "-c", script], "environment": {"SECRET": "word-4713", "ONE": 1}}
    played = on.play(task, {"name": "bad", "do": "wait"}, verbosity=3)
    assert "The job bad failed with exit code 3 after 0." in played.failure
    assert "last lines:\n  The password begins with word and ONE is 1.\nThe whole log is" in played.failure
    assert "run the same command again" in played.failure
    assert "word-4713" not in played.output
    assert on.inside("sh", "-c", f"grep -rl '[w]ord-4713' {JOBS} /var/log || true") == ""
    hold = {**task, "command": ["sleep", "4714.5"], "name": "held+2"}
    assert on.play(hold).failure == ""
    (pid,) = on.inside("pgrep", "-f", "^sleep 4714.5").split()
    assert "SECRET=word-4713" in on.inside("sh", "-c", f"tr '\\0' '\\n' </proc/{pid}/environ")
    assert on.living("word-4713") == ""
    if on.systemd:
        assert "word-4713" not in on.inside("journalctl", "--no-pager")
        unit = on.inside("systemctl", "show", "glmbox-job-held:2-*.scope")
        assert "ActiveState=active" in unit and "word-4713" not in unit
    on.job("held+2", do="stop")


def test_a_wait_that_is_too_short_says_that_the_job_goes_on(on):
    played = on.play({"name": "slow", "command": gated("slow")}, {"name": "slow", "do": "wait", "seconds": 1})
    assert "The job slow still runs after 1 s of waiting, and goes on." in played.failure
    assert "No job nobody was ever started" in on.play({"name": "nobody", "do": "wait"}).failure
    checked = on.play({"name": "new", "command": ["true"]}, {"name": "new", "do": "wait"}, cmdline="--check")
    assert (checked.failure, checked.changed) == ("", ["start"])
    assert on.job("slow", do="status")["state"] == "running"
    assert on.inside("sh", "-c", f"ls {JOBS}/new 2>&1 || true").endswith("No such file or directory")


def test_a_job_that_a_restart_of_the_box_ended_is_started_again(on):
    task = {"name": "boot", "command": gated("boot")}
    assert on.job("boot", command=task["command"])["started"]
    box.podman("restart", "--time", "2", box.container(on.name))
    if on.systemd:
        box.wait_until_up(box.container(on.name))
    answers(on)
    assert "died without an end" in on.play({"name": "boot", "do": "wait"}).failure
    assert on.job("boot", command=task["command"])["started"]
    assert on.times("boot") == 2


def answers(on: Box) -> None:
    """Wait until the box's sshd greets."""
    port = json.loads((on.inventory / "hosts.yml").read_text())["all"]["hosts"]["test_box"]["ansible_port"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as link:
                if link.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
