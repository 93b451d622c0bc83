"""Random interleavings of mirrors that misbehave, kills, damage and new starts; none may end in a wrong file.

    python3 interleavings.py FIRST LAST        with the seeds FIRST to LAST

The fetcher is the real one, run as the real job that it is, with aria2c and misbehaving servers on loopback. Standard
library alone, Python 3.8: it also runs in a box.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.glmbox.box.plugins.module_utils import jobs, program
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf
from ansible_collections.glmbox.box.plugins.module_utils.job_processes import members
from misbehaving.client import behave, start, stop

MIB = 2**20
LANES = 3  # cases side by side
PATIENCE_SECONDS = 30
SETTINGS = {"connections": 4, "stall_seconds": 1, "patience_seconds": 1, "sample_bytes": 2**17, "proxy": "none"}
BEHAVIOURS: list = [
    *({"rate": 2 * MIB}, {"rate": 4 * MIB}, {}, {"no_ranges": True, "rate": 4 * MIB}, {"one_connection": True}),
    *({"wrong_bytes": True}, {"wrong_bytes": True, "rate": 4 * MIB}, {"html": True}, {"lfs_pointer": True}),
    *({"reset_at": 0.5}, {"stall_at": 0.5}, {"truncate": True}, {"down": True}, {"status": 503}),
    *({"lie_length": "longer"}, {"lie_length": "shorter"}, {"wrong_bytes": True, "no_ranges": True, "rate": 4 * MIB}),
    *({"down_after_bytes": MIB // 2, "down_seconds": 0.3}, {"lie_length": "longer", "rate": 4 * MIB}),
]


class Case:
    """One file on its way, by a seed."""

    def __init__(self, seed: int, folder: Path, ports: list) -> None:
        self.random, self.ports, self.log = random.Random(seed), ports, [f"seed {seed}"]
        self.state, self.name = str(folder / "jobs"), f"fetch-{seed}"
        size = self.random.choice([1, self.random.randint(2, MIB), self.random.randint(MIB, 3 * MIB)])
        data = bytes(self.random.getrandbits(8) for _ in range(4096)) * (size // 4096 + 1)
        # No block is like another one, so that none can stand in another's place.
        data = b"".join(b"%08x" % place + data[place + 8 : place + 4096] for place in range(0, size, 4096))[:size]
        (folder / "served" / f"{seed}.bin").write_bytes(data)
        self.file = {
            "artifact": "thing",
            "path": f"{seed}.bin",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": self.random.choice([len(data), len(data), None]),
            # What is taken to be big comes over many connections.
            "estimate": 20 * MIB,
            "urls": [f"http://127.0.0.1:{port}/{seed}.bin" for port in ports],
            "part": "part",
        }
        dest = folder / f"dest-{seed}"
        spec = {"dest": str(dest), "artifact": "thing", "files": [self.file]}
        spec["settings"] = {**SETTINGS, "preferred_hosts": [], "forbidden_hosts": [], "keep_bad": False, "peers": []}
        self.spec = folder / f"spec-{seed}.json"
        self.spec.write_text(json.dumps(spec))
        self.shelf = Shelf(str(dest))
        self.program = str(folder / "fetcher.pyz")

    def run(self) -> None:
        for _ in range(self.random.randint(2, 4)):
            self.switch()
            self.begin()
            time.sleep(self.random.uniform(0.2, 0.7))
            if self.random.random() < 0.5:
                self.switch()
                time.sleep(self.random.uniform(0.1, 0.5))
            self.kill()
            self.check()
            self.damage()
        for port in self.ports:
            behave(port)
        for _ in range(2):  # the first one may attach to a job that is dying of a kill
            self.begin()
            (status,) = jobs.wait(self.state, [self.name], PATIENCE_SECONDS)
            if status["state"] == "done":
                break
        assert status["state"] == "done", (status, self.log)
        self.check()
        assert Shelf(self.shelf.dest).stamped(self.file), self.log

    def switch(self) -> None:
        for port in self.ports:
            keys = self.random.choice(BEHAVIOURS)
            self.log.append(f"{self.ports.index(port)}: {keys}")
            behave(port, **keys)

    def begin(self) -> None:
        jobs.start(self.state, self.name, [sys.executable, self.program, str(self.spec)], {}, replace=True, again=True)

    def kill(self) -> None:
        """Kill all of the job, one process of it, or nothing."""
        folder = os.path.join(os.path.realpath(self.state), self.name)
        unit = json.loads((Path(folder) / "spec.json").read_text())["unit"]
        pids = sorted(process.pid for process in members(folder, unit, set()))
        chosen = self.random.choice([pids, pids, pids[:1], pids[1:2], pids[-1:], []])
        self.log.append(f"kill {len(chosen)} of {len(pids)}")
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)  # threads of a process that is dead already may still hold the job's lock

    def check(self) -> None:
        """What has the final name is right, whoever still works on it."""
        if os.path.exists(self.shelf.final(self.file)):
            found = hashlib.sha256(Path(self.shelf.final(self.file)).read_bytes()).hexdigest()
            assert found == self.file["sha256"], self.log
            self.log.append("it stands")

    def damage(self) -> None:
        """Do to what is on its way what a power cut or a hand may do, when nobody works on it."""
        ending = self.random.choice(["", ".aria2"])
        path = Path(self.shelf.part(self.file) + ending)
        how = self.random.choice(["leave", "leave", "delete", "cut", "noughts", "garbage", "longer"])
        if how == "leave":
            return
        jobs.stop(self.state, self.name)
        if not path.exists() or not path.stat().st_size:
            return
        self.log.append(f"{how} {ending or 'part'}")
        content = path.read_bytes()
        half = self.random.randint(0, len(content))
        if how == "delete":
            path.unlink()
        elif how == "cut":
            os.truncate(path, half)
        elif how == "noughts":
            path.write_bytes(content[:half] + bytes(len(content) - half))
        elif how == "longer":
            path.write_bytes(content + bytes(1000))
        else:
            spoilt = bytearray(content)
            for _ in range(3):
                spoilt[self.random.randrange(len(spoilt))] ^= 1 << self.random.randrange(8)
            path.write_bytes(spoilt)


def lane(seeds: list) -> None:
    """Run cases one after the other, with two servers of their own."""
    folder = Path(tempfile.mkdtemp(prefix="glmbox-interleavings-"))
    (folder / "served").mkdir()
    (folder / "fetcher.pyz").write_bytes(program.fetcher())
    servers: list[tuple[subprocess.Popen, int]] = []
    try:
        servers += [start(folder / "served") for _ in range(2)]
        for seed in seeds:
            case = Case(seed, folder, [port for _, port in servers])
            try:
                case.run()
            finally:
                jobs.stop(case.state, case.name)
    finally:
        for process, _ in servers:
            stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def run(seeds: range) -> None:
    """Run all cases, some side by side; raises AssertionError with what was done in the one that went wrong."""
    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(lane, [list(seeds)[number::LANES] for number in range(LANES)]))


if __name__ == "__main__":
    run(range(int(sys.argv[1]), int(sys.argv[2]) + 1))
    print("all right")
