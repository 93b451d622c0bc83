"""Files that a neighbour of the same inventory has proven already, taken from it over SSH.

The neighbour's half is roles/fetch/files/serve_peer.py, the one command that our key may run there.
Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import tempfile
import time
from typing import Any, Callable, Dict, List, Tuple

from ansible_collections.glmbox.box.plugins.module_utils.fetching.follow import Follower, forget
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf, Wrong

CHUNK_BYTES = 2**20
CONNECT_SECONDS = 5
# With this code serve_peer.py refuses; ssh's own failures are 255.
REFUSED = 3
# A neighbour that lacks so many files in a row is not asked for the others.
LACKS = 3


class Lacks(Exception):
    """A neighbour does not have the file, with what it says of that."""


class Failed(Exception):
    """A neighbour is of no use any more, with the reason."""


class Neighbours:
    """The other boxes of the inventory, as far as they are of use.

    settings: peers (name, host, port and user of each, in the order in which they are asked), stall_seconds, keep_bad.
    """

    def __init__(self, shelf: Shelf, settings: Dict[str, Any], say: Callable[[str], None]) -> None:
        self._shelf, self._settings, self._say = shelf, settings, say
        self._peers: List[Dict[str, Any]] = list(settings["peers"])
        self._lacked: Dict[str, int] = {}

    def take(self, file: Dict[str, Any], moved: Callable[[int], None]) -> Dict[str, Any]:
        """Bring a file from the first neighbour that has it; return its line of the report, or nothing.

        moved: is told how many bytes are here. A file without a known hash could not be proven, and is not taken.
        """
        begun = time.monotonic()
        part = self._shelf.part(file) + ".peer"
        for peer in list(self._peers) if file["sha256"] else []:
            try:
                self._bring(peer, file, part, moved)
            except Lacks as lacks:
                self._say("%s gives no %s: %s" % (name_of(peer), file["path"], lacks))
                self._lacked[peer["name"]] = self._lacked.get(peer["name"], 0) + 1
                if self._lacked[peer["name"]] >= LACKS:
                    self._peers.remove(peer)
            except Failed as failure:
                self._say("%s: %s, so it is out" % (name_of(peer), failure))
                self._peers.remove(peer)
            except OSError as error:  # of our own disk, of which the mirrors will say more
                self._say("%s could not be taken from %s: %s" % (file["path"], name_of(peer), error))
                break
            else:
                self._lacked[peer["name"]] = 0
                forget(self._shelf.part(file))  # what mirrors had begun
                self._say("%s arrived from %s" % (file["path"], name_of(peer)))
                return {
                    "artifact": file["artifact"],
                    "path": file["path"],
                    "bytes": os.path.getsize(self._shelf.final(file)),
                    "source": name_of(peer),
                    "seconds": round(max(time.monotonic() - begun, 0.001), 3),
                    "verified": "sha256",
                }
        if file["urls"]:  # mirrors take over, and cannot go on with this
            forget(part)
        return {}

    def _bring(self, peer: Dict[str, Any], file: Dict[str, Any], part: str, moved: Callable[[int], None]) -> None:
        """Make the file stand, from one neighbour. Raises Lacks, Failed, and OSError for the disk here."""
        if file["size"] is not None and bytes_of(part) > file["size"]:
            forget(part)
        foreign = bytes_of(part) > 0  # of an earlier run, or of another neighbour
        if foreign:
            self._say("%s goes on after %d bytes" % (file["path"], bytes_of(part)))
        while True:
            before = bytes_of(part)
            follower = Follower(part)
            try:
                whole = before > 0 and before == file["size"]  # killed between the last byte and the proof
                code, words = (0, "") if whole else self._stream(peer, file, part, follower, moved)
                if code == 0 or bytes_of(part) == file["size"]:
                    follower.finish()
                    follower.join()
                    self._shelf.accept(file, part, name_of(peer), self._settings["keep_bad"], follower.found)
                    return
            except Wrong as error:
                if not foreign:
                    raise Failed(str(error).rstrip(".")) from error
                self._say("%s So it is taken anew." % error)
                foreign = False
                continue
            finally:
                follower.drop()
            if code == REFUSED:
                raise Lacks(words)
            if bytes_of(part) == before:  # one that broke off after it had sent something has another try
                raise Failed(words)

    def _stream(
        self, peer: Dict[str, Any], file: Dict[str, Any], part: str, follower: Follower, moved: Callable[[int], None]
    ) -> Tuple[int, str]:
        """Append what a neighbour sends to the part; return ssh's exit code and last words. Raises Failed."""
        with tempfile.TemporaryFile() as errors, open(part, "ab") as target:
            have = target.tell()
            asked = [file["artifact"], file["path"], file["sha256"], str(have)]
            process = subprocess.Popen(
                ssh_command(os.path.join(self._shelf.dest, ".peers"), peer, asked),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            assert process.stdout is not None
            try:
                while True:
                    if not select.select([process.stdout], [], [], self._settings["stall_seconds"])[0]:
                        raise Failed("it sent nothing for %d s" % self._settings["stall_seconds"])
                    piece = os.read(process.stdout.fileno(), CHUNK_BYTES)
                    if not piece:
                        break
                    target.write(piece)
                    target.flush()  # the follower reads it
                    have += len(piece)
                    if file["size"] is not None and have > file["size"]:
                        forget(part)
                        raise Failed("it sends more than the %d bytes of %s" % (file["size"], file["path"]))
                    follower.follow(have)
                    moved(have)
                code = process.wait(self._settings["stall_seconds"])
            except subprocess.TimeoutExpired as error:
                raise Failed("it does not end") from error
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            errors.seek(0)
            return code, last_words(errors.read())


def ssh_command(folder: str, peer: Dict[str, Any], asked: List[str]) -> List[str]:
    """Return the command that asks a neighbour. folder: of our key, and of its host keys under its name."""
    options = {
        "BatchMode": "yes",
        "CheckHostIP": "no",
        "ConnectTimeout": str(CONNECT_SECONDS),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": peer["name"],
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": '"%s"' % os.path.join(folder, "id_ed25519"),
        "LogLevel": "ERROR",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": '"%s"' % os.path.join(folder, "known_hosts"),
    }
    command = ["ssh", "-F", "/dev/null", "-T", "-p", str(peer["port"]), "-l", peer["user"]]
    for name, value in options.items():
        command += ["-o", "%s=%s" % (name, value)]
    return [*command, "--", peer["host"], " ".join(shlex.quote(word) for word in asked)]


def name_of(peer: Dict[str, Any]) -> str:
    """Return how reports name a neighbour as a source."""
    return "%s (a neighbour)" % peer["name"]


def bytes_of(path: str) -> int:
    """Return a file's size, or 0 where there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def last_words(said: bytes) -> str:
    """Return the last line of what a program said, fit for a log: another box may have written it."""
    lines = said.decode(errors="replace").split("\n")
    line = ([one.strip() for one in lines if one.strip()] or ["it closed the connection"])[-1]
    return "".join(sign if sign.isprintable() else "?" for sign in line)[:300].rstrip(".")
