"""What those who wait for builds ask of their jobs: whether one waits in vain, and what it has to say that is new.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

from ansible_collections.glmbox.box.plugins.module_utils import jobs
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, write_json


def stuck(jobs_dir: str, status: Dict[str, Any]) -> str:
    """Return why a running job of a build waits for what nobody brings, or nothing.

    status: as `jobs.status` returns it. What is pushed has no job: ask only after all pushes.
    """
    awaited = (status["result"] or {}).get("awaits")
    if status["state"] != "running" or not awaited:
        return ""
    bringing = jobs.status(jobs_dir, awaited["job"])
    if bringing["state"] == "running":
        return stuck(jobs_dir, bringing)
    if all(map(os.path.exists, awaited["files"])):  # asked last: files get their names before their job ends
        return ""
    result = bringing["result"] or {}
    why = "\n".join(filter(None, [*result.get("problems", []), result.get("problem", "")]))
    if not why:
        why = "The job %s is %s." % (bringing["name"], bringing["state"])
    return (
        "%s waits for %s, and nobody brings it. %s\nMend that and run again; where tags are given, with %s as well."
        % (
            status["name"],
            awaited["name"],
            why,
            "fetch" if awaited["job"].startswith("fetch-") else awaited["name"],
        )
    )


def news(status: Dict[str, Any]) -> List[str]:
    """Return the notes of a build's job that nobody was told yet, and remember that they are told.

    status: as `jobs.status` returns it.
    """
    notes = (status["result"] or {}).get("notes", [])
    memory = os.path.join(os.path.dirname(status["log"]), "told.json")
    told = read_json(memory) or {}
    first = told.get("count", 0) if told.get("begun") == status["begun"] else 0
    if len(notes) > first:
        write_json(memory, {"begun": status["begun"], "count": len(notes)}, mode=0o600)
    return list(notes[first:])
