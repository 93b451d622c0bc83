"""The services where systemd keeps them running."""

import glob
import os
import subprocess
from typing import List

from glmbox_ctl import PREFIX, CtlError, Service

UNITS = "/etc/systemd/system"
STATES = {"active": "running", "activating": "starting", "deactivating": "stopping", "failed": "failed"}


def names() -> List[str]:
    """Return the names of all services."""
    found = glob.glob(os.path.join(UNITS, PREFIX + "*.service"))
    return sorted(os.path.basename(path)[: -len(".service")] for path in found)


def look(name: str) -> Service:
    """Return how a service is."""
    keys = "ActiveState,SubState,NRestarts,ExecMainStartTimestamp"
    asked = subprocess.run(
        ["systemctl", "show", "--property", keys, name + ".service"], stdout=subprocess.PIPE, text=True, check=False
    )
    shown = dict(line.split("=", 1) for line in asked.stdout.splitlines() if "=" in line)
    state = STATES.get(shown.get("ActiveState", ""), "stopped")
    if shown.get("SubState") == "auto-restart":
        state = "restarting"
    since = " ".join(shown.get("ExecMainStartTimestamp", "").split()[1:3]) if state == "running" else ""
    return Service(name, state, since, int(shown.get("NRestarts") or 0))


def change(verb: str, wanted: List[str]) -> None:
    """Start, stop or restart services."""
    if subprocess.run(["systemctl", verb, *(name + ".service" for name in wanted)], check=False).returncode:
        raise CtlError("systemctl could not %s them; its reason stands above." % verb)


def log_command(wanted: List[str], lines: int, follow: bool) -> List[str]:
    """Return the command that shows the end of services' logs."""
    command = ["journalctl", "--no-pager", "--lines", str(lines)] + (["--follow"] if follow else [])
    return command + [part for name in wanted for part in ("--unit", name + ".service")]
