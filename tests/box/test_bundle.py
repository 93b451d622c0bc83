"""`bundle.yml`: gathers for boxes that do not exist, from a server and wheels of this machine."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import subprocess
import time
import zipfile
from pathlib import Path

import box
import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils import jobs
from misbehaving import client
from support import ROOT, Outcome, run_ansible

MIB = 2**20
SMALL, BIG = bytes(range(256)) * 1024, os.urandom(6 * MIB)
SERVED = {"small.bin": SMALL, "big.bin": BIG, "aria2.zip": b"not asked for its content"}
WHEELS, ARTIFACTS = "Gather the lock's wheels in the bundle", "Fetch the artifacts"
PATIENCE_SECONDS = 30


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of a server that has every file."""
    box.ensure_packages()  # aria2 among them
    folder = tmp_path_factory.mktemp("served")
    for name, content in SERVED.items():
        (folder / name).write_bytes(content)
    process, port = client.start(folder)
    yield port
    client.stop(process)


@pytest.fixture
def ssh_port():
    """A port that both boxes are said to have; whoever knocks there fails the test."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
        assert select.select([listening], [], [], 0)[0] == [], "somebody tried to reach a box"


@pytest.fixture
def bundle(tmp_path) -> Path:
    return tmp_path / "the bundle"


@pytest.fixture
def inventory_with(server, ssh_port, tmp_path, bundle, monkeypatch):
    """Return a function that writes an inventory of two boxes with different needs. ports: of the mirrors."""
    client.behave(server)
    client.reset_counts(server)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", make_wheels(tmp_path / "index").as_uri())

    def make(*ports: int) -> Path:
        mirrors = [f"http://127.0.0.1:{port}/{{path}}" for port in ports or (server,)]
        tables = {
            name: {"mirrors": mirrors, "files": [{"path": path, "sha256": sha256(SERVED[path]), "size": size}]}
            for name, path in (("small", "small.bin"), ("big", "big.bin"), ("aria2-static", "aria2.zip"))
            for size in [len(SERVED[path])]
        }
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / "all.yml").write_text(yaml.safe_dump(tables))
        (tmp_path / "inventory").mkdir(exist_ok=True)
        (tmp_path / "inventory" / "hosts.yml").write_text(yaml.safe_dump({"all": boxes(tmp_path, bundle, ssh_port)}))
        return tmp_path / "inventory"

    return make


def make_wheels(folder: Path) -> Path:
    """Make two wheels without content, and a lock of them beside the folder."""
    folder.mkdir()
    lines = []
    for name, tag in (("one", "py3-none-any"), ("two", "cp311-cp311-manylinux_2_31_x86_64")):
        path = folder / f"{name}-1.0-{tag}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
        lines.append(f"{name}==1.0 --hash=sha256:{sha256(path.read_bytes())}\n")
    (folder.parent / "py311-cpu.txt").write_text("".join(lines))
    return folder


def boxes(folder: Path, bundle: Path, ssh_port: int) -> dict:
    """Return two boxes, and everything of them that must not leak into a run on this machine."""
    way = {"ansible_host": "127.0.0.1", "ansible_port": ssh_port, "ansible_python_interpreter": "/nonexistent/python"}
    way |= {"ansible_connection": "ssh", "ansible_become": True, "ansible_remote_tmp": "/nonexistent/tmp"}
    chosen = {
        "ansible_user": "nobody-here",
        "ansible_become_method": "nothing-here",
        "ansible_ssh_private_key_file": "{{ inventory_dir }}/no_key",
        "fetch_bundle": str(bundle),
        "fetch_catalogue": str(folder / "tables"),
        "torch_lock": "py311-cpu",
        "torch_lock_file": str(folder / "py311-cpu.txt"),
        "torch_wheels": [],
        "torch_environment_mib": 1,
        "openssl_version": "1.1.1w",
        "python_version": "3.11.2",
    }
    needs = {"first": ["small"], "second": ["big", "small"]}
    return {"vars": chosen, "hosts": {name: {**way, "fetch_artifacts": names} for name, names in needs.items()}}


def gather(inventory: Path) -> Outcome:
    return run_ansible(inventory, playbook=str(ROOT / "playbooks" / "bundle.yml"))


def held(bundle: Path) -> dict[str, str]:
    """Return what a bundle holds, path to sha256, but for its own book-keeping."""
    paths = [path for path in bundle.rglob("*") if path.is_file()]
    names = {path: path.relative_to(bundle) for path in paths}
    return {str(names[path]): sha256(path.read_bytes()) for path in paths if not str(names[path]).startswith(".")}


def wanted(folder: Path) -> dict[str, str]:
    whole = {"small/small.bin": SMALL, "big/big.bin": BIG, "aria2-static/aria2.zip": SERVED["aria2.zip"]}
    whole |= {f"wheels-py311-cpu/{path.name}": path.read_bytes() for path in (folder / "index").iterdir()}
    return {path: sha256(content) for path, content in whole.items()}


def test_everything_is_gathered_once(inventory_with, bundle, tmp_path, server):
    inventory = inventory_with(box.free_port(), server)  # the first mirror is dead
    first = gather(inventory)
    assert first.failure == ""
    assert sorted(set(first.changed)) == sorted([WHEELS, ARTIFACTS])
    assert held(bundle).items() >= wanted(tmp_path).items()
    assert set(held(bundle)) - set(wanted(tmp_path)) == {"wheels-py311-cpu/manifest.yml"}
    client.reset_counts(server)
    second = gather(inventory)
    assert (second.failure, second.changed) == ("", [])
    assert client.counts(server)["requests"] == {}


def test_what_is_damaged_is_mended(inventory_with, bundle, tmp_path):
    inventory = inventory_with()
    assert gather(inventory).failure == ""
    for path in (bundle / "small" / "small.bin", next((bundle / "wheels-py311-cpu").glob("one-*"))):
        path.write_bytes(b"X" + path.read_bytes()[1:])
    assert gather(inventory).failure == ""
    assert held(bundle).items() >= wanted(tmp_path).items()


def test_a_killed_run_goes_on(inventory_with, bundle, tmp_path, server):
    inventory = inventory_with()
    client.behave(server, rate=MIB // 2, only=["big.bin"])
    command = ["ansible-playbook", "playbooks/bundle.yml", "-i", str(inventory)]
    running = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        patience = time.monotonic() + PATIENCE_SECONDS
        while client.counts(server)["sent"].get("big.bin", 0) < 2 * MIB:
            assert running.poll() is None and time.monotonic() < patience
            time.sleep(0.1)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert jobs.stop(str(bundle / ".jobs"), "fetch-big")["stopped"]
    client.behave(server)
    assert gather(inventory).failure == ""
    assert held(bundle).items() >= wanted(tmp_path).items()
    assert client.counts(server)["sent"]["big.bin"] < 1.3 * len(BIG)


def test_a_dead_mirror_is_named(inventory_with, bundle):
    port = box.free_port()
    failed = gather(inventory_with(port))
    assert f"big.bin of big did not arrive. 127.0.0.1:{port}: nothing listens there" in failed.failure
    assert not (bundle / "big" / "big.bin").exists()


def test_without_aria2c_it_says_what_to_install(inventory_with, bundle, tmp_path, monkeypatch):
    """Of PATH only what Ansible itself needs is left."""
    (tmp_path / "bin").mkdir()
    for name in ("ansible-playbook", "python3", "sh", "id"):
        found = next(path for path in os.get_exec_path() if os.path.exists(f"{path}/{name}"))
        (tmp_path / "bin" / name).symlink_to(f"{found}/{name}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "apt-get install aria2" in gather(inventory_with()).failure
    assert not bundle.exists()


def test_a_static_aria2c_that_cannot_be_had_is_told_and_no_hindrance(inventory_with, server, bundle):
    inventory = inventory_with()
    client.behave(server, status=404, only=["aria2.zip"])
    gathered = gather(inventory)
    assert gathered.status == "successful"
    assert "aria2.zip of aria2-static did not arrive" in gathered.output
    assert "only boxes whose apt cannot install aria2" in gathered.result("Say who would miss it")["msg"]
    assert {path for path in held(bundle) if path.startswith(("small", "big"))} == {"small/small.bin", "big/big.bin"}
