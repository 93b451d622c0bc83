#!/usr/bin/python
"""Make verified files stand on the box; the box's half of `artifact`, see plugins/action/artifact.py."""

from __future__ import annotations

import base64
import errno
import glob
import hashlib
import os
import shutil
import sys
import tarfile
import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils import jobs
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf, Wrong
from ansible_collections.glmbox.box.plugins.module_utils.files import hash_of, read_json, write_bytes, write_json

DOCUMENTATION = r"""
module: artifact
short_description: Make artifacts stand on the box, every byte proven by sha256
description:
  - An artifact is a set of files with known hashes. Files that the controller's bundle has are pushed, the others are
    downloaded by aria2c from the mirrors that deliver best, in a job of their own for each artifact, which goes on
    without the SSH session. A file gets its final name only after its hash was proven, then a stamp (size, mtime,
    inode, sha256), and is not read again while the stamp holds.
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
    description:
      - Folder on the controller with files that need no download. Where C(dest) is this very folder, by a local
        connection, the bundle itself is filled.
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
    description: How many connections aria2c opens to a server that allows them.
    type: int
    default: 8
  stall_seconds:
    description: After so many seconds without a byte another source takes over.
    type: int
    default: 15
  patience_seconds:
    description: How long sources that sent something, and then stopped, are tried again before a file is given up.
    type: int
    default: 60
  sample_bytes:
    description: How much of a file is asked of each source, at most, to learn which delivers best.
    type: int
    default: 2097152
  proxy:
    description:
      - C(auto) tries the box's own proxy (of its environment, or the provider's accelerator) beside the direct way and
        takes what is faster; C(none) uses none; else a proxy's address, tried beside the direct way.
    type: str
    default: auto
  extra_mirrors:
    description: Artifact to a list of further addresses with C({path}).
    type: dict
    default: {}
  preferred_hosts:
    description: Hosts that come before faster ones, in this order.
    type: list
    elements: str
    default: []
  forbidden_hosts:
    description: Hosts that are never asked.
    type: list
    elements: str
    default: []
  trust_on_first_use:
    description: Artifacts without a published hash that may come; the hash of their first arrival is recorded.
    type: list
    elements: str
    default: []
  trusted_hashes:
    description: The file on the controller where such hashes are recorded.
    type: path
  peers:
    description: Boxes that may have the files already, each with C(name), C(host), C(port) and C(user).
    type: list
    elements: dict
    default: []
  push:
    description:
      - Of which artifacts what the bundle has is pushed now; others that the bundle has a part of are left to a later
        task. Without this option, all.
    type: list
    elements: str
  wait:
    description: Whether to wait until the files stand, or only to begin.
    type: bool
    default: true
  jobs_dir:
    description: Where the state of jobs is kept, on the box.
    type: path
    default: /var/lib/glmbox/jobs
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
  description: Each file that was brought, with C(bytes), C(source), C(seconds) and how it was C(verified).
  returned: always
  type: list
  elements: dict
begun:
  description: Artifacts that are on their way, each by a job.
  returned: always
  type: list
  elements: str
left:
  description: Artifacts whose push is left to a later task.
  returned: always
  type: list
  elements: str
"""

# A push may take hours over a slow link.
TAR_SECONDS = 86400


def unpack_push(shelf: Shelf, name: str) -> None:
    """Take apart the tar in which this run pushed small files together; tars that runs left a day ago go.

    The folder is the login user's, who may be less than root: nothing is followed that he laid there.
    """
    if name:
        packed = os.path.join(shelf.arriving, name)
        with tarfile.open(packed) as tar:
            for member in tar.getmembers():
                content = tar.extractfile(member) if member.isfile() and "/" not in member.name else None
                if content:
                    target = os.path.join(shelf.arriving, member.name)
                    if os.path.lexists(target):
                        os.unlink(target)
                    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                    with content, os.fdopen(handle, "wb") as file:
                        shutil.copyfileobj(content, file)
        os.unlink(packed)
    for left in glob.glob(os.path.join(shelf.arriving, "push-*.tar")):
        if os.lstat(left).st_mtime < time.time() - TAR_SECONDS:
            os.unlink(left)


def take_pushed(shelf: Shelf, files: List[Dict[str, Any]], keep_bad: bool) -> Tuple[List[Dict[str, Any]], List[str]]:
    """Prove what the controller pushed and give it its names; return what stands now, and what is wrong."""
    taken, problems = [], []
    for file in files:
        if not os.path.isfile(shelf.pushed(file)) or os.path.islink(shelf.pushed(file)):
            problems.append("%s of %s was not pushed whole. Run again." % (file["path"], file["artifact"]))
            continue
        try:
            os.makedirs(shelf.partial, exist_ok=True)
            mine = shelf.part(file) + ".pushed"  # out of the login user's hands before it is proven
            os.replace(shelf.pushed(file), mine)
            shelf.accept(file, mine, "the bundle", keep_bad)
        except Wrong as error:
            problems.append("%s Run again: it is pushed anew." % error)
            continue
        size = os.path.getsize(shelf.final(file))
        shown = {"artifact": file["artifact"], "path": file["path"], "bytes": size}
        taken.append(dict(shown, source="the bundle", seconds=0.0, verified="sha256"))
    shelf.save()
    return taken, problems


def write_program(shelf: Shelf, packed: str) -> str:
    """Write the fetcher where jobs find it, named after its content, and return its path."""
    content = base64.b64decode(packed)
    path = os.path.join(shelf.dest, ".fetcher", hashlib.sha256(content).hexdigest()[:12] + ".pyz")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.chmod(os.path.dirname(path), 0o700)  # addresses in the specifications may hold a login
    if not os.path.exists(path) or os.path.getsize(path) != len(content):  # a power cut leaves an empty one
        write_bytes(path, content, 0o600)
    return path


def start_jobs(shelf: Shelf, params: Dict[str, Any], missing: List[Dict[str, Any]]) -> List[str]:
    """Start, or attach to, a job for each artifact of which something is missing; return the jobs' names."""
    program = write_program(shelf, params["program"])
    started = []
    for artifact in sorted({file["artifact"] for file in missing}):
        files = [file for file in params["files"] if file["artifact"] == artifact]
        for file in files:
            file.pop("in_bundle", None)
        spec = {"dest": shelf.dest, "artifact": artifact, "files": files, "settings": params["settings"]}
        path = os.path.join(shelf.dest, ".fetcher", "%s-%s.json" % (artifact, hash_of(spec)[:12]))
        write_json(path, spec, mode=0o600)
        name = "fetch-" + artifact
        # What other hosts or mirrors were asked for is another job; what arrived so far serves both.
        jobs.start(params["jobs_dir"], name, [sys.executable, program, path], {}, replace=True, again=True)
        for old in glob.glob(os.path.join(shelf.dest, ".fetcher", glob.escape(artifact) + "-????????????.json")):
            if old != path:
                os.unlink(old)
        started.append(name)
    return started


def reports(params: Dict[str, Any], artifacts: List[str], failures: bool) -> Dict[str, Any]:
    """Return what the artifacts' jobs brought, as far as nobody was told yet, and what went wrong.

    failures: whether to tell of jobs that failed; where the files stand all the same, theirs is an old story.
    """
    told: Dict[str, Any] = {"fetched": [], "problems": []}
    for artifact in artifacts:
        status = jobs.status(params["jobs_dir"], "fetch-" + artifact)
        if status["state"] in ("running", "absent") or (status["state"] != "done" and not failures):
            continue
        seen = os.path.join(os.path.dirname(status["log"]), "told.json")
        result = status["result"] or {"fetched": [], "problems": []}
        if status["state"] != "done" and not result["problems"]:
            result["problems"] = [
                "The job %s ended as %s: %s The whole log is %s on the box. Run the same command again: it goes on."
                % (status["name"], status["state"], " ".join(status["last_lines"][-3:]), status["log"])
            ]
        # Two runs may bring the same in the same time; the file that tells of it is another one.
        written = os.path.join(os.path.dirname(status["log"]), "result.json")
        mark = os.stat(written).st_mtime_ns if os.path.exists(written) else 0
        if status["state"] == "done" and read_json(seen) == mark:
            continue
        write_json(seen, mark)
        for key in told:
            told[key] += result[key]
    return told


def look(shelf: Shelf, params: Dict[str, Any], result: Dict[str, Any], may_write: bool) -> bool:
    """Note in the result what is missing; return whether stamps were written."""
    result["missing"] = shelf.missing(params["files"], params["recheck"])
    result["aria2c"] = bool(shutil.which("aria2c"))
    for file in result["missing"]:
        file["here"] = shelf.here(file)
    result["first_hashes"] = shelf.first_hashes(params["files"])
    if not may_write:
        return False
    missing = {(file["artifact"], file["path"]) for file in result["missing"]}
    wrote = False
    for artifact in {file["artifact"] for file in params["files"]}:
        lock = shelf.lock(artifact, wait=params["recheck"])
        if not lock:  # a job is at work there, and stamps what it finds
            continue
        with lock:
            for file in [file for file in params["files"] if file["artifact"] == artifact]:
                if (artifact, file["path"]) not in missing:
                    shelf.stamp(file)
                elif os.path.exists(shelf.final(file)):  # it was read, and is not what it should be
                    if params["keep_bad"]:
                        os.replace(shelf.final(file), shelf.final(file) + ".bad")
                    else:
                        os.unlink(shelf.final(file))
            wrote = shelf.save() or wrote
    return wrote


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": []},
            "dest": {"type": "path", "required": True},
            "recheck": {"type": "bool", "default": False},
            "keep_bad": {"type": "bool", "default": False},
            "step": {"choices": ["look", "receive", "bring", "wait"], "required": True},
            "receive_as": {"type": "str"},
            "pushed": {"type": "str", "default": ""},
            "program": {"type": "str", "default": ""},
            "settings": {"type": "dict", "default": {}},
            "jobs_dir": {"type": "path", "default": jobs.STATE_DIR},
            "artifacts": {"type": "list", "elements": "str", "default": []},
            "slice_seconds": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    shelf = Shelf(params["dest"])
    result: Dict[str, Any] = {"missing": [], "fetched": [], "problems": []}
    changed = False
    try:
        if params["step"] == "look" or module.check_mode:
            look(shelf, params, result, may_write=False)
            changed = bool(result["missing"])
        elif params["step"] == "receive":
            os.makedirs(shelf.dest, exist_ok=True)
            changed = look(shelf, params, result, may_write=True)
            if any(file["in_bundle"] for file in result["missing"]):  # the login user, who may not be root, pushes here
                os.makedirs(shelf.arriving, mode=0o700, exist_ok=True)
                shutil.chown(shelf.arriving, params["receive_as"])
            if not result["missing"]:
                result.update(reports(params, params["artifacts"], failures=False))
        elif params["step"] == "bring":
            unpack_push(shelf, params["pushed"])
            missing = shelf.missing(params["files"], recheck=False)
            from_bundle = [file for file in missing if file["in_bundle"]]
            result["fetched"], result["problems"] = take_pushed(shelf, from_bundle, params["keep_bad"])
            rest = [file for file in missing if not file["in_bundle"]]
            result["jobs"] = start_jobs(shelf, params, rest) if rest and not result["problems"] else []
            # A job may have ended since the look.
            ended = {file["artifact"] for file in params["files"]} - {file["artifact"] for file in rest}
            for key, told in reports(params, sorted(ended), failures=False).items():
                result[key] += told
            changed = True
        else:
            names = ["fetch-" + artifact for artifact in params["artifacts"]]
            jobs.wait(params["jobs_dir"], names, params["slice_seconds"])
            known = [jobs.status(params["jobs_dir"], name) for name in jobs.names(params["jobs_dir"])]
            result["running"] = [status for status in known if status["state"] == "running"]
            result["waiting"] = [status["name"] for status in result["running"] if status["name"] in names]
            if not result["waiting"]:
                result.update(reports(params, params["artifacts"], failures=True))
                result["first_hashes"] = shelf.first_hashes(params["files"])
                awaited = [file for file in params["files"] if file["artifact"] in params["artifacts"]]
                gone = [] if result["problems"] else Shelf(shelf.dest).missing(awaited, recheck=False)
                for file in gone:  # another run has replaced the job by one for other files
                    words = "%s of %s does not stand, though its job has ended. Run again."
                    result["problems"].append(words % (file["path"], file["artifact"]))
    except (jobs.JobError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        words = "The disk of %s is full. Free some and run again: it goes on from there." % shelf.dest
        module.fail_json(msg=words if full else str(error), **result)
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
