#!/usr/bin/python
"""apt's sources, pointed at a mirror of the distribution for as long as one is asked for."""

from __future__ import annotations

import os
import subprocess
import time
from typing import List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.apt_sources import Sources

DOCUMENTATION = r"""
module: apt_sources
short_description: Take Debian's or Ubuntu's own packages from a mirror, or put apt's sources back
description:
  - Points the entries of the distribution's own archives, security updates included, at a mirror, in the one-line and
    in the deb822 form. Entries of others (Docker's, NVIDIA's, PPAs) stay. What stood there before is kept, and put back
    when no mirror is asked for any more; a file that somebody changed in between stays as it is then, and is named.
  - Reads the package lists anew after a change. A mirror that does not serve them fails the task, and everything is as
    it was.
options:
  mirror:
    description: The mirror's address, below which C(debian), C(debian-security) or C(ubuntu) lie; empty for none.
    type: str
    default: ""
  keep_dir:
    description: Where the record of what stood there before is kept.
    type: path
    required: true
  update:
    description: Whether to read the package lists anew after a change.
    type: bool
    default: true
  lock_seconds:
    description: How long to wait for others who use apt.
    type: int
    default: 300
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Take packages from a mirror
  glmbox.box.apt_sources:
    mirror: http://mirrors.aliyun.com
    keep_dir: /var/lib/glmbox/apt

- name: Put apt's sources back
  glmbox.box.apt_sources:
    keep_dir: /var/lib/glmbox/apt
"""

RETURN = r"""
files:
  description: The files that were changed.
  returned: always
  type: list
  elements: str
notes:
  description: What was left as it is, and why.
  returned: always
  type: list
  elements: str
"""

ROOT = "/etc/apt"


def update(seconds: int) -> str:
    """Read the package lists anew; return why that does not work, in apt's words, or nothing."""
    deadline = time.monotonic() + seconds
    while True:
        ended = subprocess.run(
            ["apt-get", "-q", "update"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ, LC_ALL="C"),
        )
        # Where only some lists cannot be had, apt warns, and ends well.
        said = [line for line in ended.stderr.splitlines() if line.startswith("E:") or "Failed to fetch" in line]
        if not said and not ended.returncode:
            return ""
        if "Could not get lock" not in ended.stderr or time.monotonic() > deadline:
            return " ".join((said or ended.stderr.splitlines() or ["nothing was printed"])[:3])
        time.sleep(2)


def refuse(module: AnsibleModule, mirror: str, why: str) -> None:
    module.fail_json(
        msg="box_apt_mirror is %s, and %s. apt's sources are as they were. Set another one, or leave it out."
        % (mirror, why)
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "mirror": {"type": "str", "default": ""},
            "keep_dir": {"type": "path", "required": True},
            "update": {"type": "bool", "default": True},
            "lock_seconds": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    mirror, keep_dir = module.params["mirror"], module.params["keep_dir"]
    try:
        sources = Sources(ROOT, keep_dir, mirror)
        files: List[str] = sorted(sources.writes)
        if mirror and not sources.found:
            refuse(module, mirror, "no entry of %s was recognised as the distribution's own" % ROOT)
        if module.check_mode or not sources.stale:
            module.exit_json(changed=bool(files), files=files, notes=sources.notes)
        sources.write(pending=module.params["update"])
        problem = update(module.params["lock_seconds"]) if module.params["update"] else ""
        if problem and mirror:
            Sources(ROOT, keep_dir, "").write(pending=True)
            refuse(module, mirror, "apt cannot read its lists: %s" % problem)
        # Without the mirror apt is what it was, and says itself what it lacks.
        sources.updated()
    except OSError as error:
        module.fail_json(msg="apt's sources cannot be read or written: %s. Mend that on the box and run again." % error)
    module.exit_json(changed=bool(files), files=files, notes=sources.notes)


if __name__ == "__main__":
    main()
