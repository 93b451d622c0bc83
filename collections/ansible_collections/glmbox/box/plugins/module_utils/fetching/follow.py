"""Hashing of files while they arrive, and going on with what an earlier run left.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
from typing import Any, Dict, Optional

from ansible_collections.glmbox.box.plugins.module_utils.files import CHUNK_BYTES


class Follower(threading.Thread):
    """Hashes the front of a growing file, as far as it has no holes.

    A thread of its own: hashing leaves Python's lock, so that it uses another core than the download. found: the
    sha256 of the whole file, None until then and where it could not be read.
    """

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._turn = threading.Condition()
        self._front, self._ended, self._whole = 0, False, False
        self.found: Optional[str] = None
        self.start()

    def follow(self, front: int) -> None:
        """Tell that the first `front` bytes have arrived."""
        with self._turn:
            self._front = max(front, self._front)
            self._turn.notify()

    def finish(self) -> None:
        """Tell that all has arrived; when the thread has ended, `found` is the file's sha256."""
        with self._turn:
            self._whole = self._ended = True
            self._turn.notify()

    def drop(self) -> None:
        """Tell that the file is given up."""
        with self._turn:
            self._ended = True
            self._turn.notify()

    def run(self) -> None:
        digest, done = hashlib.sha256(), 0
        buffer = memoryview(bytearray(CHUNK_BYTES))
        try:
            with self._open() as file:
                while True:
                    with self._turn:
                        while self._front <= done and not self._ended:
                            self._turn.wait()
                        front, ended, whole = self._front, self._ended, self._whole
                    if ended and not whole:
                        return
                    count = file.readinto(buffer if whole else buffer[: min(CHUNK_BYTES, front - done)])
                    if whole and not count:
                        break
                    digest.update(buffer[:count])
                    done += count
            self.found = digest.hexdigest()
        except OSError:
            return

    def _open(self):
        with self._turn:
            while not self._front and not self._ended:
                self._turn.wait()
        return open(self._path, "rb", buffering=0)


def front_of(bitfield: str, piece_bytes: int) -> int:
    """Return how many bytes at a file's beginning have arrived, by aria2's bitfield (hexadecimal, a bit a piece)."""
    bits = len(bitfield) * 4
    inverted = ~int(bitfield or "0", 16) & ((1 << bits) - 1)
    return (bits - inverted.bit_length()) * piece_bytes


def resume(part: str) -> bool:
    """Make what is left of a download safe to go on with; return whether anything is.

    aria2c writes its control file after it made the disk write what the file says, so that even a power cut leaves the
    two in step. A part whose control file is missing or damaged has holes that nobody knows of.
    """
    if not _is_whole(part + ".aria2"):
        forget(part)
    return os.path.exists(part)


def _is_whole(control: str) -> bool:
    """Tell whether a control file of aria2c is what it says: it dies of one full of noughts, as power cuts leave them.

    The layout stands in aria2's manual: version, extension, length of a torrent's hash (none here), then as below.
    """
    try:
        with open(control, "rb") as file:
            piece_bytes, total, bitfield_bytes = struct.unpack_from(">10xIQ8xI", file.read())
    except (OSError, struct.error):
        return False
    return piece_bytes > 0 and bitfield_bytes == -(-total // (8 * piece_bytes))


def note(part: str, state: Dict[str, Any]) -> None:
    """Write aria2c's control file of what is here, which it cannot where the disk is full: a piece makes room for it.

    state: aria2c's of the download.
    """
    if not state.get("bitfield") or not os.path.getsize(part):
        return
    piece_bytes, bits = int(state["pieceLength"]), bytearray.fromhex(state["bitfield"])
    last = (os.path.getsize(part) - 1) // piece_bytes
    bits[last // 8] &= ~(0x80 >> last % 8)
    os.truncate(part, last * piece_bytes)
    head = struct.pack(">HIIIQQI", 1, 0, 0, piece_bytes, int(state["totalLength"]), 0, len(bits))
    with contextlib.suppress(OSError), open(part + ".aria2", "wb") as file:  # somebody else may have taken the room
        file.write(head + bits + bytes(4))


def forget(part: str) -> None:
    """Delete a part and what belongs to it."""
    for ending in ("", ".aria2"):
        if os.path.exists(part + ending):
            os.unlink(part + ending)
