"""Changed settings on a box that serves: no gap, no broken release, and a way back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import box
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import opened, request, send
from support import ROOT, run_ansible, site

NAME = box.container("served")


def inside(*command: str) -> str:
    """Return what a command prints inside the box."""
    return box.podman("exec", NAME, *command)


def url() -> str:
    return "http://127.0.0.1:" + box.podman("port", NAME, "3389/tcp").rsplit(":", 1)[1]


@pytest.fixture
def token(served_box) -> str:
    return (served_box / ".state" / "gateway_token").read_text().strip()


def queue_limit() -> int:
    return json.loads(send(request(url() + "/healthz"))[1])["queue"]["limit"]


class Visitor(threading.Thread):
    """Asks again and again until told to stop; keeps every status that was not 200."""

    def __init__(self, token: str) -> None:
        super().__init__(daemon=True)
        self.stop, self.asked, self.failures = threading.Event(), 0, []
        self._token = token

    def run(self) -> None:
        body = {"prompt": "你好", "history": [], "max_length": 24}
        while not self.stop.wait(0.05):
            status, text = send(request(url() + "/", token=self._token, body=body))
            self.asked += 1
            if status != 200:
                self.failures.append((status, text))


def test_a_changed_setting_is_served_without_a_gap(served_box, token):
    """There is memory for two copies of the miniature, and a box with memory for two of the model does the same."""
    visitor = Visitor(token)
    visitor.start()
    try:
        changed = site(served_box, "--tags", "demos", demos_queue_limit=11)
    finally:
        visitor.stop.set()
        visitor.join(60)
    assert changed.failure == ""
    assert "Start glmbox-demos-next" in changed.changed
    assert queue_limit() == 11
    assert visitor.asked > 20
    assert visitor.failures == []
    assert inside("sh", "-c", "ls /etc/systemd/system").count("glmbox-demos") == 1


def test_a_running_stream_outlives_a_restart(served_box, token):
    """Its host is told to stop in mid-answer, and finishes what it has begun."""
    chat = {"model": "x", "stream": True, "messages": [{"role": "user", "content": "你是谁"}]}
    with slow_tokens(0.1):
        wait_until_ready()
        with opened(request(url() + "/v1/chat/completions", token=token, body=chat)) as reply:
            lines = [reply.readline()]
            inside("systemctl", "--no-block", "restart", "glmbox-demos")
            lines += reply.readlines()
    pieces = [line for line in lines if b"content" in line]
    assert len(pieces) > 20  # two seconds and more
    assert [line.strip() for line in lines if line.strip()][-1] == b"data: [DONE]"
    wait_until_ready()


def test_a_release_that_does_not_work_is_not_served(served_box):
    for overlap in (True, False):
        failed = site(served_box, "--tags", "demos", demos_code_dir="/nonexistent", demos_overlap=overlap)
        assert "The new release does not work. The box answers with the last one that did." in failed.failure
        assert "code_dir: there is no folder /nonexistent" in failed.failure
        assert queue_limit() == 11


def test_one_command_goes_back(served_box):
    assert run_ansible(served_box, playbook=str(ROOT / "playbooks" / "rollback.yml")).failure == ""
    assert queue_limit() == 8
    # The settings are what they were before, so there is nothing to do but to clear what did not work.
    assert set(site(served_box, "--tags", "demos").changed) <= {
        "Remove those that did not work, and the oldest that did"
    }
    assert site(served_box, "--tags", "demos").changed == []


def test_a_person_on_the_box_chats_with_the_loaded_model(served_box):
    said = inside("sh", "-c", "printf '你好\\nstop\\n' | glmbox-chat")
    assert "ChatGLM：" in said
    assert len(said.split("ChatGLM：")[1].strip()) > 5


def test_web_demo2_can_be_left_out(served_box):
    assert "glmbox-web-demo2.service" in inside("ls", "/etc/systemd/system")
    assert site(served_box, "--tags", "demos", demos_web2=False).failure == ""
    assert "glmbox-web-demo2.service" not in inside("ls", "/etc/systemd/system")
    assert site(served_box).failure == ""
    assert "glmbox-web-demo2.service" in inside("ls", "/etc/systemd/system")


def test_a_host_that_hangs_is_started_again(served_box):
    """A model that takes longer for a token than it may be silent hangs for whoever waits; here even the first does."""
    assert site(served_box, "--tags", "demos", demos_stuck_seconds=10).failure == ""
    with slow_tokens(60):
        patience = time.monotonic() + 90
        while inside("systemctl", "show", "-p", "NRestarts", "--value", "glmbox-demos") == "0":
            assert time.monotonic() < patience
            time.sleep(0.5)
    wait_until_ready()
    assert "brought no token for 10 seconds" in inside("journalctl", "-u", "glmbox-demos", "--no-pager", "-o", "cat")
    assert site(served_box).failure == ""


@contextmanager
def slow_tokens(seconds: float) -> Iterator[None]:
    """Let the miniature take so many seconds for a token, in a host that is started anew."""
    folder = "/run/systemd/system/glmbox-demos.service.d"
    setting = f"[Service]\\nEnvironment=GLMBOX_MINIATURE_TOKEN_SECONDS={seconds}\\n"
    again = "systemctl daemon-reload && systemctl restart glmbox-demos"
    inside("sh", "-c", f"mkdir -p {folder} && printf '{setting}' >{folder}/slow.conf && {again}")
    try:
        yield
    finally:
        inside("sh", "-c", f"rm -r {folder} && {again}")


def wait_until_ready() -> None:
    patience = time.monotonic() + 60
    while send(request(url() + "/healthz"))[0] != 200:
        assert time.monotonic() < patience
        time.sleep(0.5)


def test_glmboxctl_is_the_same_under_systemd(served_box):
    assert "glmbox-gateway" in inside("glmboxctl", "status")
    inside("glmboxctl", "stop", "gateway")
    with pytest.raises(box.BoxError):
        inside("glmboxctl", "status")
    inside("glmboxctl", "start", "gateway")
    wait_until_ready()
    assert '"GET /healthz" 200' in inside("glmboxctl", "logs", "-n", "5", "gateway")
