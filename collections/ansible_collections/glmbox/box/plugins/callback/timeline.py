"""At the end of a run, how long each role took, and what ran when: a rented box is paid by the minute."""

from __future__ import annotations

import json
import os
import re
import shutil
import time

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.callback import CallbackBase
from ansible_collections.glmbox.box.plugins.module_utils import timeline
from ansible_collections.glmbox.box.plugins.module_utils.timeline_picture import svg

DOCUMENTATION = r"""
name: timeline
type: aggregate
short_description: Print the seconds of each role, and a timeline, at the end of a run
description:
  - Sums the time of tasks by role, in the order in which the roles began, and tells how long prepare and activate took,
    and how many minutes of the boxes' GPUs the latter was.
  - Where a task C(glmbox.box.timeline) told of jobs that ran during this run, prints what ran when on the controller
    and on the box, what was waited for and the longest branch, and writes it as C(timeline.txt), C(timeline.svg) and
    C(timeline.json) into a folder of this run. The latest 20 such folders are kept.
  - Where a box goes away in the middle of a run, says what that means.
"""

KEPT_FOLDERS = 20
# check_box has reached it, or there would be another sentence.
GONE = (
    "{host} does not answer any more: it restarts, was stopped, or the link is gone. Builds and downloads go on "
    "without the link. Once ssh reaches the box, run the same command again: it goes on with what is not done."
)
FOLDER_FORM = "%Y-%m-%d_%H-%M-%S"
# The plays whose time counts: while a box is prepared it can be rented without its card.
STAGES = {"Prepare the box": "prepare", "Activate the box": "activate"}
FOLDER_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


def is_wait(action: str, args: dict) -> bool:
    """Tell whether a task only waits for jobs. action: its full name. args: as they were worked out for a host."""
    if action in ("glmbox.box.job", "glmbox.box.build"):
        return args.get("do") == "wait"
    return action == "glmbox.box.artifact" and boolean(args.get("wait", True), strict=False)


def prune(runs_dir: str, newest: str) -> None:
    """Delete the oldest folders of runs, but not the newest one's, which a clock set back may call old."""
    names = sorted(name for name in os.listdir(runs_dir) if FOLDER_NAME.fullmatch(name) and name != newest)
    for name in names[: max(0, len(names) + 1 - KEPT_FOLDERS)]:
        folder = os.path.join(runs_dir, name)
        if os.path.isdir(folder) and not os.path.islink(folder):
            shutil.rmtree(folder)


class CallbackModule(CallbackBase):
    """Note when each role worked and waited, and show it at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "glmbox.box.timeline"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[timeline.Part] = []
        self._told: dict[str, dict] = {}
        self._date = time.strftime(FOLDER_FORM)
        self._stages: dict[str, float] = {}
        self._play, self._play_begun, self._worked = "", 0.0, False
        self._cards: dict[str, int] = {}
        self._stage, self._kind = "", timeline.WORK
        self._begun = self._run_begun = time.monotonic()

    def _turn(self, stage: str) -> None:
        now = time.monotonic()
        if self._stage:
            begun, ended = self._begun - self._run_begun, now - self._run_begun
            self._spans.append(timeline.Part(self._stage, self._kind, begun, ended))
        elif not self._spans:
            self._run_begun = now  # what lies before the first task is Ansible's own start
        self._stage, self._begun, self._kind = stage, now, timeline.WORK

    def v2_playbook_on_play_start(self, play):
        self._turn_stage(STAGES.get(play.get_name(), ""))

    def _turn_stage(self, stage: str) -> None:
        now = time.monotonic()
        if self._play and self._worked:
            self._stages[self._play] = self._stages.get(self._play, 0.0) + now - self._play_begun
        self._play, self._play_begun, self._worked = stage, now, False

    def v2_playbook_on_task_start(self, task, is_conditional):
        # Where tags leave a play out, the roles' inputs are validated all the same.
        self._worked = self._worked or not task.action.endswith("validate_argument_spec")
        role = str(task._role) if task._role else "play"
        # A service is started for the role that asks for it.
        self._turn(self._stage if role == "service" else role)

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start

    def v2_runner_on_ok(self, result):
        # The task itself has templates where a host's result has values.
        if is_wait(result.task.action, result.task_fields.get("args", {})):
            self._kind = timeline.WAIT
        box = (result.result.get("ansible_facts") or {}).get("box")
        if isinstance(box, dict):
            self._cards[result.host.get_name()] = len(box.get("gpus") or [])
        if result.task.action == "glmbox.box.timeline" and "jobs" in result.result:
            self._told[result.host.get_name()] = dict(result.result)

    def v2_runner_on_unreachable(self, result):
        self._display.warning(GONE.format(host=result.host.get_name()))

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if is_wait(result.task.action, result.task_fields.get("args", {})):
            self._kind = timeline.WAIT

    def v2_playbook_on_stats(self, stats):
        self._turn("")
        self._turn_stage("")
        seconds = {span.what: 0.0 for span in self._spans}
        for span in self._spans:
            seconds[span.what] += span.ended - span.begun
        total = sum(seconds.values())
        lines = [f"{stage:<10}{taken:>8.1f} s" for stage, taken in seconds.items() if taken >= 0.05]
        self._display.display("\n".join(["", "SECONDS", *lines, f"{'total':<10}{total:>8.1f} s"]))
        stages = timeline.stages_line(self._stages, sum(self._cards.values()))
        if stages:
            self._display.display(f"\n{stages}")
        self._show(total)

    def _show(self, length: float) -> None:
        """Print and write the timeline of every host that had jobs during this run; nothing where none had."""
        hosts = {}
        for host, told in self._told.items():
            offset = timeline.offset_of(told["now"], told["asked"], self._run_begun)
            jobs = timeline.jobs_of(told, offset, length)
            if jobs:
                hosts[host] = jobs
        if not hosts:
            return
        roles = timeline.roles_of(self._spans)
        texts = ["\n".join(timeline.text(host, roles, jobs, length)) + "\n" for host, jobs in hosts.items()]
        self._display.display("\n" + "\n".join(texts))
        runs_dir = next((told["runs_dir"] for told in self._told.values() if told["runs_dir"]), "")
        if not runs_dir:  # check mode, or nobody named a folder
            return
        date, clock = self._date.split("_")
        title = f"Run of {date} {clock.replace('-', ':')}, {length:.0f} s"
        files = {
            "timeline.txt": "\n".join(texts),
            "timeline.svg": svg(title, roles, hosts, length),
            "timeline.json": json.dumps(timeline.record(self._date, roles, hosts, length), indent=1) + "\n",
        }
        self._write(runs_dir, files)

    def _write(self, runs_dir: str, files: dict[str, str]) -> None:
        folder = os.path.join(runs_dir, self._date)
        try:
            os.makedirs(folder, exist_ok=True)
            for name, content in files.items():
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(content)
            prune(runs_dir, self._date)
        except OSError as error:
            self._display.warning(
                f"The run is as it is, but its timeline could not be kept in {runs_dir}: {error}. "
                "Let yourself write there; the next run keeps its own."
            )
            return
        self._display.display(f"The timeline stands in {folder} (timeline.svg, timeline.txt, timeline.json).")
