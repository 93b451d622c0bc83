"""The lease: shown among the services, extended, or switched off. The role `lease` leaves the command that does it."""

import os
import subprocess
import sys
from typing import List

PROGRAM = "/usr/local/bin/glmbox-lease"
NONE = "No lease: the box runs, and costs money, until somebody stops it (lease_hours, lease_idle_minutes)."


def section() -> List[str]:
    """Return the lines that `glmboxctl status` shows of it."""
    if not os.path.exists(PROGRAM):
        return ["lease: " + NONE]
    shown = subprocess.run([PROGRAM, "show"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = shown.stdout.decode(errors="replace").splitlines() or ["%s says nothing" % PROGRAM]
    return ["lease: " + lines[0]] + ["       " + line for line in lines[1:]]


def lease(arguments: List[str]) -> int:
    """Show the lease; +2h extends it, off switches it off."""
    if not os.path.exists(PROGRAM):
        print(NONE, file=sys.stderr)
        return 1
    return subprocess.call([PROGRAM] + arguments)


COMMANDS = {"lease": ("show when the box is stopped; +2h keeps it for two hours more, off for good", lease)}
