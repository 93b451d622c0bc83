"""Finished builds, packed: a tar by zstd with a manifest beside it, which is written last.

Runs on the box: standard library alone, Python 3.8; tar and zstd do the work.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import re
import shutil
import subprocess
from typing import Any, Dict, List

from ansible_collections.glmbox.box.plugins.module_utils.building.identity import BEGUN, PACKAGES, STAMP, stem_of
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, sha256_of, write_json
from ansible_collections.glmbox.box.plugins.module_utils.machine import SYSTEM_PATH

PACK, MANIFEST, DRAFT = ".tar.zst", ".json", ".draft"
# zstd's own default; on all cores it is as fast as the disk, and more would save a tenth at several times the work.
LEVEL = "-3"
# NVIDIA's driver, as the module driver_fingerprint knows it. torch is linked to libcuda.so.1, but the driver is the
# host's: no build brings a package of it.
DRIVER_FILES = ("libcuda*", "libnvidia*", "libnvcuvid*", "libnvoptix*", "lib*_nvidia*", "nvidia-*")
DRIVER_PACKAGE = re.compile(r"nvidia|^(libcuda1|libcuda-|cuda-drivers|libnvcuvid|libnvoptix)")


class PackError(Exception):
    """A pack that cannot be made or used, and why."""


class BadPack(PackError):
    """A pack that would be no good on any box."""


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
        if not isinstance(manifest, dict) or not isinstance(manifest.get("inputs"), dict):
            continue
        inputs = manifest["inputs"]
        if {"name", "version"} <= set(inputs) and stem_of(inputs) == stem and usable(folder, stem, inputs):
            found.append(dict(manifest, stem=stem))
    return found


def drop(folder: str, stem: str) -> None:
    """Remove a pack; the manifest first, so that half of a removal is no pack."""
    for ending in (MANIFEST, PACK):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, stem + ending))


def draft_of(folder: str, stem: str) -> str:
    """Return where a pack is while it is being made; who was killed meanwhile leaves it there."""
    return os.path.join(folder, stem + PACK + DRAFT)


def drop_drafts(folder: str, name: str) -> None:
    """Remove what packing a build of this name, in any version, left half done."""
    for draft in glob.glob(draft_of(glob.escape(folder), glob.escape(name) + "-*")):
        os.unlink(draft)


def pack(prefix: str, folder: str, inputs: Dict[str, Any], seconds: float) -> Dict[str, Any]:
    """Pack a finished prefix into a folder and return its manifest; raise PackError where that cannot be.

    seconds: how long it took to build, for who lists the cache.
    """
    stem = os.path.basename(prefix)
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, stem + PACK)
    draft = draft_of(folder, stem)
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
            "packages": read_json(os.path.join(prefix, PACKAGES)) or library_packages(prefix),
            "seconds": round(seconds, 1),
        }
        os.replace(draft, target)
        write_json(os.path.join(folder, stem + MANIFEST), manifest)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
    return manifest


def unpack(prefix: str, folder: str, manifest: Dict[str, Any]) -> None:
    """Fill a prefix from its pack, without the stamp, which only a proof brings.

    Raises BadPack where the pack is wrong, PackError where the box cannot unpack, OSError where its disk is full.
    """
    stem = os.path.basename(prefix)
    path = os.path.join(folder, stem + PACK)
    found = sha256_of(path)
    if found != manifest["sha256"]:
        raise BadPack("its sha256 is %s where the manifest says %s" % (found, manifest["sha256"]))
    _pipe(
        ["zstd", "-d", "-c", "-q", path],
        ["tar", "-C", os.path.dirname(prefix), "--numeric-owner", "-xf", "-", "--exclude", STAMP, stem],
    )


def _pipe(first: List[str], second: List[str]) -> None:
    """Run two programs, the first's output into the second.

    Raises BadPack with the words of who fails, PackError where one is missing, OSError where the disk is full.
    """
    for program in (first[0], second[0]):
        if not shutil.which(program):
            raise PackError("the box has no %s" % program)
    environment = dict(os.environ, LC_ALL="C")
    with subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as writer:
        ended = subprocess.run(second, stdin=writer.stdout, capture_output=True, check=False, env=environment)
        writer.stdout.close()  # type: ignore[union-attr]
        said = writer.stderr.read()  # type: ignore[union-attr]
    if writer.returncode or ended.returncode:
        words = " ".join((ended.stderr + b" " + said).decode(errors="replace").split()[:40])
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in words:
                raise OSError(code, os.strerror(code))
        raise BadPack("%s and %s failed: %s" % (first[0], second[0], words or "without a word"))


def without_driver(packages: List[str]) -> List[str]:
    """Return which of some Debian packages are none of NVIDIA's driver."""
    return [package for package in packages if not DRIVER_PACKAGE.search(package)]


def library_packages(prefix: str) -> List[str]:
    """Return the Debian packages whose libraries the programs of a prefix are linked to, NVIDIA's driver aside."""
    programs = []
    for parent, _, names in os.walk(prefix):
        for name in names:
            path = os.path.join(parent, name)
            if (name.endswith(".so") or ".so." in name or os.path.basename(parent) == "bin") and _is_elf(path):
                programs.append(path)
    said = _told("ldd", *programs) if programs else ""
    inside = os.path.dirname(prefix) + "/"
    paths = {words[2] for words in map(str.split, said.splitlines()) if len(words) > 2 and words[1] == "=>"}
    paths = {path for path in paths if path.startswith("/") and not path.startswith(inside)}
    known = {part for path in paths if not _is_driver(path) for part in _twins(path)}
    if not known:
        return []
    found = [line.partition(": ")[0] for line in _told("dpkg-query", "-S", *sorted(known)).splitlines()]
    return without_driver(sorted({owner.partition(":")[0] for owner in found if owner and " " not in owner}))


def _told(*command: str) -> str:
    """Return what a program prints on a box as it is for everybody, whatever the login shell's LD_LIBRARY_PATH.

    Its exit code tells nothing: ldd fails for a library that lacks another; what it found counts.
    """
    plain = {"PATH": SYSTEM_PATH, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=plain).stdout


def _is_driver(path: str) -> bool:
    return any(fnmatch.fnmatchcase(os.path.basename(path), pattern) for pattern in DRIVER_FILES)


def _twins(path: str) -> List[str]:
    """Return the names that dpkg may know a library by, where /lib is a link to /usr/lib."""
    return [path, path[4:] if path.startswith("/usr/lib") else "/usr" + path]


def _is_elf(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return not os.path.islink(path) and file.read(4) == b"\x7fELF"
    except OSError:
        return False
