"""A box that fetches from misbehaving servers on its own loopback, which tests steer from this side of its port map."""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import box
import yaml
from misbehaving.client import SERVER, behave, counts, reset_counts
from support import Outcome, run_ansible

MIB = 2**20
SERVED, DEST = "/srv/served", "/var/lib/fetched"
# Nothing listens there.
DEAD = 9
PATIENCE_SECONDS = 60
INSTALL = "apt-get -qq update && apt-get -qq install -y --no-install-recommends aria2 >/dev/null"


def content(size: int, seed: int = 1) -> bytes:
    """Return bytes that no two seeds share."""
    return random.Random(seed).randbytes(size)


@dataclass
class FetchBox:
    """A box of a test. ports: of its servers, the same inside and on this machine's loopback; all serve one folder."""

    name: str
    inventory: Path
    folder: Path
    ports: list[int]
    tables: dict[str, Any] = field(default_factory=dict)

    def inside(self, script: str) -> str:
        """Return what a shell script prints in the box."""
        return box.podman("exec", box.container(self.name), "sh", "-c", script)

    def serve(self) -> None:
        """Start the servers, which a power-off ends as well."""
        for port in self.ports:
            command = f"python3 /srv/server.py --port {port} --folder {SERVED} --bind 0.0.0.0"
            box.podman("exec", "--detach", box.container(self.name), *command.split())
        for port in self.ports:
            until(lambda port=port: answers(port))

    def power_off(self) -> dict[str, int]:
        """Cut the box's power and start it again, servers included; return what these had sent, by path."""
        sent: Counter[str] = Counter()
        for port in self.ports:
            sent.update(counts(port)["sent"])
        box.podman("kill", box.container(self.name))
        box.podman("start", box.container(self.name))
        box.wait_until_up(box.container(self.name))
        self.serve()
        return sent

    def behave_all(self) -> None:
        """Let all servers behave and count from nought, on an empty box."""
        self.inside(f"rm -rf {DEST}/* {DEST}/.[a-z]*")
        for port in self.ports:
            behave(port)
            reset_counts(port)

    def publish(self, files: dict[str, bytes]) -> None:
        """Let every server have these files, by their paths."""
        with tempfile.TemporaryDirectory(dir=self.folder) as draft:
            for path, data in files.items():
                (Path(draft) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(draft) / path).write_bytes(data)
            box.podman("cp", f"{draft}/.", f"{box.container(self.name)}:{SERVED}")

    def table(self, artifact: str, files: dict[str, bytes], ports: list[int | str], **changed: Any) -> None:
        """List an artifact whose files come from these ports, or addresses. changed: keys of every file's entry."""
        mirrors = [port if isinstance(port, str) else f"http://127.0.0.1:{port}/{{path}}" for port in ports]
        entries = [
            {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} | changed
            for path, data in files.items()
        ]
        self.tables[artifact] = {"mirrors": mirrors, "files": entries}

    def fetch(self, *names: str, play: dict | None = None, cmdline: str | None = None, **options: Any) -> Outcome:
        """Run a play that fetches artifacts. play: more of its keys. options: of `artifact`."""
        folder = self.folder / f"run-{time.monotonic_ns()}"
        (folder / "catalogue").mkdir(parents=True)
        (folder / "catalogue" / "tables.yml").write_text(yaml.safe_dump(self.tables))
        arguments = {"names": list(names), "catalogue": f"{folder}/catalogue", "bundle": f"{self.folder}/bundle"}
        arguments |= {"dest": DEST, "stall_seconds": 2, "patience_seconds": 3, **options}
        tasks = [{"name": "Fetch", "glmbox.box.artifact": arguments}]
        written = {"hosts": "all", "gather_facts": False, "tasks": tasks, **(play or {})}
        (folder / "play.yml").write_text(yaml.safe_dump([written]))
        return run_ansible(self.inventory, playbook=str(folder / "play.yml"), cmdline=cmdline)

    def sha256(self, path: str) -> str:
        """Return the sha256 of a file that stands in the artifacts' folder, or nothing."""
        return self.inside(f"sha256sum '{DEST}/{path}' 2>/dev/null | cut -d ' ' -f 1")

    def standing(self, artifact: str) -> list[str]:
        """Return the files under their final names."""
        found = self.inside(
            f"mkdir -p {DEST}/{artifact} && cd {DEST}/{artifact} && find . -type f -printf '%P\\n' | sort"
        )
        return found.splitlines()

    def sent(self, path: str) -> int:
        """Return how many bytes of a file all servers have sent."""
        return sum(counts(port)["sent"].get(path, 0) for port in self.ports)


def told(outcome: Outcome) -> dict[str, Any]:
    """Return what `artifact` told at last, whether it succeeded or not."""
    ended = ("runner_on_ok", "runner_on_failed")
    return [event["event_data"]["res"] for event in outcome.events if event["event"] in ended][-1]


def answers(port: int) -> bool:
    try:
        counts(port)
    except (OSError, ValueError):
        return False
    return True


def until(holds, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.1)


@contextmanager
def fetch_box(name: str, folder: Path, servers: int, *options: str, systemd: bool = True) -> Iterator[FetchBox]:
    """A fresh box with aria2c and servers. options: further ones of `podman run`."""
    ports = [box.free_port() for _ in range(servers)]
    published = [word for port in ports for word in ("--publish", f"127.0.0.1:{port}:{port}")]
    inventory = box.start_test_box(name, options=(*published, *options), systemd=systemd)
    try:
        made = FetchBox(name, inventory, folder, ports)
        made.inside(f"mkdir -p {SERVED} {DEST} && {INSTALL}")
        box.podman("cp", str(SERVER), f"{box.container(name)}:/srv/server.py")
        made.serve()
        yield made
    finally:
        box.stop_test_box(name)
