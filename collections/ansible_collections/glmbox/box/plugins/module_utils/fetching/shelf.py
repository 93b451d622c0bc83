"""The artifacts' folder on the box: what stands, what is arriving, and the proof of it.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Tuple

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
        # The login user pushes into the one; the other is root's, where downloads grow.
        self.arriving = os.path.join(dest, ".arriving")
        self.partial = os.path.join(dest, ".partial")
        self._stamps: Dict[str, Dict[str, Any]] = {}
        self._unsaved: Dict[str, Dict[str, Any]] = {}
        self._adopted: Dict[Tuple[str, str], str] = {}

    def lock(self, artifact: str, wait: bool = True) -> Any:
        """Return an open file that keeps others from working on an artifact until it is closed, or None if they do."""
        path = os.path.join(self.dest, ".locks", artifact)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        held = open(path, "w", encoding="ascii")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held.close()
            return None
        self._stamps.pop(artifact, None)  # what was read before may be old
        return held

    def final(self, file: Dict[str, Any]) -> str:
        return os.path.join(self.dest, file["artifact"], file["path"])

    def pushed(self, file: Dict[str, Any]) -> str:
        """Return where a file is pushed to: named by its hash, so that no other version is ever continued."""
        return os.path.join(self.arriving, file["part"])

    def part(self, file: Dict[str, Any]) -> str:
        """Return where a file is downloaded to."""
        return os.path.join(self.partial, file["part"])

    def stamps(self, artifact: str) -> Dict[str, Any]:
        if artifact not in self._stamps:
            self._stamps[artifact] = read_json(self._stamp_file(artifact)) or {}
        return self._stamps[artifact]

    def _stamp_file(self, artifact: str) -> str:
        return os.path.join(self.dest, ".stamps", artifact + ".json")

    def stamped(self, file: Dict[str, Any]) -> bool:
        """Tell whether a stamp proves the file. Where nobody knew its hash, the first that came is the right one."""
        stamp = self.stamps(file["artifact"]).get(file["path"])
        sha256 = file["sha256"] or (stamp or {}).get("sha256", "")
        return stamp_holds(self.final(file), stamp, sha256)

    def missing(self, files: List[Dict[str, Any]], recheck: bool) -> List[Dict[str, Any]]:
        """Return the files that do not stand: proven by a stamp, or by reading them, several at once."""
        unproven = [file for file in files if recheck or not self.stamped(file)]
        candidates = [file for file in unproven if self._could_stand(file)]
        # Hashing leaves Python's lock, so threads use all cores.
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            hashes = list(pool.map(lambda file: sha256_of(self.final(file)), candidates))
        standing = set()
        for file, found in zip(candidates, hashes):
            if not self._expected(file) and not self._is_another(file):  # put there by hand, and trusted by name
                self._adopted[file["artifact"], file["path"]] = found
            if found == self._expected(file):
                standing.add(id(file))
        return [file for file in unproven if id(file) not in standing]

    def _expected(self, file: Dict[str, Any]) -> str:
        stamp = self.stamps(file["artifact"]).get(file["path"], {})
        adopted = self._adopted.get((file["artifact"], file["path"]), "")
        return file["sha256"] or stamp.get("sha256", "") or adopted

    def _could_stand(self, file: Dict[str, Any]) -> bool:
        final = self.final(file)
        return os.path.isfile(final) and file["size"] in (None, os.path.getsize(final))

    def _is_another(self, file: Dict[str, Any]) -> bool:
        with open(self.final(file), "rb") as opened:
            return bool(looks_wrong(opened.read(512), 512, ""))

    def stamp(self, file: Dict[str, Any], sha256: str = "") -> None:
        """Note that a file is proven, in memory; `save` writes it. sha256: its hash, where its table has none."""
        stamps = self.stamps(file["artifact"])
        stamp = stamp_of(self.final(file), sha256 or self._expected(file))
        if stamps.get(file["path"]) != stamp:
            stamps[file["path"]] = stamp
            self._unsaved.setdefault(file["artifact"], {})[file["path"]] = stamp

    def save(self) -> bool:
        """Write the stamps that are new; return whether there were any."""
        saved = bool(self._unsaved)
        for artifact, news in self._unsaved.items():
            path = self._stamp_file(artifact)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path + ".lock", "w", encoding="ascii") as held:
                fcntl.flock(held, fcntl.LOCK_EX)  # a push and a job may stamp files of one artifact side by side
                write_json(path, {**(read_json(path) or {}), **news})
        self._unsaved.clear()
        return saved

    def first_hashes(self, files: List[Dict[str, Any]]) -> List[Dict[str, str]]:
        """Return, of the files whose hash nobody knew, the hash that each came with."""
        return [
            {"artifact": file["artifact"], "path": file["path"], "sha256": self._expected(file)}
            for file in files
            if not file["sha256"] and self.stamped(file)
        ]

    def here(self, file: Dict[str, Any]) -> int:
        """Return how many bytes of a file have arrived already; a download's part has holes, which count nothing."""
        sizes = [0]
        for path in (self.part(file), self.pushed(file)):
            if os.path.exists(path):
                sizes.append(min(os.stat(path).st_blocks * 512, os.path.getsize(path)))
        return max(sizes)

    def accept(
        self, file: Dict[str, Any], arrived: str, source: str, keep_bad: bool, found: Optional[str] = None
    ) -> None:
        """Prove what arrived, give it its final name and a stamp; raise Wrong and delete it where it is wrong.

        found: its sha256, where it was taken while the file arrived; only a good one is believed.
        """
        final = self.final(file)
        if found is None or (file["sha256"] and found != file["sha256"]):
            found = sha256_of(arrived)
        expected = file["sha256"] or found
        with open(arrived, "rb") as opened:
            wrong = found != expected or (not file["sha256"] and looks_wrong(opened.read(512), 512, ""))
        if wrong:
            sentence = why_wrong(arrived, file, found, source)
            if keep_bad:
                os.makedirs(os.path.dirname(final), exist_ok=True)
                os.replace(arrived, final + ".bad")
            else:
                os.unlink(arrived)
            raise Wrong(sentence)
        os.makedirs(os.path.dirname(final), exist_ok=True)
        os.chmod(arrived, 0o644)
        if os.geteuid() == 0:
            os.chown(arrived, 0, 0)
        os.replace(arrived, final)
        self.stamp(file, expected)


def looks_wrong(head: bytes, size: int, content_type: str) -> str:
    """Return what a file that begins so is instead of an artifact, or nothing. size: of it, in bytes."""
    if head.startswith(LFS_FIRST_LINE):
        return "a git-lfs pointer"
    if content_type.startswith("text/html") or head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page (a login, an error, or a share link that expired)"
    return ""


def why_wrong(arrived: str, file: Dict[str, Any], found: str, source: str) -> str:
    """Say what a file with a wrong hash is: an HTML page, a git-lfs pointer, a truncated file, or another file."""
    size = os.path.getsize(arrived)
    with open(arrived, "rb") as opened:
        other = looks_wrong(opened.read(512), size, "")
    label = "%s of %s from %s" % (file["path"], file["artifact"], source)
    if other:
        return "%s is %s of %d bytes, not the file." % (label, other, size)
    if file.get("size") and size != file["size"]:
        return "%s has %d bytes where %d were expected." % (label, size, file["size"])
    return "%s has sha256 %s where %s was expected." % (label, found, file["sha256"])
