"""Builds: done once, resumed, proven, never half."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.modules import build


@pytest.fixture
def params(tmp_path):
    source = tmp_path / "hello-1"
    source.mkdir()
    (source / "hello.sh").write_text("echo hello\n")
    with tarfile.open(tmp_path / "hello.tar.gz", "w:gz") as tar:
        tar.add(source, arcname="hello-1")
    return {
        "name": "hello",
        "version": "1",
        "install_dir": str(tmp_path / "opt"),
        "work_dir": str(tmp_path / "work"),
        "log_dir": str(tmp_path / "log"),
        "archive": str(tmp_path / "hello.tar.gz"),
        "files": [],
        "needs": [],
        "jobs": 0,
        "environment": {},
        "steps": [
            {"name": "make", "run": f"echo made >> {tmp_path}/made; cp hello.sh built.sh"},
            {"name": "install", "run": 'mkdir -p "$PREFIX/bin"; cp built.sh "$PREFIX/bin/hello"'},
        ],
        "proof": 'test "$(sh "$PREFIX/bin/hello")" = hello',
    }


def times_made(params) -> int:
    return len(Path(params["work_dir"]).parent.joinpath("made").read_text().splitlines())


def test_what_stands_is_not_built_again(params):
    changed, result = build.ensure(params, check_mode=False)
    assert changed
    assert os.path.realpath(f"{params['install_dir']}/hello") == result["prefix"]
    assert build.ensure(params, check_mode=False)[0] is False
    assert times_made(params) == 1


def test_another_input_is_another_prefix(params):
    first = build.ensure(params, check_mode=False)[1]["prefix"]
    params["steps"][0]["run"] += " # with an option"
    second = build.ensure(params, check_mode=False)[1]["prefix"]
    assert first != second
    assert os.path.realpath(f"{params['install_dir']}/hello") == second
    assert os.path.isdir(first)


def test_a_failed_step_names_itself_the_log_and_the_way_on(params):
    params["steps"][1]["run"] = "echo no such header >&2; exit 3"
    with pytest.raises(build.BuildFailed) as caught:
        build.ensure(params, check_mode=False)
    for part in (
        "hello 1 failed in step 'install'",
        "exit code 3",
        "no such header",
        "build-hello.log",
        "run the same",
    ):
        assert part in str(caught.value)
    assert not os.path.lexists(f"{params['install_dir']}/hello")


def test_it_goes_on_from_the_step_that_failed(params, tmp_path):
    params["steps"][1]["run"] = f"test -e {tmp_path}/mended; " + params["steps"][1]["run"]
    with pytest.raises(build.BuildFailed):
        build.ensure(params, check_mode=False)
    (tmp_path / "mended").touch()
    build.ensure(params, check_mode=False)
    assert times_made(params) == 1


def test_a_build_whose_proof_fails_is_never_linked(params):
    params["proof"] = "false"
    with pytest.raises(build.BuildFailed, match="step 'proof'"):
        build.ensure(params, check_mode=False)
    assert not os.path.lexists(f"{params['install_dir']}/hello")
    assert build.ensure(params, check_mode=True)[0] is True


def test_a_prefix_without_its_stamp_is_not_believed(params):
    prefix = build.ensure(params, check_mode=False)[1]["prefix"]
    os.unlink(f"{prefix}/.glmbox-stamp.json")
    assert build.ensure(params, check_mode=False)[0] is True
    assert times_made(params) == 2


def test_check_mode_changes_nothing(params):
    assert build.ensure(params, check_mode=True)[0] is True
    assert not os.path.exists(params["install_dir"])
    assert not os.path.exists(params["work_dir"])


def test_a_foreign_file_in_the_links_place_stays(params):
    os.makedirs(params["install_dir"])
    Path(params["install_dir"], "hello").write_text("somebody's")
    with pytest.raises(build.BuildFailed, match="not glmbox's to replace"):
        build.ensure(params, check_mode=False)
    assert Path(params["install_dir"], "hello").read_text() == "somebody's"


def test_the_login_shells_python_stays_outside(params, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONHOME", "/conda")
    monkeypatch.setenv("PATH", f"/conda/bin:{os.environ['PATH']}")
    params["steps"][0]["run"] += f"; env > {tmp_path}/seen"
    build.ensure(params, check_mode=False)
    seen = (tmp_path / "seen").read_text()
    assert "conda" not in seen


def test_the_environment_reaches_the_steps_and_is_no_input(params, tmp_path):
    params["steps"][0]["run"] += f'; echo "$PIP_NO_INDEX $PREFIX" > {tmp_path}/seen'
    params["environment"] = {"PIP_NO_INDEX": 1, "PREFIX": "/elsewhere"}
    prefix = build.ensure(params, check_mode=False)[1]["prefix"]
    assert (tmp_path / "seen").read_text() == f"1 {prefix}\n"
    params["environment"] = {"PIP_INDEX_URL": "https://index.example/simple"}
    assert build.ensure(params, check_mode=False)[0] is False
