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
from support import ROOT, site

NAME = box.container("killed")
# Where a run is killed: so many seconds into a task of this name.
POINTS = (
    ("Fetch the artifacts", 1),
    ("Begin to build OpenSSL", 1),
    ("Begin to build the Python environment", 0.5),
    ("Push the rest of what the bundle has", 2),
    ("Wait until the Python environment stands", 3),
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


def inside(*command: str) -> str:
    """Return what a command prints inside the box."""
    return box.podman("exec", NAME, *command)


def token_of(inventory: Path) -> str:
    return (inventory / ".state" / "gateway_token").read_text().strip()


def problems_outside(inventory: Path) -> list[str]:
    """Return what is wrong with the box's answers, asked through its mapped port."""
    port = box.podman("port", NAME, "3389/tcp").rsplit(":", 1)[1]
    return all_answers(f"http://127.0.0.1:{port}", token_of(inventory), "你好")[1]


def test_killed_runs_end_in_a_converged_box(killed_box):
    for task, seconds in POINTS:
        printed = run_and_kill(killed_box, task, seconds)
        assert not any("fatal:" in line for line in printed), "".join(printed[-40:])
    last = site(killed_box)
    assert last.failure == ""
    assert last.status == "successful"
    assert site(killed_box).changed == []
    assert problems_outside(killed_box) == []


def test_check_mode_on_a_finished_box_finds_nothing_to_do(killed_box):
    looked = site(killed_box, "--check", "--diff")
    assert (looked.status, looked.failure, looked.changed) == ("successful", "", [])
    assert "Keep the gateway running" in looked.output


def test_a_new_token_replaces_the_old_one_and_shows_in_no_output(killed_box):
    old = token_of(killed_box)
    renewed = site(killed_box, "--diff", gateway_new_token=True)
    assert renewed.failure == ""
    assert token_of(killed_box) != old
    assert "Start glmbox-gateway" in renewed.changed
    assert problems_outside(killed_box) == []
    for token in (old, token_of(killed_box)):
        assert token not in renewed.output


def test_a_service_that_is_killed_comes_back(killed_box):
    for unit in ("glmbox-demos", "glmbox-gateway"):
        inside("systemctl", "kill", "--signal=KILL", unit)
    patience = time.monotonic() + 90
    while problems_outside(killed_box):
        assert time.monotonic() < patience, problems_outside(killed_box)
        time.sleep(1)
    assert inside("systemctl", "show", "-p", "NRestarts", "--value", "glmbox-demos") == "1"


def test_an_operators_certificate_is_trusted_by_everything(killed_box, tmp_path):
    """A company's proxy signs with a certificate that nobody else knows."""
    openssl = "/opt/glmbox/openssl/bin/openssl"
    made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=proxy.example -keyout /dev/null -out /tmp/operator.pem"
    inside("sh", "-c", f"{openssl} {made} 2>/dev/null")
    with pytest.raises(box.BoxError):
        inside(openssl, "verify", "/tmp/operator.pem")
    (tmp_path / "operator.pem").write_text(inside("cat", "/tmp/operator.pem") + "\n")
    trusted = site(killed_box, "--tags", "box", box_ca_bundle=str(tmp_path / "operator.pem"))
    assert trusted.failure == ""
    assert "Put them into the system's store" in trusted.changed
    assert inside(openssl, "verify", "/tmp/operator.pem").endswith("OK")
    assert site(killed_box, "--tags", "box", box_ca_bundle=str(tmp_path / "operator.pem")).changed == []


def test_it_comes_back_after_a_boot(killed_box):
    box.podman("restart", "--time", "10", NAME)
    box.wait_until_up(NAME)
    patience = time.monotonic() + 90
    while problems_outside(killed_box):
        assert time.monotonic() < patience, problems_outside(killed_box)
        time.sleep(1)
    assert site(killed_box).changed == []
