"""The controller's half of `wait_ready`: waits in slices, and says in between how far loading is."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase

SLICE_SECONDS = 5.0


class ActionModule(ActionBase):
    """Wait until services say that they are ready; plugins/modules/wait_ready.py documents the options."""

    _VALID_ARGS = frozenset(("services", "seconds"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args, slice_seconds=SLICE_SECONDS)
        patience = float(args.get("seconds", 900))
        begun = time.monotonic()
        ready_after: dict[str, float] = {}
        while True:
            before = time.monotonic() - begun
            args["seconds"] = max(0, int(patience - before))
            waited = self._execute_module("glmbox.box.wait_ready", args, task_vars=task_vars)
            took = round(time.monotonic() - begun, 1)
            # One that was ready in an earlier slice has its time.
            ready_after = {u: round(before + s, 1) for u, s in waited.get("ready_after", {}).items()} | ready_after
            if waited.get("failed") or not waited["waiting"]:
                return dict(result, **dict(waited, seconds=took, ready_after=ready_after))
            args["restarts"] = waited["restarts"]
            for unit, detail in waited["details"].items():
                self._display.display(f"{task_vars['inventory_hostname']}  {unit}  {took:.0f} s  {detail}")
