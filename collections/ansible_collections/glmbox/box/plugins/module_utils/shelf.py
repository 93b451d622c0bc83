"""The artifacts' folder on the box: what stands, what is arriving, and the proof of it.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
from typing import Any, Dict

from ansible_collections.glmbox.box.plugins.module_utils.files import (
    read_json,
    sha256_of,
    stamp_holds,
    stamp_of,
    write_json,
)

LFS_FIRST_LINE = b"version https://git-lfs.github.com/spec/v1"


class Wrong(Exception):
    """A file that is not what the table says, in one sentence."""


class Shelf:
    """The artifacts' folder on the box: final files, what is arriving, and the stamps."""

    def __init__(self, dest: str) -> None:
        self.dest = dest
        self.arriving = os.path.join(dest, ".arriving")
        self._stamps: Dict[str, Dict[str, Any]] = {}

    def final(self, file: Dict[str, Any]) -> str:
        return os.path.join(self.dest, file["artifact"], file["path"])

    def part(self, file: Dict[str, Any]) -> str:
        """Return where a file arrives: named by its hash, so that no other version is ever continued."""
        return os.path.join(self.arriving, file["part"])

    def stamps(self, artifact: str) -> Dict[str, Any]:
        if artifact not in self._stamps:
            self._stamps[artifact] = read_json(self._stamp_file(artifact)) or {}
        return self._stamps[artifact]

    def _stamp_file(self, artifact: str) -> str:
        return os.path.join(self.dest, ".stamps", artifact + ".json")

    def stands(self, file: Dict[str, Any], recheck: bool) -> bool:
        """Tell whether the file stands and is proven: by its stamp, else by reading it."""
        final = self.final(file)
        if not recheck and stamp_holds(final, self.stamps(file["artifact"]).get(file["path"]), file["sha256"]):
            return True
        if not os.path.isfile(final) or file["size"] not in (None, os.path.getsize(final)):
            return False
        return sha256_of(final) == file["sha256"]

    def stamp(self, file: Dict[str, Any]) -> bool:
        """Note that a file is proven; return whether that is news."""
        stamps = self.stamps(file["artifact"])
        stamp = stamp_of(self.final(file), file["sha256"])
        if stamps.get(file["path"]) == stamp:
            return False
        stamps[file["path"]] = stamp
        write_json(self._stamp_file(file["artifact"]), stamps)
        return True

    def accept(self, file: Dict[str, Any], source: str, keep_bad: bool) -> None:
        """Prove what arrived, give it its final name and stamp it; raise Wrong and delete it where it is wrong."""
        part, final = self.part(file), self.final(file)
        found = sha256_of(part)
        if found != file["sha256"]:
            sentence = why_wrong(part, file, found, source)
            if keep_bad:
                os.makedirs(os.path.dirname(final), exist_ok=True)
                os.replace(part, final + ".bad")
            else:
                os.unlink(part)
            raise Wrong(sentence)
        os.makedirs(os.path.dirname(final), exist_ok=True)
        if os.path.exists(part + ".aria2"):
            os.unlink(part + ".aria2")
        os.chmod(part, 0o644)
        os.chown(part, 0, 0)
        os.replace(part, final)
        self.stamp(file)


def why_wrong(part: str, file: Dict[str, Any], found: str, source: str) -> str:
    """Say what a file with a wrong hash is: an HTML page, a git-lfs pointer, a truncated file, or another file."""
    size = os.path.getsize(part)
    with open(part, "rb") as opened:
        head = opened.read(512)
    label = "%s of %s from %s" % (file["path"], file["artifact"], source)
    if head.startswith(LFS_FIRST_LINE):
        return "%s is a git-lfs pointer of %d bytes, not the file. Use a mirror that serves the file itself." % (
            label,
            size,
        )
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "%s is an HTML page of %d bytes (a login, an error or an expired link). Use another mirror." % (
            label,
            size,
        )
    if file.get("size") and size != file["size"]:
        return "%s has %d bytes where %d were expected. Run again; if it repeats, use another mirror." % (
            label,
            size,
            file["size"],
        )
    return "%s has sha256 %s where %s was expected. Delete it at its source, or use another mirror." % (
        label,
        found,
        file["sha256"],
    )
