"""What holds for the whole project: tables, locks, and the hosts that no file may name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import files_of, load
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = [ROOT / "requirements.txt", *sorted((ROOT / "roles" / "torch" / "files").glob("py*.txt"))]
TABLES = load(str(ROOT / "artifacts"), "/nonexistent")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_artifact_is_pinned_file_by_file(name):
    files = files_of(TABLES, [name])
    assert files
    assert len({file["path"] for file in files}) == len(files)
    for file in files:
        assert file["size"] is None or file["size"] >= 0
        assert all(url.startswith("https://") and "{" not in url for url in file["urls"])


def test_the_model_is_whole():
    paths = {file["path"] for file in files_of(TABLES, ["chatglm2-6b"])}
    assert len(paths) == 16
    assert {f"pytorch_model-0000{n}-of-00007.bin" for n in range(1, 8)} <= paths
    assert sum(f["size"] for f in files_of(TABLES, ["chatglm2-6b"]) if f["path"].endswith(".bin")) == 12487241401


def test_the_miniatures_table_is_its_files():
    for artifact, folder in (("miniature", "model"), ("miniature-demos", "demos")):
        here = ROOT / "local_box" / "miniature" / folder
        listed = {file["path"]: file["sha256"] for file in files_of(TABLES, [artifact])}
        assert listed == {path.name: sha256_of(str(path)) for path in here.iterdir() if path.is_file()}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_address(lock):
    text = lock.read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=[a-zA-Z])", text.strip())
    assert len(requirements) > 30
    assert [one.split()[0] for one in requirements if "--hash=sha256:" not in one and not one.startswith("#")] == []


def test_the_torch_lock_is_the_torch_artifact():
    wheel = files_of(TABLES, ["torch-2.0.1-cu118"])[0]
    lock = (ROOT / "roles" / "torch" / "files" / "py310-cu118.txt").read_text()
    assert f"torch==2.0.1+cu118 \\\n    --hash=sha256:{wheel['sha256']}" in lock


def test_the_inventories_choose_artifacts_that_exist():
    for inventory in ("rented_gpu", "local_box"):
        chosen: dict = {}
        for path in (ROOT / "inventory" / inventory / "group_vars" / "all").glob("*.yml"):
            chosen |= yaml.safe_load(path.read_text()) or {}
        names = [f"openssl-{chosen['openssl_version']}", f"python-{chosen['python_version']}"]
        names += [chosen["weights_model"], chosen["demos_code"]]
        if inventory == "rented_gpu":
            names.append(chosen["torch_wheels"])
        files_of(TABLES, names)


def test_no_file_names_a_default_registry():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    # Assembled, so that this file does not name them either.
    hosts = ["pypi." + "org", "files.python" + "hosted.org", "deb." + "debian.org", "registry." + "npmjs.org"]
    hosts += ["security." + "debian.org", "archive." + "ubuntu.com"]
    for name in listed.stdout.split():
        path = ROOT / name
        if path.is_file() and path.suffix not in (".bin", ".model"):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert [host for host in hosts if host in text] == [], name


def test_the_readmes_are_twins():
    """The same sections, tables and commands in both languages."""

    def shape(name: str) -> dict[str, object]:
        lines = (ROOT / name).read_text().splitlines()
        code = [line.split("#")[0].strip() for line in lines if line.startswith("    ")]
        named = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in lines if line.startswith("|")]
        return {
            "levels": [line.split()[0] for line in lines if line.startswith("#")],
            "code": [line for line in code if line],
            "named": [names for names in named if names],
        }

    assert shape("README.md") == shape("README.zh-CN.md")
