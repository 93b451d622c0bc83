"""What a build is: all that goes into it, and the name that follows from that.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
import platform
from typing import Any, Dict, List

from ansible_collections.glmbox.box.plugins.module_utils.files import disk_of, hash_of, read_json
from ansible_collections.glmbox.box.plugins.module_utils.machine import compiler, distribution, glibc

STAMP = ".glmbox-stamp.json"
# The stamp of what another system has proven: it came with the disk.
DOUBTED = ".glmbox-unproven.json"
# The Debian packages with the libraries that a build is linked to.
PACKAGES = ".glmbox-packages.json"
# Written before anything else into a prefix: what is in a folder with it and without a stamp is ours, and half.
BEGUN = ".glmbox-begun"


def system() -> Dict[str, str]:
    """Return what of a box decides whether a build that was made on it runs on another, and comes out the same."""
    return {
        "architecture": platform.machine(),
        "glibc": glibc(),
        "distribution": " ".join(distribution()),
        "compiler": compiler(),
    }


def inputs_of(spec: Dict[str, Any], on: Dict[str, str]) -> Dict[str, Any]:
    """Return all that decides what a build becomes, as a JSON value whose hash names the prefix.

    spec: as modules/build.py describes it. on: what `system` returns. The prefix is an input, since programs and
    scripts carry it; what pip is told of indexes is none, since hashes prove what comes from there.
    """
    return {
        "name": spec["name"],
        "version": spec["version"],
        "install_dir": spec["install_dir"],
        "archive": spec["archive"]["sha256"] if spec["archive"] else "",
        "files": spec["files"],
        "needs": [os.path.basename(need["prefix"]) for need in spec["needs"]],
        "packages": sorted(spec["packages"]),
        "steps": [[step["name"], step["run"]] for step in spec["steps"]],
        "proof": spec["proof"],
        "system": on,
    }


def stem_of(inputs: Dict[str, Any]) -> str:
    """Return the name of the prefix: name, version and a part of the inputs' hash."""
    return "%s-%s-%s" % (inputs["name"], inputs["version"], hash_of(inputs)[:12])


def stands(prefix: str, inputs: Dict[str, Any]) -> bool:
    """Tell whether a prefix holds the finished, proven build of these inputs."""
    return bool(read_json(os.path.join(prefix, STAMP)) == inputs)


def proof_of(spec: Dict[str, Any], prefix: str) -> str:
    """Return the file on the system's own disk that tells that a prefix was proven on this very system."""
    return os.path.join(spec["proven_dir"], os.path.basename(prefix))


def is_proven(spec: Dict[str, Any], prefix: str) -> bool:
    """Tell whether it was this system that proved a prefix: a disk that survived a reset brings another one's stamps.

    What stands on the system's own disk cannot come from elsewhere.
    """
    own = disk_of(prefix)["device"] == disk_of(spec["proven_dir"])["device"]
    return own or os.path.exists(proof_of(spec, prefix))


def came_with_disk(prefix: str, inputs: Dict[str, Any]) -> bool:
    """Tell whether a prefix that this system has not proven holds what another one finished, of the same inputs."""
    return stands(prefix, inputs) or bool(read_json(os.path.join(prefix, DOUBTED)) == inputs)


def doubt(prefix: str) -> None:
    """Take a prefix's stamp from it, but keep what it said: it has to be proven again."""
    stamp = os.path.join(prefix, STAMP)
    if os.path.exists(stamp):
        with open(os.path.join(prefix, BEGUN), "w", encoding="ascii"):
            pass
        os.replace(stamp, os.path.join(prefix, DOUBTED))


def is_linked(link: str, prefix: str) -> bool:
    """Tell whether the link beside a prefix points at it."""
    return os.path.islink(link) and os.readlink(link) == os.path.basename(prefix)


def links_to_lay(links: Dict[str, str], link: str) -> List[List[str]]:
    """Return the links on PATH that are not there yet, as [path, target]; what somebody else put there stays.

    links: path to the file below the prefix that it leads to. link: the one that points at the current prefix.
    """
    wanted = []
    for path, inside in sorted(links.items()):
        target = os.path.join(link, inside)
        # A link of ours may lead to a folder that is gone; what is not a link is never ours.
        ours = os.path.islink(path) and os.readlink(path).startswith(os.path.dirname(link) + "/")
        if not os.path.lexists(path) or (ours and os.readlink(path) != target):
            wanted.append([path, target])
    return wanted


def problems_of(spec: Dict[str, Any], prefix: str, link: str) -> List[str]:
    """Return what stands in the way of a build, a sentence each: others' files in its place, or a missing need."""
    problems = []
    if os.path.lexists(link) and not os.path.islink(link):
        problems.append("%s is not a link, so it is not glmbox's to replace. Move it away and run again." % link)
    if os.path.lexists(prefix) and not os.path.exists(os.path.join(prefix, BEGUN)):
        inside = sorted(os.listdir(prefix))[:3] if os.path.isdir(prefix) else ["it is no folder"]
        if inside and not os.path.exists(os.path.join(prefix, STAMP)):
            problems.append(
                "%s holds what glmbox did not put there (%s). Move it away and run again." % (prefix, ", ".join(inside))
            )
    for need in spec["needs"]:
        if not need["prefix"]:
            problems.append(
                "%s needs %s, which is not there and not being built. Run again with its tag as well."
                % (spec["name"], need["link"])
            )
    return problems
