"""Finished builds, packed: a tar by zstd with a manifest beside it, which is written last.

Runs on the box: standard library alone, Python 3.8; tar and zstd do the work.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import Any, Dict, List

from ansible_collections.glmbox.box.plugins.module_utils.building.identity import BEGUN, STAMP, stem_of
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, sha256_of, write_json

PACK, MANIFEST = ".tar.zst", ".json"
# zstd's own default; on all cores it is as fast as the disk, and more would save a tenth at several times the work.
LEVEL = "-3"


class PackError(Exception):
    """A pack that cannot be made or used, and why."""


def usable(folder: str, stem: str, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Return the manifest of the pack of a build, where a whole one for just these inputs is there; else an empty one.

    The pack's content is proven when it is unpacked.
    """
    manifest = read_json(os.path.join(folder, stem + MANIFEST))
    with contextlib.suppress(OSError):
        size = os.path.getsize(os.path.join(folder, stem + PACK))
        if isinstance(manifest, dict) and manifest.get("inputs") == inputs and manifest.get("size") == size:
            return manifest
    return {}


def listed(folder: str) -> List[Dict[str, Any]]:
    """Return the manifests of all whole packs of a folder, each with its `stem`."""
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        stem, ending = os.path.splitext(name)
        manifest = read_json(os.path.join(folder, name)) if ending == MANIFEST else None
        if isinstance(manifest, dict) and isinstance(manifest.get("inputs"), dict):
            if stem_of(manifest["inputs"]) == stem and usable(folder, stem, manifest["inputs"]):
                found.append(dict(manifest, stem=stem))
    return found


def drop(folder: str, stem: str) -> None:
    """Remove a pack; the manifest first, so that half of a removal is no pack."""
    for ending in (MANIFEST, PACK):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, stem + ending))


def pack(prefix: str, folder: str, inputs: Dict[str, Any], seconds: float) -> Dict[str, Any]:
    """Pack a finished prefix into a folder and return its manifest; raise PackError where that cannot be.

    seconds: how long it took to build, for who lists the cache.
    """
    stem = os.path.basename(prefix)
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, stem + PACK)
    draft = target + ".draft"
    try:
        _pipe(
            [
                "tar",
                "-C",
                os.path.dirname(prefix),
                "--numeric-owner",
                "--sort=name",
                "-cf",
                "-",
                "--exclude",
                BEGUN,
                stem,
            ],
            ["zstd", LEVEL, "-T0", "-q", "-f", "-o", draft],
        )
        manifest = {
            "inputs": inputs,
            "sha256": sha256_of(draft),
            "size": os.path.getsize(draft),
            "packages": library_packages(prefix),
            "seconds": round(seconds, 1),
        }
        os.replace(draft, target)
        write_json(os.path.join(folder, stem + MANIFEST), manifest)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    return manifest


def unpack(prefix: str, folder: str, manifest: Dict[str, Any]) -> None:
    """Fill a prefix from its pack, without the stamp, which only a proof brings; raise PackError where it is wrong."""
    stem = os.path.basename(prefix)
    path = os.path.join(folder, stem + PACK)
    found = sha256_of(path)
    if found != manifest["sha256"]:
        raise PackError("its sha256 is %s where the manifest says %s" % (found, manifest["sha256"]))
    _pipe(
        ["zstd", "-d", "-c", "-q", path],
        ["tar", "-C", os.path.dirname(prefix), "--numeric-owner", "-xf", "-", "--exclude", STAMP, stem],
    )


def _pipe(first: List[str], second: List[str]) -> None:
    """Run two programs, the first's output into the second; raise PackError with the words of who fails."""
    for program in (first[0], second[0]):
        if not shutil.which(program):
            raise PackError("the box has no %s" % program)
    with subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        ended = subprocess.run(second, stdin=writer.stdout, capture_output=True, check=False)
        writer.stdout.close()  # type: ignore[union-attr]
        said = writer.stderr.read()  # type: ignore[union-attr]
    if writer.returncode or ended.returncode:
        words = (ended.stderr + b" " + said).decode(errors="replace").split()
        raise PackError("%s and %s failed: %s" % (first[0], second[0], " ".join(words[:40]) or "without a word"))


def library_packages(prefix: str) -> List[str]:
    """Return the Debian packages whose libraries the programs of a prefix are linked to."""
    programs = []
    for parent, _, names in os.walk(prefix):
        for name in names:
            path = os.path.join(parent, name)
            if (name.endswith(".so") or ".so." in name or os.path.basename(parent) == "bin") and _is_elf(path):
                programs.append(path)
    # ldd fails for a library that lacks another; what it found counts.
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout if programs else ""
    inside = os.path.dirname(prefix) + "/"
    paths = {words[2] for words in map(str.split, said.splitlines()) if len(words) > 2 and words[1] == "=>"}
    known = {part for path in paths if path.startswith("/") and not path.startswith(inside) for part in _twins(path)}
    if not known:
        return []
    owners = subprocess.run(["dpkg-query", "-S", *sorted(known)], capture_output=True, text=True, check=False).stdout
    found = [line.partition(": ")[0] for line in owners.splitlines()]
    return sorted({owner.partition(":")[0] for owner in found if owner and " " not in owner})


def _twins(path: str) -> List[str]:
    """Return the names that dpkg may know a library by, where /lib is a link to /usr/lib."""
    return [path, path[4:] if path.startswith("/usr/lib") else "/usr" + path]


def _is_elf(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return not os.path.islink(path) and file.read(4) == b"\x7fELF"
    except OSError:
        return False
