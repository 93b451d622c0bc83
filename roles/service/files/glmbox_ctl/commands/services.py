"""The services: how they are, start, stop, restart, logs; the same under systemd and supervisord."""

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any, Dict, List, Optional

from glmbox_ctl import PREFIX, CtlError, cli, has_systemd, settings, supervisord, systemd

LOG_LINES = 50
SHOWN_LINES = 25


def provider() -> Any:
    """Return the module that knows the services of this box."""
    return systemd if has_systemd() else supervisord


def chosen(arguments: List[str]) -> List[str]:
    """Return the services that were named, with or without glmbox-; all where none was."""
    known = provider().names()
    if not known:
        raise CtlError("No service of glmbox is deployed here. Run site.yml.")
    wanted = [one if one.startswith(PREFIX) else PREFIX + one for one in arguments]
    for name in wanted:
        if name not in known:
            raise CtlError("There is no service %s; there are %s." % (name, ", ".join(known)))
    return wanted or known


def health() -> Optional[Dict[str, Any]]:
    """Return what the demo host says of itself; None where it does not answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(settings()["health_url"], timeout=5) as reply:
            return dict(json.load(reply))
    except urllib.error.HTTPError as error:
        with error:
            try:
                return dict(json.load(error))
            except ValueError:
                return None
    except (OSError, ValueError):
        return None


def told(said: Optional[Dict[str, Any]]) -> str:
    """Return the demo host's health in a few words."""
    if said is None:
        return "no answer"
    loaded = " (%s %% of the model's files)" % said.get("loaded_percent") if said.get("state") == "loading" else ""
    queue = said.get("queue", {})
    return "%s%s: %s; %s running, %s waiting" % (
        said.get("state"),
        loaded,
        said.get("detail"),
        queue.get("running", 0),
        queue.get("waiting", 0),
    )


def status(arguments: List[str]) -> int:
    """Show all services; exit code 1 where one does not run, or the demos are not ready."""
    services = [provider().look(name) for name in chosen(arguments)]
    print("%-20s%-12s%-22s%s" % ("service", "state", "since", "restarts"))
    for one in services:
        print("%-20s%-12s%-22s%d" % one)
    said = health()
    print("demos: " + told(said))
    print("address: " + settings()["address"])
    for module in cli.modules():
        for line in getattr(module, "section", lambda: [])():
            print(line)
    fine = all(one.state == "running" for one in services) and (said or {}).get("state") == "ready"
    return 0 if fine else 1


def start(arguments: List[str]) -> int:
    """Start services; where there is no systemd, supervisord first."""
    provider().change("start", chosen(arguments))
    return 0


def stop(arguments: List[str]) -> int:
    provider().change("stop", chosen(arguments))
    return 0


def restart(arguments: List[str]) -> int:
    provider().change("restart", chosen(arguments))
    return 0


def logs(arguments: List[str]) -> int:
    """Show the end of logs; -f goes on, -n N shows N lines."""
    follow, lines, named = False, LOG_LINES, []
    rest = list(arguments)
    while rest:
        one = rest.pop(0)
        if one == "-f":
            follow = True
        elif one == "-n" and rest and rest[0].isdigit():
            lines = int(rest.pop(0))
        elif one.startswith("-"):
            raise CtlError("usage: glmboxctl logs [-f] [-n LINES] [SERVICE]")
        else:
            named.append(one)
    command = provider().log_command(chosen(named), lines, follow)
    sys.stdout.flush()
    os.execvp(command[0], command)


def boot(arguments: List[str]) -> int:
    """What the provider's hook runs when the container starts."""
    if has_systemd():
        return 0
    print("glmbox: services were started" if supervisord.boot() else "glmbox: services run already")
    return 0


def down(arguments: List[str]) -> int:
    """End services and supervisord, before they are removed."""
    if not has_systemd() and supervisord.down():
        print("changed")
    return 0


def ensure(arguments: List[str]) -> int:
    """For the role `service`: NAME STATE [--check]; prints whether something had to be changed."""
    if supervisord.ensure(arguments[0], arguments[1], "--check" in arguments[2:]):
        print("changed")
    return 0


def show(arguments: List[str]) -> int:
    """For the module `wait_ready`: a service without systemd as JSON, with its log since its last start."""
    name = arguments[0]
    one = supervisord.look(name)
    lines: List[str] = []
    try:
        with open(supervisord.log_file(name), encoding="utf-8", errors="replace") as file:
            for line in file:
                lines = [] if line.startswith("glmbox: ") and line.endswith(" starts\n") else [*lines, line]
    except OSError:
        pass
    print(json.dumps({"state": one.state, "restarts": one.restarts, "log": "".join(lines[-SHOWN_LINES:])}))
    return 0


COMMANDS = {
    "status": ("show each service, the demos' health and the address", status),
    "start": ("start all services, or the one that is named", start),
    "stop": ("stop them", stop),
    "restart": ("restart them", restart),
    "logs": ("show the end of their logs: [-f] [-n LINES] [SERVICE]", logs),
    "boot": ("", boot),
    "down": ("", down),
    "ensure": ("", ensure),
    "show": ("", show),
}
