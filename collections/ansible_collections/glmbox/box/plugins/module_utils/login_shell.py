"""Where a login shell spends its time before it runs what SSH asks for.

Runs on the box, by standard input and as whoever logs in: standard library alone, Python 3.8.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List

# What bash reads when sshd starts it for a command; Debian has the first compiled in.
BASH_FILES = ("/etc/bash.bashrc", "~/.bashrc")
# What zsh reads then. Other shells read nothing.
ZSH_FILES = ("/etc/zsh/zshenv", "~/.zshenv")
TRACED = re.compile(r"^\++(\d+[.,]\d+) (.*):(\d+)@")
MOST_SECONDS = 60
MARK = "glmbox-shell "


def longest(trace: str, ended: float) -> Dict[str, Any]:
    """Return the file and line at which bash stayed longest, and for how many seconds.

    trace: what `set -x` wrote with a PS4 of time, file and line. ended: when the last command had ended.
    """
    steps = [TRACED.match(line) for line in trace.splitlines()]
    seen = [(float(step[1].replace(",", ".")), step[2], int(step[3])) for step in steps if step]
    ends = [begun for begun, _, _ in seen[1:]] + [ended]
    stays = [(end - begun, file, line) for (begun, file, line), end in zip(seen, ends)]
    seconds, file, line = max(stays, default=(0.0, "", 0))
    return {"seconds": round(seconds, 1), "file": file, "line": line}


def traced(shell: str, files: List[str]) -> Dict[str, Any]:
    """Read bash's files as a login by SSH does, and return where it stayed longest."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace")
        with open(path, "wb") as file:
            script = (
                "BASH_XTRACEFD=%d; PS4='+$EPOCHREALTIME $BASH_SOURCE:$LINENO@ '; set -x; "
                'for each; do [ ! -r "$each" ] || . "$each"; done' % file.fileno()
            )
            subprocess.run(
                [shell, "--norc", "--noprofile", "-c", script, shell, *files],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[file.fileno()],
                timeout=MOST_SECONDS,
                check=False,
            )
            ended = time.time()
        with open(path, encoding="utf-8", errors="replace") as file_:
            return longest(file_.read(), ended)


def timed(shell: str, files: List[str]) -> Dict[str, Any]:
    """Return which of a shell's files takes longest to read."""
    slowest: Dict[str, Any] = {"seconds": 0.0, "file": "", "line": 0}
    for file in files:
        begun = time.monotonic()
        subprocess.run(
            [shell, "-f", "-c", '. "$1"', shell, file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=MOST_SECONDS,
            check=False,
        )
        seconds = round(time.monotonic() - begun, 1)
        if seconds > slowest["seconds"]:
            slowest = {"seconds": seconds, "file": file, "line": 0}
    return slowest


def look(shell: str) -> Dict[str, Any]:
    """Return the file, the line (0: unknown) and the seconds that a login by SSH spends there. shell: its path."""
    name = os.path.basename(shell)
    files = {"bash": BASH_FILES, "zsh": ZSH_FILES}.get(name, ())
    there = [path for path in map(os.path.expanduser, files) if os.path.exists(path)]
    try:
        return traced(shell, there) if name == "bash" else timed(shell, there)
    except (OSError, subprocess.TimeoutExpired):
        return {"seconds": 0.0, "file": "", "line": 0}


def main() -> None:
    # Noise has ended before this, though maybe without a line end.
    sys.stdout.write("\n%s%s\n" % (MARK, json.dumps(look(pwd.getpwuid(os.getuid()).pw_shell))))


if __name__ == "__main__":
    main()
