#!/usr/bin/python
"""Let a user pass through folders that are closed to it, such as /root, to a folder below; and take that back."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, write_json

DOCUMENTATION = r"""
module: passage
short_description: Let a user pass through closed folders to others below them
description:
  - Data disks of rented containers are mounted below /root, which is closed to all others. Gives one user the right to
    pass (not to list) each folder above the given ones that it cannot pass now, by an ACL, or where there are none by
    the right of all others to pass; and notes what was done, so that C(absent) takes exactly that back.
options:
  paths:
    description: Folders to which the way has to be open.
    type: list
    elements: path
    default: []
  user:
    description: The user.
    type: str
    required: true
  record:
    description: The file that notes what was done.
    type: path
    required: true
  state:
    description: Whether the way is to be open.
    type: str
    choices: [present, absent]
    default: present
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Let glmbox pass to the data disk
  glmbox.box.passage:
    paths: [/root/autodl-tmp/glmbox]
    user: glmbox
    record: /var/lib/glmbox/passages.json
"""

RETURN = r"""
opened:
  description: What is open by this, each with C(path) and C(by) (acl or mode).
  returned: always
  type: list
  elements: dict
note:
  description: What the operator should know of it, or nothing.
  returned: always
  type: str
"""


def above(paths: List[str]) -> List[str]:
    """Return all folders above the given ones, from the root on, each once."""
    found: Dict[str, None] = {}
    for path in paths:
        parts = os.path.normpath(path).split("/")[1:-1]
        for count in range(1, len(parts) + 1):
            found["/" + "/".join(parts[:count])] = None
    return list(found)


def acl_lets_pass(path: str, user: str) -> bool:
    """Tell whether an ACL of a folder lets the user pass."""
    asked = subprocess.run(["getfacl", "--absolute-names", path], capture_output=True, text=True, check=False)
    return any(line.startswith("user:%s:" % user) and "x" in line[-3:] for line in asked.stdout.splitlines())


def is_closed(path: str, user: str) -> bool:
    """Tell whether the user cannot pass a folder. One that is not there yet will be made open."""
    try:
        status = os.stat(path)
        owner = pwd.getpwnam(user)
    except (OSError, KeyError):
        return False
    mine = (status.st_uid == owner.pw_uid and status.st_mode & 0o100) or status.st_mode & 0o001
    return not mine and not (shutil.which("getfacl") and acl_lets_pass(path, user))


def open_one(path: str, user: str) -> Dict[str, str]:
    """Let the user pass a folder; return what was done."""
    if shutil.which("setfacl"):
        given = subprocess.run(["setfacl", "--modify", "u:%s:x" % user, path], capture_output=True, check=False)
        if given.returncode == 0:
            return {"path": path, "by": "acl"}
    os.chmod(path, os.stat(path).st_mode & 0o7777 | 0o001)
    return {"path": path, "by": "mode"}


def close_one(opened: Dict[str, str], user: str) -> None:
    """Take back what open_one did."""
    path = opened["path"]
    if not os.path.isdir(path):
        return
    if opened["by"] == "mode":
        os.chmod(path, os.stat(path).st_mode & 0o7776)
        return
    subprocess.run(["setfacl", "--remove", "u:%s" % user, path], capture_output=True, check=False)
    # Without a mask nothing is left of the ACL.
    left = subprocess.run(["getfacl", "--absolute-names", path], capture_output=True, text=True, check=False).stdout
    if not any(line.startswith(("user:", "group:")) and line.split(":")[1] for line in left.splitlines()):
        subprocess.run(["setfacl", "--remove-all", path], capture_output=True, check=False)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "user": {"type": "str", "required": True},
            "record": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    user, record = module.params["user"], module.params["record"]
    known: List[Dict[str, Any]] = read_json(record) or []
    if module.params["state"] == "absent":
        if not module.check_mode:
            for one in known:
                close_one(one, user)
            if known:
                os.unlink(record)
        module.exit_json(changed=bool(known), opened=[], note="")
    closed = [path for path in above(module.params["paths"]) if is_closed(path, user)]
    if closed and not module.check_mode:
        for path in closed:
            known = [one for one in known if one["path"] != path] + [open_one(path, user)]
            write_json(record, known)
    by_mode = [one["path"] for one in known if one["by"] == "mode"]
    note = (
        "ACLs do not work there, so every user may now pass (not list) %s, as %s has to; remove_box takes it back."
        % (", ".join(by_mode), user)
        if by_mode
        else ""
    )
    module.exit_json(changed=bool(closed), opened=known, note=note)


if __name__ == "__main__":
    main()
