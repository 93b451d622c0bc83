#!/usr/bin/python3 -I
"""Note which Debian packages apt is about to install that are not there yet: apt runs this before it installs.

    note_packages.py FOLDER <apt's list (version 2 of DPkg::Pre-Install-Pkgs, see apt.conf(5))

Only glmbox's own calls of apt do, by APT_CONFIG. FOLDER/before.txt lists what was installed before the first of them,
FOLDER/brought.txt what came by them. Standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Dict, List


def states() -> Dict[str, str]:
    """Return each package that dpkg knows, with its state."""
    asked = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]
    told = subprocess.run(asked, stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    pairs: Dict[str, str] = {}
    for line in told.splitlines():
        name, state = line.split()
        if pairs.get(name) != "installed":  # of several architectures one is enough
            pairs[name] = state
    return pairs


def arriving(text: str) -> List[str]:
    """Return the names of what apt is going to unpack and that is not installed. text: apt's list."""
    _, _, actions = text.partition("\n\n")
    rows = [line.split(" ", 4) for line in actions.splitlines()]
    return [row[0] for row in rows if len(row) == 5 and row[1] == "-" and not row[4].startswith("**")]


def write(path: str, lines: List[str], how: str) -> None:
    with open(path, how, encoding="ascii") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    folder = sys.argv[1]
    text = sys.stdin.read()
    os.makedirs(folder, exist_ok=True)
    known = states()
    before = os.path.join(folder, "before.txt")
    if not os.path.exists(before):
        write(before + ".draft", sorted(name for name, state in known.items() if state == "installed"), "w")
        os.replace(before + ".draft", before)
    # Configuration that somebody's removed package has left is theirs, and stays when ours goes.
    left = {name for name, state in known.items() if state == "config-files"}
    write(
        os.path.join(folder, "brought.txt"),
        ["%s %s" % (name, "remove" if name in left else "purge") for name in arriving(text)],
        "a",
    )


if __name__ == "__main__":
    main()
