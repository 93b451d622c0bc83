"""Neighbours: one box takes from another what that one has proven, over a key that can do nothing else.

The giving box is logged in to as a sudoer, the taking one as root; both are on podman's bridge.
"""

from __future__ import annotations

import hashlib
import json
import random
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import box
import pytest
import yaml
from support import Outcome, run_ansible

GIVER, TAKER = "peers-giver", "peers-taker"
DEST, JOBS = "/var/lib/glmbox/data/artifacts", "/var/lib/glmbox/jobs"
PEERS = f"{DEST}/.peers"
CONTENTS = {"big.bin": random.Random(6).randbytes(24 * 2**20), "你 好's.bin": b"small"}
BIG = hashlib.sha256(CONTENTS["big.bin"]).hexdigest()
HALF = len(CONTENTS["big.bin"]) // 2
# Stands before the real ssh: hands over one half, then hangs.
HALVING = f'#!/bin/sh\n/usr/bin/ssh "$@" | head -c {HALF}\nexec sleep 600\n'
PATIENCE_SECONDS = 30


def inside(name: str, script: str) -> str:
    """Return what a shell script prints inside a box, past SSH."""
    return box.podman("exec", box.container(name), "sh", "-c", script)


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    """The inventory of both boxes, each with a bundle of its own; the taker's is empty, and every mirror is dead."""
    folder = tmp_path_factory.mktemp("peers")
    with ThreadPoolExecutor() as pool:
        started = dict(zip((GIVER, TAKER), pool.map(box.start_test_box, (GIVER, TAKER)), strict=True))
        packages = "apt-get -qq update && apt-get -qq install -y --no-install-recommends aria2 python3-apt >/dev/null"
        list(pool.map(lambda name: inside(name, packages), (GIVER, TAKER)))
    renter = "useradd --create-home renter; cp -r /root/.ssh /home/renter; chown -R renter /home/renter/.ssh"
    inside(GIVER, f"{renter}; echo 'renter ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/renter")
    inside(GIVER, "echo 'PermitRootLogin no' >> /etc/ssh/sshd_config && systemctl restart ssh")
    hosts = {}
    for name, state in started.items():
        address = box.podman("inspect", "--format", "{{.NetworkSettings.IPAddress}}", box.container(name))
        known = state / ".state" / "known_hosts"
        hosts[name] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": json.loads((state / "hosts.yml").read_text())["all"]["hosts"]["test_box"]["ansible_port"],
            "ansible_user": "renter" if name == GIVER else "root",
            "ansible_become": name == GIVER,
            "ansible_ssh_private_key_file": str(state / ".state" / "id_ed25519"),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes",
            "fetch_bundle": str(folder / name),
            "fetch_peer_host": address,
            "fetch_peer_port": 22,
        }
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    files = []
    for path, content in CONTENTS.items():
        bundled = folder / GIVER / "thing" / path
        bundled.parent.mkdir(parents=True, exist_ok=True)
        bundled.write_bytes(content)
        files.append({"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)})
    (folder / "catalogue").mkdir()
    table = {"thing": {"mirrors": ["http://127.0.0.1:8809/{path}"], "files": files}}
    (folder / "catalogue" / "thing.yml").write_text(yaml.safe_dump(table))
    yield folder / "hosts.yml"
    for name in started:
        box.stop_test_box(name)


def fetch(inventory: Path, *options: str, wait: bool = True, **variables: object) -> Outcome:
    """Run the role as prepare_box.yml does. options: of ansible-playbook. wait: or only begin."""
    fixed = {
        "fetch_artifacts": ["thing"],
        "fetch_wanted": ["thing"],
        "fetch_catalogue": f"{inventory.parent}/catalogue",
        "fetch_dir": DEST,
        "fetch_jobs_dir": JOBS,
        "fetch_trusted_hashes": f"{inventory.parent}/trusted.yml",
        "fetch_patience_seconds": 1,
        "fetch_peers": True,
    }
    tasks = [{"name": "Read what the box is", "glmbox.box.box_facts": None}]
    for tasks_from in ("main.yml", "wait.yml")[: 1 + wait]:
        tasks.append({"name": tasks_from, "ansible.builtin.import_role": {"name": "fetch", "tasks_from": tasks_from}})
    play = {"hosts": "all", "gather_facts": False, "vars": fixed | variables, "tasks": tasks}
    playbook = inventory.parent / "play.yml"
    playbook.write_text(yaml.safe_dump([play]))
    return run_ansible(inventory, playbook=str(playbook), cmdline=" ".join(options) or None)


def sources() -> dict[str, str]:
    """Return where the taker's last job had each file from, by its path."""
    fetched = json.loads(inside(TAKER, f"cat {JOBS}/fetch-thing/result.json"))["fetched"]
    return {file["path"]: file["source"] for file in fetched}


def ask(words: str) -> str:
    """Return what the giver answers to the taker's key, errors too."""
    known, address = f"-o UserKnownHostsFile={PEERS}/known_hosts -o HostKeyAlias={GIVER}", giver_address()
    return inside(TAKER, f"ssh -i {PEERS}/id_ed25519 {known} -o BatchMode=yes renter@{address} {words} 2>&1 || true")


def giver_address() -> str:
    return box.podman("inspect", "--format", "{{.NetworkSettings.IPAddress}}", box.container(GIVER))


def forget_it() -> None:
    inside(TAKER, f"rm -rf {DEST}/thing {DEST}/.stamps")


def test_bare_boxes_in_check_mode(inventory):
    looked = fetch(inventory, "--check")
    assert looked.failure == ""
    assert inside(GIVER, "ls -A /var/lib/glmbox 2>/dev/null || true") == ""


def test_a_box_takes_from_its_neighbour_and_goes_on_after_a_kill(inventory):
    assert fetch(inventory, "--limit", GIVER).failure == ""
    inside(TAKER, f"printf %s {shlex.quote(HALVING)} > /usr/local/bin/ssh && chmod 755 /usr/local/bin/ssh")
    assert fetch(inventory, wait=False).failure == ""
    begun = f"cat {DEST}/.partial/*.peer 2>/dev/null | wc -c"
    patience = time.monotonic() + PATIENCE_SECONDS
    while inside(TAKER, begun) != str(HALF):
        assert time.monotonic() < patience, inside(TAKER, f"cat {JOBS}/fetch-thing/log")
        time.sleep(0.2)
    pid = json.loads(inside(TAKER, f"cat {JOBS}/fetch-thing/pid.json"))["pid"]
    inside(TAKER, f"rm /usr/local/bin/ssh; kill -9 -{pid}")
    assert fetch(inventory).failure == ""
    assert sources() == dict.fromkeys(CONTENTS, f"{GIVER} (a neighbour)")
    assert f"big.bin goes on after {HALF} bytes" in inside(TAKER, f"cat {JOBS}/fetch-thing/log")
    assert inside(TAKER, f"sha256sum {DEST}/thing/big.bin").split()[0] == BIG
    assert inside(TAKER, f"ls -A {DEST}/.partial") == ""


def test_a_second_run_changes_nothing(inventory):
    assert (fetch(inventory).changed, fetch(inventory, "--check").changed) == ([], [])


def test_the_key_opens_nothing_else(inventory):
    nothing_else = "This key reads proven artifacts and nothing else: <artifact> <path> <sha256> <offset>."
    assert ask("id") == nothing_else
    assert ask("").splitlines()[-1] == nothing_else
    assert ask(f"thing ../../../../etc/shadow {BIG} 0") == "../../../../etc/shadow of thing is not proven here."
    assert ask(f"thing big.bin {BIG} {len(CONTENTS['big.bin'])}") == ""
    assert inside(TAKER, f"stat -c '%U %a' {PEERS}/id_ed25519") == "root 600"
    assert inside(GIVER, "stat -c '%U %a' /home/renter/.ssh/authorized_keys") == "renter 600"
    assert inside(GIVER, "grep -c glmbox-peer- /root/.ssh/authorized_keys || true") == "0"


def test_what_was_changed_at_the_neighbour_is_not_served_and_what_hides_it_not_accepted(inventory):
    big = f"{DEST}/thing/big.bin"
    forget_it()
    inside(GIVER, f"touch -r {big} /tmp/time; printf wrong | dd of={big} conv=notrunc status=none")
    assert ask(f"thing big.bin {BIG} 0") == "big.bin of thing was changed after it was proven."
    inside(GIVER, f"touch -r /tmp/time {big}")
    failed = fetch(inventory)
    assert failed.status == "failed"
    assert "big.bin of thing did not arrive" in failed.failure
    said = inside(TAKER, f"cat {JOBS}/fetch-thing/log")
    assert f"big.bin of thing from {GIVER} (a neighbour) has sha256" in said
    assert inside(TAKER, f"ls {DEST}/thing {DEST}/.partial 2>/dev/null | grep -c big || true") == "0"


def test_neighbours_are_let_in_no_longer(inventory):
    off = fetch(inventory, "--limit", GIVER, fetch_peers=False)
    assert off.failure == ""
    assert off.changed == ["no_peers | Let no neighbour in any more", "no_peers | Remove the keys"]
    assert inside(GIVER, "cat /home/renter/.ssh/authorized_keys").count("\n") == 0
    assert inside(GIVER, f"ls {PEERS} 2>/dev/null || true") == ""
    assert "Permission denied" in ask("id")
