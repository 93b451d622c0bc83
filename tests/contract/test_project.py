"""What holds for the whole project: tables, locks, and the hosts that no file may name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import files_of, load
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of
from ansible_collections.glmbox.box.plugins.module_utils.inputs import (
    load_specs,
    range_problems,
    unknown_names,
    value_problems,
)

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = [ROOT / "requirements.txt", *sorted((ROOT / "roles" / "torch" / "files").glob("py*.txt"))]
TABLES = load(str(ROOT / "artifacts"), "/nonexistent")
# What the project deploys or its tests build.
ARTIFACTS = {
    "advertisegen",
    "aria2-static",
    "chatglm2-6b",
    "chatglm2-6b-demos-cb8e8b43",
    "chatglm2-6b-int4",
    "cuda-11.8.0",
    "jieba-0.42.1",
    "miniature",
    "miniature-demos",
    "openssl-1.1.1s",
    "openssl-1.1.1w",
    "python-3.10.10",
    "python-3.10.20",
    "python-3.10.22",
    "python-3.11.2",
    "python-3.13.5",
    "python-3.9.2",
    "supervisor-4.3.0",
    "torch-2.0.1-cu118",
}
# artifact: (its files without a sha256, why). They are refused unless fetch_trust_on_first_use names the artifact.
UNCONFIRMED = {
    "advertisegen": ({"AdvertiseGen.tar.gz"}, "no source gives the archive's hash"),
    "chatglm2-6b-int4": (
        {"modeling_chatglm.py", "pytorch_model.bin", "quantization.py", "tokenization_chatglm.py"},
        "no source gives the weights' hash, and public copies of the Python files differ",
    ),
}
# No mirror has them: they come with the bundle.
BUNDLED = {"miniature", "miniature-demos"}


def mirrors_of(name: str, file: dict) -> list[str]:
    return file.get("mirrors", TABLES[name].get("mirrors", []))


def test_every_artifact_has_its_table():
    assert set(TABLES) >= ARTIFACTS


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_artifact_is_listed_file_by_file(name):
    files = TABLES[name]["files"]
    assert files
    assert set(TABLES[name]) <= {"files", "mirrors"}
    assert len({file["path"] for file in files}) == len(files)
    for file in files:
        assert set(file) <= {"path", "sha256", "size", "estimate", "mirrors"}, file["path"]
        # A size is known or estimated, never both: an estimate is for the disk, a size is checked.
        assert len({"size", "estimate"} & set(file)) == 1, file["path"]
        assert type(file.get("size", file.get("estimate"))) is int, file["path"]
        assert re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", file["path"]), file["path"]
        mirrors = mirrors_of(name, file)
        assert len(set(mirrors)) == len(mirrors)
        assert bool(mirrors) == (name not in BUNDLED), file["path"]
        for mirror in mirrors:
            assert re.fullmatch(r"https://[^{}\s]+(\{path\})?[^{}\s]*", mirror), mirror


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_artifact_is_pinned_or_says_why_not(name):
    unpinned = {file["path"] for file in TABLES[name]["files"] if "sha256" not in file}
    assert unpinned == UNCONFIRMED.get(name, (set(), ""))[0]
    for file in TABLES[name]["files"]:
        assert file["path"] in unpinned or re.fullmatch(r"[0-9a-f]{64}", file["sha256"]), file["path"]


@pytest.mark.parametrize("name", sorted(UNCONFIRMED))
def test_what_is_unpinned_comes_from_one_place(name):
    """A file's parts come from all of its mirrors at once: without a hash, these have to be hosts of the same tree."""
    for file in TABLES[name]["files"]:
        if "sha256" not in file:
            trees = {(urlsplit(mirror).path, urlsplit(mirror).query) for mirror in mirrors_of(name, file)}
            assert len(trees) == 1, file["path"]


def test_the_model_is_whole():
    paths = {file["path"] for file in files_of(TABLES, ["chatglm2-6b"])}
    assert len(paths) == 16
    assert {f"pytorch_model-0000{n}-of-00007.bin" for n in range(1, 8)} <= paths
    assert sum(f["size"] for f in files_of(TABLES, ["chatglm2-6b"]) if f["path"].endswith(".bin")) == 12487241401


def test_the_miniatures_table_is_its_files():
    for artifact, folder in (("miniature", "model"), ("miniature-demos", "demos")):
        here = ROOT / "local_box" / "miniature" / folder
        listed = {file["path"]: file["sha256"] for file in files_of(TABLES, [artifact])}
        here_too = {str(path.relative_to(here)): sha256_of(str(path)) for path in here.rglob("*") if path.is_file()}
        assert listed == here_too


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


def test_the_torch_wheels_are_a_set_and_their_urls_are_quoted():
    files = files_of(TABLES, ["torch-2.0.1-cu118"])
    assert [file["path"].split("-cp310-")[0] for file in files] == [
        "torch-2.0.1+cu118",
        "torchvision-0.15.2+cu118",
        "torchaudio-2.0.2+cu118",
        "triton-2.0.0-1",
    ]
    for file in files:
        assert all(url.endswith("/" + file["path"].replace("+", "%2B")) for url in file["urls"]), file["urls"]


def test_the_locks_triton_is_the_torch_artifacts():
    wheel = files_of(TABLES, ["torch-2.0.1-cu118"])[3]
    lock = (ROOT / "roles" / "torch" / "files" / "py310-cu118.txt").read_text()
    (triton,) = re.findall(r"^triton==2\.0\.0 .*?(?=^\S)", lock, flags=re.M | re.S)
    assert f"--hash=sha256:{wheel['sha256']}" in triton


def test_each_cu118_release_has_a_lock_with_its_wheels_hash():
    folder = ROOT / "roles" / "torch"
    options = yaml.safe_load((folder / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    releases = options["torch_version"]["choices"]
    assert sorted(f"torch-{one}-cu118" for one in releases) == sorted(
        name for name in TABLES if name.endswith("-cu118")
    )
    for release in releases:
        lock = "py310-cu118" + ("" if release == "2.0.1" else f"-torch{release}")
        assert lock in options["torch_lock"]["choices"]
        wheel = files_of(TABLES, [f"torch-{release}-cu118"])[0]
        pinned = f"torch=={release}+cu118 \\\n    --hash=sha256:{wheel['sha256']}\n"
        assert pinned in (folder / "files" / f"{lock}.txt").read_text()


def test_a_pythons_tarball_is_its_versions():
    """A .tar.xz where Debian's source package is one, since the tests build from that."""
    kinds = {"3.9.2": "tar.xz", "3.13.5": "tar.xz"}
    for name in [name for name in TABLES if name.startswith("python-")]:
        version = name.removeprefix("python-")
        assert [file["path"] for file in TABLES[name]["files"]] == [f"Python-{version}.{kinds.get(version, 'tgz')}"]


def test_the_inventories_choose_artifacts_that_exist():
    for inventory in ("rented_gpu", "local_box"):
        chosen: dict = {}
        for path in (ROOT / "inventory" / inventory / "group_vars" / "all").glob("*.yml"):
            chosen |= yaml.safe_load(path.read_text()) or {}
        names = [f"openssl-{chosen['openssl_version']}", f"python-{chosen['python_version']}"]
        names += [chosen["weights_model"], chosen["demos_code"]]
        if inventory == "rented_gpu":
            names.append(f"torch-{chosen['torch_version']}-cu118")
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


def shape_of(text: str) -> list[tuple]:
    """Return what of a README must be the same in every language, in its order.

    Headings by their level, commands without their comments, tables row by row with the code in their first column,
    links and pictures by where they lead (anchors aside, which are headings in the reader's language), code in prose.
    """
    shape: list[tuple] = []
    for line in text.splitlines():
        if line.startswith("#"):
            shape.append(("heading", line.split()[0]))
        elif line.startswith("    "):
            command = re.split(r"(?:^|\s)#\s", line)[0].strip()
            shape.append(("code", command))
        elif line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip("|"))
            first = cells[0].strip() if set(cells[0].strip()) <= {"-"} else re.findall(r"`([^`]+)`", cells[0])
            shape.append(("row", len(cells), tuple(first)))
    links = re.findall(r"\]\(([^)]+)\)", text)
    leads = [link for link in links if not re.fullmatch(r"README.*\.md", link)]
    shape.append(("links", *sorted("#" if link.startswith("#") else link for link in leads)))
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    shape.append(("named", *sorted(re.findall(r"`([^`\n]+)`", prose))))
    return shape


def test_the_readmes_are_twins():
    """The same sections, commands, tables, links and names in both languages, in the same order."""
    ours, theirs = (shape_of((ROOT / name).read_text()) for name in ("README.md", "README.zh-CN.md"))
    for one, other in zip(ours, theirs, strict=False):
        assert one == other
    assert len(ours) == len(theirs)


def test_a_readme_that_says_less_is_no_twin():
    text = (ROOT / "README.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("    make"))
    row = next(line for line in text.splitlines() if line.startswith("| `gateway_users`"))
    for gone in (command, row, "## Settings", "(docs/benchmarks.md)", "`fetch_peers: true`"):
        assert gone in text
        assert shape_of(text.replace(gone, "", 1)) != shape_of(text), gone


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yml")), ids=lambda path: path.name)
def test_a_profile_sets_what_roles_know_and_names_mirrors_that_serve(profile):
    chosen = yaml.safe_load(profile.read_text())
    specs = load_specs(str(ROOT / "roles"), sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir()))
    options = {name: spec for each in specs.values() for name, spec in each.items()}
    assert unknown_names(specs, list(chosen)) == []
    assert set(chosen) <= set(options)
    required = {name: chosen[name] for name in chosen}
    assert value_problems({name: options[name] for name in chosen}, required) == {}
    assert range_problems(chosen) == []
    hosts = {
        urlsplit(mirror).hostname
        for name, table in TABLES.items()
        for file in table["files"]
        for mirror in mirrors_of(name, file)
    }
    assert [host for host in chosen.get("fetch_preferred_hosts", []) if host not in hosts] == []
