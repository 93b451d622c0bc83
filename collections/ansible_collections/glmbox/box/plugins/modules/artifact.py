#!/usr/bin/python
"""Make verified files stand on the box; the box's half of `artifact`, see plugins/action/artifact.py."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tarfile
import time
from typing import Any, Dict, List, Tuple
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.aria2 import download
from ansible_collections.glmbox.box.plugins.module_utils.shelf import Shelf, Wrong

DOCUMENTATION = r"""
module: artifact
short_description: Make artifacts stand on the box, every byte proven by sha256
description:
  - An artifact is a set of files with known hashes. Files that the controller's bundle has are pushed, the others are
    downloaded by aria2c from their mirrors. A file gets its final name only after its hash was proven, then a stamp
    (size, mtime, inode, sha256), and is not read again while the stamp holds.
options:
  names:
    description: Names of artifacts; see the folder C(artifacts) of the project.
    type: list
    elements: str
    required: true
  catalogue:
    description: Folder of the tables, on the controller.
    type: path
  bundle:
    description: Folder on the controller with files that need no download.
    type: path
  folder:
    description: In place of tables and bundle, a folder on the controller whose sub-folders are the artifacts.
    type: path
  dest:
    description: Folder on the box; artifact C(a)'s file C(b) becomes C(<dest>/a/b).
    type: path
    required: true
  recheck:
    description: Read every byte again, whatever the stamps say.
    type: bool
    default: false
  keep_bad:
    description: Keep a file with a wrong hash as C(.bad) beside where it would have stood.
    type: bool
    default: false
  connections:
    description: How many connections aria2c opens to a server.
    type: int
    default: 8
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Fetch OpenSSL's source
  glmbox.box.artifact:
    names: [openssl-1.1.1w]
    catalogue: "{{ playbook_dir }}/../artifacts"
    bundle: "{{ playbook_dir }}/../bundle"
    dest: /var/lib/glmbox-data/artifacts
"""

RETURN = r"""
missing:
  description: In check mode and before a push, the files that do not stand yet.
  returned: always
  type: list
  elements: dict
fetched:
  description: Each file that this run brought, with C(bytes), C(source) and C(seconds).
  returned: always
  type: list
  elements: dict
"""


def unpack_push(shelf: Shelf, name: str) -> None:
    """Take apart the tar in which this run pushed small files together; tars of runs that were killed go."""
    if name:
        with tarfile.open(os.path.join(shelf.arriving, name)) as tar:
            for member in tar.getmembers():
                if member.isfile() and "/" not in member.name:
                    tar.extract(member, shelf.arriving)
    for tar_left in glob.glob(os.path.join(shelf.arriving, "push-*.tar")):
        os.unlink(tar_left)


def host_of(url: str) -> str:
    return urlsplit(url).hostname or url


def bring(
    shelf: Shelf, missing: List[Dict[str, Any]], params: Dict[str, Any]
) -> Tuple[List[Dict[str, Any]], List[str]]:
    """Bring the missing files: what was pushed first, then downloads; return what was fetched and what went wrong."""
    fetched, problems = [], []
    unpack_push(shelf, params["pushed"])
    wanted = [file for file in missing if not file["in_bundle"]]
    homeless = [file for file in wanted if not file["urls"]]
    for file in homeless:
        problems.append(
            "%s of %s has no mirror and is not in the bundle. Fill the bundle on a machine that has it, then run again."
            % (file["path"], file["artifact"])
        )
    wanted = [file for file in wanted if file["urls"]]
    begun = time.monotonic()
    complaint = download(shelf, wanted, params["connections"]) if wanted else None
    seconds = round(time.monotonic() - begun, 1)
    for file in missing:
        if file in homeless:
            continue
        source = "the bundle" if file["in_bundle"] else ", ".join(host_of(url) for url in file["urls"])
        unfinished = not file["in_bundle"] and os.path.exists(shelf.part(file) + ".aria2")
        if not os.path.exists(shelf.part(file)) or unfinished:
            problems.append(
                "%s of %s did not arrive from %s. %s"
                % (file["path"], file["artifact"], source, complaint or "Run again.")
            )
            continue
        try:
            shelf.accept(file, source, params["keep_bad"])
        except Wrong as error:
            problems.append(str(error))
            continue
        took = 0.0 if file["in_bundle"] else seconds
        size = os.path.getsize(shelf.final(file))
        fetched.append(
            {"artifact": file["artifact"], "path": file["path"], "bytes": size, "source": source, "seconds": took}
        )
    return fetched, problems


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True},
            "dest": {"type": "path", "required": True},
            "recheck": {"type": "bool", "default": False},
            "keep_bad": {"type": "bool", "default": False},
            "connections": {"type": "int", "default": 8},
            "step": {"choices": ["look", "receive", "bring"], "default": "bring"},
            "receive_as": {"type": "str"},
            "pushed": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    shelf = Shelf(params["dest"])
    if not module.check_mode and params["step"] != "look":
        # A run whose controller is gone goes on here; the next one waits for it, and then finds its files.
        os.makedirs(params["dest"], exist_ok=True)
        lock = open(os.path.join(params["dest"], ".lock"), "w")  # held until this process ends
        fcntl.flock(lock, fcntl.LOCK_EX)
    look = module.check_mode or params["step"] == "look"
    missing = []
    restamped = False
    for file in params["files"]:
        if not shelf.stands(file, params["recheck"]):
            missing.append(file)
        elif not look:
            restamped = shelf.stamp(file) or restamped
    result: Dict[str, Any] = {"missing": missing, "fetched": []}
    if look or not missing:
        module.exit_json(changed=bool(missing) or restamped, **result)
    if params["step"] == "receive":  # the login user, who may not be root, pushes into this folder
        os.makedirs(shelf.arriving, mode=0o700, exist_ok=True)
        shutil.chown(shelf.arriving, params["receive_as"])
        module.exit_json(changed=True, **result)
    os.makedirs(shelf.arriving, mode=0o700, exist_ok=True)
    result["fetched"], problems = bring(shelf, missing, params)
    if problems:
        module.fail_json(msg="\n".join(problems), **result)
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
