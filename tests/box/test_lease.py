"""The lease on real boxes: one with systemd, deployed by its role, and a container without, as vast.ai rents them.

The stop command, the provider's interface and one job stand in; the clock, the watcher, the unit, the first process'
environment, the restarts and the power-off are real. A look is taken every half second.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import box
import pytest
from support import ROOT, Outcome, run_ansible

PATIENCE_SECONDS = 60
TICK = 0.5
KEY = "key-4711-of-this-instance"
CODE = ROOT / "roles" / "lease" / "files"
# What AutoDL has at this path stops its container; this one notes that it was called.
SHUTDOWN = "#!/bin/sh\necho called >>/root/shutdown.calls\n"
# vast.ai's interface as it is documented: another key is refused with 401.
PROVIDER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Vast(BaseHTTPRequestHandler):
    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.headers["Authorization"] == "Bearer " + open("/root/key").read().strip()
        right = known and self.path == "/api/v0/instances/4242/" and body == {"state": "stopped"}
        said = {"success": True} if right else {"success": False, "error": "auth_error", "msg": "Invalid user key"}
        open("/root/provider.calls", "a").write("stopped\\n" if right else "refused\\n")
        self.send_response(200 if right else 401)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())
HTTPServer(("127.0.0.1", 8990), Vast).serve_forever()
"""


def until(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


class Box:
    """A box of this test."""

    def __init__(self, name: str, inventory: Path) -> None:
        self.name, self.inventory = box.container(name), inventory

    def inside(self, *command: str, text: str = "") -> str:
        """Return what a command prints inside, whatever its exit code."""
        full = box.as_root("podman", "exec", "--interactive", self.name, *command)
        return subprocess.run(full, input=text, capture_output=True, text=True, check=False).stdout.strip()

    def write(self, path: str, text: str) -> None:
        self.inside("sh", "-c", f"mkdir -p {Path(path).parent}; cat >{path}; chmod 755 {path}", text=text)

    def lines(self, path: str) -> list[str]:
        return self.inside("sh", "-c", f"cat {path} 2>/dev/null").splitlines()

    def lease(self, *words: str) -> str:
        return self.inside("/usr/local/bin/glmbox-lease", *words)

    @property
    def state(self) -> str:
        return json.loads(self.lease("show", "--json") or '{"state": "no command"}')["state"]

    def reaches(self, state: str) -> None:
        until(lambda: self.state == state, f"it does not become {state}: {self.lease()}")

    def comes_back(self) -> None:
        """Wait until systemd has started the killed watcher again, which counts as one restart."""
        shown = ("systemctl", "show", "--property=NRestarts,ActiveState", "glmbox-lease.service")
        until(lambda: self.inside(*shown).split() == ["NRestarts=1", "ActiveState=active"], "it stays down")

    def deploy(self, cmdline: str | None = None, **variables: object) -> Outcome:
        """Run the lease's part of activate_box.yml, which has to succeed."""
        ended = run_ansible(
            self.inventory,
            playbook=str(ROOT / "playbooks" / "activate_box.yml"),
            cmdline=" ".join(["--tags lease", cmdline or ""]),
            extravars={"__lease_tick_seconds": TICK, **variables},
        )
        assert ended.failure == ""
        return ended


@pytest.fixture(scope="module")
def machine():
    inventory = box.start_test_box("lease", suite="bookworm")
    one = Box("lease", inventory)
    one.write("/usr/bin/shutdown", SHUTDOWN)
    one.inside("mkdir", "-p", "/etc/glmbox")  # the role box's
    yield one
    box.stop_test_box("lease")


@pytest.fixture(scope="module")
def container():
    """A box without systemd whose first process has the variables that vast.ai gives; its watcher runs by itself."""
    given = {"CONTAINER_ID": "4242", "CONTAINER_API_KEY": KEY, "VAST_CONTAINERLABEL": "C.4242"}
    options = [part for name, value in given.items() for part in ("--env", f"{name}={value}")]
    # sshd as the first process would write over its environment.
    options += ["--entrypoint", json.dumps(["/bin/sh", "-c", '"$@" & exec sleep infinity', "-"])]
    inventory = box.start_test_box("lease-bare", options=tuple(options), systemd=False)
    yield Box("lease-bare", inventory)
    box.stop_test_box("lease-bare")


def test_a_lease_is_watched_extended_and_ends(machine):
    """An extension of seconds is the quick way to an end; a job that runs, the service killed, off, and the stop."""
    stop = {"command": ["/usr/bin/shutdown"], "keeps_billing": "the data disk"}
    settings = {"lease_hours": 1, "lease_stop": stop}
    terminal = subprocess.Popen(
        box.as_root("podman", "exec", "--tty", machine.name, "sleep", "4715"), stdout=subprocess.PIPE, text=True
    )
    machine.write("/var/lib/glmbox/jobs/finetune/lock", "")
    machine.inside("sh", "-c", "flock /var/lib/glmbox/jobs/finetune/lock sleep 4716 </dev/null >/dev/null 2>&1 &")
    try:
        assert "It ends in 1 h, by its hours." in machine.deploy(**settings).output
        machine.lease("off")
        machine.lease("+2s")
        machine.reaches("finishing")
        assert "Still running: finetune." in machine.lease()
        assert machine.lines("/root/shutdown.calls") == []

        assert "It ends in 2 h, by its hours." in machine.lease("+2h")
        machine.inside("systemctl", "kill", "--signal=KILL", "glmbox-lease.service")
        # Between its end and its restart a run would find something to do, and rightly so.
        machine.comes_back()
        assert machine.deploy("--check", **settings).changed == []
        machine.reaches("running")
        text = machine.lease()
        assert "It ends in 2 h, by its hours." in text or "It ends in 1 h 59 min, by its hours." in text
        assert "Billed all the same: the data disk" in text

        assert "The lease is off" in machine.lease("off")
        machine.inside("systemctl", "restart", "glmbox-lease.service")
        time.sleep(3 * TICK)
        assert machine.state == "off"
        assert machine.lines("/root/shutdown.calls") == []

        machine.inside("pkill", "-xf", "sleep 4716")
        machine.lease("+3s")
        machine.reaches("stopping")
        assert machine.lines("/root/shutdown.calls") == ["called"]
        log = machine.inside("journalctl", "--no-pager", "--output=cat", "--unit=glmbox-lease")
        for words in ("The lease ends in", "it finishes finetune", "The box is told to stop."):
            assert words in log
    finally:
        machine.inside("pkill", "-xf", "sleep 471[56]")
        shown = terminal.communicate()[0]
    assert "*** glmbox: The lease ends in" in shown


def test_a_box_that_only_the_controller_stops(machine, tmp_path):
    """The watcher has no rights then but to look, and still reaches the terminals and its own file."""
    settings = {"lease_hours": 0, "lease_idle_minutes": 0.1, "lease_stop": {"hook": True}}
    machine.deploy(**settings)
    unit = machine.inside("systemctl", "show", "--property=CapabilityBoundingSet", "glmbox-lease.service")
    assert unit == "CapabilityBoundingSet="
    machine.reaches("waiting")
    watch = {"playbook": str(ROOT / "playbooks" / "watch_lease.yml")}
    refused = run_ansible(machine.inventory, **watch)
    assert "The lease of test_box is over, and nothing is set that stops it." in refused.failure
    command = ["/bin/sh", "-c", f'echo "$GLMBOX_BOX $GLMBOX_HOST" >>{tmp_path}/hook']
    ran = run_ansible(machine.inventory, extravars={"lease_stop_command": command}, **watch)
    assert (ran.failure, ran.changed) == ("", ["watch | Stop the box from here"])
    assert (tmp_path / "hook").read_text() == "test_box 127.0.0.1\n"


def test_a_lost_link_does_not_end_the_watch(machine, tmp_path):
    """sshd and its sessions are ended while the controller watches, and sshd is started again ten seconds later."""
    machine.deploy(lease_hours=1, lease_stop={"hook": True})
    machine.lease("+2h")
    machine.reaches("running")
    sessions = ("pgrep", "-f", "sshd: root@notty")
    # What Ansible keeps open for its next run.
    machine.inside("pkill", "-f", "sshd: root@notty")
    until(lambda: not machine.inside(*sessions), "a session stays")
    watch = {"playbook": str(ROOT / "playbooks" / "watch_lease.yml")}
    settings = {"lease_watch_minutes": 5, "__lease_watch_seconds": 1}
    watch["extravars"] = {"lease_stop_command": ["touch", f"{tmp_path}/hook"], **settings}
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(run_ansible, machine.inventory, **watch)
        until(lambda: machine.inside(*sessions), "nobody watches")
        machine.inside("sh", "-c", "systemctl stop ssh && pkill -f 'sshd: root@notty'")
        time.sleep(10)
        assert not machine.inside(*sessions) and not ran.done()
        machine.inside("systemctl", "start", "ssh")
        until(lambda: machine.inside(*sessions), "nobody watches again")
        machine.lease("off")
        machine.lease("+2s")
    assert (ran.result().failure, ran.result().changed) == ("", ["watch | Stop the box from here"])
    assert (tmp_path / "hook").exists()


def test_a_machine_powers_itself_off_and_begins_anew(machine):
    """With no more than root's name. The lease of another boot is a new one, and taking it away leaves nothing."""
    machine.deploy(lease_hours=1, lease_stop={"poweroff": True})
    assert "which the provider may go on to bill" in machine.lease("off")
    machine.lease("+2s")
    until(lambda: not box.is_running(machine.name), machine.lease())
    box.podman("start", machine.name)
    box.wait_until_up(machine.name)
    machine.reaches("running")
    log = machine.inside("journalctl", "--no-pager", "--output=cat", "--boot", "--unit=glmbox-lease")
    assert "a new lease begins" in log
    machine.deploy(lease_hours=0)
    left = "/usr/local/bin/glmbox-lease /etc/glmbox/lease.json /var/lib/glmbox/lease /opt/glmbox/lease"
    assert machine.inside("sh", "-c", f"ls -d {left} /etc/systemd/system/glmbox-* 2>/dev/null") == ""


def test_a_container_asks_its_provider_with_the_key_of_its_first_process(container):
    """A wrong key first, then the right one; the container stopped and started is a new lease, restarted the same."""
    box.podman("cp", f"{CODE}/.", f"{container.name}:/opt/lease")
    stop = {"api": "vast", "url": "http://127.0.0.1:8990", "keeps_billing": "the disk"}
    settings = {"state": "/var/lib/lease/lease.json", "jobs_dir": "/var/lib/none", "health_ports": [8100]}
    settings.update(hours=0.002, stop=stop, tick_seconds=TICK)
    python = "PYTHONPATH=/opt/lease exec python3 -B -s -m glmbox_lease /etc/lease.json"
    container.write("/usr/local/bin/glmbox-lease", f'#!/bin/sh\n{python} "$@"\n')
    container.write("/opt/provider.py", PROVIDER)
    container.write("/var/lib/lease/.keep", "")
    container.write("/root/key", "another key")

    def start(**more: object) -> None:
        container.write("/etc/lease.json", json.dumps({**settings, **more}))
        # Neither has the variables that podman exec would give them: they have to be PID 1's.
        clean = "env -i PATH=$PATH"
        container.inside("sh", "-c", f"{clean} setsid python3 /opt/provider.py >/dev/null 2>&1 </dev/null &")
        container.inside("sh", "-c", f"{clean} setsid glmbox-lease watch >>/root/log 2>&1 </dev/null &")

    start()
    container.reaches("failing")
    assert "status 401, it refuses the box's own key, Invalid user key" in container.lease()
    container.write("/root/key", KEY)
    container.lease("+1s")  # which does not wait for the next try of a stop that failed
    container.reaches("stopping")
    assert set(container.lines("/root/provider.calls")) == {"refused", "stopped"}
    assert "THE BOX IS NOT STOPPED, AND COSTS MONEY" in "".join(container.lines("/root/log"))

    box.podman("restart", "--time", "1", container.name)
    start(hours=1.0)
    until(lambda: "a new lease begins" in "".join(container.lines("/root/log")), container.lease())
    container.lease("+1h")
    box.podman("restart", "--time", "1", container.name)
    start(hours=1.0)
    until(lambda: "the lease goes on" in container.lines("/root/log")[-1], container.lease())
    assert "A lease of 2 h" in container.lease()
    # The first process has it, and hands it to its own children; the watcher keeps it nowhere.
    seen = "cat /var/lib/lease/* /root/log /proc/[0-9]*/cmdline; "
    seen += "for one in $(grep -l glmbox_lease /proc/[0-9]*/cmdline); do cat ${one%cmdline}environ; done"
    assert KEY not in container.inside("env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", seen + " 2>/dev/null")
