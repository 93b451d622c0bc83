#!/usr/bin/python
"""Build something once, into a prefix named after everything that went into it."""

from __future__ import annotations

import fcntl
import glob
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.files import hash_of, read_json, sha256_of, write_json

DOCUMENTATION = r"""
module: build
short_description: Build something once, into a prefix named after all its inputs
description:
  - Runs shell steps that fill C(<install_dir>/<name>-<version>-<hash>), proves the result, writes a stamp last and
    points the link C(<install_dir>/<name>) at it. What has a stamp is not built again.
  - A build that was killed goes on at the step that it was in. Two runs never build the same thing at once.
  - Steps and the proof see the variables PREFIX, JOBS and SOURCE (the unpacked archive).
options:
  name:
    description: What is built; also the name of the link.
    type: str
    required: true
  version:
    description: Its version.
    type: str
    required: true
  install_dir:
    description: Where versioned prefixes and links stand.
    type: path
    required: true
  work_dir:
    description: Where archives are unpacked and compiled; what is there may be deleted between runs.
    type: path
    required: true
  log_dir:
    description: Where the log of each build is kept.
    type: path
    required: true
  archive:
    description: A source tarball with one folder at its top.
    type: path
  files:
    description: Further files whose contents are inputs.
    type: list
    elements: path
    default: []
  needs:
    description: Links to other builds; what they point at is an input.
    type: list
    elements: path
    default: []
  steps:
    description: Steps, each with C(name) and C(run), a bash script.
    type: list
    elements: dict
    required: true
  proof:
    description: A bash script that fails unless the finished build works.
    type: str
    required: true
  environment:
    description:
      - Further variables that the steps see and that are no inputs, since the same comes out whatever they say, such as
        where pip looks for packages whose hashes are in a file.
    type: dict
    default: {}
  jobs:
    description: How many processes C(make) may run at once; 0 for one a core.
    type: int
    default: 0
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Build hello
  glmbox.box.build:
    name: hello
    version: "2.12"
    archive: /srv/hello-2.12.tar.gz
    install_dir: /opt/glmbox
    work_dir: /var/lib/glmbox/build
    log_dir: /var/log/glmbox
    steps:
      - {name: configure, run: './configure --prefix="$PREFIX"'}
      - {name: install, run: 'make install'}
    proof: '"$PREFIX/bin/hello"'
"""

RETURN = r"""
prefix:
  description: The versioned folder.
  returned: always
  type: str
seconds:
  description: How long this run built, in seconds.
  returned: always
  type: float
"""


SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BuildFailed(Exception):
    """A build that did not work, in one sentence and what to do next."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def inputs_of(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return all that decides what a build becomes, as a JSON value whose hash names the prefix."""
    return {
        "name": params["name"],
        "version": params["version"],
        "steps": params["steps"],
        "proof": params["proof"],
        "archive": sha256_of(params["archive"]) if params["archive"] and os.path.exists(params["archive"]) else None,
        "files": [sha256_of(path) if os.path.exists(path) else None for path in params["files"]],
        "needs": [os.path.realpath(path) for path in params["needs"]],
        "machine": [platform.machine(), platform.libc_ver()[1]],
    }


def unpack(archive: str, folder: str) -> None:
    """Unpack a tarball's single top folder as `folder`, whole or not at all."""
    parent = os.path.dirname(folder)
    draft = tempfile.mkdtemp(dir=parent, prefix=".unpack-")
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:  # a maker's uid may be somebody's here, who could then edit what root compiles
                member.uid = member.gid = 0
                member.uname = member.gname = "root"
            tar.extractall(draft, members)  # the archive's sha256 is pinned, so its paths are known
        tops = os.listdir(draft)
        if len(tops) != 1:
            raise BuildFailed("%s holds %d entries at its top where one folder was expected." % (archive, len(tops)))
        os.rename(os.path.join(draft, tops[0]), folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def run_step(script: str, folder: str, environment: Dict[str, str], log: str) -> None:
    """Run one bash script in a folder, its output appended to the log; raise BuildFailed with the log's end."""
    with open(log, "ab") as output:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        with open(log, "rb") as output:
            output.seek(max(0, os.path.getsize(log) - 3000))
            last = output.read().decode(errors="replace").splitlines()[-15:]
        raise BuildFailed("exit code %d; the log's last lines:\n  %s" % (ended.returncode, "\n  ".join(last)))


def point(link: str, target: str) -> bool:
    """Make a link point at a target, in one step; return whether that changed anything."""
    if os.path.islink(link) and os.readlink(link) == target:
        return False
    if os.path.lexists(link) and not os.path.islink(link):
        raise BuildFailed("%s is not a link, so it is not glmbox's to replace. Move it away and run again." % link)
    draft = link + ".new"
    if os.path.lexists(draft):
        os.unlink(draft)
    os.symlink(target, draft)
    os.replace(draft, link)
    return True


def build(params: Dict[str, Any], prefix: str, work: str, log: str) -> List[Dict[str, Any]]:
    """Run the steps that are not done yet, then the proof; return each step's name and seconds."""
    source = os.path.join(work, "source")
    os.makedirs(work, exist_ok=True)
    if params["archive"] and not os.path.isdir(source):
        unpack(params["archive"], source)
    os.makedirs(source, exist_ok=True)
    # A conda or a library path of the login shell must not find its way into a build.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "PYTHON"))}
    environment.update({key: str(value) for key, value in params["environment"].items()})
    environment.update(PATH=SYSTEM_PATH, PREFIX=prefix, SOURCE=source, JOBS=str(params["jobs"] or cores()))
    timed = []
    last = len(params["steps"]) - 1
    for number, step in enumerate(params["steps"] + [{"name": "proof", "run": params["proof"]}]):
        done = os.path.join(work, "done-%d" % number)
        if os.path.exists(done):
            continue
        begun = time.monotonic()
        try:
            run_step(step["run"], source, environment, log)
        except BuildFailed as error:
            raise BuildFailed(
                "Building %s %s failed in step '%s' with %s\nThe whole log is %s on the box. "
                "Mend the cause and run the same command again: it goes on from this step."
                % (params["name"], params["version"], step["name"], error, log)
            ) from error
        timed.append({"step": step["name"], "seconds": round(time.monotonic() - begun, 1)})
        if number < last:  # the last step fills the prefix, which somebody may have deleted since
            with open(done, "w", encoding="ascii"):
                pass
    return timed


def ensure(params: Dict[str, Any], check_mode: bool) -> Tuple[bool, Dict[str, Any]]:
    """Make the build stand and the link point at it; return whether anything changed, and the result."""
    inputs = inputs_of(params)
    stem = "%s-%s-%s" % (params["name"], params["version"], hash_of(inputs)[:12])
    prefix = os.path.join(params["install_dir"], stem)
    stamp = os.path.join(prefix, ".glmbox-stamp.json")
    link = os.path.join(params["install_dir"], params["name"])
    begun = time.monotonic()
    result: Dict[str, Any] = {"prefix": prefix, "steps": []}
    built = False

    def stands() -> bool:
        return read_json(stamp) == inputs

    if check_mode:
        changed = not stands() or not os.path.islink(link) or os.readlink(link) != stem
        return changed, dict(result, seconds=0.0)
    if not stands():
        for folder in (params["install_dir"], params["work_dir"], params["log_dir"]):
            os.makedirs(folder, exist_ok=True)
        with open(os.path.join(params["work_dir"], params["name"] + ".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stands():
                work = os.path.join(params["work_dir"], stem)
                log = os.path.join(params["log_dir"], "build-%s.log" % params["name"])
                for stale in glob.glob(os.path.join(params["work_dir"], params["name"] + "-*")):
                    if stale != work:
                        shutil.rmtree(stale)
                result["steps"] = build(params, prefix, work, log)
                write_json(stamp, inputs)
                shutil.rmtree(work)
                built = True
    changed = point(link, stem) or built
    return changed, dict(result, seconds=round(time.monotonic() - begun, 1))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "install_dir": {"type": "path", "required": True},
            "work_dir": {"type": "path", "required": True},
            "log_dir": {"type": "path", "required": True},
            "archive": {"type": "path"},
            "files": {"type": "list", "elements": "path", "default": []},
            "needs": {"type": "list", "elements": "path", "default": []},
            "steps": {"type": "list", "elements": "dict", "required": True},
            "proof": {"type": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "jobs": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    try:
        changed, result = ensure(module.params, module.check_mode)
    except (BuildFailed, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
