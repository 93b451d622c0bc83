#!/usr/bin/python
"""List and remove a box's packs of finished builds; the box's half of `cached_builds`."""

from __future__ import annotations

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils import jobs
from ansible_collections.glmbox.box.plugins.module_utils.building import packs, waiting
from ansible_collections.glmbox.box.plugins.module_utils.files import disk_of

DOCUMENTATION = r"""
module: cached_builds
short_description: Bring a box's packs of finished builds to the controller's cache
description:
  - Brings what the controller does not have yet, proven by sha256, and keeps the cache below its limit. A pack that
    lies on the same disk of the box as the build itself is removed from there afterwards.
options:
  dir:
    description: The controller's folder of packs.
    type: path
    required: true
  box_dir:
    description: The box's folder of packs.
    type: path
    required: true
  install_dir:
    description: Where the builds stand on the box.
    type: path
    required: true
  jobs_dir:
    description: Where jobs keep their state; one that is packing is waited for.
    type: path
    required: true
  limit_mib:
    description: What the controller's folder may hold, in MiB.
    type: int
    default: 10240
  pack_limit_mib:
    description: Packs larger than this stay on the box, in MiB.
    type: int
    default: 1024
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Bring finished builds to the cache
  glmbox.box.cached_builds:
    dir: ~/.cache/glmbox/builds
    box_dir: /var/lib/glmbox/data/builds
    install_dir: /opt/glmbox
    jobs_dir: /var/lib/glmbox/jobs
"""

RETURN = r"""
brought:
  description: Names of the builds that were brought.
  returned: always
  type: list
  elements: str
pruned:
  description: Names of the builds that left the controller's cache.
  returned: always
  type: list
  elements: str
notes:
  description: What building and packing has to say that nobody was told yet, and why a pack was not brought.
  returned: always
  type: list
  elements: str
"""

PREFIX = "build-"


def look(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Return the packs, the jobs that may make another, and what they have to say; wait one slice for those jobs."""
    jobs_dir = params["jobs_dir"]
    known = [jobs.status(jobs_dir, name) for name in jobs.names(jobs_dir) if name.startswith(PREFIX)]
    # One that waits for what nobody brings has nothing to pack.
    names = [status["name"] for status in known if not waiting.stuck(jobs_dir, status)]
    known = jobs.wait(jobs_dir, names, 0.0 if check_mode else params["slice_seconds"])
    running = [status for status in known if status["state"] == "running"]
    ended = [] if running or check_mode else known
    return {
        "packs": packs.listed(params["box_dir"]),
        "running": running,
        "notes": ["%s: %s" % (status["name"], note) for status in ended for note in waiting.news(status)],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"choices": ["list", "drop"], "required": True},
            "box_dir": {"type": "path", "required": True},
            "install_dir": {"type": "path", "required": True},
            "jobs_dir": {"type": "path", "required": True},
            "stems": {"type": "list", "elements": "str", "default": []},
            "slice_seconds": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["step"] == "drop":
        for stem in params["stems"]:
            packs.drop(params["box_dir"], stem)
        module.exit_json(changed=bool(params["stems"]))
    module.exit_json(
        changed=False,
        **look(params, module.check_mode),
        apart=disk_of(params["box_dir"])["device"] != disk_of(params["install_dir"])["device"],
    )


if __name__ == "__main__":
    main()
