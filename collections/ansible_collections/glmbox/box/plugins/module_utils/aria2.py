"""Downloads by aria2c: many connections, several mirrors at once, resume.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any, Dict, List, Optional

from ansible_collections.glmbox.box.plugins.module_utils.shelf import Shelf


def aria2_input(shelf: Shelf, files: List[Dict[str, Any]]) -> str:
    """Return aria2c's input file: the mirrors of a file on one line, its options indented below."""
    lines = []
    for file in files:
        lines.append("\t".join(file["urls"]))
        lines.append("  dir=" + shelf.arriving)
        lines.append("  out=" + file["part"])
    return "\n".join(lines) + "\n"


def download(shelf: Shelf, files: List[Dict[str, Any]], connections: int) -> Optional[str]:
    """Download files by aria2c, which resumes, splits and checks; return its last words where it failed."""
    program = shutil.which("aria2c")
    if not program:
        return "aria2c is not on the box's PATH: install the package aria2, or put the files into the bundle."
    ended = subprocess.run(
        [
            program,
            "--input-file=-",
            "--continue=true",
            "--allow-overwrite=true",
            "--auto-file-renaming=false",
            "--max-concurrent-downloads=4",
            "--max-connection-per-server=%d" % connections,
            "--split=%d" % connections,
            "--min-split-size=4M",
            "--connect-timeout=15",
            "--timeout=60",
            "--max-tries=5",
            "--retry-wait=3",
            "--lowest-speed-limit=1K",
            "--file-allocation=none",
            "--summary-interval=0",
            "--console-log-level=error",
            "--download-result=full",
        ],
        input=aria2_input(shelf, files),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 0:
        return None
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if "errorCode" in line or "[ERROR]" in line]
    return "aria2c ended with %d: %s" % (ended.returncode, " ".join(said[-3:]) or "no reason given")
