"""Containers as vast.ai and RunPod rent them: enrolled with a password, deployed, restarted, reset, left."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import box
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import all_answers, request, send
from support import ROOT, Outcome, run_ansible, site
from test_enroll import OPEN_UP, PASSWORD, hosts, play

pytestmark = pytest.mark.long
BACK_SECONDS = 90
# What takes long where nothing is left; on the data disk it is all there.
LONG_JOBS = ("openssl", "python", "venv", "supervisor")


class Rented:
    """A container of a kind, and the inventory that it is enrolled in."""

    def __init__(self, kind: str) -> None:
        self.kind, self.test = kind, f"rented-{kind}"
        self.name = box.container(self.test)
        self.inventory = ROOT / ".boxes" / f"{self.test}-inventory"
        settings = ROOT / "inventory"
        shutil.rmtree(self.inventory, ignore_errors=True)
        shutil.copytree(settings / "local_box" / "group_vars", self.inventory / "group_vars")
        # These know the local box's own key and port; an enrolled box has others.
        for name in ("ssh.yml", "gateway.yml"):
            (self.inventory / "group_vars" / "all" / name).unlink()
        enrolled = "group_vars/enrolled"
        shutil.copytree(settings / "rented_gpu" / enrolled, self.inventory / enrolled)
        shutil.copy(settings / "rented_gpu" / "hosts.yml", self.inventory)
        given = box.start_test_box(self.test, suite="bookworm", kind=kind)
        host = json.loads((given / "hosts.yml").read_text())["all"]["hosts"]["test_box"]
        self.ssh_port, self.gateway_port = host["ansible_port"], host["gateway_public_port"]
        # vast.ai's /workspace survives only where a volume is mounted, which the operator knows.
        self.variables = {"box_data_dir": "/workspace/glmbox"} if kind == "vast" else {}

    def inside(self, script: str) -> str:
        return box.podman("exec", self.name, "sh", "-c", script)

    def enrol(self, password_file: Path, **more: str) -> None:
        """Enrol by a password, as a renter does whose provider gives no more."""
        self.inside(OPEN_UP)
        line = f"ssh -p {self.ssh_port} root@127.0.0.1"
        asked = {"ssh": line, "name": "box1", "password_file": password_file, **more}
        code, said = play("enroll_box", self.inventory, "--skip-tags=preflight", **asked)
        assert code == 0, said

    def deploy(self, **more: object) -> float:
        """Run site.yml, which has to succeed; return its seconds."""
        begun = time.monotonic()
        self.deployed = site(self.inventory, **self.variables, **more)
        assert self.deployed.failure == ""
        return time.monotonic() - begun

    def problems(self) -> list[str]:
        token = (self.inventory / ".state" / "gateway_token").read_text().strip()
        return all_answers(f"http://127.0.0.1:{self.gateway_port}", token, "你好")[1]

    def until_ready(self) -> None:
        patience = time.monotonic() + BACK_SECONDS
        while send(request(f"http://127.0.0.1:{self.gateway_port}/healthz"))[0] != 200:
            assert time.monotonic() < patience, self.inside("glmboxctl status || true")
            time.sleep(0.5)


@pytest.fixture(scope="module", params=["vast", "runpod"])
def rented(request):
    one = Rented(request.param)
    yield one
    box.stop_test_box(one.test)
    shutil.rmtree(one.inventory)


@pytest.fixture(scope="module")
def password_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "password"
    path.write_text(PASSWORD + "\n")
    return path


def test_a_restart_in_mid_run_is_told(rented, password_file, tmp_path):
    rented.enrol(password_file)
    assert hosts(rented.inventory)["box1"]["box_provider"] == rented.kind
    ended: list[Outcome] = []
    variables = {**rented.variables, "cache_dir": str(tmp_path / "none")}
    run = threading.Thread(target=lambda: ended.append(site(rented.inventory, **variables)))
    run.start()
    rented.inside("until [ -s /var/lib/glmbox/jobs/build-openssl/log ]; do sleep 0.2; done")
    box.podman("restart", "--time", "2", rented.name)
    run.join(300)
    assert ended[0].exit_code != 0
    # By the next command over SSH, or by the first one after the restart.
    told = ("box1 does not answer any more", "The job build-openssl ended as")
    assert any(words in " ".join(ended[0].output.split()) for words in told)
    print(f"{rented.kind}: {ended[0].failure}")


def test_one_command_is_enough(rented):
    """Even after the accident that the test before this one was."""
    print(f"{rented.kind}: site.yml {rented.deploy():.0f} s")
    # Its address outside was learnt on the box, and has answered in the last playbook.
    assert f"http://127.0.0.1:{rented.gateway_port}" in rented.deployed.output
    rented.deploy()
    assert rented.deployed.changed == []


def test_a_restart_is_followed_by_the_providers_hook(rented):
    box.podman("restart", "--time", "10", rented.name)
    rented.until_ready()
    assert rented.problems() == []


def test_after_a_reset_of_the_system_disk_nothing_is_fetched_or_compiled_again(rented, password_file, tmp_path):
    box.reset_test_box(rented.test, rented.kind, "bookworm")
    rented.enrol(password_file, accept_new_host_key="true")
    # The controller's cache is empty, so the packs are the data disk's.
    seconds = rented.deploy(cache_dir=str(tmp_path / "none"))
    print(f"{rented.kind}: site.yml after a reset {seconds:.0f} s")
    assert rented.deployed.result("Fetch the artifacts")["begun"] == []
    for name in LONG_JOBS:
        log = rented.inside(f"cat /var/lib/glmbox/jobs/build-{name}/log")
        assert "== unpack from the cache" in log, log
        assert "== make" not in log
    assert rented.problems() == []


def test_it_is_left_as_it_came(rented):
    gone = run_ansible(
        rented.inventory,
        playbook=str(ROOT / "playbooks" / "remove_box.yml"),
        extravars={**rented.variables, "box_remove_data": True},
    )
    assert gone.failure == ""
    left = rented.inside("ls -A /opt /etc /run /usr/local/bin /var/log /workspace; getent passwd; ps -eo args")
    assert "glmbox" not in left.replace("glmbox-test", "")
