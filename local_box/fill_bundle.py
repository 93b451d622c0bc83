"""Fill the bundle of the local box with what a network of package registries alone has.

    python local_box/fill_bundle.py

The upstream tarballs of OpenSSL and CPython come out of Debian's source packages, wheels by pip, the miniature out of
this folder. Everything is checked against the tables in artifacts/ or the locks before it gets its name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.glmbox.box.plugins.module_utils.catalogue import Bundle, files_of, load  # noqa: E402
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of  # noqa: E402
from ansible_collections.glmbox.box.plugins.module_utils.wheels import (  # noqa: E402
    Requirement,
    Wheels,
    WheelsError,
    download,
)

BUNDLE = ROOT / "local_box" / ".bundle"
# artifact: (Debian suite, source package, end of the upstream tarball's name there)
SOURCE_PACKAGES = {
    "openssl-1.1.1w": ("bullseye", "openssl", ".orig.tar.gz"),
    "python-3.11.2": ("bookworm", "python3.11", ".orig.tar.gz"),
    # For `make test-pythons` alone.
    "python-3.9.2": ("bullseye", "python3.9", ".orig.tar.xz"),
    "python-3.13.5": ("trixie", "python3.13", ".orig.tar.xz"),
}
DEMO_SOURCES = ("openssl-1.1.1w", "python-3.11.2")
LOCK = ROOT / "roles" / "torch" / "files" / "py311-cpu.txt"
SUPERVISOR = "supervisor-4.3.0"
JIEBA = "jieba-0.42.1"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class BundleError(Exception):
    """What could not be had, and what to do."""


def apt_uris() -> list[str]:
    """Return the archives that this machine's apt is configured with."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(set(listed.stdout.split()))


def fetch_source(suite: str, package: str, ending: str, folder: Path) -> Path:
    """Let apt fetch a source package of a suite into a folder, signatures checked; return its upstream tarball.

    apt gets folders of its own, so that the machine's sources and lists stay as they are.
    """
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "sources.list").write_text("".join(f"deb-src {uri} {suite} main\n" for uri in apt_uris()))
    options = [
        f"-oDir::Etc::sourcelist={folder}/sources.list",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::Lists={folder}/lists",
        f"-oDir::Cache={folder}/cache",
        "-oAPT::Sandbox::User=root" if os.geteuid() == 0 else "-oAPT::Sandbox::User=",
        "-qq",
    ]
    # Some of the archives do not have the suite; what matters is whether one has the package.
    subprocess.run(["apt-get", *options, "update"], capture_output=True, check=False)
    got = subprocess.run(
        ["apt-get", *options, "source", "--download-only", package],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(folder.glob(f"{package}_*{ending}"))
    if got.returncode or not found:
        said = (got.stderr or got.stdout).strip().splitlines()[-1:]
        raise BundleError(f"apt has no source package {package} of {suite} here: {' '.join(said)}")
    return found[0]


def add_sources(tables: dict, bundle: Bundle, names: tuple[str, ...] = DEMO_SOURCES) -> None:
    """Put upstream tarballs into the bundle. names: of their artifacts."""
    for name in names:
        suite, package, ending = SOURCE_PACKAGES[name]
        file = files_of(tables, [name])[0]
        if bundle.has(file) and not bundle.problems([file]):
            continue
        with tempfile.TemporaryDirectory() as draft:
            tarball = fetch_source(suite, package, ending, Path(draft))
            found = sha256_of(str(tarball))
            if found != file["sha256"]:
                raise BundleError(
                    f"{tarball.name} of {suite} has sha256 {found}, and artifacts/ wants {file['sha256']}: "
                    "it is not the upstream tarball."
                )
            place(tarball, Path(bundle.path(file)))


def place(source: Path, target: Path) -> None:
    """Copy a file to its place, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(target.name + ".draft")
    shutil.copyfile(source, draft)
    draft.replace(target)


def add_wheels() -> None:
    """Put the lock's wheels into the bundle, with a manifest; what is there and right stays.

    torch's local version +cpu is pinned by hash, so that a CUDA build of gigabytes never matches. It comes from
    PyTorch's CPU index where that is reachable, else from wherever pip is configured to look.
    """
    wheels = Wheels(str(LOCK), str(BUNDLE))
    torch = [one for one in wheels.lacking() if one.name.startswith("torch==")]
    try:
        if torch:
            with contextlib.suppress(WheelsError):
                at_once = ["--retries", "0", "--timeout", "8"]
                download(torch, wheels.folder, wheels.python, ["--index-url", CPU_INDEX, *at_once])
        wheels.gather(lambda done, total: print(f"{wheels.artifact}: {done} of {total}", flush=True))
    except WheelsError as error:
        raise BundleError(str(error)) from error


def add_miniature(tables: dict, bundle: Bundle) -> None:
    """Put the miniature model and its demos into the bundle."""
    folders = {"miniature": "model", "miniature-demos": "demos"}
    for file in files_of(tables, list(folders)):
        source = ROOT / "local_box" / "miniature" / folders[file["artifact"]] / file["path"]
        if not bundle.has(file) or bundle.problems([file]):
            place(source, Path(bundle.path(file)))
        problem = " ".join(bundle.problems([file]))
        if problem:
            raise BundleError(
                f"{source} is not what artifacts/miniature.yml lists. Run `make miniature-table`. {problem}"
            )


def add_supervisor(tables: dict, bundle: Bundle) -> None:
    """Put supervisor's wheel into the bundle, by pip."""
    file = files_of(tables, [SUPERVISOR])[0]
    if bundle.has(file) and not bundle.problems([file]):
        return
    name, _, version = SUPERVISOR.partition("-")
    pinned = f"{name}=={version} --hash=sha256:{file['sha256']}"
    folder = Path(bundle.path(file)).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        download([Requirement(name, frozenset({file["sha256"]}), pinned)], str(folder), "3.11")
    except WheelsError as error:
        raise BundleError(str(error)) from error


def add_jieba(tables: dict, bundle: Bundle) -> None:
    """Put jieba, which has no wheel, into the bundle, from wherever pip is configured to look."""
    (file,) = files_of(tables, [JIEBA])
    if bundle.has(file) and not bundle.problems([file]):
        return
    with tempfile.TemporaryDirectory() as draft:
        wanted = JIEBA.replace("-", "==")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", draft, wanted]
        got = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(draft).glob("*.tar.gz"))
        if got.returncode or not found or sha256_of(str(found[0])) != file["sha256"]:
            said = (got.stderr or "it brought another file").strip().splitlines()[-1:]
            raise BundleError(f"pip brought no {file['path']} as artifacts/jieba.yml lists it: {' '.join(said)}")
        place(found[0], Path(bundle.path(file)))


def fill() -> None:
    """Bring into the bundle what is not there yet; raise BundleError with what to do."""
    BUNDLE.mkdir(exist_ok=True)
    bundle = Bundle(str(BUNDLE))
    tables = load(str(ROOT / "artifacts"), str(BUNDLE))
    add_miniature(tables, bundle)
    add_sources(tables, bundle)
    add_supervisor(tables, bundle)
    add_wheels()
    add_jieba(tables, bundle)


if __name__ == "__main__":
    try:
        fill()
    except BundleError as error:
        sys.exit(str(error))
