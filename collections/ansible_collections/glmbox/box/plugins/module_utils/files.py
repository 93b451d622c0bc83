"""Files that are written whole and proven: the stamps' side of the house.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import tempfile
from typing import Any, Callable, Dict, Optional, Tuple

CHUNK_BYTES = 4 * 1024 * 1024


def sha256_of(path: str) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits.

    hashlib hashes through OpenSSL, which uses the CPU's SHA instructions;
    coreutils' sha256sum does not on Debian.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with open(path, "rb", buffering=0) as file:
        while True:
            count = file.readinto(buffer)
            if not count:
                return digest.hexdigest()
            digest.update(buffer[:count])


def hash_of(value: Any) -> str:
    """Return the sha256 of a JSON value: the same for the same value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: str) -> Any:
    """Return the JSON value that stands in a file, or None where it is missing or not whole."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str, value: Any, mode: int = 0o644) -> None:
    """Write a JSON value so that a reader, or a power cut, finds the old file or the new one, never a part."""
    write_bytes(path, json.dumps(value, indent=1, sort_keys=True).encode(), mode)


def write_bytes(path: str, content: bytes, mode: int = 0o644, finish: Optional[Callable[[str], None]] = None) -> None:
    """Write a file so that a reader, or a power cut, finds the old one or the new one, never a part.

    `finish` gets the path of the whole file before it takes the old one's place; what it raises leaves the old one.
    """
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=folder, prefix=".draft-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, mode)
        if finish:
            finish(draft)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def write_link(path: str, target: str) -> None:
    """Let a link lead to a target by a rename, so that it is never missing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = path + ".glmbox-new"
    if os.path.lexists(draft):  # of a run that was killed
        os.unlink(draft)
    os.symlink(target, draft)
    os.replace(draft, path)


def ids_of(owner: str, group: str) -> Tuple[int, int]:
    """Return the numbers of a user and a group. Raises KeyError, with a sentence, where the machine has none such."""
    try:
        uid = pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise KeyError("There is no user %s." % owner) from None
    try:
        return uid, grp.getgrnam(group).gr_gid
    except KeyError:
        raise KeyError("There is no group %s." % group) from None


def stamp_of(path: str, sha256: str) -> Dict[str, Any]:
    """Return the stamp of a file whose hash was just proven: its size, mtime in ns, inode and sha256."""
    status = os.stat(path)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino, "sha256": sha256}


def stamp_holds(path: str, stamp: Optional[Dict[str, Any]], sha256: str) -> bool:
    """Tell whether a stamp still proves that the file has this hash, without reading the file."""
    try:
        return stamp == stamp_of(path, sha256)
    except OSError:
        return False


def disk_of(path: str) -> Dict[str, int]:
    """Return the disk that a path, which need not exist yet, would be written to: its device and free MiB."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    disk = os.statvfs(path)
    return {"device": os.stat(path).st_dev, "free_mib": disk.f_bavail * disk.f_frsize // 2**20}
