"""Run a playbook on an inventory that was changed since this run began."""

from __future__ import annotations

import os
import subprocess
import sys

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Run a playbook, showing its lines as they come; plugins/modules/nested.py documents the options."""

    _requires_connection = False
    _supports_check_mode = False
    _VALID_ARGS = frozenset(("playbook", "inventory", "limit", "chdir"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        command = [sys.executable, "-m", "ansible", "playbook", args["playbook"], "-i", args["inventory"]]
        command += ["--limit", args["limit"]]
        # A callback for machines would wrap every line.
        environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_STDOUT_CALLBACK"}
        with subprocess.Popen(
            command, cwd=args["chdir"], env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as run:  # fmt: skip
            assert run.stdout
            for line in run.stdout:
                self._display.display(f"    {line.rstrip()}".rstrip())
        if run.returncode:
            return dict(result, failed=True, msg=f"{args['playbook']} found what stands above. Mend it, and go on.")
        return dict(result, changed=False)
