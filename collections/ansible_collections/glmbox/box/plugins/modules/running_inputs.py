#!/usr/bin/python
"""What a service's running process was started with."""

from __future__ import annotations

import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: running_inputs
short_description: Read the variable GLMBOX_INPUTS of a unit's running process
description:
  - A unit file tells what a service would be started with; only the process tells what it was started with. A service
    whose answer differs from its unit's has to be restarted, also when the run that wrote the unit was killed.
options:
  unit:
    description: Name of the systemd unit.
    type: str
    required: true
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Ask what the running demos were started with
  glmbox.box.running_inputs:
    unit: glmbox-demos.service
"""

RETURN = r"""
inputs:
  description: The variable's value; empty where nothing runs.
  returned: always
  type: str
"""


def main_pid(unit: str) -> int:
    """Return the pid of a unit's main process, 0 for none."""
    try:
        asked = subprocess.run(
            ["systemctl", "show", "--property=MainPID", "--value", unit], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    return int(asked.stdout.strip() or 0)


def inputs_of(pid: int) -> str:
    """Return a process's GLMBOX_INPUTS; 'unknown' for a process without one, which is not what was wished either."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            pairs = file.read().split(b"\0")
    except OSError:
        return ""
    for pair in pairs:
        if pair.startswith(b"GLMBOX_INPUTS="):
            return pair.partition(b"=")[2].decode()
    return "unknown"


def main() -> None:
    module = AnsibleModule(argument_spec={"unit": {"type": "str", "required": True}}, supports_check_mode=True)
    pid = main_pid(module.params["unit"])
    module.exit_json(changed=False, inputs=inputs_of(pid) if pid else "")


if __name__ == "__main__":
    main()
