"""Which Debian packages may go again: those that glmbox brought and nothing else needs.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
import re
from typing import Dict, List, NamedTuple, Set

# What dpkg-query is asked for; a tab cannot stand in any of these.
FORMAT = "${Package}\t${db:Status-Status}\t${Provides}\t${Pre-Depends}\t${Depends}\t${Recommends}\t${Essential}\n"


class Package(NamedTuple):
    """An installed package. needs, wants: clauses of alternatives, each a list of names. provides: further names."""

    provides: List[str]
    needs: List[List[str]]
    wants: List[List[str]]
    essential: bool


def clauses(text: str) -> List[List[str]]:
    """Return a dependency field as clauses of alternatives, without versions and architectures."""
    names = [[re.split(r"[\s(:\[]", one.strip())[0] for one in part.split("|")] for part in text.split(",")]
    return [[name for name in part if name] for part in names if any(part)]


def in_state(told: str, wanted: str) -> Dict[str, Package]:
    """Return the packages that are in a state of dpkg's, by name. told: what dpkg-query prints by FORMAT."""
    found = {}
    for line in told.splitlines():
        name, state, provides, before, depends, recommends, essential = line.split("\t")
        if state == wanted:
            found[name] = Package(
                [one for part in clauses(provides) for one in part],
                clauses(before) + clauses(depends),
                clauses(recommends),
                essential == "yes",
            )
    return found


def removable(there: Dict[str, Package], brought: Set[str], before: Set[str]) -> List[str]:
    """Return the packages that may go: brought by glmbox, and needed by none that stays.

    there: what is installed. brought: what glmbox installed. before: what was installed before that. Recommendations
    count as needs for what came later by others; what was there before did without.
    """
    going = {name for name in brought if name in there and not there[name].essential}
    names: Dict[str, Set[str]] = {}
    for name, package in there.items():
        for one in [name, *package.provides]:
            names.setdefault(one, set()).add(name)
    asking = [name for name in there if name not in going]
    while asking:
        name = asking.pop()
        package = there[name]
        wanted = package.needs + ([] if name in before or name in brought else package.wants)
        for clause in wanted:
            bringers = set().union(*(names.get(one, set()) for one in clause))
            if bringers and bringers <= going:
                going -= bringers
                asking += sorted(bringers)
    return sorted(going)


def read_lines(path: str) -> List[List[str]]:
    """Return the words of each line of a file; nothing where there is none."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii") as file:
        return [line.split() for line in file if line.strip()]
