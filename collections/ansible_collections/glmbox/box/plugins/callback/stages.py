"""At the end of a run, how long each stage took: a rented box is paid by the minute."""

from __future__ import annotations

import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: stages
type: aggregate
short_description: Print the seconds of each role at the end of a run
description:
  - Sums the time of tasks by role, in the order in which the roles began.
"""


class CallbackModule(CallbackBase):
    """Sum the seconds of tasks by role."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "glmbox.box.stages"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._seconds: dict[str, float] = {}
        self._stage = ""
        self._begun = time.monotonic()

    def _turn(self, stage: str) -> None:
        now = time.monotonic()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._begun
        self._stage, self._begun = stage, now

    def v2_playbook_on_task_start(self, task, is_conditional):
        role = str(task._role) if task._role else "play"
        # A service is started for the role that asks for it.
        self._turn(self._stage if role == "service" else role)

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start

    def v2_playbook_on_stats(self, stats):
        self._turn("")
        total = sum(self._seconds.values())
        lines = [f"{stage:<10}{seconds:>8.1f} s" for stage, seconds in self._seconds.items() if seconds >= 0.05]
        self._display.display("\n".join(["", "SECONDS", *lines, f"{'total':<10}{total:>8.1f} s"]))
