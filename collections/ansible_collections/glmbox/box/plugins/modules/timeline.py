#!/usr/bin/python
"""When the box's jobs ran; the box's half of `timeline`, see plugins/action/timeline.py."""

from __future__ import annotations

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils import job_state, jobs

DOCUMENTATION = r"""
module: timeline
short_description: Tell when the box's jobs ran, so that the end of the run shows a timeline
description:
  - Reads what each job's folder says of its begin, its end and the segments in between, and changes nothing. The
    callback C(glmbox.box.timeline) prints the timeline at the end of the run. So this task comes last.
  - The box's clock is never read; times are uptimes, which the controller turns into its own time.
options:
  state_dir:
    description: Where the jobs' folders are; a folder that does not exist has none.
    type: path
    default: /var/lib/glmbox/jobs
  runs_dir:
    description:
      - Folder on the controller in which the callback makes one for this run, named after its date and time. Without
        it, and in check mode, the timeline is printed and not kept.
    type: path
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Ask when the jobs ran
  glmbox.box.timeline:
    runs_dir: "{{ inventory_dir }}/.state/runs"
"""

RETURN = r"""
jobs:
  description:
    - Each job's C(name), C(state) (see C(glmbox.box.job)), C(begun) and C(ended), in seconds of the box's uptime and
      null where unknown, and C(segments), as the job wrote them.
  returned: always
  type: list
  elements: dict
now:
  description: The box's uptime, in seconds.
  returned: always
  type: float
asked:
  description: The controller's monotonic clock at that moment, in seconds.
  returned: always
  type: float
runs_dir:
  description: The folder of runs on the controller, as an absolute path; empty in check mode or where none was given.
  returned: always
  type: str
"""


def told_of(state_dir: str, name: str) -> Dict[str, Any]:
    """Return what the timeline needs of a job."""
    status = job_state.status(state_dir, name)
    result = status["result"]
    segments = result.get("segments") if isinstance(result, dict) else None
    told = {key: status[key] for key in ("name", "state", "begun", "ended")}
    return dict(told, segments=segments if isinstance(segments, list) else [])


def main() -> None:
    module = AnsibleModule(
        argument_spec={"state_dir": {"type": "path", "default": jobs.STATE_DIR}},
        supports_check_mode=True,
    )
    state_dir = module.params["state_dir"]
    try:
        found = [told_of(state_dir, name) for name in job_state.names(state_dir) if job_state.NAME.fullmatch(name)]
    except OSError as error:
        module.fail_json(msg="The jobs in %s cannot be read: %s. Look at that folder on the box." % (state_dir, error))
    module.exit_json(changed=False, jobs=found, now=job_state.uptime())


if __name__ == "__main__":
    main()
