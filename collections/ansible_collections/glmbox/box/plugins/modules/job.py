#!/usr/bin/python
"""A named command that runs on the box without the SSH session; the box's half of `job`, see plugins/action/job.py."""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils import jobs

DOCUMENTATION = r"""
module: job
short_description: Run a named command on the box that outlives the SSH session and is found again
description:
  - Starts a command that goes on when the SSH link or the controller is gone. A later run with the same name, command
    and environment attaches to it while it runs, does nothing after it ended with exit code 0, and starts it again
    otherwise. So the command should be one that resumes.
  - The command runs in its folder C(<state_dir>/<name>), where its log is, and sees the variables JOB_DIR (that
    folder), JOB_PROGRESS and JOB_RESULT (files of JSON that it may write, each whole). Progress is a list of
    C({"label", "done", "total", "unit", "rate"}), with the unit C(bytes) or a plural noun and the rate a second.
  - While one waits, a line for each thing in progress, of every running job, is printed every five seconds.
options:
  name:
    description: Name of the job; up to 100 letters, digits and C(._+-).
    type: str
    required: true
  do:
    description: What to do with the job.
    type: str
    choices: [start, wait, status, stop]
    default: start
  command:
    description: The command and its arguments; for C(start).
    type: list
    elements: str
  environment:
    description: Variables for the command, beside those of this task; they stand in no argument list and no log.
    type: dict
    default: {}
  state_dir:
    description: Where the jobs' folders are.
    type: path
    default: /var/lib/glmbox/jobs
  replace:
    description: Where another command runs under this name, stop it and start this one.
    type: bool
    default: false
  again:
    description: Start the command again though it ended with exit code 0.
    type: bool
    default: false
  seconds:
    description: How long to wait, in seconds; 0 for as long as it takes.
    type: int
    default: 0
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Begin to fetch
  glmbox.box.job:
    name: fetch
    command: [/usr/bin/python3, /var/lib/glmbox/fetch.py]

- name: Wait until all is fetched
  glmbox.box.job:
    name: fetch
    do: wait
    seconds: 7200
"""

RETURN = r"""
job:
  description:
    - The job's C(name), C(state) (absent, running, done, failed, dead or stopped), C(exit_code), C(seconds) of running,
      C(begun) and C(ended) in seconds of the box's uptime, C(pid), C(progress), C(result), C(last_lines) of its log,
      C(log) and C(spec), the hash of command and environment.
    - C(start) adds C(started), C(stop) adds C(stopped).
  returned: always
  type: dict
running:
  description: All jobs that run, each as C(job).
  returned: for C(wait)
  type: list
  elements: dict
"""


def sentence_of(status: Dict[str, Any]) -> str:
    """Return why waiting for this job is over without success, and what to do; nothing where it is not."""
    state = status["state"]
    if state in ("running", "done"):
        return ""
    if state == "absent":
        return "No job %s was ever started on this box. Start it first (do: start)." % status["name"]
    end = {
        "failed": "failed with exit code %s after %s s" % (status["exit_code"], status["seconds"]),
        "dead": "died without an end: the box was restarted, or something killed the job",
        "stopped": "was stopped after %s s" % status["seconds"],
    }[state]
    advice = {
        "failed": "Mend the cause and run the same command again, which starts the job again.",
        "dead": "Run the same command again, which starts the job again.",
        "stopped": "Run the same command again to start it again.",
    }[state]
    return "The job %s %s. The log's last lines:\n  %s\nThe whole log is %s on the box. %s" % (
        status["name"],
        end,
        "\n  ".join(status["last_lines"]) or "(nothing)",
        status["log"],
        advice,
    )


def start(params: Dict[str, Any], environment: Dict[str, str], check_mode: bool) -> Tuple[bool, Dict[str, Any]]:
    if not params["command"]:
        raise jobs.JobError("The job %s has no command. Give one as a list (command)." % params["name"])
    if check_mode:
        found = jobs.status(params["state_dir"], params["name"])
        spec = jobs.spec_of(params["command"], environment)
        job = dict(found, started=jobs.would_start(found, spec, params["replace"], params["again"]))
    else:
        job = jobs.start(
            params["state_dir"], params["name"], params["command"], environment, params["replace"], params["again"]
        )
    return job["started"], {"job": job}


def wait(params: Dict[str, Any], check_mode: bool) -> Tuple[bool, Dict[str, Any]]:
    """Wait for one slice; who waits longer calls again, and tells in between what is going on."""
    state_dir = params["state_dir"]
    patience = 0.0 if check_mode else params["slice_seconds"]
    if params["seconds"]:
        patience = min(patience, params["seconds"])
    (job,) = jobs.wait(state_dir, [params["name"]], patience)
    complaint = sentence_of(job)
    if complaint and not check_mode:  # in check mode, nothing may have been started
        raise jobs.JobError(complaint)
    known = [jobs.status(state_dir, name) for name in jobs.names(state_dir)]
    return False, {"job": job, "running": [status for status in known if status["state"] == "running"]}


def stop(params: Dict[str, Any], check_mode: bool) -> Tuple[bool, Dict[str, Any]]:
    if check_mode:
        found = jobs.status(params["state_dir"], params["name"])
        job = dict(found, stopped=found["state"] == "running")
    else:
        job = jobs.stop(params["state_dir"], params["name"])
    return job["stopped"], {"job": job}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "do": {"choices": ["start", "wait", "status", "stop"], "default": "start"},
            "command": {"type": "list", "elements": "str"},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "state_dir": {"type": "path", "default": jobs.STATE_DIR},
            "replace": {"type": "bool", "default": False},
            "again": {"type": "bool", "default": False},
            "seconds": {"type": "int", "default": 0},
            "slice_seconds": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    environment = {str(key): str(value) for key, value in params["environment"].items()}
    # no_log keeps the values out of the box's journal. It would also blank each of them wherever it stands in the
    # result: a variable with the value 1 every digit 1. So the values go from what is returned, and the rest stays.
    params["environment"] = sorted(environment)
    module.no_log_values.clear()
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    try:
        if params["do"] == "start":
            changed, result = start(params, environment, module.check_mode)
        elif params["do"] == "wait":
            changed, result = wait(params, module.check_mode)
        elif params["do"] == "stop":
            changed, result = stop(params, module.check_mode)
        else:
            changed, result = False, {"job": jobs.status(params["state_dir"], params["name"])}
    except (jobs.JobError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
