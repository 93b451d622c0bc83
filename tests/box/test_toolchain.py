"""Builds on real boxes: killed, cut off, out of room, from the cache, and from caches that must not be used.

A small C program stands in for OpenSSL and CPython, compiled by the box's real gcc through the real module; molecule's
scenarios compile the real ones. Each step notes that it ran in a ledger, and waits while a file tells it to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import box
import pytest
import yaml
from support import ROOT, Outcome, run_ansible

SCRATCH = ROOT / ".boxes" / "toolchain-files"
PATIENCE_SECONDS = 90
STATE, DATA, OPT = "/var/lib/glmbox", "/var/lib/glmbox/data", "/opt/glmbox"
MAKEFILE = """
thing: one.o two.o main.o
\t$(CC) -o $@ $^
%.o: %.c
\t$(CC) $(CFLAGS) -c -o $@ $<
\techo "compiled $@" >>$(LEDGER)
\twhile [ -e /root/hold-$@ ]; do sleep 0.1; done
install: thing
\tmkdir -p $(PREFIX)/bin
\tcp thing $(PREFIX)/bin/
"""
SOURCES = {
    "Makefile": MAKEFILE,
    "one.c": "int one(void) { return 1; }\n",
    "two.c": "int two(void) { return 2; }\n",
    "main.c": """#include <stdio.h>
int one(void);
int two(void);
int main(void) { return printf("%d\\n", one() + two()) < 0; }
""",
}
HOLD = 'echo "{0}" >>"$LEDGER"; while [ -e /root/hold-{0} ]; do sleep 0.1; done; '
STEPS = [
    {"name": "configure", "run": HOLD.format("configure")},
    {"name": "make", "run": HOLD.format("make") + 'echo "jobs $JOBS" >>"$LEDGER"; make -j1 thing'},
    {"name": "install", "run": HOLD.format("install") + "make install"},
]
PROOF = HOLD.format("proof") + 'test "$("$PREFIX/bin/thing")" = 3'


@dataclass
class Box:
    """A box of these tests."""

    name: str
    inventory: Path
    cache: Path

    def inside(self, script: str) -> str:
        """Return what a script prints inside the box, run past SSH."""
        return box.podman("exec", box.container(self.name), "sh", "-c", script)

    def playbook(self, *tasks: str, **build: object) -> Path:
        """Write a playbook of some of push, start, wait and keep; build: options that differ."""
        given = {
            "name": "thing",
            "version": "1",
            "archive": "thing-1",
            "install_dir": OPT,
            "packages": ["gcc", "libc6-dev", "make"],
            "steps": STEPS,
            "proof": PROOF,
            "environment": {"LEDGER": "/root/ledger"},
            **build,
        }
        places = {
            "work_dir": f"{DATA}/build",
            "log_dir": "/var/log/glmbox",
            "proven_dir": f"{STATE}/proven",
            "jobs_dir": f"{STATE}/jobs",
            "catalogue": str(SCRATCH / "artifacts"),
            "bundle": str(SCRATCH / "bundle"),
            "artifacts_dir": f"{DATA}/artifacts",
            "cache_dir": str(self.cache),
            "cache_box_dir": f"{DATA}/builds",
        }
        places.update({key: given.pop(key) for key in places if key in given})
        push = {"names": ["thing-1"], "dest": f"{DATA}/artifacts", "jobs_dir": f"{STATE}/jobs"}
        keep = {"dir": places["cache_dir"], "box_dir": places["cache_box_dir"], "jobs_dir": places["jobs_dir"]}
        known = {
            "push": {"glmbox.box.artifact": {**push, "catalogue": places["catalogue"], "bundle": places["bundle"]}},
            "start": {"glmbox.box.build": given},
            "wait": {"glmbox.box.build": {"name": "thing", "do": "wait", "install_dir": given["install_dir"]}},
            "keep": {"glmbox.box.cached_builds": {**keep, "install_dir": given["install_dir"]}},
        }
        play = {
            "hosts": "all",
            "gather_facts": False,
            "module_defaults": {"glmbox.box.build": places},
            "tasks": [{"name": task, **known[task]} for task in tasks],
        }
        path = SCRATCH / f"{self.name}.yml"
        path.write_text(yaml.safe_dump([play]))
        return path

    def play(self, *tasks: str, options: str | None = None, **build: object) -> Outcome:
        return run_ansible(self.inventory, playbook=str(self.playbook(*tasks, **build)), cmdline=options)

    def ledger(self) -> list[str]:
        """Return what the steps noted, and begin a new ledger."""
        return self.inside("cat /root/ledger 2>/dev/null || true; rm -f /root/ledger").splitlines()

    def until_noted(self, line: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while line not in self.inside("cat /root/ledger 2>/dev/null || true").splitlines():
            assert time.monotonic() < deadline, f"{line} was never noted"
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill all that the job has started, as a box does that runs out of memory."""
        left = f"grep -lE '[J]OB_DIR={STATE}/jobs/build-thing' -az /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3"
        descendants = "pgrep -f '[h]old-' || true"
        self.inside(f'while pids=$({left}; {descendants}); [ "$pids" ]; do kill -9 $pids 2>/dev/null; sleep 0.1; done')

    def answers(self) -> bool:
        return self.inside(f"{OPT}/thing/bin/thing") == "3"

    def forget(self) -> None:
        """Take away the build and all caches of it."""
        self.inside(f"rm -rf {OPT} {DATA}/builds {DATA}/build {STATE}/jobs /root/ledger")
        shutil.rmtree(self.cache, ignore_errors=True)


def start(name: str, cache: Path, *options: str, suite: str = box.SUITE) -> Box:
    inventory = box.start_test_box(name, options=options, suite=suite)
    one = Box(name, inventory, cache)
    one.inside("(apt-get -qq update && apt-get -qq install -y --no-install-recommends zstd procps) >/dev/null 2>&1")
    return one


@pytest.fixture(scope="module")
def on() -> Iterator[Box]:
    shutil.rmtree(SCRATCH, ignore_errors=True)
    source = SCRATCH / "thing-1"
    source.mkdir(parents=True)
    for name, text in SOURCES.items():
        (source / name).write_text(text)
    archive = SCRATCH / "bundle" / "thing-1" / "thing-1.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname="thing-1")
    content = archive.read_bytes()
    file = {"path": archive.name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (SCRATCH / "artifacts").mkdir()
    (SCRATCH / "artifacts" / "thing.yml").write_text(yaml.safe_dump({"thing-1": {"files": [file]}}))
    one = start("toolchain", SCRATCH / "cache", "--mount", "type=tmpfs,destination=/small,tmpfs-size=48m")
    yield one
    box.stop_test_box("toolchain")
    shutil.rmtree(SCRATCH, ignore_errors=True)


def test_check_mode_on_a_bare_box_changes_nothing(on):
    looked = on.play("push", "start", "wait", "keep", options="--check --diff")
    assert (looked.failure, looked.changed) == ("", ["push", "start"])
    assert on.inside(f"ls -d {OPT} {DATA} {STATE} 2>/dev/null || true") == ""


def test_a_build_that_is_killed_at_five_points_goes_on_each_time(on):
    """While it waits for its source, and in each step; what was compiled is not compiled again."""
    assert on.play("start").failure == ""
    time.sleep(1)
    on.kill()
    assert on.play("push").failure == ""
    for point in ("configure", "two.o", "install", "proof"):
        on.inside(f"touch /root/hold-{point}")
        assert on.play("start").failure == ""
        on.until_noted("compiled two.o" if point == "two.o" else point)
        on.kill()
        on.inside(f"rm /root/hold-{point}")
    finished = on.play("start", "wait")
    assert finished.failure == ""
    assert on.answers()
    ran = on.ledger()
    # configure and make were killed once each, the last step and the proof run until the stamp is written.
    assert {step: ran.count(step) for step in ("configure", "make")} == {"configure": 2, "make": 2}
    assert [ran.count(f"compiled {name}.o") for name in ("one", "main")] == [1, 1]
    assert on.inside(f"ls -A {DATA}/build | grep thing-1- || true") == ""


def test_a_second_run_changes_nothing_and_check_mode_finds_nothing(on):
    kept = on.play("push", "start", "wait", "keep")
    assert (kept.failure, kept.changed) == ("", ["keep"])
    again = on.play("push", "start", "wait", "keep")
    assert (again.failure, again.changed) == ("", [])
    looked = on.play("push", "start", "wait", "keep", options="--check --diff")
    assert (looked.failure, looked.changed) == ("", [])
    assert on.ledger() == []


def test_a_pack_that_was_poisoned_is_removed_and_the_build_made_anew(on):
    (packed,) = on.cache.glob("thing-1-*.tar.zst")
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 0xFF
    on.inside(f"rm -r {OPT}")
    packed.write_bytes(content)
    built = on.play("start", "wait", "keep")
    assert built.failure == ""
    assert "does not have the sha256 of its manifest; it was removed." in built.output
    assert "compiled one.o" in on.ledger()
    assert packed.read_bytes() != content


def test_a_pack_that_does_not_pass_its_proof_is_dropped_and_the_build_made_anew(on):
    """Whoever can write the cache can make hash and manifest fit; the program in it still has to work."""
    (packed,) = on.cache.glob("thing-1-*.tar.zst")
    stem = packed.name.removesuffix(".tar.zst")
    folder = SCRATCH / "forged" / stem / "bin"
    folder.mkdir(parents=True)
    (folder / "thing").write_text("#!/bin/sh\necho 4\n")
    (folder / "thing").chmod(0o755)
    with tarfile.open(SCRATCH / "forged.tar", "w") as tar:
        tar.add(SCRATCH / "forged" / stem, arcname=stem)
    box.podman("cp", str(SCRATCH / "forged.tar"), f"{box.container(on.name)}:/root/forged.tar")
    on.inside("zstd -q -f /root/forged.tar -o /root/forged.tar.zst")
    box.podman("cp", f"{box.container(on.name)}:/root/forged.tar.zst", str(packed))
    manifest = json.loads(packed.with_name(stem + ".json").read_text())
    manifest.update(size=packed.stat().st_size, sha256=hashlib.sha256(packed.read_bytes()).hexdigest())
    packed.with_name(stem + ".json").write_text(json.dumps(manifest))
    on.inside(f"rm -r {OPT}")
    forged = packed.read_bytes()
    built = on.play("start", "wait", "keep")
    assert built.failure == ""
    assert f"The cached build {stem} is not used" in built.output
    assert packed.read_bytes() != forged
    assert on.answers()
    assert "compiled one.o" in on.ledger()


def test_a_pack_on_a_data_disk_outlives_the_system_disk(on):
    on.forget()
    first = on.play("push", "start", "wait", "keep", cache_box_dir="/small/builds")
    assert first.failure == ""
    assert "compiled one.o" in on.ledger()
    shutil.rmtree(on.cache)
    on.inside(f"rm -rf {OPT} {STATE}/jobs {DATA}/build")
    again = on.play("start", "wait", cache_box_dir="/small/builds")
    assert again.failure == ""
    assert on.answers()
    assert on.ledger() == ["proof"]
    assert on.inside("ls /small/builds | grep -c thing-1") == "2"


def test_a_full_disk_is_named_and_the_next_run_goes_on(on):
    on.forget()
    full = [*STEPS[:1], {"name": "make", "run": "dd if=/dev/zero of=big bs=1M count=100; make thing"}, STEPS[2]]
    failed = on.play("push", "start", "wait", work_dir="/small/work", steps=full, cache=False)
    assert "failed in step 'make'" in failed.failure
    assert "The disk of /small/work/thing-1-" in failed.failure
    on.inside("mount -o remount,size=300m /small")
    healed = on.play("start", "wait", work_dir="/small/work", steps=full, cache=False)
    assert healed.failure == ""
    assert on.ledger().count("configure") == 1


def test_a_compiler_that_fails_is_quoted(on):
    on.forget()
    failed = on.play("push", "start", "wait", steps=[{"name": "make", "run": "make CFLAGS=-fno-such-option thing"}])
    for part in (
        "Building thing 1 failed in step 'make' with exit code 2",
        "unrecognized command-line option '-fno-such-option'",
        "The whole log is /var/log/glmbox/build-thing.log on the box.",
        "run the same command again: it goes on from this step.",
    ):
        assert part in failed.failure.replace("\u2018", "'").replace("\u2019", "'")
    assert on.inside(f"ls {OPT}/thing 2>/dev/null || true") == ""


def test_a_run_that_is_cut_is_joined_by_the_next(on):
    on.forget()
    on.inside("touch /root/hold-make")
    path = on.playbook("push", "start", "wait")
    command = ["ansible-playbook", str(path), "-i", str(on.inventory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    on.until_noted("make")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = on.inside(f"cat {STATE}/jobs/build-thing/pid.json")
    assert on.play("start").failure == ""
    assert on.inside(f"cat {STATE}/jobs/build-thing/pid.json") == before
    on.inside("rm /root/hold-make")
    assert on.play("start", "wait", "keep").failure == ""
    assert on.ledger().count("make") == 1


def test_another_box_of_the_same_kind_compiles_nothing(on):
    second = start("toolchain-second", on.cache)
    try:
        built = second.play("start", "wait")
        assert built.failure == ""
        assert second.answers()
        assert second.ledger() == ["proof"]
        # Not even the compiler was installed.
        assert second.inside("command -v gcc make || true") == ""
    finally:
        box.stop_test_box("toolchain-second")


def test_a_box_with_another_glibc_uses_nothing_of_it_and_one_core_gets_one_process(on):
    """Debian 12, with one core and 2 GB."""
    other = start("toolchain-other", on.cache, "--cpus", "1", "--memory", "2g", suite="bookworm")
    try:
        built = other.play("push", "start", "wait", "keep")
        assert built.failure == ""
        ran = other.ledger()
        assert "compiled one.o" in ran
        assert "jobs 1" in ran
        assert len(list(on.cache.glob("thing-1-*.tar.zst"))) == 2
    finally:
        box.stop_test_box("toolchain-other")


def test_a_missing_module_is_named_with_the_package_that_brings_its_header(on):
    """The proof of the role python, run by a Python without bz2."""
    box.podman("cp", str(ROOT / "roles" / "python" / "files" / "proof.py"), f"{box.container(on.name)}:/root/proof.py")
    on.inside("mkdir -p /root/without && echo 'raise ImportError(\"no _bz2\")' >/root/without/bz2.py")
    command = "PYTHONPATH=/root/without python3 /root/proof.py 1.1.1 /usr/bin/openssl 2>&1 || echo refused"
    said = on.inside(command).splitlines()
    assert "The module bz2 is missing (no _bz2); libbz2-dev brings what it needs." in said
    assert said[-1] == "refused"
