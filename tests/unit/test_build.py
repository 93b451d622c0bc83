"""Builds: done once, resumed, proven, never half."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible_collections.glmbox.box.plugins.action import build as action_build
from ansible_collections.glmbox.box.plugins.module_utils import job_processes, jobs, program
from ansible_collections.glmbox.box.plugins.module_utils.building import builder, identity, packs, steps
from ansible_collections.glmbox.box.plugins.module_utils.building.builder import Builder
from ansible_collections.glmbox.box.plugins.module_utils.building.steps import BuildFailed
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of, write_json
from ansible_collections.glmbox.box.plugins.modules import build, cached_builds, driver_fingerprint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_RESULT", str(tmp_path / "result.json"))
    monkeypatch.setenv("JOB_PROGRESS", str(tmp_path / "progress.json"))
    source = tmp_path / "hello-1"
    source.mkdir()
    (source / "hello.sh").write_text("echo hello\n")
    archive = tmp_path / "hello.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, arcname="hello-1")
    return {
        "name": "hello",
        "version": "1",
        "install_dir": str(tmp_path / "opt"),
        "work_dir": str(tmp_path / "work"),
        "log_dir": str(tmp_path / "log"),
        "proven_dir": str(tmp_path / "proven"),
        "archive": {"path": str(archive), "sha256": sha256_of(str(archive))},
        "artifacts": {"hello-1": [str(archive)]},
        "files": {},
        "contents": {},
        "needs": [],
        "packages": [],
        "links": {},
        "jobs": 0,
        "job_mib": 512,
        "environment": {},
        "cache": "",
        "pack_limit_mib": 1024,
        "steps": [
            {"name": "make", "run": f"echo made >> {tmp_path}/made; cp hello.sh built.sh"},
            {"name": "install", "run": 'mkdir -p "$PREFIX/bin"; cp built.sh "$PREFIX/bin/hello"'},
        ],
        "proof": 'test "$(sh "$PREFIX/bin/hello")" = hello',
    }


def run(spec) -> str:
    """Build as the job does, and return the prefix."""
    spec["stem"] = build.prepared(spec)["stem"]
    builder = Builder(spec, str(Path(spec["work_dir"]).parent / "jobs"))
    builder.run()
    return builder.prefix


def look(spec) -> dict:
    return build.look({"spec": spec, "jobs_dir": str(Path(spec["work_dir"]).parent / "jobs")})


def times_made(spec) -> int:
    return len(Path(spec["work_dir"]).parent.joinpath("made").read_text().splitlines())


def test_what_stands_is_not_built_again(spec):
    prefix = run(spec)
    assert os.path.realpath(f"{spec['install_dir']}/hello") == prefix
    assert look(spec)["stands"]
    assert run(spec) == prefix
    assert times_made(spec) == 1
    assert not os.path.exists(f"{prefix}/{identity.BEGUN}")


@pytest.fixture
def data_disk(spec, monkeypatch):
    """Let prefixes stand on another disk than the system's."""
    system = {"device": 1, "free_mib": 9999}
    monkeypatch.setattr(identity, "disk_of", lambda path: system if path == spec["proven_dir"] else {"device": 2})


def reset(spec) -> None:
    """Empty the system's disk; the one with the prefix stays."""
    shutil.rmtree(spec["proven_dir"])


def start(spec) -> str:
    """Do what the module does before the job runs, and then what the job does."""
    found = build.prepared(spec)
    if not identity.is_proven(spec, found["prefix"]):
        identity.doubt(found["prefix"])
    return run(spec)


def test_on_the_systems_own_disk_a_stamp_needs_no_note(spec):
    """As on every box that was deployed before there were notes."""
    prefix = run(spec)
    reset(spec)
    assert look(spec)["stands"] and start(spec) == prefix and times_made(spec) == 1
    assert identity.DOUBTED not in os.listdir(prefix)


@pytest.mark.usefixtures("data_disk")
@pytest.mark.parametrize("proof", ["kill -9 $$", "bash -c 'kill -9 $$'", "exit 1"])
def test_what_is_killed_or_has_no_room_while_it_is_proven_stays_to_be_proven(spec, monkeypatch, proof, tmp_path):
    spec["proof"] = f"! [ -e {tmp_path}/trouble ] || {{ {proof}; }}"
    prefix = run(spec)
    reset(spec)
    (tmp_path / "trouble").touch()
    if proof == "exit 1":
        monkeypatch.setattr(builder, "full_disk", lambda _: "The disk of /data is full (3 MiB free). ")
    with pytest.raises(BuildFailed, match="(?s)came with the disk and could not be proven: exit code .* Run again"):
        start(spec)
    (tmp_path / "trouble").unlink()
    assert not look(spec)["stands"]
    assert start(spec) == prefix and times_made(spec) == 1


@pytest.mark.usefixtures("data_disk")
def test_what_came_with_the_disk_is_proven_and_not_built(spec, monkeypatch):
    prefix = run(spec)
    asked = []
    monkeypatch.setattr(builder, "install_packages", lambda packages, _: asked.append(packages))
    write_json(f"{prefix}/{identity.PACKAGES}", ["libffi8"])
    reset(spec)
    seen = look(spec)
    assert not seen["stands"] and not seen["built"] and seen["problems"] == []
    assert start(spec) == prefix
    assert times_made(spec) == 1 and asked == [["libffi8"]]
    assert look(spec)["stands"]
    assert not {identity.BEGUN, identity.DOUBTED} & set(os.listdir(prefix))


@pytest.mark.usefixtures("data_disk")
def test_what_is_here_begins_in_one_command_and_what_may_be_cached_elsewhere_waits_for_it(spec, jobs_dir):
    params = {"spec": spec, "jobs_dir": jobs_dir, "manifest": {}, "program": base64.b64encode(program.builder())}
    spec["cache"] = spec["work_dir"] + "-cache"
    assert build.begin(params)["begun"] is False
    assert jobs.status(jobs_dir, "build-hello")["state"] == "absent"
    prefix = run(spec)
    assert build.begin(params)["begun"] is False  # it stands
    shutil.rmtree(spec["cache"])
    reset(spec)
    assert build.begin(params)["begun"] is True
    jobs.wait(jobs_dir, ["build-hello"], 20)
    assert look(spec)["stands"] and times_made(spec) == 1 and os.path.exists(f"{prefix}/{identity.STAMP}")
    assert not os.path.exists(spec["cache"])  # nor is it packed once more


@pytest.mark.usefixtures("data_disk")
def test_a_doubted_prefix_does_not_stand_for_who_waits_for_it(spec):
    prefix = run(spec)
    reset(spec)
    identity.doubt(prefix)
    assert not os.path.exists(f"{prefix}/{identity.STAMP}") and not look(spec)["built"]
    assert look(spec)["problems"] == []
    identity.doubt(prefix)  # killed before its job ran, and started again
    assert run(spec) == prefix and times_made(spec) == 1


@pytest.mark.usefixtures("data_disk")
def test_what_came_with_the_disk_and_does_not_work_here_is_built_anew(spec):
    prefix = run(spec)
    Path(f"{prefix}/bin/hello").write_text("exit 1\n")
    reset(spec)
    assert start(spec) == prefix
    assert times_made(spec) == 2 and look(spec)["stands"]
    (note,) = json.loads(Path(os.environ["JOB_RESULT"]).read_text())["notes"]
    assert note.startswith("hello-1-") and "came with the disk and is not used" in note


@pytest.mark.usefixtures("data_disk")
def test_what_came_with_the_disk_but_was_never_noted_gets_all_packages(spec, monkeypatch):
    prefix = run(spec)
    os.unlink(f"{prefix}/{identity.PACKAGES}")
    asked = []
    monkeypatch.setattr(builder, "install_packages", lambda packages, _: asked.append(packages))
    reset(spec)
    identity.doubt(prefix)
    spec["packages"] = ["zlib1g-dev"]  # an input: the stamp is then another build's, and nothing is believed
    other = run(spec)
    assert other != prefix and times_made(spec) == 2
    spec["packages"] = []
    asked.clear()
    assert run(spec) == prefix and times_made(spec) == 2 and asked == [[]]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"install_dir": "/opt/elsewhere"},
        {"archive": {"path": "/x", "sha256": "0" * 64}},
        {"files": {"proof.py": "1" * 64}},
        {"needs": [{"link": "/opt/glmbox/openssl", "prefix": "/opt/glmbox/openssl-1-abc"}]},
        {"packages": ["zlib1g-dev"]},
        {"steps": [{"name": "make", "run": "another"}]},
        {"proof": "true"},
    ],
)
def test_another_input_is_another_prefix(spec, change):
    before = build.prepared(spec)["prefix"]
    assert build.prepared({**spec, **change})["prefix"] != before


@pytest.mark.parametrize("part", ["architecture", "glibc", "distribution", "compiler"])
def test_another_system_is_another_prefix(spec, part):
    here = identity.system()
    assert here[part]
    other = identity.inputs_of(spec, {**here, part: "other"})
    assert identity.stem_of(other) != identity.stem_of(identity.inputs_of(spec, here))


def test_the_environment_and_the_number_of_processes_are_no_inputs(spec):
    before = build.prepared(spec)["prefix"]
    change = {"environment": {"PIP_INDEX_URL": "https://index.example/simple"}, "jobs": 3, "job_mib": 2048}
    assert build.prepared({**spec, **change})["prefix"] == before


def test_a_failed_step_names_itself_the_log_and_the_way_on(spec):
    spec["steps"][1]["run"] = "echo no such header >&2; exit 3"
    with pytest.raises(BuildFailed) as caught:
        run(spec)
    for part in (
        "hello 1 failed in step 'install'",
        "exit code 3",
        "no such header",
        "build-hello.log",
        "run the same",
    ):
        assert part in str(caught.value)
    assert not os.path.lexists(f"{spec['install_dir']}/hello")


def test_it_goes_on_from_the_step_that_failed(spec, tmp_path):
    spec["steps"][1]["run"] = f"test -e {tmp_path}/mended; " + spec["steps"][1]["run"]
    with pytest.raises(BuildFailed):
        run(spec)
    (tmp_path / "mended").touch()
    run(spec)
    assert times_made(spec) == 1


def test_a_build_whose_proof_fails_is_never_linked(spec):
    spec["proof"] = "false"
    with pytest.raises(BuildFailed, match="step 'proof'"):
        run(spec)
    assert not os.path.lexists(f"{spec['install_dir']}/hello")
    assert not look(spec)["stands"]


def test_a_prefix_without_its_stamp_is_not_believed(spec):
    prefix = run(spec)
    os.rename(f"{prefix}/{identity.STAMP}", f"{prefix}/{identity.BEGUN}")
    assert not look(spec)["stands"]
    run(spec)
    assert times_made(spec) == 2


def test_a_source_that_is_not_the_tables_is_not_compiled(spec):
    spec["archive"]["sha256"] = "0" * 64
    with pytest.raises(BuildFailed, match="its table says 0000"):
        run(spec)


def test_looking_changes_nothing(spec):
    assert look(spec)["stands"] is False
    assert not os.path.exists(spec["install_dir"])
    assert not os.path.exists(spec["work_dir"])


def test_a_foreign_file_in_the_links_place_stays(spec):
    os.makedirs(spec["install_dir"])
    Path(spec["install_dir"], "hello").write_text("somebody's")
    assert "not glmbox's to replace" in look(spec)["problems"][0]
    with pytest.raises(BuildFailed, match="not glmbox's to replace"):
        run(spec)
    assert Path(spec["install_dir"], "hello").read_text() == "somebody's"


def test_a_prefix_with_foreign_files_is_left_alone(spec):
    prefix = Path(build.prepared(spec)["prefix"])
    prefix.mkdir(parents=True)
    (prefix / "thesis.txt").write_text("precious")
    assert "holds what glmbox did not put there (thesis.txt)" in look(spec)["problems"][0]
    with pytest.raises(BuildFailed, match="Move it away"):
        run(spec)
    assert os.listdir(prefix) == ["thesis.txt"]


def test_links_on_path_are_laid_but_never_over_somebody_elses(spec, tmp_path):
    ours, theirs, old = (tmp_path / "bin" / name for name in ("hello", "hello-theirs", "hello-old"))
    ours.parent.mkdir()
    theirs.symlink_to("/usr/bin/true")
    old.symlink_to(f"{spec['install_dir']}/hello-0-abc/bin/hello")
    spec["links"] = {str(path): "bin/hello" for path in (ours, theirs, old)}
    run(spec)
    assert look(spec)["stands"]
    assert os.readlink(ours) == os.readlink(old) == f"{spec['install_dir']}/hello/bin/hello"
    assert os.readlink(theirs) == "/usr/bin/true"
    ours.unlink()
    assert not look(spec)["stands"]
    run(spec)
    assert ours.is_symlink()
    assert times_made(spec) == 1


def test_a_need_that_nobody_builds_is_named(spec):
    spec["needs"] = [{"link": f"{spec['install_dir']}/openssl", "prefix": ""}]
    assert "hello needs" in look(spec)["problems"][0]
    spec["needs"][0]["prefix"] = f"{spec['install_dir']}/openssl-1-abc"
    with pytest.raises(BuildFailed, match="whose build has failed or was stopped"):
        run(spec)


def test_steps_see_nothing_of_the_login_shell_that_is_no_input(spec, monkeypatch, tmp_path):
    for name in ("PYTHONHOME", "LD_LIBRARY_PATH", "CC", "CFLAGS", "MAKEFLAGS", "CPATH", "SSH_CLIENT", "BASH_ENV"):
        monkeypatch.setenv(name, "/conda")
    monkeypatch.setenv("PATH", f"/conda/bin:{os.environ['PATH']}")
    passed = {"HOME": "/home/x", "LC_ALL": "C.UTF-8", "https_proxy": "http://p:1", "ALL_PROXY": "", "PIP_CERT": "/c"}
    for name, value in passed.items():
        monkeypatch.setenv(name, value)
    spec["steps"][0]["run"] += f"; env > {tmp_path}/seen"
    run(spec)
    seen = (tmp_path / "seen").read_text()
    assert "conda" not in seen
    assert set(f"{name}={value}" for name, value in passed.items()) <= set(seen.splitlines())


def test_steps_see_their_files_needs_and_environment(spec, tmp_path):
    need = Path(spec["install_dir"], "open-1-abc")
    need.mkdir(parents=True)
    (need / identity.STAMP).write_text("{}")
    spec["needs"] = [{"link": f"{spec['install_dir']}/open", "prefix": str(need)}]
    spec["contents"] = {"word.txt": "a word"}
    spec["environment"] = {"PIP_NO_INDEX": 1, "PREFIX": "/elsewhere"}
    spec["steps"][0]["run"] += f'; echo "$(cat "$FILES/word.txt") $OPEN $PIP_NO_INDEX $PREFIX" > {tmp_path}/seen'
    prefix = run(spec)
    assert (tmp_path / "seen").read_text() == f"a word {need} 1 {prefix}\n"


def test_the_result_tells_what_took_how_long(spec, tmp_path):
    run(spec)
    told = json.loads((tmp_path / "result.json").read_text())
    assert [one["what"] for one in told["segments"]] == ["install packages", "unpack", "make", "install", "proof"]
    assert all(one["ended"] >= one["begun"] and one["kind"] == "work" for one in told["segments"])


@pytest.mark.parametrize(
    ("wished", "cores", "mib", "job_mib", "expected"),
    [
        (0, 8, 32000, 512, 8),
        (0, 1, 32000, 512, 1),
        (0, 8, 2048, 512, 4),
        (0, 8, 2048, 2048, 1),
        (0, 8, 400, 512, 1),
        (3, 8, 400, 512, 3),
    ],
)
def test_so_many_processes_as_cores_and_memory_allow(monkeypatch, wished, cores, mib, job_mib, expected):
    monkeypatch.setattr(steps, "cpus", lambda: cores)
    monkeypatch.setattr(steps, "memory_mib", lambda: mib)
    assert steps.processes(wished, job_mib) == expected


def test_a_step_tells_how_far_it_is(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "LOOK_SECONDS", 0.05)
    spec["steps"][0] = {
        "name": "make",
        "run": f"sleep 0.5; cp {tmp_path}/progress.json {tmp_path}/seen; cp hello.sh built.sh",
        "progress": "echo 3 12",
        "unit": "objects",
    }
    run(spec)
    (item,) = json.loads((tmp_path / "seen").read_text())
    assert (item["label"], item["done"], item["total"], item["unit"]) == ("hello 1: make", 3, 12, "objects")


# -- what is half, or cut by a power cut


class Killed(BaseException):
    """Stands for SIGKILL."""


def delete_and_die(path) -> None:
    """Delete all files below a folder, and be killed before the folder goes."""
    for parent, _, names in os.walk(path):
        for name in names:
            os.unlink(os.path.join(parent, name))
    raise Killed


def test_a_prefix_whose_emptying_was_killed_is_still_ours_and_not_believed(spec, monkeypatch):
    prefix = run(spec)
    begun = Builder({**spec, "stem": ""}, "")
    monkeypatch.setattr(shutil, "rmtree", delete_and_die)
    with pytest.raises(Killed):
        begun._begin_prefix(empty=True)
    monkeypatch.undo()
    looked = look(spec)
    assert (looked["stands"], looked["problems"]) == (False, [])
    assert run(spec) == prefix


def test_work_whose_removal_was_killed_is_not_gone_on_with(spec, tmp_path, monkeypatch):
    spec["proof"] = f"test -e {tmp_path}/mended"
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: ignore_errors or delete_and_die(path))
    with pytest.raises(Killed):
        run(spec)
    monkeypatch.undo()
    (tmp_path / "mended").touch()
    run(spec)
    assert look(spec)["stands"]
    assert [name for name in os.listdir(spec["work_dir"]) if name.startswith("hello-")] == []


def test_files_are_on_the_disk_before_the_stamp_that_vouches_for_them(spec, monkeypatch):
    stamped = []
    stamp = os.path.join(build.prepared(spec)["prefix"], identity.STAMP)
    monkeypatch.setattr(os, "sync", lambda: stamped.append(os.path.exists(stamp)))
    run(spec)
    assert stamped == [False]


def test_what_a_pack_left_half_is_not_taken_for_installed(spec):
    """As pip does, which leaves what is there as it is."""
    spec["steps"] = [
        {
            "name": "install",
            "run": 'mkdir -p "$PREFIX/bin"; test -e "$PREFIX/bin/hello" || cp hello.sh "$PREFIX/bin/hello"',
        }
    ]
    half = Path(build.prepared(spec)["prefix"])
    (half / "bin").mkdir(parents=True)
    (half / identity.BEGUN).touch()
    (half / "bin" / "hello").touch()
    run(spec)
    assert look(spec)["stands"]


# -- packs


@pytest.fixture
def packed(spec, tmp_path) -> dict:
    """The specification of a build that has a pack, and has to be made to stand once more."""
    spec["cache"] = str(tmp_path / "cache")
    shutil.rmtree(run(spec))
    assert packs.listed(spec["cache"])
    return spec


def stub(tmp_path, name: str, script: str) -> str:
    """Write a program that stands in for another, and return its folder."""
    folder = tmp_path / "stubs"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return str(folder)


def forge(spec: dict, content: bytes) -> str:
    """Put something else into the place of the pack, with a manifest that fits, and return its sha256."""
    (found,) = packs.listed(spec["cache"])
    pack = Path(spec["cache"], found["stem"] + packs.PACK)
    pack.write_bytes(content)
    sha256 = sha256_of(str(pack))
    write_json(str(pack.with_name(found["stem"] + packs.MANIFEST)), {**found, "size": len(content), "sha256": sha256})
    return sha256


def result(tmp_path) -> dict:
    return json.loads((tmp_path / "result.json").read_text())


def test_a_pack_that_there_is_no_room_for_is_kept(packed, tmp_path, monkeypatch):
    real = os.environ["PATH"]
    full = stub(tmp_path, "tar", "echo 'tar: hello: Cannot write: No space left on device' >&2; cat >/dev/null; exit 2")
    monkeypatch.setenv("PATH", f"{full}:{real}")
    with pytest.raises(BuildFailed, match="cannot be unpacked: .*No space left on device"):
        run(packed)
    monkeypatch.setenv("PATH", real)
    run(packed)
    assert times_made(packed) == 1
    assert "rejected" not in result(tmp_path)


def test_a_pack_whose_proof_finds_the_disk_full_is_kept(packed, monkeypatch):
    forge(packed, b"no tar")
    monkeypatch.setattr(builder, "full_disk", lambda paths: "The disk of /opt is full (0 MiB free). ")
    with pytest.raises(BuildFailed, match="The disk of /opt is full"):
        run(packed)
    assert packs.listed(packed["cache"])


def test_a_box_without_zstd_rejects_no_pack(packed, tmp_path, monkeypatch):
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **more: None if name == "zstd" else real(name, **more))
    run(packed)
    assert times_made(packed) == 2
    assert "the box has no zstd" in result(tmp_path)["notes"][0]
    assert "rejected" not in result(tmp_path)


def test_what_is_no_tar_is_rejected_and_packed_anew(packed, tmp_path):
    forged = forge(packed, b"no tar")
    run(packed)
    assert result(tmp_path)["rejected"] is True
    assert [one["sha256"] == forged for one in packs.listed(packed["cache"])] == [False]


def test_a_pack_that_nothing_proved_does_not_outlive_the_build_from_sources(packed):
    """It came while the build was half done, and was not looked at."""
    forged = forge(packed, b"no tar")
    work = os.path.join(packed["work_dir"], build.prepared(packed)["stem"])
    os.makedirs(work)
    steps.unpack_source(packed["archive"]["path"], os.path.join(work, "source"))
    run(packed)
    assert times_made(packed) == 2
    assert [one["sha256"] == forged for one in packs.listed(packed["cache"])] == [False]


def test_a_build_whose_packing_was_killed_is_packed_by_the_next_run(spec, tmp_path):
    spec["cache"] = str(tmp_path / "cache")
    prefix = run(spec)
    packs.drop(spec["cache"], os.path.basename(prefix))
    draft, old, other = (
        Path(packs.draft_of(spec["cache"], stem)) for stem in (os.path.basename(prefix), "hello-0", "open-1")
    )
    for path in (draft, old, other):
        path.touch()
    assert not look(spec)["stands"]
    run(spec)
    assert look(spec)["stands"]
    assert times_made(spec) == 1
    assert [one["stem"] for one in packs.listed(spec["cache"])] == [os.path.basename(prefix)]
    assert [draft.exists(), old.exists(), other.exists()] == [False, False, True]


def test_what_is_no_drivers_is_what_the_fingerprint_does_not_look_at():
    assert packs.DRIVER_FILES == driver_fingerprint.NAMES
    assert packs.DRIVER_PACKAGE.pattern == driver_fingerprint.PACKAGE.pattern


def test_a_pack_names_no_package_of_the_driver(tmp_path, monkeypatch):
    prefix = tmp_path / "opt" / "venv-1-abc"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", prefix / "bin" / "true")
    paths = {"libcuda.so.1": "vendor-gpu", "libz.so.1": "zlib1g", "libvendor.so.1": "nvidia-alternative"}
    stub(tmp_path, "ldd", "\n".join(f"echo '{name} => /usr/lib/{name} (0x0)'" for name in paths))
    owners = [f"case \"$*\" in *{name}*) echo '{owner}:amd64: /usr/lib/{name}';; esac" for name, owner in paths.items()]
    folder = stub(tmp_path, "dpkg-query", "\n".join(owners))
    monkeypatch.setattr(packs, "SYSTEM_PATH", f"{folder}:{packs.SYSTEM_PATH}")
    assert packs.library_packages(str(prefix)) == ["zlib1g"]


def test_the_login_shells_libraries_hide_no_package(tmp_path, monkeypatch):
    prefix = tmp_path / "opt" / "x-1-abc"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", prefix / "bin" / "true")
    (tmp_path / "lib").mkdir()
    libc = next(line.split()[2] for line in told("ldd", "/bin/true").splitlines() if "libc.so" in line)
    shutil.copy(libc, tmp_path / "lib" / "libc.so.6")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "lib"))
    assert "libc6" in packs.library_packages(str(prefix))


def told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_driver_is_not_installed_for_a_pack_of_an_earlier_release(packed, monkeypatch):
    (found,) = packs.listed(packed["cache"])
    manifest = {**found, "packages": ["libnvidia-compute-535", "zlib1g"]}
    write_json(os.path.join(packed["cache"], found["stem"] + packs.MANIFEST), manifest)
    asked = []
    monkeypatch.setattr(builder, "install_packages", lambda packages, work_dir: asked.append(packages))
    run(packed)
    assert asked == [["zlib1g"]]


# -- apt and dpkg


def test_what_a_kill_inside_apt_left_is_configured_before_the_next_try(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.touch()
    stub(tmp_path, "apt-get", f"! [ -e {broken} ] || {{ echo 'E: dpkg was interrupted' >&2; exit 100; }}")
    folder = stub(
        tmp_path, "dpkg", f'[ "$*" = "--force-confold --configure -a" ] && [ "$DEBIAN_FRONTEND" ] && rm {broken}'
    )
    monkeypatch.setattr(steps, "SYSTEM_PATH", f"{folder}:{steps.SYSTEM_PATH}")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert steps.install_packages(["no-such-package"], str(tmp_path)) == ["no-such-package"]
    assert not broken.exists()


def test_what_dpkg_complains_of_is_told(tmp_path, monkeypatch):
    words = "Unpacking x ...\\ndpkg: error processing archive x.deb (--unpack):\\n trying to overwrite /y\\nDone"
    folder = stub(
        tmp_path, "apt-get", f"printf '{words}\\n'; echo 'E: Sub-process returned an error code (1)' >&2; exit 100"
    )
    stub(tmp_path, "dpkg", "exit 1")
    monkeypatch.setattr(steps, "SYSTEM_PATH", f"{folder}:{steps.SYSTEM_PATH}")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(BuildFailed) as failed:
        steps.install_packages(["no-such-package"], str(tmp_path))
    assert (
        "apt cannot install no-such-package: dpkg: error processing archive x.deb (--unpack): trying to overwrite /y "
        "E: Sub-process returned an error code (1)\nMend that on the box"
    ) in str(failed.value)


def test_a_hold_waits_for_whoever_has_dpkgs_lock(tmp_path):
    """The role's own task against a dpkg that is locked once; without the pause between two tries."""
    task = yaml.safe_load((ROOT / "roles" / "cuda" / "tasks" / "driver.yml").read_text())[-1]
    assert int(task["retries"]) * int(task["delay"]) >= 300
    held = f"cat >{tmp_path}/held; test -e {tmp_path}/tried || {{ touch {tmp_path}/tried; exit 2; }}"
    locked = f'case $1 in --get-selections) echo "$2 install";; *) {held};; esac'
    folder = stub(tmp_path, "dpkg", locked)
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"__cuda_not_held": ["nvidia-driver"], "ansible_python_interpreter": sys.executable},
        "environment": {"PATH": f"{folder}:{os.environ['PATH']}"},
        "tasks": [{**task, "retries": 2, "delay": 0}],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    command = ["ansible-playbook", str(tmp_path / "play.yml"), "-i", "localhost,", "-c", "local"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "held").read_text() == "nvidia-driver hold\n"


# -- the job, and who waits for it


@pytest.fixture
def jobs_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "systemd_is_booted", lambda: False)
    monkeypatch.setattr(job_processes, "TERM_SECONDS", 1.0)
    folder = str(tmp_path / "jobs")
    yield folder
    for name in jobs.names(folder):
        jobs.stop(folder, name)


def begin(spec: dict, jobs_dir: str) -> dict:
    """Start the build's job as the module does."""
    packed = base64.b64encode(program.builder()).decode()
    return build.start({"spec": spec, "jobs_dir": jobs_dir, "manifest": {}, "program": packed})


def wait(spec: dict, jobs_dir: str) -> dict:
    found = build.prepared(spec)
    stamp = os.path.join(found["prefix"], identity.STAMP)
    places = {"link": found["link"], "prefix": found["prefix"], "stamp": stamp}
    return build.wait({"jobs_dir": jobs_dir, "name": spec["name"], "slice_seconds": 0.1, **places})


def until(met, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def awaits(spec: dict, jobs_dir: str) -> bool:
    return bool((jobs.status(jobs_dir, "build-" + spec["name"])["result"] or {}).get("awaits"))


def test_who_waits_is_told_at_once_why_what_the_build_needs_does_not_come(spec, jobs_dir):
    (archive,) = spec["artifacts"]["hello-1"]
    os.rename(archive, archive + ".away")
    fetching = ["sh", "-c", 'while ! [ -e "$JOB_DIR/die" ]; do sleep 0.05; done; cp said "$JOB_RESULT"; exit 1']
    jobs.start(jobs_dir, "fetch-hello-1", fetching, {})
    begin(spec, jobs_dir)
    until(lambda: awaits(spec, jobs_dir))
    assert wait(spec, jobs_dir)["problem"] == ""
    write_json(f"{jobs_dir}/fetch-hello-1/said", {"problems": ["All mirrors of hello are dead."], "fetched": []})
    Path(jobs_dir, "fetch-hello-1", "die").touch()
    jobs.wait(jobs_dir, ["fetch-hello-1"], 10)
    assert "build-hello waits for hello-1, and nobody brings it. All mirrors" in wait(spec, jobs_dir)["problem"]
    # Somebody may bring it yet, so the job stays.
    os.rename(archive + ".away", archive)
    until(lambda: wait(spec, jobs_dir)["stands"])
    assert wait(spec, jobs_dir)["problem"] == ""


def test_a_build_that_nobody_fetches_for_holds_up_neither_those_who_need_it_nor_the_cache(spec, jobs_dir, tmp_path):
    os.unlink(spec["artifacts"]["hello-1"][0])
    found = build.prepared(spec)
    user = {
        **spec,
        "name": "user",
        "artifacts": {},
        "archive": None,
        "needs": [{"link": found["link"], "prefix": found["prefix"]}],
    }
    begin(spec, jobs_dir)
    begin(user, jobs_dir)
    until(lambda: awaits(spec, jobs_dir) and awaits(user, jobs_dir))
    assert "The job fetch-hello-1 is absent." in wait(user, jobs_dir)["problem"]
    params = {"jobs_dir": jobs_dir, "box_dir": str(tmp_path / "cache"), "slice_seconds": 20.0}
    begun = time.monotonic()
    assert cached_builds.look(params, check_mode=False) == {"packs": [], "running": [], "notes": []}
    assert time.monotonic() - begun < 10


def test_an_index_login_stays_on_no_disk(spec, jobs_dir, tmp_path):
    spec["environment"] = {"PIP_INDEX_URL": "https://me:secret@index.example/simple"}
    hold = tmp_path / "hold"
    hold.touch()
    spec["steps"][0]["run"] += f"; touch {tmp_path}/running; while [ -e {hold} ]; do sleep 0.05; done"
    secret = ["grep", "-rl", "me:secret", spec["work_dir"], jobs_dir]
    begin(spec, jobs_dir)
    until((tmp_path / "running").exists)
    assert subprocess.run(secret, capture_output=True, text=True, check=False).stdout == ""
    begin(spec, jobs_dir)  # another run attaches to it
    hold.unlink()
    until(lambda: wait(spec, jobs_dir)["stands"])
    jobs.wait(jobs_dir, ["build-hello"], 10)
    assert jobs.status(jobs_dir, "build-hello")["state"] == "done"
    assert subprocess.run(secret, capture_output=True, text=True, check=False).stdout == ""


def test_removing_a_box_removes_what_its_jobs_were_told():
    tasks = yaml.safe_load((ROOT / "roles" / "box" / "tasks" / "remove.yml").read_text())
    removed = [
        (task["ansible.builtin.file"]["path"], task.get("loop"))
        for task in tasks
        if task.get("ansible.builtin.file", {}).get("state") == "absent" and "when" not in task
    ]
    told = ["build/.builder", "artifacts/.fetcher", "finetune/data", "finetune/scratch"]
    assert ("{{ box_data_dir }}/{{ item }}", told) in removed


def test_a_note_is_told_once(spec, jobs_dir, tmp_path):
    """By whoever comes first: who waits for the build, or who keeps it."""
    spec["cache"] = str(tmp_path / "cache")
    os.makedirs(spec["cache"])
    stubs = stub(tmp_path, "zstd", "echo broken >&2; exit 1")
    real, os.environ["PATH"] = os.environ["PATH"], f"{stubs}:{os.environ['PATH']}"
    try:
        begin(spec, jobs_dir)
    finally:
        os.environ["PATH"] = real
    jobs.wait(jobs_dir, ["build-hello"], 20)
    params = {"jobs_dir": jobs_dir, "box_dir": spec["cache"], "slice_seconds": 5.0}
    (note,) = cached_builds.look(params, check_mode=False)["notes"]
    assert "is not packed for the cache: tar and zstd failed: broken" in note
    assert cached_builds.look(params, check_mode=False)["notes"] == []
    assert wait(spec, jobs_dir)["notes"] == []


# -- the controller's half


class Action(action_build.ActionModule):
    """The action, with what Ansible gives it stood in for."""

    def __init__(self, args: dict, answers: dict) -> None:
        self._task = SimpleNamespace(args=args, check_mode=False, async_val=0)
        self._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/tmp"))
        self._vars, self._host = {}, "box"
        self._planned = {"/opt/glmbox/hello": "/opt/glmbox/hello-1-abc"}
        self.shown: list[str] = []
        self._display = SimpleNamespace(display=self.shown.append)
        self._answers = answers
        self.given: dict[str, dict] = {}

    def _low_level_execute_command(self, command, sudoable):
        return {"stdout": "root"}

    def _on_box(self, step, **more):
        self.given[step] = more
        return self._answers[step]


def test_a_pack_is_dropped_here_even_where_the_rebuild_fails(tmp_path):
    for ending in (packs.PACK, packs.MANIFEST):
        (tmp_path / f"hello-1-abc{ending}").touch()
    args = {"name": "hello", "install_dir": "/opt/glmbox", "cache_dir": str(tmp_path)}
    told = {"problem": "It failed.", "stands": False, "rejected": True, "notes": ["It is built anew."], "running": []}
    action = Action(args, {"wait": told})
    assert action._wait() == {"failed": True, "msg": "It failed."}
    assert os.listdir(tmp_path) == []
    assert action.shown == ["box  build-hello  It is built anew."]


@pytest.mark.parametrize("trouble", [AnsibleError("Pushing it stopped after 5 bytes."), PermissionError(13, "Denied")])
def test_a_cache_in_trouble_only_means_that_the_box_builds(tmp_path, monkeypatch, trouble):
    places = dict.fromkeys(
        ("install_dir", "work_dir", "log_dir", "proven_dir", "jobs_dir", "artifacts_dir"), "/opt/glmbox"
    )
    args = {"name": "hello", "cache_dir": str(tmp_path), "cache_box_dir": "/c", "catalogue": "", "bundle": "", **places}
    inputs = {"name": "hello"}
    looked = {"link": "/opt/glmbox/hello", "prefix": "/opt/glmbox/hello-1-abc", "stem": "hello-1-abc", "inputs": inputs}
    looked.update(dict.fromkeys(("stands", "begun"), False), problems=[])
    action = Action(args, {"begin": looked, "receive": {"folder": "/c"}, "start": {"notes": []}})
    monkeypatch.setattr(action_build.packs_cache.Cache, "get", lambda cache, stem, inputs: ({"sha256": "0"}, ""))

    def push(*_):
        raise trouble

    monkeypatch.setattr(action_build, "push_file", push)
    did = action.run(task_vars={"inventory_hostname": "box"})
    assert (did["changed"], did.get("failed", False)) == (True, False)
    assert action.given["start"]["manifest"] == {}
    assert "The cached build is not pushed: " in action.shown[0]
    assert action.shown[0].endswith(". It is built on the box.")
