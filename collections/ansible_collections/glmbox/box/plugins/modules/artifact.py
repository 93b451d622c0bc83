#!/usr/bin/python
"""Make verified files stand on the box; the box's half of `artifact`, see plugins/action/artifact.py."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import subprocess
import tarfile
import time
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.files import (
    read_json,
    sha256_of,
    stamp_holds,
    stamp_of,
    write_json,
)

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

LFS_FIRST_LINE = b"version https://git-lfs.github.com/spec/v1"


class Wrong(Exception):
    """A file that is not what the table says, in one sentence."""


class Shelf:
    """The artifacts' folder on the box: final files, what is arriving, and the stamps."""

    def __init__(self, dest: str) -> None:
        self.dest = dest
        self.arriving = os.path.join(dest, ".arriving")
        self._stamps: Dict[str, Dict[str, Any]] = {}

    def final(self, file: Dict[str, Any]) -> str:
        return os.path.join(self.dest, file["artifact"], file["path"])

    def part(self, file: Dict[str, Any]) -> str:
        """Return where a file arrives: named by its hash, so that no other version is ever continued."""
        return os.path.join(self.arriving, file["part"])

    def stamps(self, artifact: str) -> Dict[str, Any]:
        if artifact not in self._stamps:
            self._stamps[artifact] = read_json(self._stamp_file(artifact)) or {}
        return self._stamps[artifact]

    def _stamp_file(self, artifact: str) -> str:
        return os.path.join(self.dest, ".stamps", artifact + ".json")

    def stands(self, file: Dict[str, Any], recheck: bool) -> bool:
        """Tell whether the file stands and is proven: by its stamp, else by reading it."""
        final = self.final(file)
        if not recheck and stamp_holds(final, self.stamps(file["artifact"]).get(file["path"]), file["sha256"]):
            return True
        if not os.path.isfile(final) or file["size"] not in (None, os.path.getsize(final)):
            return False
        return sha256_of(final) == file["sha256"]

    def stamp(self, file: Dict[str, Any]) -> bool:
        """Note that a file is proven; return whether that is news."""
        stamps = self.stamps(file["artifact"])
        stamp = stamp_of(self.final(file), file["sha256"])
        if stamps.get(file["path"]) == stamp:
            return False
        stamps[file["path"]] = stamp
        write_json(self._stamp_file(file["artifact"]), stamps)
        return True

    def accept(self, file: Dict[str, Any], source: str, keep_bad: bool) -> None:
        """Prove what arrived, give it its final name and stamp it; raise Wrong and delete it where it is wrong."""
        part, final = self.part(file), self.final(file)
        found = sha256_of(part)
        if found != file["sha256"]:
            sentence = why_wrong(part, file, found, source)
            if keep_bad:
                os.makedirs(os.path.dirname(final), exist_ok=True)
                os.replace(part, final + ".bad")
            else:
                os.unlink(part)
            raise Wrong(sentence)
        os.makedirs(os.path.dirname(final), exist_ok=True)
        if os.path.exists(part + ".aria2"):
            os.unlink(part + ".aria2")
        os.chmod(part, 0o644)
        os.chown(part, 0, 0)
        os.replace(part, final)
        self.stamp(file)


def why_wrong(part: str, file: Dict[str, Any], found: str, source: str) -> str:
    """Say what a file with a wrong hash is: an HTML page, a git-lfs pointer, a truncated file, or another file."""
    size = os.path.getsize(part)
    with open(part, "rb") as opened:
        head = opened.read(512)
    label = "%s of %s from %s" % (file["path"], file["artifact"], source)
    if head.startswith(LFS_FIRST_LINE):
        return "%s is a git-lfs pointer of %d bytes, not the file. Use a mirror that serves the file itself." % (
            label,
            size,
        )
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "%s is an HTML page of %d bytes (a login, an error or an expired link). Use another mirror." % (
            label,
            size,
        )
    if file.get("size") and size != file["size"]:
        return "%s has %d bytes where %d were expected. Run again; if it repeats, use another mirror." % (
            label,
            size,
            file["size"],
        )
    return "%s has sha256 %s where %s was expected. Delete it at its source, or use another mirror." % (
        label,
        found,
        file["sha256"],
    )


def unpack_push(shelf: Shelf, name: str) -> None:
    """Take apart the tar in which this run pushed small files together; tars of runs that were killed go."""
    if name:
        with tarfile.open(os.path.join(shelf.arriving, name)) as tar:
            for member in tar.getmembers():
                if member.isfile() and "/" not in member.name:
                    tar.extract(member, shelf.arriving)
    for tar_left in glob.glob(os.path.join(shelf.arriving, "push-*.tar")):
        os.unlink(tar_left)


def aria2_input(shelf: Shelf, files: List[Dict[str, Any]]) -> str:
    """Return aria2c's input file: the mirrors of a file on one line, its options indented below."""
    lines = []
    for file in files:
        lines.append("\t".join(file["urls"]))
        lines.append("  dir=" + shelf.arriving)
        lines.append("  out=" + file["part"])
    return "\n".join(lines) + "\n"


def download(shelf: Shelf, files: List[Dict[str, Any]], connections: int) -> Optional[str]:
    """Download files by aria2c, which resumes, splits and checks; return its last words where it failed."""
    program = shutil.which("aria2c")
    if not program:
        return "aria2c is not on the box's PATH: install the package aria2, or put the files into the bundle."
    ended = subprocess.run(
        [
            program,
            "--input-file=-",
            "--continue=true",
            "--allow-overwrite=true",
            "--auto-file-renaming=false",
            "--max-concurrent-downloads=4",
            "--max-connection-per-server=%d" % connections,
            "--split=%d" % connections,
            "--min-split-size=4M",
            "--connect-timeout=15",
            "--timeout=60",
            "--max-tries=5",
            "--retry-wait=3",
            "--lowest-speed-limit=1K",
            "--file-allocation=none",
            "--summary-interval=0",
            "--console-log-level=error",
            "--download-result=full",
        ],
        input=aria2_input(shelf, files),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 0:
        return None
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if "errorCode" in line or "[ERROR]" in line]
    return "aria2c ended with %d: %s" % (ended.returncode, " ".join(said[-3:]) or "no reason given")


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
