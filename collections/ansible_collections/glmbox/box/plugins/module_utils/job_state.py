"""What is known of a job: the files in its folder, and the lock that tells whether it runs.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import fcntl
import os
import re
from typing import Any, Dict, List, Optional

from ansible_collections.glmbox.box.plugins.module_utils.files import read_json
from ansible_collections.glmbox.box.plugins.module_utils.job_processes import JobError, is_alive

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
LAST_LINES = 15


def folder_of(state_dir: str, name: str) -> str:
    """Return a job's folder, as an absolute path without links; raise JobError where the name is none."""
    if not NAME.fullmatch(name):
        raise JobError(
            "'%s' is no name for a job: use up to 100 of letters, digits and ._+-, a letter or digit first." % name
        )
    return os.path.join(os.path.realpath(state_dir), name)


def is_running(folder: str) -> bool:
    """Tell whether anything of a job lives, by its lock."""
    try:
        with open(os.path.join(folder, "lock"), "rb") as lock:
            # Shared, since those who ask must not get into each other's way; a job's own lock is exclusive.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def uptime() -> float:
    """Return how long the box has been up, in seconds."""
    # Not the clock: the runner reads this file too, and containers show another one than the kernel's.
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def last_lines(log: str) -> List[str]:
    """Return the last lines of a log, as one would have seen them."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 8192))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return []
    # A progress bar draws over itself by carriage returns; what it drew last is what one sees.
    seen = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    return [line for line in seen if line.strip()][-LAST_LINES:]


def status(state_dir: str, name: str) -> Dict[str, Any]:
    """Return what is known of a job.

    state: "absent" (never started), "running", "done" (exit code 0), "failed", "dead" (gone without an end: the box
    was restarted, or the job was killed) or "stopped". exit_code: None unless it ended. seconds: of running, None where
    unknown. begun, ended: in seconds of the box's uptime, None where unknown or not yet. pid: of the runner, the leader
    of the job's session, None unless it lives. progress: the list that the command wrote to JOB_PROGRESS. result: the
    value that it wrote to JOB_RESULT. last_lines: of the log. spec: a hash.
    """
    folder = folder_of(state_dir, name)
    running = is_running(folder)  # first: who ends notes the end, then lets the lock go

    def noted(file: str) -> Any:
        return read_json(os.path.join(folder, file))

    spec, runner, end, stopped = noted("spec.json"), noted("pid.json") or {}, noted("end.json"), noted("stopped.json")
    begun: Optional[float] = runner.get("begun")
    ended: Optional[float] = None
    seconds: Optional[float] = None
    if running:
        state = "running"
        seconds = uptime() - runner["begun"] if runner else 0.0
    elif stopped:
        state, seconds = "stopped", stopped["seconds"]
        ended = None if begun is None else begun + stopped["seconds"]
    elif end:
        state, seconds = "done" if end["exit_code"] == 0 else "failed", end["seconds"][1] - end["seconds"][0]
        ended = end["seconds"][1]
    else:
        state = "dead" if spec else "absent"
    progress = noted("progress.json")
    log = os.path.join(folder, "log")
    return {
        "name": name,
        "state": state,
        "exit_code": end["exit_code"] if end and not running else None,
        "seconds": None if seconds is None else round(seconds, 1),
        "begun": begun,
        "ended": ended,
        "pid": runner["pid"] if running and runner and is_alive(runner["pid"], runner["ticks"]) else None,
        "progress": progress if isinstance(progress, list) else [],
        "result": noted("result.json"),
        "last_lines": last_lines(log),
        "log": log,
        "spec": spec["spec"] if spec else None,
    }


def names(state_dir: str) -> List[str]:
    """Return the names of all jobs that were ever started."""
    try:
        found = os.listdir(state_dir)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if os.path.exists(os.path.join(state_dir, name, "spec.json")))
