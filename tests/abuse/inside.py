"""What a deployed box tells from within: its units, its processes, its journal, its counters."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import box
from abuse.client import Door

UNITS = ("glmbox-demos", "glmbox-gateway", "glmbox-web-demo2")
# Seconds that the miniature rests before each token, so that an answer takes as long as a real one.
SLOW_TOKEN_SECONDS = 0.05
SLOW = "/run/systemd/system/glmbox-demos.service.d/slow.conf"


@dataclass
class Inside:
    """A deployed box of a test."""

    name: str

    def run(self, *command: str) -> str:
        """Return what a command prints inside the box; raise BoxError where it fails."""
        return box.podman("exec", self.name, *command)

    def shell(self, script: str) -> str:
        """Return what a script prints inside the box."""
        return self.run("sh", "-c", script)

    def units(self) -> list[str]:
        """Return which of our services are wanted on this box."""
        return [unit for unit in UNITS if self.shell(f"systemctl is-enabled {unit} 2>/dev/null || true") == "enabled"]

    def shown(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "-p", name, "--value", unit)

    def life(self, unit: str = "glmbox-demos") -> tuple[str, str]:
        """Return what changes when a service was started again: its main pid and the number of its restarts."""
        return self.shown(unit, "MainPID"), self.shown(unit, "NRestarts")

    def pids(self, unit: str) -> list[int]:
        """Return the processes of a unit, the main one first."""
        main = int(self.shown(unit, "MainPID"))
        listed = self.shell(f"cat /sys/fs/cgroup{self.shown(unit, 'ControlGroup')}/cgroup.procs 2>/dev/null || true")
        return [main, *sorted({int(pid) for pid in listed.split()} - {main})]

    def alive(self, pid: int) -> bool:
        """Tell whether a process exists."""
        return self.shell(f"test -d /proc/{pid} && echo yes || true") == "yes"

    def loopback(self, path: str) -> str:
        """Return what the demo host's own port answers within the box."""
        script = (
            f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8100{path}', timeout=9).read().decode())"
        )
        return self.run("/opt/glmbox/python/bin/python3.11", "-c", script)

    def queue(self) -> tuple[int, int]:
        """Return how many generations run and how many wait."""
        queue = json.loads(self.loopback("/healthz"))["queue"]
        return queue["running"], queue["waiting"]

    def generations(self, outcome: str) -> int:
        """Return how many generations ended so, of all scripts."""
        found = re.findall(rf'requests_total{{[^}}]*outcome="{outcome}"}} (\d+)', self.loopback("/metrics"))
        return sum(map(int, found))

    def slow_down(self) -> None:
        """Let an answer take as long as a real model's, until `speed_up` or the next boot."""
        line = f"[Service]\\nEnvironment=GLMBOX_MINIATURE_TOKEN_SECONDS={SLOW_TOKEN_SECONDS}\\n"
        self.shell(f"mkdir -p {Path(SLOW).parent} && printf '{line}' >{SLOW}")
        self.restart()

    def speed_up(self) -> None:
        """Take back `slow_down`."""
        self.shell(f"rm -f {SLOW}")
        self.restart()

    def restart(self, *units: str) -> None:
        """Start services again, with what their units say now."""
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", *(units or ("glmbox-demos",)))


def inside_of(inventory: Path) -> Inside:
    """Return the box of an inventory that `start_test_box` wrote."""
    return Inside(box.container(inventory.name))


def door_of(inventory: Path) -> Door:
    """Return the mapped port of such a box, and its token."""
    host, port = box.podman("port", box.container(inventory.name), "3389/tcp").splitlines()[0].rsplit(":", 1)
    return Door(host, int(port), (inventory / ".state" / "gateway_token").read_text(encoding="ascii").strip())
