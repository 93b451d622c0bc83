"""Whose processes are a job's, and how all of them end.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import NamedTuple, Optional, Set

TERM_SECONDS = 10.0
# Only a process that hangs in the kernel, mostly on a dead disk, outlives SIGKILL by more than a moment.
KILL_SECONDS = 10.0
POLL_SECONDS = 0.1


class Process(NamedTuple):
    """A process; ticks: its start, in clock ticks since boot, which with the pid makes it one for ever."""

    pid: int
    ticks: int
    parent: int
    session: int


class JobError(Exception):
    """A job that cannot be had, in one sentence and what to do next."""


def process_of(pid: int) -> Optional[Process]:
    """Return the process that has a pid now; None where it is gone or a zombie."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, int(fields[19]), int(fields[1]), int(fields[3]))


def is_alive(pid: int, ticks: int) -> bool:
    """Tell whether the process that began at these ticks still runs."""
    process = process_of(pid)
    return process is not None and process.ticks == ticks


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _holds(pid: int, lock: str) -> bool:
    """Tell whether a process has the lock's file open for writing; who only looks at it opens it for reading."""
    folder = "/proc/%d/fd" % pid
    try:
        numbers = os.listdir(folder)
    except OSError:
        return False
    for number in numbers:
        path = os.path.join(folder, number)
        with contextlib.suppress(OSError):  # closed since
            if os.readlink(path) == lock and os.lstat(path).st_mode & 0o200:
                return True
    return False


def _is_marked(pid: int, folder: str, unit: str) -> bool:
    """Tell whether a process is of the job in a folder: by its cgroup, its environment, or the lock that it holds.

    Each alone can be lost: without systemd there is no cgroup, `env -i` clears the environment, and Python's subprocess
    closes what it inherited.
    """
    if unit and ("/%s/" % unit).encode() in _content("/proc/%d/cgroup" % pid).replace(b"\n", b"/"):
        return True
    marker = ("JOB_DIR=%s" % folder).encode()
    return marker in _content("/proc/%d/environ" % pid).split(b"\0") or _holds(pid, os.path.join(folder, "lock"))


def members(folder: str, unit: str, before: Set[Process]) -> Set[Process]:
    """Return all living processes of the job in a folder.

    folder: the job's, as an absolute path without links. unit: of the job's latest start, "" without systemd. before:
    those known from an earlier look; they may have lost what marked them.
    """
    candidates = [process_of(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    others = {process for process in candidates if process and process.pid != os.getpid()}
    known = {(process.pid, process.ticks) for process in before}
    found = {p for p in others if (p.pid, p.ticks) in known or _is_marked(p.pid, folder, unit)}
    # A job begins in a session of its own, so whoever is in a session with one of it, or is its child, is of it too:
    # a process without all marks (of another user, say, whom we cannot look into), or forked a moment ago. Session 0
    # stands for all that lie outside of this container.
    while True:
        pids = {process.pid for process in found}
        sessions = {process.session for process in found | before} - {0, os.getsid(0)}
        more = {p for p in others - found if p.parent in pids or p.session in sessions}
        if not more:
            return found
        found |= more


def end_all(folder: str, unit: str) -> int:
    """End all of a job, by TERM and after 10 s by KILL; return how many processes that were.

    Raises JobError where something does not end even so.
    """
    seen: Set[Process] = set()
    for sign, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        told: Set[int] = set()
        deadline = time.monotonic() + seconds
        while True:
            alive = members(folder, unit, seen)
            seen |= alive
            if not alive:
                return len({process.pid for process in seen})
            for pid in {process.pid for process in alive} - told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sign)
                told.add(pid)
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
    pids = ",".join(str(process.pid) for process in sorted(alive))
    raise JobError(
        "%s of the job in %s did not end even when killed. Look at it on the box by `ps -o pid,stat,wchan,args -p %s`; "
        "state D is a hanging disk, which a restart of the box ends." % (pids, folder, pids)
    )
