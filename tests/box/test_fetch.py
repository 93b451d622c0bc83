"""`artifact` on a real box, with aria2c and servers on the box's own loopback."""

from __future__ import annotations

import hashlib
from pathlib import Path

import box
import pytest
import yaml
from support import Outcome, run_ansible

NAME = box.container("fetch")
GOOD, WRONG, DEAD = 8801, 8802, 8809
CONTENT = bytes(range(256)) * 4096
DEST = "/var/lib/fetched"


@pytest.fixture(scope="module")
def fetch_box(tmp_path_factory):
    """The inventory of a box with aria2c and two servers: one is right, one serves other bytes, pages and pointers."""
    inventory = box.start_test_box("fetch")
    box.podman("exec", NAME, "sh", "-c", "apt-get -qq update && apt-get -qq install -y --no-install-recommends aria2")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    wrong = {"file.bin": CONTENT[::-1], "page.bin": b"<!DOCTYPE html><html></html>", "pointer.bin": pointer.encode()}
    served = {
        GOOD: {"file.bin": CONTENT, "你 好.bin": CONTENT},
        WRONG: wrong | {"short.bin": CONTENT[:1000]},
    }
    for port, files in served.items():
        folder = tmp_path_factory.mktemp(str(port), numbered=False)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        box.podman("cp", str(folder), f"{NAME}:/srv/{port}")
        server = ("python3", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", f"/srv/{port}")
        box.podman("exec", "--detach", NAME, *server)
    yield inventory
    box.stop_test_box("fetch")


def fetch(inventory: Path, folder: Path, name: str, ports: list[int], play: dict | None = None) -> Outcome:
    """Let the box fetch one file, whose right content is known, from servers of its own."""
    (folder / "catalogue").mkdir(exist_ok=True)
    table = {
        "thing": {
            "mirrors": [f"http://127.0.0.1:{port}/{{path}}" for port in ports],
            "files": [{"path": name, "sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)}],
        }
    }
    (folder / "catalogue" / "thing.yml").write_text(yaml.safe_dump(table))
    arguments = {"names": ["thing"], "catalogue": f"{folder}/catalogue", "bundle": f"{folder}/bundle", "dest": DEST}
    tasks = [{"name": "Fetch", "glmbox.box.artifact": arguments}]
    written = {"hosts": "all", "gather_facts": False, "tasks": tasks, **(play or {})}
    (folder / "play.yml").write_text(yaml.safe_dump([written]))
    return run_ansible(inventory, playbook=str(folder / "play.yml"))


@pytest.fixture(autouse=True)
def empty(fetch_box):
    box.podman("exec", NAME, "rm", "-rf", DEST)


def final(name: str) -> str:
    """Return the sha256 of the file under its final name on the box, or nothing."""
    return box.podman("exec", NAME, "sh", "-c", f"sha256sum '{DEST}/thing/{name}' 2>/dev/null | cut -d' ' -f1")


@pytest.mark.parametrize("name", ["file.bin", "你 好.bin"])
def test_a_file_is_downloaded_proven_and_found_again(fetch_box, tmp_path, name):
    got = fetch(fetch_box, tmp_path, name, [GOOD])
    assert got.failure == ""
    (fetched,) = got.result("Fetch")["fetched"]
    assert (fetched["path"], fetched["bytes"], fetched["source"]) == (name, len(CONTENT), "127.0.0.1")
    assert final(name) == hashlib.sha256(CONTENT).hexdigest()
    assert fetch(fetch_box, tmp_path, name, [DEAD]).changed == []


def test_a_dead_mirror_is_passed_over(fetch_box, tmp_path):
    assert fetch(fetch_box, tmp_path, "file.bin", [DEAD, GOOD]).failure == ""
    assert final("file.bin") == hashlib.sha256(CONTENT).hexdigest()


def test_the_bundle_comes_before_every_mirror(fetch_box, tmp_path):
    (tmp_path / "bundle" / "thing").mkdir(parents=True)
    (tmp_path / "bundle" / "thing" / "file.bin").write_bytes(CONTENT)
    got = fetch(fetch_box, tmp_path, "file.bin", [DEAD])
    assert got.result("Fetch")["fetched"][0]["source"] == "the bundle"


def test_a_login_that_becomes_root_can_push(fetch_box, tmp_path):
    """The files arrive as the login user and end as root's, who gives them their names."""
    user = "useradd --create-home renter; cp -r /root/.ssh /home/renter; chown -R renter /home/renter/.ssh"
    inside = ("podman", "exec", NAME, "sh", "-c")
    box.run(*box.as_root(*inside, f"{user}; echo 'renter ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/renter"))
    (tmp_path / "bundle" / "thing").mkdir(parents=True)
    (tmp_path / "bundle" / "thing" / "file.bin").write_bytes(CONTENT)
    got = fetch(
        fetch_box, tmp_path, "file.bin", [DEAD], play={"vars": {"ansible_user": "renter", "ansible_become": True}}
    )
    assert got.failure == ""
    assert got.result("Fetch")["fetched"][0]["source"] == "the bundle"
    assert box.podman("exec", NAME, "stat", "-c", "%U %a", f"{DEST}/thing/file.bin") == "root 644"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("file.bin", f"has sha256 {hashlib.sha256(CONTENT[::-1]).hexdigest()} where"),
        ("page.bin", "is an HTML page of 28 bytes"),
        ("pointer.bin", "is a git-lfs pointer of 63 bytes"),
        ("short.bin", f"has 1000 bytes where {len(CONTENT)} were expected"),
    ],
)
def test_what_is_wrong_is_named_and_never_gets_the_final_name(fetch_box, tmp_path, name, sentence):
    got = fetch(fetch_box, tmp_path, name, [WRONG])
    assert got.status == "failed"
    assert sentence in got.failure
    assert f"{name} of thing from 127.0.0.1" in got.failure
    assert final(name) == ""


def test_all_mirrors_down_is_a_sentence(fetch_box, tmp_path):
    got = fetch(fetch_box, tmp_path, "file.bin", [DEAD])
    assert "file.bin of thing did not arrive from 127.0.0.1. aria2c ended with" in got.failure
    assert final("file.bin") == ""


def test_a_file_that_was_damaged_later_is_found_and_mended(fetch_box, tmp_path):
    assert fetch(fetch_box, tmp_path, "file.bin", [GOOD]).failure == ""
    box.podman("exec", NAME, "sh", "-c", f"printf X | dd of={DEST}/thing/file.bin conv=notrunc status=none")
    assert fetch(fetch_box, tmp_path, "file.bin", [GOOD]).changed == ["Fetch"]
    assert final("file.bin") == hashlib.sha256(CONTENT).hexdigest()
