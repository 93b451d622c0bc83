#!/usr/bin/python
"""Wait until a service says that it is ready, and no longer than there is hope."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: wait_ready
short_description: Wait until the health pages of services say that they are ready
description:
  - Asks the health pages of systemd units until all answer with status 200, and gives up at once when a unit failed,
    restarts again and again, or says itself that it failed. On failure the end of its journal is in the message.
  - Without systemd, glmboxctl is asked for a unit's state and log.
  - The action of the same name waits in slices, and says in between how far loading is.
options:
  services:
    description: Which.
    type: list
    elements: dict
    required: true
    suboptions:
      unit:
        description: Name of the systemd unit.
        type: str
        required: true
      url:
        description: The health page; JSON with C(state) and C(detail).
        type: str
        required: true
  seconds:
    description: How long to wait for all of them, in seconds.
    type: int
    default: 900
  slice_seconds:
    description: Return after so many seconds even if it is not ready, with C(waiting). The action sets it; 0 does not.
    type: float
    default: 0
  restarts:
    description: How often each unit had been restarted when the waiting began. The action sets it.
    type: dict
    default: {}
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Wait for the demos
  glmbox.box.wait_ready:
    services:
      - {unit: glmbox-demos.service, url: "http://127.0.0.1:8100/healthz"}
"""

RETURN = r"""
details:
  description: What each unit that is not ready said last of how far it is.
  returned: always
  type: dict
seconds:
  description: How long it took, in seconds.
  returned: always
  type: float
ready_after:
  description: The seconds after which each unit that is ready was found so.
  returned: always
  type: dict
waiting:
  description: Whether one was not ready at the end of a slice.
  returned: success
  type: bool
restarts:
  description: How often each unit had been restarted when the waiting began.
  returned: success
  type: dict
"""

# A unit that came back this often while we waited will not get better by waiting.
HOPELESS_RESTARTS = 3
CTL = "/usr/local/bin/glmboxctl"
PAUSE_SECONDS = 0.5


def health_of(url: str) -> Dict[str, Any]:
    """Return the health page's JSON with its HTTP status as `status`; status 0 where nothing answers."""
    try:
        # A proxy out of the box's environment cannot reach its loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as reply:
            return dict(json_of(reply.read()), status=reply.status)
    except urllib.error.HTTPError as error:
        return dict(json_of(error.read()), status=error.code)
    except OSError as error:
        return {"status": 0, "detail": str(error)}


def json_of(body: bytes) -> Dict[str, Any]:
    """Return the JSON object in a body, or nothing: streamlit's health page says no more than ok."""
    try:
        found = json.loads(body.decode())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def supervised(unit: str) -> Dict[str, Any]:
    """Return state, restarts and log of a service that supervisord runs."""
    asked = subprocess.run([CTL, "show", unit.rsplit(".", 1)[0]], capture_output=True, text=True, check=False)
    return json_of(asked.stdout.encode()) or {"state": "stopped", "restarts": 0, "log": asked.stderr}


def unit_state(unit: str) -> Dict[str, str]:
    """Return the unit's ActiveState, NRestarts and, under systemd, InvocationID."""
    if not os.path.isdir("/run/systemd/system"):
        found = supervised(unit)
        return {"ActiveState": found["state"], "NRestarts": str(found["restarts"])}
    asked = subprocess.run(
        ["systemctl", "show", "--property=ActiveState,NRestarts,InvocationID", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(line.split("=", 1) for line in asked.stdout.splitlines() if "=" in line)


def journal(unit: str) -> str:
    """Return the last lines that the unit's last start left in the journal, systemd's words on its end among them."""
    if not os.path.isdir("/run/systemd/system"):
        return str(supervised(unit)["log"])
    start = unit_state(unit).get("InvocationID", "")
    which = ["_SYSTEMD_INVOCATION_ID=" + start, "+", "INVOCATION_ID=" + start] if start else ["--unit", unit]
    asked = subprocess.run(
        ["journalctl", "--no-pager", "--lines", "25", "--output", "cat", *which],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout


def hopeless(unit: str, health: Dict[str, Any], restarts: int, over: bool) -> str:
    """Return why there is no more waiting for a unit, with its last words, or nothing.

    restarts: how often it had been restarted when the waiting began. over: whether the time is.
    """
    state = unit_state(unit)
    if health.get("state") == "failed" or state.get("ActiveState") == "failed":
        why = "it failed"
    elif int(state.get("NRestarts", "0")) - restarts >= HOPELESS_RESTARTS:
        why = "it keeps ending and being restarted"
    elif over:
        why = "it was not ready in the time given"
    else:
        return ""
    return "%s: %s (%s). %s end:\n%s\nMend the cause and run the same command again." % (
        unit,
        why,
        health.get("detail") or health.get("state"),
        "The journal's" if os.path.isdir("/run/systemd/system") else "Its log's",
        journal(unit),
    )


def main() -> None:
    service = {"unit": {"type": "str", "required": True}, "url": {"type": "str", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "dict", "required": True, "options": service},
            "seconds": {"type": "int", "default": 900},
            "slice_seconds": {"type": "float", "default": 0},
            "restarts": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    waited_for = {one["unit"]: one["url"] for one in module.params["services"]}
    restarts, ready_after = module.params["restarts"], {}
    if module.check_mode:
        module.exit_json(changed=False, details={}, seconds=0.0, ready_after={}, waiting=False, restarts={})
    begun = time.monotonic()
    for unit in waited_for:
        restarts.setdefault(unit, int(unit_state(unit).get("NRestarts", "0")))
    while True:
        health = {unit: health_of(url) for unit, url in waited_for.items() if unit not in ready_after}
        took = round(time.monotonic() - begun, 1)
        ready_after.update({unit: took for unit, said in health.items() if said["status"] == 200})
        late = {unit: said for unit, said in health.items() if unit not in ready_after}
        told = {
            "seconds": took,
            "ready_after": ready_after,
            "details": {unit: said.get("detail") or "no answer yet" for unit, said in late.items()},
        }
        if not late:
            module.exit_json(changed=False, waiting=False, restarts=restarts, **told)
        over = took > module.params["seconds"]
        whys = [hopeless(unit, said, restarts[unit], over) for unit, said in late.items()]
        if any(whys):
            module.fail_json(msg="\n".join(filter(None, whys)), **told)
        if 0 < module.params["slice_seconds"] <= took:
            module.exit_json(changed=False, waiting=True, restarts=restarts, **told)
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
