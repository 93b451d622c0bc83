"""A run that is killed at any point and started again ends in the same converged box."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import box
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import all_answers
from support import ROOT, run_ansible, site

# Where a run is killed: so many seconds into a task of this name.
POINTS = (
    ("Fetch the artifacts", 1),
    ("Build OpenSSL", 25),
    ("Build Python", 45),
    ("Build the Python environment", 30),
    ("Keep the demo host running", 1),
    ("Start glmbox-demos", 0.3),
    ("Write the gateway's configuration", 0),
)
PATIENCE_SECONDS = 900


def run_and_kill(inventory: Path, task: str, seconds: float) -> list[str]:
    """Run site.yml and kill it, ssh and all, so many seconds into a task; return what it had printed."""
    process = subprocess.Popen(
        ["ansible-playbook", "site.yml", "-i", str(inventory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    printed: list[str] = []
    reached = threading.Event()

    def read() -> None:
        for line in process.stdout:
            printed.append(line)
            if line.startswith("TASK") and task in line:
                reached.set()
        reached.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert reached.wait(PATIENCE_SECONDS)
    time.sleep(seconds)
    assert process.poll() is None, f"the run was over before {task}:\n{''.join(printed[-30:])}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return printed


@pytest.fixture(scope="module")
def killed_box():
    inventory = box.start_test_box("killed")
    yield inventory
    box.stop_test_box("killed")


def test_killed_runs_end_in_a_converged_box(killed_box):
    for task, seconds in POINTS:
        printed = run_and_kill(killed_box, task, seconds)
        assert not any("fatal:" in line for line in printed), "".join(printed[-40:])
    last = site(killed_box)
    assert last.failure == ""
    assert last.status == "successful"
    again = site(killed_box)
    assert again.changed == []
    port = box.podman("port", "glmbox-test-killed", "3389/tcp").rsplit(":", 1)[1]
    token = (killed_box / ".state" / "gateway_token").read_text().strip()
    assert all_answers(f"http://127.0.0.1:{port}", token, "你好")[1] == []


def test_what_was_deployed_can_be_removed(killed_box):
    removed = run_ansible(killed_box, playbook=str(ROOT / "playbooks" / "remove_box.yml"))
    assert removed.failure == ""
    left = box.podman(
        "exec", "glmbox-test-killed", "sh", "-c", "ls -d /opt/* /etc/glmbox /usr/local/bin/* 2>&1; id glmbox 2>&1"
    )
    assert "No such file or directory" in left
    assert "no such user" in left
    assert "/opt/glmbox" not in left
    assert "python3" not in left
    assert box.podman("exec", "glmbox-test-killed", "ls", "/var/lib/glmbox/data/artifacts/miniature") != ""
    listening = box.podman("exec", "glmbox-test-killed", "ss", "-Hltn")
    assert [line.split()[3] for line in listening.splitlines()] == ["0.0.0.0:22", "[::]:22"]
    again = run_ansible(killed_box, playbook=str(ROOT / "playbooks" / "remove_box.yml"))
    assert again.changed == []
