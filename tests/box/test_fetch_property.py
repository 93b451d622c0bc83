"""No interleaving of kill and resume ends in a stamped wrong file: the real fetcher and aria2c, killed at random."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import box
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf
from misbehaving.client import behave, start, stop
from support import ROOT

FETCHER = "ansible_collections.glmbox.box.plugins.module_utils.fetching.fetcher"
SIZE = 3 * 2**20
CONTENT = random.Random(1).randbytes(SIZE)
RATE = 4 * 2**20
WAYS: list[dict] = [
    {},
    {"no_ranges": True},
    {"wrong_bytes": True},
    {"reset_at": 0.5},
    {"truncate": True},
    {"html": True},
    {"one_connection": True},
    {"lie_length": "longer"},
    {"down": True},
]
CASES, STEPS = 10, 6
SEED = int(os.environ.get("GLMBOX_TEST_SEED", "11"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two servers of the same file; what each does is drawn anew at every step."""
    box.ensure_packages()
    folder = tmp_path_factory.mktemp("served")
    (folder / "file.bin").write_bytes(CONTENT)
    started = [start(folder), start(folder)]
    yield [port for _, port in started]
    for process, _ in started:
        stop(process)


def specification(folder: Path, ports: list[int], size: int | None) -> dict:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    urls = [f"http://127.0.0.1:{port}/file.bin" for port in ports]
    file = {"artifact": "a", "path": "file.bin", "sha256": sha256, "size": size, "part": sha256, "urls": urls}
    settings = {"connections": 4, "stall_seconds": 1, "patience_seconds": 1, "sample_bytes": 65536, "proxy": "none"}
    settings |= {"preferred_hosts": [], "keep_bad": False, "peers": []}
    return {"dest": str(folder), "artifact": "a", "files": [file], "settings": settings}


def run(spec: dict, seconds: float | None) -> bool:
    """Run the fetcher, and kill it with its aria2c after so many seconds; return whether it ended well by itself."""
    path = Path(spec["dest"], "spec.json")
    path.write_text(json.dumps(spec))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
    command = [sys.executable, "-m", FETCHER, str(path)]
    job = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        return job.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        return False


def damage(chance: random.Random, partial: Path) -> None:
    """Do to what has arrived so far what a power cut or a full disk might."""
    left = [path for path in partial.glob("*") if path.is_file() and not path.name.endswith(".conf")]
    if not left:
        return
    path = chance.choice(sorted(left))
    how = chance.choice(["remove", "shorten", "flip", "empty"])
    if how == "remove":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content = bytearray(path.read_bytes())
        if how == "shorten":
            content = content[: len(content) // 2]
        elif content:
            content[chance.randrange(len(content))] ^= 255
        path.write_bytes(content)


def assert_nothing_wrong_is_stamped(spec: dict, story: list[str]) -> None:
    shelf = Shelf(spec["dest"])
    (file,) = spec["files"]
    final = shelf.final(file)
    if os.path.exists(final):
        assert Path(final).read_bytes() == CONTENT, story
    if shelf.stamped(file):
        assert os.path.exists(final), story


@pytest.mark.parametrize("case", range(CASES))
def test_no_story_ends_in_a_stamped_wrong_file(tmp_path, servers, case):
    chance = random.Random(SEED * 1000 + case)
    spec = specification(tmp_path, servers, chance.choice([SIZE, SIZE, None]))
    story = []
    for _ in range(STEPS):
        ways = [chance.choice(WAYS) for _ in servers]
        for port, way in zip(servers, ways, strict=True):
            behave(port, rate=RATE, **way)
        seconds = chance.uniform(0.15, 0.9)
        story.append(f"{ways}, killed after {seconds:.2f} s")
        run(spec, seconds)
        if chance.random() < 0.3:
            damage(chance, tmp_path / ".partial")
            story.append("damaged")
        assert_nothing_wrong_is_stamped(spec, story)
    for port in servers:
        behave(port)
    begun = time.monotonic()
    assert run(spec, None), (story, f"after {time.monotonic() - begun:.1f} s")
    assert_nothing_wrong_is_stamped(spec, story)
    assert Shelf(spec["dest"]).missing(spec["files"], recheck=True) == []
