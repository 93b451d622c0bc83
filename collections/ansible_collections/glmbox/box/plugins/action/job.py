"""The controller's half of `job`: waits in slices, and says in between what is going on."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.progress import duration, report

SLICE_SECONDS = 5.0


class ActionModule(ActionBase):
    """Run a command that outlives the SSH session; plugins/modules/job.py documents the options."""

    _VALID_ARGS = frozenset(("name", "do", "command", "environment", "state_dir", "replace", "again", "seconds"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("do") != "wait":
            return dict(result, **self._execute_module("glmbox.box.job", args, task_vars=task_vars))
        begun = time.monotonic()
        slice_seconds = SLICE_SECONDS
        while True:
            args["slice_seconds"] = slice_seconds
            waited = self._execute_module("glmbox.box.job", args, task_vars=task_vars)
            if waited.get("failed") or self._task.check_mode or waited["job"]["state"] != "running":
                return dict(result, **waited)
            patience = int(args.get("seconds") or 0)  # the module has looked at its type
            took = time.monotonic() - begun
            if patience and took >= patience:
                sentence = (
                    f"The job {args['name']} still runs after {duration(patience)} of waiting, and goes on. "
                    f"Run the same command again to wait on. Its log is {waited['job']['log']} on the box."
                )
                return dict(result, **dict(waited, failed=True, msg=sentence))
            slice_seconds = min(SLICE_SECONDS, patience - took) if patience else SLICE_SECONDS
            report(self._display, task_vars["inventory_hostname"], waited["running"])
