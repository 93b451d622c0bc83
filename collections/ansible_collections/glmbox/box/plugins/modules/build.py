#!/usr/bin/python
"""Build something once, as a job; the box's half of `build`, see plugins/action/build.py."""

from __future__ import annotations

import base64
import glob
import hashlib
import os
import shutil
import sys
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils import jobs
from ansible_collections.glmbox.box.plugins.module_utils.building import identity, packs, waiting
from ansible_collections.glmbox.box.plugins.module_utils.files import hash_of, sha256_of, write_bytes, write_json

DOCUMENTATION = r"""
module: build
short_description: Build something once, as a job, into a prefix named after all its inputs
description:
  - Starts a job that fills C(<install_dir>/<name>-<version>-<hash>) by shell steps, proves the result, writes a stamp
    last and points the link C(<install_dir>/<name>) at it. What has a stamp is not built again. The task does not wait.
  - The job waits for artifacts that are still arriving and for other builds that it needs. A build that was killed goes
    on at the step that it was in. Two runs never build the same thing at once.
  - A finished build is packed. Where box or controller has a pack made from the very same inputs, it is unpacked and
    proven instead of built, and dropped and built anew if the proof fails.
  - Steps and proof see the variables PREFIX, JOBS, SOURCE (the unpacked archive), FILES (the folder with the files),
    and for each need its prefix, under its link's name in capitals.
options:
  name:
    description: What is built; also the name of the link. The job is called C(build-<name>).
    type: str
    required: true
  do:
    description: C(start) begins it where it does not stand; C(wait) waits until it stands.
    type: str
    choices: [start, wait]
    default: start
  version:
    description: Its version; for C(start).
    type: str
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
  proven_dir:
    description:
      - Where the system notes what it has proven itself, on its own disk. What stands in C(install_dir) without that
        came with a disk that survived a reset, and is proven again, not built.
    type: path
    required: true
  jobs_dir:
    description: Where jobs keep their state.
    type: path
    required: true
  archive:
    description: Name of the artifact whose one file is the source tarball, with one folder at its top.
    type: str
  artifacts:
    description: Names of further artifacts that have to stand before the steps begin.
    type: list
    elements: str
    default: []
  catalogue:
    description: The folder with the artifacts' tables, on the controller.
    type: path
    required: true
  bundle:
    description: The bundle's folder on the controller, which may list artifacts of its own.
    type: path
    required: true
  artifacts_dir:
    description: The folder of the artifacts on the box.
    type: path
    required: true
  files:
    description: Text files of the controller that the steps need; their contents are inputs.
    type: list
    elements: path
    default: []
  needs:
    description: Links to other builds; what they point at, or will once a job has built it, is an input.
    type: list
    elements: path
    default: []
  packages:
    description: Debian packages without which the steps do not run; they are installed only if it has to be built.
    type: list
    elements: str
    default: []
  steps:
    description:
      - Steps, each with C(name) and C(run), a bash script; and, so that it can be told how far it is, C(progress), a
        script that prints how much is done and how much there is, and C(unit), a plural noun.
    type: list
    elements: dict
    default: []
  proof:
    description: A bash script that fails unless the finished build works.
    type: str
    default: ""
  links:
    description: Links to files of the build, as path and the file below the prefix. What is not ours there stays.
    type: dict
    default: {}
  environment:
    description:
      - Further variables that the steps see and that are no inputs, since the same comes out whatever they say, such as
        where pip looks for packages whose hashes are in a file.
    type: dict
    default: {}
  jobs:
    description: How many processes C(make) may run at once; 0 for one a core, as far as the memory allows.
    type: int
    default: 0
  job_mib:
    description: How much memory one of them takes at most, in MiB.
    type: int
    default: 512
  cache:
    description: Whether to pack finished builds, and to use packs.
    type: bool
    default: true
  cache_dir:
    description: The controller's folder of packs.
    type: path
    required: true
  cache_box_dir:
    description: The box's folder of packs.
    type: path
    required: true
  pack_limit_mib:
    description: Packs larger than this are not brought to the controller, in MiB.
    type: int
    default: 1024
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Begin to build hello
  glmbox.box.build:
    name: hello
    version: "2.12"
    archive: hello-2.12
    install_dir: /opt/glmbox
    work_dir: /var/lib/glmbox/data/build
    log_dir: /var/log/glmbox
    proven_dir: /var/lib/glmbox/proven
    jobs_dir: /var/lib/glmbox/jobs
    catalogue: artifacts
    bundle: bundle
    artifacts_dir: /var/lib/glmbox/data/artifacts
    cache_dir: ~/.cache/glmbox/builds
    cache_box_dir: /var/lib/glmbox/data/builds
    packages: [build-essential]
    steps:
      - {name: configure, run: './configure --prefix="$PREFIX"'}
      - {name: install, run: 'make -j"$JOBS" install'}
    proof: '"$PREFIX/bin/hello"'
"""

RETURN = r"""
prefix:
  description: The versioned folder.
  returned: for C(start)
  type: str
stands:
  description: Whether the finished build stands, and is linked.
  returned: always
  type: bool
notes:
  description: What the job has to say beside its work, such as that a pack was not used, and nobody was told yet.
  returned: for C(wait)
  type: list
  elements: str
"""


def prepared(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Return what the specification comes to on this box: inputs, stem, prefix, link.

    A need whose link is not planned by this run is what its link points at now.
    """
    for need in spec["needs"]:
        if not need["prefix"] and os.path.islink(need["link"]):
            need["prefix"] = os.path.join(os.path.dirname(need["link"]), os.readlink(need["link"]))
    inputs = identity.inputs_of(spec, identity.system())
    stem = identity.stem_of(inputs)
    link = os.path.join(spec["install_dir"], spec["name"])
    return {"inputs": inputs, "stem": stem, "prefix": os.path.join(spec["install_dir"], stem), "link": link}


def look(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return what stands, what is packed, and what is in the way."""
    spec = params["spec"]
    found = prepared(spec)
    linked = identity.is_linked(found["link"], found["prefix"]) and not identity.links_to_lay(
        spec["links"], found["link"]
    )
    running = jobs.status(params["jobs_dir"], "build-" + spec["name"])["state"] == "running"
    # Its packing was killed. To start the job once more costs little, and packs it.
    half = bool(spec["cache"]) and not running and os.path.exists(packs.draft_of(spec["cache"], found["stem"]))
    built = identity.stands(found["prefix"], found["inputs"]) and identity.is_proven(spec, found["prefix"])
    return dict(
        found,
        stands=built and linked and not half,
        built=built,
        brought=not built and identity.came_with_disk(found["prefix"], found["inputs"]),
        running=running,
        packed=bool(packs.usable(spec["cache"], found["stem"], found["inputs"])) if spec["cache"] else False,
        problems=[] if built and linked else identity.problems_of(spec, found["prefix"], found["link"]),
    )


def begin(params: Dict[str, Any]) -> Dict[str, Any]:
    """Return what `look` does, and start the job at once unless a pack from elsewhere would help."""
    found = look(params)
    here = found["built"] or found["brought"] or found["packed"] or found["running"] or not params["spec"]["cache"]
    if found["stands"] or found["problems"] or not here:
        return dict(found, begun=False)
    return dict(found, begun=True, notes=start(params)["notes"])


def receive(folder: str, login: str) -> str:
    """Make the folder into which the login user, who may not be root, pushes a pack, and return its path."""
    arriving = os.path.join(folder, ".arriving")
    os.makedirs(arriving, exist_ok=True)
    os.chmod(arriving, 0o700)
    shutil.chown(arriving, login)
    return arriving


def take_pack(spec: Dict[str, Any], stem: str, manifest: Dict[str, Any]) -> List[str]:
    """Give a pushed pack its name where its hash is right; return why not, if so. The job proves it once more."""
    folder = spec["cache"]
    pushed = os.path.join(folder, ".arriving", stem + packs.PACK)
    if sha256_of(pushed) != manifest["sha256"]:
        os.unlink(pushed)
        return ["The pack of %s arrived damaged, and is not used." % stem]
    os.chmod(pushed, 0o644)
    shutil.chown(pushed, 0, 0)
    os.replace(pushed, os.path.join(folder, stem + packs.PACK))
    write_json(os.path.join(folder, stem + packs.MANIFEST), manifest)
    return []


def start(params: Dict[str, Any]) -> Dict[str, Any]:
    """Start the job, or attach to it."""
    spec = params["spec"]
    found = prepared(spec)
    notes = take_pack(spec, found["stem"], params["manifest"]) if params["manifest"] else []
    spec["stem"] = found["stem"]
    if not identity.is_proven(spec, found["prefix"]):  # here, so that nobody who waits for it takes it for standing
        identity.doubt(found["prefix"])
    folder = os.path.join(spec["work_dir"], ".builder")
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o700)  # an index's address may hold a login
    content = base64.b64decode(params["program"])
    program = os.path.join(folder, hashlib.sha256(content).hexdigest()[:12] + ".pyz")
    if not os.path.exists(program) or os.path.getsize(program) != len(content):  # a power cut leaves an empty one
        write_bytes(program, content, 0o600)
    path = os.path.join(folder, "%s-%s.json" % (spec["name"], hash_of(spec)[:12]))
    write_json(path, spec, mode=0o600)
    # It does not stand, or nobody would start it. One with other inputs gives way; what it has done so far is kept.
    command = [sys.executable, "-I", program, path]
    job = jobs.start(params["jobs_dir"], "build-" + spec["name"], command, {}, replace=True, again=True)
    for old in glob.glob(os.path.join(glob.escape(folder), spec["name"] + "-????????????.json")):
        if old != path:
            os.unlink(old)
    return dict(found, job=job["name"], notes=notes)


def wait(params: Dict[str, Any]) -> Dict[str, Any]:
    """Wait for one slice until the job has ended, or has made the build stand; packing goes on alone."""
    state_dir, name = params["jobs_dir"], "build-" + params["name"]
    jobs.wait_until(state_dir, name, lambda: os.path.exists(params["stamp"]), params["slice_seconds"])
    status = jobs.status(state_dir, name)
    result = status["result"] or {"notes": [], "problem": ""}
    stands = identity.is_linked(params["link"], params["prefix"]) and os.path.exists(params["stamp"])
    known = [jobs.status(state_dir, one) for one in jobs.names(state_dir)]
    # All pushes come before this; what then has no job that brings it does not come.
    problem = "" if stands else waiting.stuck(state_dir, status)
    if status["state"] != "running" and not (stands and status["state"] == "done"):
        problem = result["problem"] or (
            "The job %s ended as %s before its build stood; its log's last lines:\n  %s\nThe log is %s on the box. "
            "Run the same command again: it goes on from the step that it was in."
            % (name, status["state"], "\n  ".join(status["last_lines"]) or "(nothing)", status["log"])
        )
    return {
        "stands": stands,
        "problem": problem,
        "notes": waiting.news(status) if stands or problem else [],
        "rejected": result.get("rejected", False),
        "running": [one for one in known if one["state"] == "running"],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"choices": ["look", "begin", "receive", "start", "wait"], "required": True},
            "spec": {"type": "dict", "default": {}},
            "jobs_dir": {"type": "path", "required": True},
            "login": {"type": "str", "default": "root"},
            "program": {"type": "str", "default": ""},
            "manifest": {"type": "dict", "default": {}},
            "name": {"type": "str", "default": ""},
            "prefix": {"type": "path", "default": ""},
            "link": {"type": "path", "default": ""},
            "stamp": {"type": "path", "default": ""},
            "slice_seconds": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    try:
        if params["step"] == "look":
            module.exit_json(changed=False, **look(params))
        if params["step"] == "begin":
            begun = begin(params)
            module.exit_json(changed=begun["begun"], **begun)
        if params["step"] == "receive":
            module.exit_json(changed=False, folder=receive(params["spec"]["cache"], params["login"]))
        if params["step"] == "start":
            module.exit_json(changed=True, **start(params))
        module.exit_json(changed=False, **wait(params))
    except (jobs.JobError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
