"""Jobs: named commands that run on the box without the SSH session and are found again by a later run.

A job's folder holds its lock, runner, spec, pid, log, progress, result and end, each written whole. Whether a job runs
is what the lock says, never a pid: the starter takes the lock and hands it to the runner as an open descriptor, which
everything that the command starts inherits, so there is no moment in which two starters both find it free.
Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import subprocess
import time
from typing import Any, Callable, Dict, Iterator, List

from ansible_collections.glmbox.box.plugins.module_utils.files import hash_of, read_json, write_json
from ansible_collections.glmbox.box.plugins.module_utils.job_processes import JobError, end_all
from ansible_collections.glmbox.box.plugins.module_utils.job_state import (
    folder_of,
    is_running,
    last_lines,
    names,
    status,
)

__all__ = ["STATE_DIR", "JobError", "names", "spec_of", "start", "status", "stop", "wait", "wait_until", "would_start"]

STATE_DIR = "/var/lib/glmbox/jobs"
POLL_SECONDS = 0.1
BEGIN_SECONDS = 60.0
# The threads of a process that was killed hold the lock a moment longer than it.
DYING_SECONDS = 2.0
# The command runs in a subshell by `exec`, so that neither a builtin nor a function is taken for it.
RUNNER = r"""#!/bin/sh
# glmbox runs a job's command through this. Arguments: the number of the lock's open descriptor, then the command.
note() {
    printf '%s\n' "$2" >".draft-$1" && mv -f ".draft-$1" "$1"
}
if ! [ -e "/proc/$$/fd/$1" ]; then
    echo "The job's lock was not handed over."
    exit 70
fi
shift
read -r begun _ </proc/uptime
note pid.json "{\"pid\": $$, \"ticks\": $(cut -d ' ' -f 22 "/proc/$$/stat"), \"begun\": $begun}" || exit 74
(exec "$@")
code=$?
read -r ended _ </proc/uptime
note end.json "{\"exit_code\": $code, \"seconds\": [$begun, $ended]}"
"""


def systemd_is_booted() -> bool:
    """Tell whether systemd runs the box, and lets us start scopes; `sd_booted(3)` looks at the same folder."""
    return os.path.isdir("/run/systemd/system") and os.geteuid() == 0


def spec_of(command: List[str], environment: Dict[str, str]) -> str:
    """Return the hash of all that makes a job the same one."""
    return hash_of({"command": command, "environment": environment})


def wait(state_dir: str, names: List[str], seconds: float) -> List[Dict[str, Any]]:
    """Return the status of each named job as soon as none of them runs, or after so many seconds."""
    folders = [folder_of(state_dir, name) for name in names]
    deadline = time.monotonic() + seconds
    while any(is_running(folder) for folder in folders) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return [status(state_dir, name) for name in names]


def wait_until(state_dir: str, name: str, met: Callable[[], bool], seconds: float) -> None:
    """Return as soon as a condition is met or the job runs no more, or after so many seconds."""
    folder = folder_of(state_dir, name)
    deadline = time.monotonic() + seconds
    while not met() and is_running(folder) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def would_start(found: Dict[str, Any], spec: str, replace: bool, again: bool) -> bool:
    """Tell whether `start` would start a job that was found so; raise JobError where another one runs."""
    if found["state"] != "running":
        return again or found["spec"] != spec or found["state"] != "done"
    if found["spec"] == spec:
        return False
    if replace:
        return True
    raise JobError(
        "The job %s runs already, for %d s, with another command or environment. "
        "Wait for it (do: wait), stop it (do: stop), or set replace: true, which stops it and starts this one."
        % (found["name"], found["seconds"])
    )


@contextlib.contextmanager
def _turn(folder: str) -> Iterator[None]:
    """Hold the lock by which those who start or stop a job take turns."""
    with open(os.path.join(folder, "turn"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(
    state_dir: str,
    name: str,
    command: List[str],
    environment: Dict[str, str],
    replace: bool = False,
    again: bool = False,
) -> Dict[str, Any]:
    """Make a job run unless it did, and return its status with `started`.

    The same command and environment: attach while it runs, nothing where it ended with exit code 0 unless `again`,
    else a new start. Another one: a new start, and while it runs only with `replace`, which stops it. The command
    sees `environment`, JOB_DIR (its folder, where it runs), JOB_PROGRESS and JOB_RESULT (files that it may write, each
    whole). Raises JobError.
    """
    folder = folder_of(state_dir, name)
    spec = spec_of(command, environment)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chmod(folder, 0o700)
    with _turn(folder):
        found = status(state_dir, name)
        if found["state"] == "running" and os.path.exists(os.path.join(folder, "stopped.json")):
            _end(folder)  # somebody was killed while stopping it
            found = status(state_dir, name)
        if not would_start(found, spec, replace, again):
            return dict(found, started=False)
        _end(folder)  # what `replace` stops, and what a dead start left behind without the lock
        _launch(folder, name, spec, command, environment)
        return dict(status(state_dir, name), started=True)


def stop(state_dir: str, name: str) -> Dict[str, Any]:
    """End all of a job, by TERM and after 10 s by KILL; return its status with `stopped`, whether anything ran."""
    folder = folder_of(state_dir, name)
    if not os.path.exists(os.path.join(folder, "spec.json")):
        return dict(status(state_dir, name), stopped=False)
    with _turn(folder):
        ended = _end(folder)
        return dict(status(state_dir, name), stopped=ended)


def _end(folder: str) -> bool:
    """End all of a job and note that it was stopped; return whether anything was left of it."""
    running = is_running(folder)
    if running:  # noted first: a command that ends well on TERM is not done
        seconds = status(os.path.dirname(folder), os.path.basename(folder))["seconds"]
        write_json(os.path.join(folder, "stopped.json"), {"seconds": seconds}, mode=0o600)
    spec = read_json(os.path.join(folder, "spec.json")) or {}
    ended = end_all(folder, spec.get("unit", ""))
    deadline = time.monotonic() + DYING_SECONDS
    while is_running(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    if is_running(folder):
        raise JobError(
            "Something of the job in %s lives on, but cannot be seen from here. `fuser -v %s/lock` on the box names it."
            % (folder, folder)
        )
    return running or ended > 0


def _launch(folder: str, name: str, spec: str, command: List[str], environment: Dict[str, str]) -> None:
    """Start the runner, with the lock handed to it, and return when it has begun or ended."""
    runner, log = os.path.join(folder, "run.sh"), os.path.join(folder, "log")
    # A name of its own for each start: systemd forgets an ended unit only some time later. No unit has a + in its name.
    unit = "glmbox-job-%s-%s.scope" % (name.replace("+", ":"), secrets.token_hex(4)) if systemd_is_booted() else ""
    # A scope is a process of ours in a cgroup of its own: it inherits lock and environment, and outlives the session.
    prefix = ["systemd-run", "--scope", "--unit", unit, "--collect", "--quiet", "--"] if unit else []
    variables = dict(os.environ, **environment)
    variables.update(
        JOB_DIR=folder,
        JOB_PROGRESS=os.path.join(folder, "progress.json"),
        JOB_RESULT=os.path.join(folder, "result.json"),
    )
    with open(os.path.join(folder, "lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody runs, so this waits at most for one who looks
        for stale in ("pid.json", "end.json", "stopped.json", "progress.json", "result.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, stale))
        write_json(os.path.join(folder, "spec.json"), {"spec": spec, "unit": unit}, mode=0o600)
        with open(runner + ".new", "w", encoding="ascii") as file:
            file.write(RUNNER)
        os.replace(runner + ".new", runner)
        with contextlib.suppress(FileNotFoundError):
            os.replace(log, log + ".1")
        with open(log, "ab") as output:
            try:
                process = subprocess.Popen(
                    [*prefix, "/bin/sh", runner, str(lock.fileno()), *command],
                    cwd=folder,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock.fileno(),),
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise JobError("The job %s cannot be started: %s." % (name, error)) from error
    deadline = time.monotonic() + BEGIN_SECONDS
    begun = os.path.join(folder, "pid.json")
    while not os.path.exists(begun):
        ended = process.poll() is not None
        if (ended or time.monotonic() > deadline) and not os.path.exists(begun):
            raise JobError(
                "The job %s did not begin: %s Run the same command again; the log is %s on the box."
                % (name, " ".join(last_lines(log)) or "its runner said nothing.", log)
            )
        time.sleep(0.01)
