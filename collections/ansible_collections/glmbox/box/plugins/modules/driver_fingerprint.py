#!/usr/bin/python
"""The fingerprint of a box's NVIDIA driver, and all that differs from an earlier one."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from typing import Any, Dict, Iterator, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, sha256_of, write_json

DOCUMENTATION = r"""
module: driver_fingerprint
short_description: Take the fingerprint of the NVIDIA driver, and tell whether somebody touched it
description:
  - The fingerprint is what the kernel and nvidia-smi say of the driver's version; size, mtime and sha256 of every file
    of its userland in the usual folders; its kernel modules; and NVIDIA's packages with versions and holds.
  - C(record) keeps it in a file, unless an earlier one stands there. C(compare) fails and names all that differs from
    that file, or deletes it where nothing does. So what happened to the driver since the first C(record) is told even
    where runs in between were killed.
options:
  do:
    description: What to do; C(look) changes nothing.
    type: str
    choices: [look, record, compare]
    default: look
  file:
    description: Where the fingerprint is kept, for C(record) and C(compare).
    type: path
  holds:
    description: A file of JSON that lists the packages which glmbox has put on hold; that is no difference.
    type: path
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Take the driver's fingerprint
  glmbox.box.driver_fingerprint:
    do: record
    file: /var/lib/glmbox/cuda/driver.json
    holds: /var/lib/glmbox/cuda/holds.json

- name: Prove that the driver was not touched
  glmbox.box.driver_fingerprint:
    do: compare
    file: /var/lib/glmbox/cuda/driver.json
    holds: /var/lib/glmbox/cuda/holds.json
"""

RETURN = r"""
version:
  description: The driver's version as the kernel tells it, else as nvidia-smi does; empty where there is none.
  returned: always
  type: str
files:
  description: How many files were looked at.
  returned: always
  type: int
packages:
  description: The driver's installed packages, name to whether it is on hold.
  returned: always
  type: dict
held:
  description: What the file C(holds) lists.
  returned: always
  type: list
  elements: str
differences:
  description: A sentence for each difference.
  returned: for C(compare)
  type: list
  elements: str
"""

# Where distributions, NVIDIA's own installer and container runtimes put the driver's files.
FOLDERS = (
    "lib",
    "lib64",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib32",
    "usr/lib64",
    "usr/lib/i386-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/vdpau",
    "usr/local/bin",
    "usr/local/sbin",
    "usr/local/lib",
)
# ... and those that are the driver's with all that lies below.
TREES = ("usr/lib/nvidia*", "usr/lib/x86_64-linux-gnu/nvidia*", "usr/lib/i386-linux-gnu/nvidia*", "usr/local/nvidia")
NAMES = ("libcuda*", "libnvidia*", "libnvcuvid*", "libnvoptix*", "lib*_nvidia*", "nvidia-*")
# NVIDIA's kernel modules; what is loaded under another name that begins so counts as well.
MODULES = ("nvidia", "nvidia_drm", "nvidia_modeset", "nvidia_peermem", "nvidia_uvm")
PACKAGE = re.compile(r"nvidia|^(libcuda1|libcuda-|cuda-drivers|libnvcuvid|libnvoptix)")
# NVIDIA's packages that are no part of the driver.
NOT_DRIVER = re.compile(r"container|docker|toolkit|profiler|cuda-gdb|nsight|-(dev|doc)$")
MOST_NAMED = 30


def said(*command: str) -> str:
    """Return what a program prints, or nothing where it is missing or fails."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def kernel_version(root: str) -> str:
    """Return what the loaded driver says of itself, in one line."""
    try:
        with open(os.path.join(root, "proc/driver/nvidia/version"), encoding="utf-8", errors="replace") as file:
            return " ".join(file.readline().split())
    except OSError:
        return ""


def paths_of(root: str) -> Iterator[str]:
    """Yield every path of the driver's userland, once."""
    seen = set()
    for folder in FOLDERS:
        real = os.path.realpath(os.path.join(root, folder))  # /lib is a link to /usr/lib on most systems
        if real in seen or not os.path.isdir(real):
            continue
        seen.add(real)
        for name in os.listdir(real):
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in NAMES):
                yield os.path.join(real, name)
    for tree in TREES:
        parent = os.path.realpath(os.path.join(root, os.path.dirname(tree)))
        for top in fnmatch.filter(os.listdir(parent) if os.path.isdir(parent) else [], os.path.basename(tree)):
            for folder, _, names in os.walk(os.path.join(parent, top)):
                for name in names:
                    yield os.path.join(folder, name)


def file_of(path: str) -> Dict[str, Any]:
    """Return what identifies a file or a link."""
    if os.path.islink(path):
        return {"link": os.readlink(path)}
    status = os.stat(path)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256_of(path)}


def files(root: str) -> Dict[str, Dict[str, Any]]:
    """Return the driver's files and links by path."""
    return {path: file_of(path) for path in paths_of(root) if os.path.islink(path) or os.path.isfile(path)}


def modules(root: str) -> Dict[str, Dict[str, Any]]:
    """Return NVIDIA's kernel modules that are loaded, or that modinfo finds, by name."""
    try:
        with open(os.path.join(root, "proc/modules"), encoding="ascii", errors="replace") as file:
            loaded = {line.split()[0] for line in file if line.startswith("nvidia")}
    except OSError:
        loaded = set()
    found = {}
    for name in sorted(loaded | set(MODULES)):
        fields = {field: said("modinfo", "-F", field, name) for field in ("version", "srcversion", "filename")}
        if name in loaded or fields["filename"]:
            found[name] = dict(fields, loaded=name in loaded)
    return found


def packages() -> Dict[str, Dict[str, str]]:
    """Return NVIDIA's installed packages: version, and what dpkg wants of each (install, or hold)."""
    form = "${binary:Package}\t${Version}\t${db:Status-Want}\t${db:Status-Status}\n"
    rows = [line.split("\t") for line in said("dpkg-query", "-W", "-f", form).splitlines()]
    return {
        row[0]: {"version": row[1], "want": row[2]}
        for row in rows
        if PACKAGE.search(row[0]) and row[3] not in ("not-installed", "config-files")
    }


def fingerprint(root: str = "/") -> Dict[str, Any]:
    """Return the driver's fingerprint, a JSON value."""
    # nvidia-smi first: asking may load modules.
    smi = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "kernel": kernel_version(root),
        "nvidia-smi": sorted(set(smi.split())),
        "files": files(root),
        "modules": modules(root),
        "packages": packages(),
    }


def version_of(found: Dict[str, Any]) -> str:
    """Return the driver's version out of a fingerprint, or nothing."""
    told = re.search(r"\b\d+(\.\d+)+\b", found["kernel"])
    return told.group() if told else " ".join(found["nvidia-smi"])


def driver_packages(found: Dict[str, Any]) -> Dict[str, bool]:
    """Return the driver's packages out of a fingerprint, and whether each is on hold."""
    return {
        name: package["want"] == "hold"
        for name, package in found["packages"].items()
        if not NOT_DRIVER.search(name.partition(":")[0])
    }


def _told(before: Any, after: Any) -> str:
    """Return what changed between two values: of mappings only the fields that differ."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return "%s became %s" % (before or "nothing", after or "nothing")
    fields = [field for field in sorted(set(before) | set(after)) if before.get(field) != after.get(field)]
    return ", ".join("%s %s became %s" % (field, before.get(field), after.get(field)) for field in fields)


def differences(before: Dict[str, Any], after: Dict[str, Any], holds: List[str]) -> List[str]:
    """Return a sentence for each thing that differs between two fingerprints.

    holds: packages that may have been put on hold in between. A module of the same version may have been loaded: any
    program that uses the GPU loads nvidia_uvm.
    """
    found = [
        "What %s says of the version: %s." % (who, _told(before[who], after[who]))
        for who in ("kernel", "nvidia-smi")
        if before[who] != after[who]
    ]
    kinds = (("file", "files"), ("kernel module", "modules"), ("package", "packages"))
    for kind, key in kinds:
        for name in sorted(set(before[key]) | set(after[key])):
            old, new = before[key].get(name), after[key].get(name)
            if old and new and kind == "kernel module" and new["loaded"]:
                old = dict(old, loaded=True)
            if old and new and kind == "package" and name in holds and new["want"] == "hold":
                old = dict(old, want="hold")
            if old is None:
                found.append("The %s %s is new." % (kind, name))
            elif new is None:
                found.append("The %s %s is gone." % (kind, name))
            elif old != new:
                found.append("The %s %s was changed: %s." % (kind, name, _told(old, new)))
    return found


def sentence_of(found: List[str], file: str) -> str:
    """Return what an operator has to know and do where the driver differs."""
    more = ["and %d more." % (len(found) - MOST_NAMED)] if len(found) > MOST_NAMED else []
    return (
        "The NVIDIA driver is not what it was when %s was written, and glmbox never touches it:\n- %s\n"
        "If you or the provider changed it on purpose, delete that file and run again. Else install the driver anew, "
        "or rent the box anew, before anything runs on its GPU." % (file, "\n- ".join(found[:MOST_NAMED] + more))
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "do": {"choices": ["look", "record", "compare"], "default": "look"},
            "file": {"type": "path"},
            "holds": {"type": "path"},
        },
        required_if=[("do", "record", ["file"]), ("do", "compare", ["file"])],
        supports_check_mode=True,
    )
    params = module.params
    changed = False
    result: Dict[str, Any] = {}
    try:
        now = fingerprint()
        held = (read_json(params["holds"]) if params["holds"] else None) or []
        result = {
            "version": version_of(now),
            "files": len(now["files"]),
            "packages": driver_packages(now),
            "held": held,
        }
        before = read_json(params["file"]) if params["file"] else None
        if params["do"] == "record" and not before:
            changed = True
            if not module.check_mode:
                write_json(params["file"], now)
        elif params["do"] == "compare":
            if not before and not module.check_mode:  # in check mode, nothing was recorded
                module.fail_json(msg="There is no fingerprint at %s to compare with. Run again." % params["file"])
            result["differences"] = differences(before, now, held) if before else []
            if result["differences"]:
                module.fail_json(msg=sentence_of(result["differences"], params["file"]), **result)
            changed = True
            if before and not module.check_mode:
                os.unlink(params["file"])
    except OSError as error:
        module.fail_json(msg="The driver's fingerprint cannot be taken: %s." % error, **result)
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
