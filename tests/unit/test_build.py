"""Builds: done once, resumed, proven, never half."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.building import identity, steps
from ansible_collections.glmbox.box.plugins.module_utils.building.builder import Builder
from ansible_collections.glmbox.box.plugins.module_utils.building.steps import BuildFailed
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of
from ansible_collections.glmbox.box.plugins.modules import build


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


def test_the_login_shells_python_stays_outside(spec, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONHOME", "/conda")
    monkeypatch.setenv("PATH", f"/conda/bin:{os.environ['PATH']}")
    spec["steps"][0]["run"] += f"; env > {tmp_path}/seen"
    run(spec)
    assert "conda" not in (tmp_path / "seen").read_text()


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
