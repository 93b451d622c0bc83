"""Checkpoints in a training's folder. One is whole when it has its stamp, which `launch` writes last.

Runs on the box: standard library alone, Python 3.8.
"""

import hashlib
import json
import os
import re
import shutil
from typing import Any, Dict, List

STAMP = "glmbox.json"
WEIGHTS = "pytorch_model.bin"


def sha256_of(path: str) -> str:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(2**20), b""):
            digest.update(part)
    return digest.hexdigest()


def read_json(path: str) -> Any:
    """Return the JSON value in a file, None where it is missing or not whole."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str, value: Any) -> None:
    """Write a JSON value so that a reader finds the old file or the new one, never a part."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Write a text so that a reader finds the old file or the new one, never a part."""
    draft = "%s.draft-%d" % (path, os.getpid())
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def stamp(folder: str, step: int) -> None:
    """Note that a checkpoint is whole: everything of it is on the disk before its stamp is."""
    for name in sorted(os.listdir(folder)):
        handle = os.open(os.path.join(folder, name), os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    write_json(os.path.join(folder, STAMP), {"step": step, "sha256": sha256_of(os.path.join(folder, WEIGHTS))})


def steps(output: str) -> Dict[int, str]:
    """Return the folder of each step of which there is a checkpoint, whole or not."""
    found = {}
    for name in os.listdir(output) if os.path.isdir(output) else []:
        match = re.fullmatch(r"checkpoint-(\d+)", name)
        if match:
            found[int(match.group(1))] = os.path.join(output, name)
    return dict(sorted(found.items()))


def is_whole(folder: str) -> bool:
    """Tell whether a checkpoint has its stamp, and the weights that it was stamped with."""
    noted = read_json(os.path.join(folder, STAMP))
    weights = os.path.join(folder, WEIGHTS)
    return isinstance(noted, dict) and os.path.isfile(weights) and noted.get("sha256") == sha256_of(weights)


def tidy(output: str) -> List[int]:
    """Remove checkpoints that were not written whole; return the steps of the others, in their order."""
    whole = []
    for step, folder in steps(output).items():
        if is_whole(folder):
            whole.append(step)
        else:
            shutil.rmtree(folder)
    return whole
