"""The controller's half of `timeline`: notes when the box was asked, by the only clock that counts."""

from __future__ import annotations

import os
import time

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Tell when the box's jobs ran; plugins/modules/timeline.py documents the options."""

    _VALID_ARGS = frozenset(("state_dir", "runs_dir"))
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        runs_dir = os.path.abspath(os.path.expanduser(args.pop("runs_dir"))) if args.get("runs_dir") else ""
        told = self._execute_module("glmbox.box.timeline", args, task_vars=task_vars)
        # Reading its uptime is the last that the box does; what takes long, to bring the module there, lies before.
        asked = time.monotonic()
        if told.get("failed"):
            return dict(result, **told)
        # Check mode leaves nothing behind, here either.
        return dict(result, **told, asked=asked, runs_dir="" if self._task.check_mode else runs_dir)
