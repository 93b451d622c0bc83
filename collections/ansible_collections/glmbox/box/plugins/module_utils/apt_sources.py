"""apt's sources, pointed at a mirror of the distribution and put back.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import urlsplit

from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, write_json

# The folders that every full mirror of the distributions has, by these names.
ARCHIVES = ("debian", "debian-security", "ubuntu")
# What the distributions themselves call their parts. Others' repositories (Docker's, NVIDIA's) have other ones, or lie
# deeper (PPAs), and no mirror has them.
COMPONENTS = {"main", "contrib", "non-free", "non-free-firmware", "restricted", "universe", "multiverse"}
ONE_LINE = re.compile(r"^(\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?)(\S+)(\s+(\S+)((?:\s+[^\s#]+)*).*)$")
FIELD = re.compile(r"^([A-Za-z-]+):(.*)$")
RECORD = "sources.json"


def archive_of(uri: str, suites: List[str], components: List[str]) -> str:
    """Return which of the distribution's own archives an entry of apt's sources is, or nothing.

    uri, suites, components: as the entry has them.
    """
    if not components or not set(components) <= COMPONENTS:
        return ""
    parts = urlsplit(uri)
    folder = parts.path.strip("/")
    if parts.scheme == "mirror+file":  # cloud images of Debian keep the addresses in /etc/apt/mirrors
        folder = os.path.basename(folder)
        folder = folder[: -len(".list")] if folder.endswith(".list") else folder
    elif parts.scheme not in ("http", "https", "ftp"):
        return ""
    # Debian's host of security updates has them at its top as well.
    if not folder and parts.netloc.startswith("security.") and all(one.endswith("-security") for one in suites):
        folder = "debian-security"
    return folder if folder in ARCHIVES else ""


def one_line_moved(text: str, move: Callable[[str, List[str], List[str]], str]) -> str:
    """Return a file in apt's one-line form with its addresses moved. move: address, suites, components to address."""
    lines = []
    for line in text.splitlines(keepends=True):
        found = ONE_LINE.match(line.rstrip("\n"))
        if found:
            uri = move(found[2], [found[4]], found[5].split())
            line = found[1] + uri + found[3] + line[len(line.rstrip("\n")) :]
        lines.append(line)
    return "".join(lines)


def stanzas_moved(text: str, move: Callable[[str, List[str], List[str]], str]) -> str:
    """Return a file in apt's deb822 form with its addresses moved. move: as for one_line_moved."""
    stanzas: List[List[str]] = [[]]
    for line in text.splitlines(keepends=True):
        stanzas[-1].append(line)
        if not line.strip():
            stanzas.append([])
    return "".join("".join(stanza_moved(lines, move)) for lines in stanzas)


def stanza_moved(lines: List[str], move: Callable[[str, List[str], List[str]], str]) -> List[str]:
    """Return the lines of one stanza with its addresses moved."""
    fields: Dict[str, List[Tuple[int, int]]] = {}  # name to its lines, and where in them its words begin
    name = ""
    for number, line in enumerate(lines):
        named = FIELD.match(line)
        if named:
            name = named[1].lower()
        elif not line.startswith((" ", "\t")):
            continue  # a comment, or the blank line at the end
        fields.setdefault(name, []).append((number, named.start(2) if named else 0))

    def words(field: str) -> List[str]:
        return " ".join(lines[number][at:] for number, at in fields.get(field, [])).split()

    suites, components = words("suites"), words("components")
    changed = list(lines)
    for number, at in fields.get("uris", []):
        value = re.sub(r"\S+", lambda word: move(word[0], suites, components), lines[number][at:])
        changed[number] = lines[number][:at] + value
    return changed


def moved(path: str, text: str, mirror: str) -> Tuple[str, List[str]]:
    """Return a file of sources that takes the distribution's own archives from a mirror, and what was found to move.

    path: of the file, whose ending tells its form. mirror: its address, below which the archives lie by their names.
    """
    found: List[str] = []

    def move(uri: str, suites: List[str], components: List[str]) -> str:
        archive = archive_of(uri, suites, components)
        if not archive:
            return uri
        found.append("%s %s" % (archive, " ".join(suites)))
        return "%s/%s" % (mirror.rstrip("/"), archive)

    change = stanzas_moved if path.endswith(".sources") else one_line_moved
    return change(text, move), found


def files_of(root: str) -> List[str]:
    """Return the files of apt's sources. root: /etc/apt, or a stand-in."""
    parts = os.path.join(glob.escape(root), "sources.list.d")
    found = [os.path.join(root, "sources.list"), *glob.glob(parts + "/*.list"), *glob.glob(parts + "/*.sources")]
    return sorted(path for path in found if os.path.isfile(path))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Sources:
    """What apt's sources are, and shall be. What stood there before is on record until it is put back.

    root: /etc/apt. keep_dir: where the record is kept. mirror: an address, or nothing to put everything back.
    """

    def __init__(self, root: str, keep_dir: str, mirror: str) -> None:
        self._record = os.path.join(keep_dir, RECORD)
        before: Dict[str, Any] = read_json(self._record) or {"files": {}, "pending": False}
        self.pending = bool(before["pending"])
        self.found: List[str] = []
        self.notes: List[str] = []
        self.writes: Dict[str, str] = {}
        self._files: Dict[str, Any] = {}
        for path in files_of(root):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                now = file.read()
            kept = before["files"].get(path)
            ours = bool(kept) and sha256(now) in (kept["written"], sha256(kept["original"]))
            if kept and not ours:
                # Whoever changed it has it as it is, and what stood there before stays on record.
                self._files[path] = kept
                if not mirror:
                    self.notes.append(
                        "%s was changed since glmbox pointed it at a mirror, and is left as it is. What stood there "
                        "before is in %s." % (path, self._record)
                    )
                    continue
                self.found += moved(path, kept["original"], mirror)[1]
                text = moved(path, now, mirror)[0]
                if text != now:
                    self.writes[path] = text
                continue
            original = kept["original"] if ours else now
            text, found = moved(path, original, mirror) if mirror else (original, [])
            self.found += found
            if text != original:
                status = os.stat(path)
                mtime = kept["mtime"] if ours else status.st_mtime
                self._files[path] = {"original": original, "written": sha256(text), "mtime": mtime}
            if text != now:
                self.writes[path] = text
        self._forgotten = {path: kept for path, kept in before["files"].items() if path not in self._files}
        self.stale = bool(self.writes or self._forgotten or self.pending)

    def write(self, pending: bool) -> None:
        """Write what differs, the record before everything else. pending: whether apt has to read the lists anew."""
        both = {**self._forgotten, **self._files}
        self._save(both, self.pending or pending)
        for path, text in self.writes.items():
            self._replace(path, text)
        # From here on what was put back is no concern of ours any more.
        self.updated(self.pending or pending)

    def updated(self, pending: bool = False) -> None:
        """Note whether apt has still to read its lists."""
        self._save(self._files, pending)

    def _save(self, files: Dict[str, Any], pending: bool) -> None:
        if files or pending:
            # An entry may hold a login.
            write_json(self._record, {"files": files, "pending": pending}, mode=0o600)
        elif os.path.exists(self._record):
            os.unlink(self._record)
            if not os.listdir(os.path.dirname(self._record)):
                os.rmdir(os.path.dirname(self._record))

    def _replace(self, path: str, text: str) -> None:
        """Write a file whole, with the owner and mode that it has; what is put back gets its time back as well."""
        real = os.path.realpath(path)
        status = os.stat(real)
        draft = real + ".glmbox"  # apt does not read names with this ending
        with open(draft, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        shutil.copymode(real, draft)
        os.chown(draft, status.st_uid, status.st_gid)
        if path in self._forgotten:
            os.utime(draft, (status.st_atime, self._forgotten[path]["mtime"]))
        os.replace(draft, real)
