"""The wheels of a lock, gathered on the controller for boxes that reach no package index."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import yaml
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of

# The oldest boxes, Debian 11 and Ubuntu 20.04, have glibc 2.31; the controller's may be newer, so pip is told.
GLIBC_MINOR = 31
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)] + [
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "any",
]
# pip writes what it downloaded at its end: a run that is killed loses so many wheels at most.
BATCH = 20
REASON_LINES = 8


class WheelsError(Exception):
    """Wheels that could not be had, and what to do."""


@dataclass(frozen=True)
class Requirement:
    """A package of a lock: name==version, the sha256 of all of its files, and its lines in the lock."""

    name: str
    hashes: frozenset[str]
    text: str


def requirements_of(text: str) -> list[Requirement]:
    """Return the packages of a lock, in its order."""
    parts = [part.strip() for part in re.split(r"\n(?=\S)", "\n" + text) if part.strip()]
    return [
        Requirement(part.split()[0], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", part)), part)
        for part in parts
        if not part.startswith("#")
    ]


def python_of(lock: str) -> str:
    """Return the version of the Python that a lock is for, by its name: 3.10 for py310-cu118.txt."""
    found = re.match(r"py(\d)(\d+)-", os.path.basename(lock))
    if not found:
        raise WheelsError(f"{lock} is no lock: its name does not begin with a Python, as py310-cu118.txt does.")
    return ".".join(found.groups())


def pip_arguments(python: str, folder: str, lock: str, more: Sequence[str] = ()) -> list[str]:
    """Return what pip is told, so that it takes the box's wheels and no others. python: such as 3.10."""
    told = ["download", "--quiet", "--no-input", "--disable-pip-version-check"]
    told += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    told += ["--python-version", python]
    for abi in ("cp" + python.replace(".", ""), "abi3", "none"):
        told += ["--abi", abi]
    for platform in PLATFORMS:
        told += ["--platform", platform]
    return [*told, "--dest", folder, "--requirement", lock, *more]


def reason_of(said: str) -> str:
    """Return why pip failed, from its stderr: from its first error on, without the retries before it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if line.startswith("ERROR")), max(0, len(lines) - 3))
    return " ".join(lines[first : first + REASON_LINES]) or "it said nothing"


def download(requirements: Sequence[Requirement], folder: str, python: str, more: Sequence[str] = ()) -> None:
    """Let pip bring wheels into a folder, each proven by the lock's hashes; raise WheelsError.

    more: further arguments of pip, such as --index-url. Where pip looks is else its own configuration.
    """
    with tempfile.TemporaryDirectory() as parts:
        lock = os.path.join(parts, "lock.txt")
        with open(lock, "w", encoding="utf-8") as file:
            file.write("".join(one.text + "\n" for one in requirements))
        command = [sys.executable, "-m", "pip", *pip_arguments(python, folder, lock, more)]
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if "No module named pip" in ended.stderr:
        raise WheelsError(f"{sys.executable}, which runs Ansible, has no pip. apt-get install python3-pip, run again.")
    if ended.returncode:
        raise WheelsError(
            f"pip could not download wheels for Python {python}: {reason_of(ended.stderr)}. Name an index that has "
            "them with torch_index_url, or mend pip's configuration on this machine, and run again: it goes on."
        )


def artifact_of(lock: str) -> str:
    """Return the name of the artifact that holds a lock's wheels."""
    return "wheels-" + os.path.splitext(os.path.basename(lock))[0]


def are_gathered(lock: str, bundle: str) -> bool:
    """Tell whether a bundle holds the wheels of this very lock, by the manifest that is written last."""
    try:
        with open(os.path.join(bundle, artifact_of(lock), "manifest.yml"), encoding="utf-8") as file:
            return f"# {sha256_of(lock)}\n" in file
    except OSError:
        return False


class Wheels:
    """The wheels of one lock in a bundle: <bundle>/wheels-<lock>/, with a manifest once all are there.

    lock: its path. bundle: the folder. elsewhere: sha256 of wheels that artifacts of their own hold.
    """

    def __init__(self, lock: str, bundle: str, elsewhere: Collection[str] = ()) -> None:
        self.artifact, self.python = artifact_of(lock), python_of(lock)
        self.folder = os.path.join(bundle, self.artifact)
        self._lock, self._shelf = lock, Shelf(bundle)
        with open(lock, encoding="utf-8") as file:
            self.wanted = [one for one in requirements_of(file.read()) if one.hashes.isdisjoint(elsewhere)]

    def _standing(self) -> dict[str, str]:
        """Return sha256 to name of all the wheels in the folder."""
        names = sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []
        return {sha256_of(os.path.join(self.folder, name)): name for name in names if name.endswith(".whl")}

    def lacking(self) -> list[Requirement]:
        """Return the packages without a wheel. Every byte is read: it is a second's work, and a proof."""
        return self._lacking(self._standing())

    def _lacking(self, standing: Collection[str]) -> list[Requirement]:
        return [one for one in self.wanted if one.hashes.isdisjoint(standing)]

    def gather(self, tell: Callable[[int, int], None], more: Sequence[str] = ()) -> tuple[bool, list[str]]:
        """Bring what is lacking, then write the manifest; return whether anything changed, and the wheels that are new.

        tell: is told how many of how many there are. more: as for `download`. Raises WheelsError.
        """
        os.makedirs(self.folder, exist_ok=True)
        with self._shelf.lock(self.artifact):
            standing = before = self._tidied()
            lacking = self._lacking(standing)
            for number in range(0, len(lacking), BATCH):
                tell(len(self.wanted) - len(lacking) + number, len(self.wanted))
                download(lacking[number : number + BATCH], self.folder, self.python, more)
            if lacking:
                standing = self._tidied()
            short = [one.name for one in self._lacking(standing)]
            if short:
                raise WheelsError(f"pip brought no wheel of {', '.join(short)}. Run again.")
            changed = self._note(standing)
        return changed or bool(lacking), sorted(standing[sha256] for sha256 in set(standing) - set(before))

    def _tidied(self) -> dict[str, str]:
        """Delete wheels that are damaged, half written or another lock's; return sha256 to name of the others."""
        right = frozenset().union(*(one.hashes for one in self.wanted))
        standing = self._standing()
        for sha256 in set(standing) - right:
            os.unlink(os.path.join(self.folder, standing.pop(sha256)))
        return standing

    def _note(self, standing: dict[str, str]) -> bool:
        """Write the manifest; return whether it is another one than before."""
        files = [
            {"path": name, "sha256": sha256, "size": os.path.getsize(os.path.join(self.folder, name))}
            for sha256, name in sorted(standing.items(), key=lambda pair: pair[1].lower())
        ]
        text = f"# The wheels of the lock with sha256\n# {sha256_of(self._lock)}\n"
        text += yaml.safe_dump({self.artifact: {"files": files}})
        path = os.path.join(self.folder, "manifest.yml")
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                if file.read() == text:
                    return False
        with open(path + ".draft", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".draft", path)
        return True
