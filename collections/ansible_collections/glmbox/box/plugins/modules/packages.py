#!/usr/bin/python
"""The Debian packages that glmbox brought to a box, and their way out."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.packages import FORMAT, in_state, read_lines, removable

DOCUMENTATION = r"""
module: packages
short_description: Remove the Debian packages that glmbox brought
description:
  - Removes what glmbox's own calls of apt have installed and was not there before, as roles/box/files/note_packages.py
    wrote it down. What a package of others needs by now stays, and is named.
options:
  folder:
    description: Where is written down what was brought, and what was there before.
    type: path
    required: true
  lock_seconds:
    description: How long to wait for others who use apt.
    type: int
    default: 300
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Remove the packages that glmbox brought
  glmbox.box.packages:
    folder: /var/lib/glmbox/packages
"""

RETURN = r"""
removed:
  description: The packages that are gone.
  returned: always
  type: list
  elements: str
kept:
  description: Packages that glmbox brought and something else needs.
  returned: always
  type: list
  elements: str
"""


def run(command: List[str], seconds: int) -> "subprocess.CompletedProcess[str]":
    """Run apt-get, waiting for whoever has its lock."""
    return subprocess.run(
        ["apt-get", "-q", "--yes", "-o", "DPkg::Lock::Timeout=%d" % seconds, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        check=False,
        env=dict(os.environ, DEBIAN_FRONTEND="noninteractive", NEEDRESTART_MODE="l", LC_ALL="C"),
    )


def plan(folder: str) -> Dict[str, List[str]]:
    """Return what goes, whose configuration goes, and what stays."""
    asked = ["dpkg-query", "-W", "-f", FORMAT]
    told = subprocess.run(asked, stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    there = in_state(told, "installed")
    how = {words[0]: words[1] for words in reversed(read_lines(os.path.join(folder, "brought.txt")))}
    before = {words[0] for words in read_lines(os.path.join(folder, "before.txt"))}
    going = removable(there, set(how) - before, before)
    # What a run that was killed has removed, its configuration aside.
    half = [name for name in in_state(told, "config-files") if name not in before]
    return {
        "going": going,
        "purge": sorted(name for name in [*going, *half] if how.get(name) == "purge"),
        "kept": sorted(name for name in how if name in there and name not in before and name not in going),
    }


def refusal(planned: Dict[str, List[str]], seconds: int) -> str:
    """Remove what is planned; return why that does not work, or nothing."""
    again = "or run again with -e box_remove_packages=false."
    going, purge = planned["going"], planned["purge"]
    tried = run(["--simulate", "remove", *going], 0) if going else None
    others = set(re.findall(r"^(?:Remv|Purg) (\S+)", tried.stdout, re.MULTILINE)) - set(going) if tried else set()
    if others:
        return (
            "apt would remove %s as well, which glmbox did not bring, so no package is removed. Remove those of %s "
            "that nobody needs by hand, %s" % (", ".join(sorted(others)), ", ".join(going), again)
        )
    # Mostly one call: only what had left its configuration here before glmbox came is removed without it.
    for command in (["remove", *going] if set(going) - set(purge) else [], ["purge", *purge] if purge else []):
        ended = run(command, seconds) if command else None
        if ended and ended.returncode:
            words = [line for line in ended.stderr.splitlines() if line.startswith(("E:", "dpkg:"))]
            return (
                "apt cannot remove the packages that glmbox brought: %s. Mend that on the box (most likely with "
                "`dpkg --configure -a`) and run again, %s"
                % (" ".join((words or ended.stderr.splitlines() or ["nothing was printed"])[-3:]), again)
            )
    return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={"folder": {"type": "path", "required": True}, "lock_seconds": {"type": "int", "default": 300}},
        supports_check_mode=True,
    )
    planned = plan(module.params["folder"])
    changed = bool(planned["going"] or planned["purge"])
    problem = refusal(planned, module.params["lock_seconds"]) if changed and not module.check_mode else ""
    if problem:
        module.fail_json(msg=problem)
    module.exit_json(changed=changed, removed=planned["going"], kept=planned["kept"])


if __name__ == "__main__":
    main()
