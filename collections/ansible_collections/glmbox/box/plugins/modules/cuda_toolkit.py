#!/usr/bin/python
"""What stands where the CUDA toolkit belongs, whose it is, and that it was proven."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.files import (
    disk_of,
    hash_of,
    read_json,
    sha256_of,
    stamp_holds,
    stamp_of,
    write_json,
)

DOCUMENTATION = r"""
module: cuda_toolkit
short_description: Look at the CUDA toolkit of a box, note that it was proven, or remove it
description:
  - Installs nothing; C(roles/cuda/files/install_toolkit.py) does, which leaves the file C(.glmbox-toolkit.json) in the
    folder before it begins. So a folder without that file is somebody else's.
  - C(look) changes nothing. C(finish) writes the record by which a later run knows that nothing is to be done.
    C(remove) removes a folder that glmbox filled, and what the runfile left beside it, and nothing else.
options:
  do:
    description: What to do.
    type: str
    choices: [look, finish, remove]
    default: look
  dir:
    description: The toolkit's folder.
    type: path
    required: true
  record:
    description: The file of the record.
    type: path
    required: true
  nvcc:
    description: The version of nvcc that the wanted toolkit has.
    type: str
    default: ""
  inputs:
    description: All that decides what a finished toolkit is, beside the toolkit itself.
    type: dict
    default: {}
  beside:
    description: Files that have to be there as well.
    type: list
    elements: path
    default: []
  needs:
    description: What installing it would write, as C(path) and C(mib); for C(look).
    type: list
    elements: dict
    default: []
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Look at the toolkit
  glmbox.box.cuda_toolkit:
    dir: /usr/local/cuda-11.8
    record: /var/lib/glmbox/cuda/toolkit.json
    nvcc: 11.8.89
"""

RETURN = r"""
origin:
  description:
    - C(none), C(installed) (by glmbox, whole), C(half) (by glmbox, broken off), C(found) (the wanted toolkit, somebody
      else's) or C(foreign) (something else).
  returned: always
  type: str
finished:
  description: Whether the record says that this very toolkit was proven with these inputs.
  returned: for C(look)
  type: bool
problem:
  description: Why it can neither be used nor installed, and what to do; empty where it can.
  returned: for C(look)
  type: str
"""

MARKER = ".glmbox-toolkit.json"
DRAFT = MARKER + ".draft"  # all there is where a run was killed in the first moment
# What the runfile leaves beside the toolkit, and where it writes the toolkit's library folders for the linker.
LINK = "/usr/local/cuda"
LINKER_FOLDER = "/etc/ld.so.conf.d"


def nvcc_version(folder: str) -> str:
    """Return the version that a folder's nvcc tells, or nothing."""
    try:
        asked = subprocess.run(
            [os.path.join(folder, "bin", "nvcc"), "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    told = re.search(r"\bV(\d+\.\d+\.\d+)\b", asked.stdout)
    return told.group(1) if told else ""


def origin_of(folder: str, nvcc: str) -> str:
    """Return whose toolkit stands in a folder. nvcc: the version of the wanted one; "" takes none for a found one."""
    marker = read_json(os.path.join(folder, MARKER))
    if marker:
        return "installed" if marker["installed"] else "half"
    if os.path.isdir(folder):
        if not set(os.listdir(folder)) - {DRAFT}:
            return "none"
        return "found" if nvcc and nvcc_version(folder) == nvcc else "foreign"
    return "foreign" if os.path.lexists(folder) else "none"


def record_of(folder: str, origin: str, inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Return the record of a proven toolkit."""
    nvcc = os.path.join(folder, "bin", "nvcc")
    return {"dir": folder, "origin": origin, "inputs": hash_of(inputs), "nvcc": stamp_of(nvcc, sha256_of(nvcc))}


def is_finished(folder: str, record: Any, inputs: Dict[str, Any], beside: List[str]) -> bool:
    """Tell whether a record proves the toolkit that stands in a folder now, without running or reading it."""
    if not isinstance(record, dict) or record.get("dir") != folder or record.get("inputs") != hash_of(inputs):
        return False
    nvcc = os.path.join(folder, "bin", "nvcc")
    return stamp_holds(nvcc, record["nvcc"], record["nvcc"]["sha256"]) and all(os.path.exists(path) for path in beside)


def mib_below(folder: str) -> int:
    """Return how many MiB of disk a folder takes."""
    blocks = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            blocks += os.lstat(os.path.join(parent, name)).st_blocks
    return blocks * 512 // 2**20


def disk_problem(needs: List[Dict[str, Any]]) -> str:
    """Return which disk is too small, with the numbers, or nothing.

    needs: path and mib of what will be written. What a broken-off run left there counts as free, since it goes first.
    """
    by_device: Dict[int, List[Dict[str, Any]]] = {}
    for need in needs:
        by_device.setdefault(disk_of(need["path"])["device"], []).append(need)
    for some in by_device.values():
        total = sum(int(need["mib"]) for need in some)
        free = disk_of(some[0]["path"])["free_mib"] + sum(mib_below(need["path"]) for need in some)
        if total > free:
            parts = ", ".join("%s %d" % (need["path"], int(need["mib"])) for need in some)
            return (
                "The CUDA toolkit needs %d MiB on the disk of %s (%s), beside its runfile, and %d are free. Free some, "
                "or set cuda_tmp_dir to a folder on a larger disk." % (total, some[0]["path"], parts, free)
            )
    return ""


def problem_of(origin: str, folder: str, nvcc: str, needs: List[Dict[str, Any]]) -> str:
    """Return why the toolkit can neither be used nor installed, and what to do, or nothing."""
    if origin == "foreign":
        return (
            "%s is there, is not glmbox's, and is no CUDA toolkit whose nvcc says V%s. glmbox leaves it as it is. Move "
            "it away, or set cuda_dir to another folder, and run again." % (folder, nvcc)
        )
    return disk_problem(needs) if origin in ("none", "half") else ""


def beside_of(folder: str, marker: Dict[str, Any]) -> List[str]:
    """Return what the runfile left beside a toolkit: the link, and the linker's files that name nothing else."""
    found = [LINK] if os.path.islink(LINK) and os.readlink(LINK).rstrip("/") == folder else []
    names = os.listdir(LINKER_FOLDER) if os.path.isdir(LINKER_FOLDER) else []
    for name in sorted(set(names) - set(marker["linker_files"])):
        with open(os.path.join(LINKER_FOLDER, name), encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        if lines and all(line == folder or line.startswith(folder + "/") for line in lines):
            found.append(os.path.join(LINKER_FOLDER, name))
    return found


def remove(folder: str) -> None:
    """Remove a toolkit that glmbox installed, its marker last, so that a run that is killed here can be repeated."""
    marker = read_json(os.path.join(folder, MARKER))
    left = beside_of(folder, marker)
    for path in left:
        os.unlink(path)
    if marker["link"] and not os.path.lexists(LINK):
        os.symlink(marker["link"], LINK)
    if len(left) > left.count(LINK):
        subprocess.run(["ldconfig"], check=False)
    for name in set(os.listdir(folder)) - {MARKER}:
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    os.unlink(os.path.join(folder, MARKER))
    if not os.path.islink(folder):  # an operator's link to a larger disk stays
        os.rmdir(folder)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "do": {"choices": ["look", "finish", "remove"], "default": "look"},
            "dir": {"type": "path", "required": True},
            "record": {"type": "path", "required": True},
            "nvcc": {"type": "str", "default": ""},
            "inputs": {"type": "dict", "default": {}},
            "beside": {"type": "list", "elements": "path", "default": []},
            "needs": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    folder = params["dir"].rstrip("/")
    try:
        record = read_json(params["record"])
        finished = params["do"] == "look" and is_finished(folder, record, params["inputs"], params["beside"])
        origin = record["origin"] if finished else origin_of(folder, params["nvcc"])
        if params["do"] == "look":
            problem = "" if finished else problem_of(origin, folder, params["nvcc"], params["needs"])
            module.exit_json(changed=False, origin=origin, finished=finished, problem=problem)
        if params["do"] == "finish":
            if origin not in ("installed", "found") and not module.check_mode:
                module.fail_json(msg="%s is not whole (%s), so it is not recorded. Run again." % (folder, origin))
            if not module.check_mode:
                write_json(params["record"], record_of(folder, origin, params["inputs"]))
            module.exit_json(changed=True, origin=origin)
        ours = origin in ("installed", "half")
        if ours and not module.check_mode:
            remove(folder)
        module.exit_json(changed=ours, origin=origin)
    except OSError as error:
        module.fail_json(msg="The CUDA toolkit at %s cannot be looked at: %s." % (folder, error))


if __name__ == "__main__":
    main()
