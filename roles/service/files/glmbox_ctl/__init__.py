"""glmboxctl, and what starts each service where there is no systemd: standard library alone, Python 3.8."""

import json
import os
from typing import Any, Dict, NamedTuple

FOLDER = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PREFIX = "glmbox-"


class CtlError(Exception):
    """What does not work, and what to do next."""


class Service(NamedTuple):
    """A service as both inits tell it.

    state: starting, running, restarting, stopping, stopped or failed. since: when that process began, in local time, or
    "". restarts: how often it was started again after a failure, since somebody started it last.
    """

    name: str
    state: str
    since: str
    restarts: int


def settings() -> Dict[str, Any]:
    """Return what the role `service` has left here: folders, the health page, the address."""
    try:
        with open(os.path.join(FOLDER, "settings.json"), encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError) as error:
        raise CtlError("glmbox is not deployed here, or half (%s). Run site.yml." % error) from error


def has_systemd() -> bool:
    """Tell whether systemd has booted the box; `sd_booted(3)` looks at the same folder."""
    return os.path.isdir("/run/systemd/system")
