"""The wheels of a lock: what pip is asked for, and when the folder counts as whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from ansible_collections.glmbox.box.plugins.filter.wheels import gathered_wheels
from ansible_collections.glmbox.box.plugins.module_utils import wheels
from ansible_collections.glmbox.box.plugins.module_utils.wheels import Wheels, WheelsError

ROOT = Path(__file__).resolve().parent.parent.parent
CONTENTS = {"one": b"first", "two": b"second", "three": b"third"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def lock(tmp_path):
    lines = [
        f"{name}==1.0 \\\n    --hash=sha256:{sha256(content)} \\\n    --hash=sha256:{'0' * 64}"
        for name, content in CONTENTS.items()
    ]
    path = tmp_path / "py310-test.txt"
    path.write_text("# a comment\n" + "\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def index(monkeypatch):
    """Stand in for pip: one wheel a requirement. Returns the names of what it was asked for, call by call."""
    asked: list[list[str]] = []

    def bring(requirements, folder, python, more=()):
        asked.append([one.name for one in requirements])
        for one in requirements:
            name = one.name.split("==")[0]
            Path(folder, f"{name}-1.0-py3-none-any.whl").write_bytes(CONTENTS[name])

    monkeypatch.setattr(wheels, "download", bring)
    return asked


def gather(lock: str, bundle: Path, **more) -> tuple[bool, list[str]]:
    return Wheels(lock, str(bundle), **more).gather(lambda done, total: None)


def test_a_lock_is_read_package_by_package(lock):
    read = wheels.requirements_of(Path(lock).read_text())
    assert [one.name for one in read] == ["one==1.0", "two==1.0", "three==1.0"]
    assert read[0].hashes == {sha256(b"first"), "0" * 64}


@pytest.mark.parametrize("name", ["py310-cu118", "py311-cpu"])
def test_the_projects_locks_are_read_whole(name):
    text = (ROOT / "roles" / "torch" / "files" / f"{name}.txt").read_text()
    read = wheels.requirements_of(text)
    assert len(read) == text.count("==")
    assert sum(len(one.hashes) for one in read) == text.count("--hash=sha256:")


@pytest.mark.parametrize(("lock_name", "python"), [("/x/py310-cu118.txt", "3.10"), ("py39-cpu.txt", "3.9")])
def test_a_locks_name_tells_its_python(lock_name, python):
    assert wheels.python_of(lock_name) == python


def test_another_name_is_no_lock():
    with pytest.raises(WheelsError, match="is no lock"):
        wheels.python_of("requirements.txt")


def test_pip_is_told_the_boxs_python_and_glibc():
    told = " ".join(wheels.pip_arguments("3.10", "/folder", "/lock", ["--index-url", "https://index.example"]))
    for part in ("--python-version 3.10", "--abi cp310", "--abi abi3", "--only-binary=:all:", "--require-hashes"):
        assert part in told
    assert "manylinux_2_31_x86_64" in told
    assert "manylinux_2_32" not in told
    assert told.endswith("--dest /folder --requirement /lock --index-url https://index.example")


def test_wheels_are_gathered_once(lock, index, tmp_path):
    changed, new = gather(lock, tmp_path)
    assert (changed, len(new)) == (True, 3)
    listed = yaml.safe_load((tmp_path / "wheels-py310-test" / "manifest.yml").read_text())["wheels-py310-test"]
    assert {file["path"]: file["sha256"] for file in listed["files"]} == {
        f"{name}-1.0-py3-none-any.whl": sha256(content) for name, content in CONTENTS.items()
    }
    assert gather(lock, tmp_path) == (False, [])
    assert index == [["one==1.0", "two==1.0", "three==1.0"]]


def test_a_killed_run_goes_on_where_it_was(lock, index, tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "BATCH", 1)
    bring = wheels.download

    def die_at_the_second(requirements, *more):
        if requirements[0].name == "two==1.0":
            raise KeyboardInterrupt
        bring(requirements, *more)

    monkeypatch.setattr(wheels, "download", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        gather(lock, tmp_path)
    assert gathered_wheels(str(tmp_path), lock) == []
    monkeypatch.setattr(wheels, "download", bring)
    assert gather(lock, tmp_path)[0]
    assert index == [["one==1.0"], ["two==1.0"], ["three==1.0"]]


def test_what_is_damaged_or_anothers_is_replaced(lock, index, tmp_path):
    gather(lock, tmp_path)
    folder = tmp_path / "wheels-py310-test"
    (folder / "two-1.0-py3-none-any.whl").write_bytes(b"half")
    (folder / "old-0.9-py3-none-any.whl").write_bytes(b"another lock's")
    assert gather(lock, tmp_path) == (True, ["two-1.0-py3-none-any.whl"])
    assert not (folder / "old-0.9-py3-none-any.whl").exists()
    assert index[1:] == [["two==1.0"]]


def test_what_an_artifact_holds_is_left_out(lock, index, tmp_path):
    assert len(gather(lock, tmp_path, elsewhere={sha256(b"second")})[1]) == 2
    assert index == [["one==1.0", "three==1.0"]]


def test_another_locks_wheels_do_not_count(lock, index, tmp_path):
    gather(lock, tmp_path)
    assert gathered_wheels(str(tmp_path), lock) == ["wheels-py310-test"]
    Path(lock).write_text(Path(lock).read_text() + "# changed\n")
    assert gathered_wheels(str(tmp_path), lock) == []
    assert gather(lock, tmp_path) == (True, [])
    assert gathered_wheels(str(tmp_path), lock) == ["wheels-py310-test"]


def test_no_bundle_holds_no_wheels(lock):
    assert gathered_wheels("/nonexistent", lock) == []


def test_a_package_without_a_wheel_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lock = tmp_path / "py310-test.txt"
    lock.write_text(f"nowhere==1.0 --hash=sha256:{'a' * 64}\n")
    with pytest.raises(WheelsError, match=r"No matching distribution found for nowhere==1.0.*torch_index_url"):
        gather(str(lock), tmp_path)
    assert gathered_wheels(str(tmp_path), str(lock)) == []
