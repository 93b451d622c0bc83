#!/usr/bin/python3
"""All that a neighbour's key may do on this box: read artifacts that are proven.

authorized_keys forces this command upon the key:  serve_peer.py <folder of the artifacts>
What the neighbour asked for stands in SSH_ORIGINAL_COMMAND: <artifact> <path> <sha256> <offset>, quoted as for a shell.
The file's bytes from the offset on go to stdout; a refusal is a sentence on stderr and exit code 3.
Runs on the box as whoever logs in, who need not be root: standard library alone, Python 3.8.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import sys
from typing import BinaryIO

REFUSED = 3
CHUNK_BYTES = 2**20
NUMBER = re.compile(r"[0-9]{1,18}")
NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*")


class Refused(Exception):
    """What is not served, in one sentence."""


def stamp_for(shelf: str, artifact: str, path: str) -> dict:
    """Return the stamp of an artifact's file. Raises Refused where it has none."""
    try:
        with open(os.path.join(shelf, ".stamps", artifact + ".json"), encoding="utf-8") as file:
            return json.load(file)[path]
    except (OSError, ValueError, KeyError) as error:
        raise Refused(f"{path} of {artifact} is not proven here.") from error


def open_proven(shelf: str, asked: str) -> BinaryIO:
    """Return the file that is asked for, at the offset. Raises Refused for all but what a stamp proves."""
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    if len(words) != 4 or not NAME.fullmatch(words[0]) or not NUMBER.fullmatch(words[3]):
        raise Refused("This key reads proven artifacts and nothing else: <artifact> <path> <sha256> <offset>.")
    artifact, path, sha256, offset = words[0], words[1], words[2], int(words[3])
    stamp = stamp_for(shelf, artifact, path)
    if stamp["sha256"] != sha256:
        raise Refused(f"{path} of {artifact} is here with another content.")
    real = os.path.realpath(os.path.join(shelf, artifact, path))
    if not real.startswith(os.path.join(os.path.realpath(shelf), artifact) + os.sep):
        raise Refused(f"{path} of {artifact} leads out of the artifact's folder.")
    try:
        file = open(os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0)
    except OSError as error:
        raise Refused(f"{path} of {artifact} cannot be read: {error.strerror}.") from error
    found = os.fstat(file.fileno())
    proven = [stamp["size"], stamp["mtime_ns"], stamp["inode"]]
    if not stat.S_ISREG(found.st_mode) or [found.st_size, found.st_mtime_ns, found.st_ino] != proven:
        raise Refused(f"{path} of {artifact} was changed after it was proven.")
    if offset > found.st_size:
        raise Refused(f"{path} of {artifact} ends before byte {offset}.")
    file.seek(offset)
    return file


def main() -> None:
    try:
        with open_proven(sys.argv[1], os.environ.get("SSH_ORIGINAL_COMMAND", "")) as file:
            shutil.copyfileobj(file, sys.stdout.buffer, CHUNK_BYTES)
            sys.stdout.buffer.flush()
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(REFUSED)
    except BrokenPipeError:  # who asked has gone
        os._exit(1)


if __name__ == "__main__":
    main()
