"""The controller's half of `wait_ready`: waits in slices, and says in between how far loading is."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase

SLICE_SECONDS = 5.0


class ActionModule(ActionBase):
    """Wait until a service says that it is ready; plugins/modules/wait_ready.py documents the options."""

    _VALID_ARGS = frozenset(("unit", "url", "seconds"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args, slice_seconds=SLICE_SECONDS)
        patience = float(args.get("seconds", 900))
        begun = time.monotonic()
        while True:
            left = patience - (time.monotonic() - begun)
            args["seconds"] = max(0, int(left))
            waited = self._execute_module("glmbox.box.wait_ready", args, task_vars=task_vars)
            took = round(time.monotonic() - begun, 1)
            if waited.get("failed") or not waited["waiting"]:
                return dict(result, **dict(waited, seconds=took))
            args["restarts"] = waited["restarts"]
            detail = waited["health"].get("detail") or "no answer yet"
            self._display.display(f"{task_vars['inventory_hostname']}  {args['unit']}  {took:.0f} s  {detail}")
