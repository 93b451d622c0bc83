"""The artifact tables and the bundle, as the controller sees them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
from urllib.parse import quote

import yaml
from ansible_collections.glmbox.box.plugins.module_utils.files import (
    read_json,
    sha256_of,
    stamp_holds,
    stamp_of,
    write_json,
)

HEX = re.compile(r"[0-9a-f]{64}")


class CatalogueError(Exception):
    """All that is wrong with a table or a wish, one sentence a line."""


def load(catalogue: str, bundle: str) -> dict:
    """Return all artifacts by name: the project's tables, then what a bundle lists of its own (wheels).

    A table maps a name to {files: [{path, sha256, size?, mirrors?}], mirrors?: [url with {path}]}; sizes in bytes.
    """
    tables: dict = {}
    own = sorted(glob.glob(os.path.join(catalogue, "*.yml")))
    for source in own + sorted(glob.glob(os.path.join(bundle, "*", "manifest.yml"))):
        with open(source, encoding="utf-8") as file:
            for name, table in (yaml.safe_load(file) or {}).items():
                if name in tables:
                    raise CatalogueError(f"The artifact {name} stands twice; the second time in {source}. Remove one.")
                tables[name] = table
    return tables


def table_of(folder: str) -> dict:
    """Return the table of a folder of this project's own: its files as they are, without hidden ones and caches."""
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        paths += [os.path.join(parent, name) for name in sorted(names) if not name.startswith(".")]
    return {
        "files": [
            {"path": os.path.relpath(path, folder), "sha256": sha256_of(path), "size": os.path.getsize(path)}
            for path in paths
        ]
    }


def files_of(tables: dict, names: list[str]) -> list[dict]:
    """Return the files of the named artifacts, each with artifact, path, sha256, size (bytes or None), urls, part.

    Raises CatalogueError for names that no table has and for entries that are not whole.
    """
    problems, files = [], []
    for name in names:
        if name not in tables:
            kin = sorted(one for one in tables if one.rsplit("-", 1)[0] == name.rsplit("-", 1)[0])
            known = f"Known are {', '.join(kin)}." if kin else f"Known are {', '.join(sorted(tables))}."
            problems.append(f"No table knows the artifact {name}. {known}")
            continue
        table = tables[name]
        for file in table["files"]:
            path, sha256 = file["path"], str(file.get("sha256", ""))
            if not HEX.fullmatch(sha256):
                problems.append(f"{path} of {name} has no sha256 in its table, so it is not fetched.")
            if path.startswith("/") or ".." in path.split("/"):
                problems.append(f"{path} of {name} leaves the artifact's folder.")
            mirrors = file.get("mirrors", table.get("mirrors", []))
            files.append(
                {
                    "artifact": name,
                    "path": path,
                    "sha256": sha256,
                    "size": file.get("size"),
                    "urls": [mirror.replace("{path}", quote(path)) for mirror in mirrors],
                    "part": f"{sha256}-{hashlib.sha256(f'{name}/{path}'.encode()).hexdigest()[:12]}",
                }
            )
    if problems:
        raise CatalogueError("\n".join(problems))
    return files


class Bundle:
    """A folder on the controller that holds artifacts already, as <artifact>/<path>."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._stamp_file = os.path.join(folder, ".stamps.json")
        self._stamps = read_json(self._stamp_file) or {}

    def path(self, file: dict) -> str:
        return os.path.join(self.folder, file["artifact"], file["path"])

    def has(self, file: dict) -> bool:
        return os.path.isfile(self.path(file))

    def problem(self, file: dict) -> str:
        """Return what is wrong with the bundle's copy of a file, or nothing; what was proven is not read again."""
        path = self.path(file)
        if stamp_holds(path, self._stamps.get(path), file["sha256"]):
            return ""
        found = sha256_of(path)
        if found != file["sha256"]:
            size = os.path.getsize(path)
            return (
                f"{path} has sha256 {found} ({size} bytes) where {file['sha256']} was expected: "
                "the bundle's copy is damaged. Delete it and fill the bundle again."
            )
        self._stamps[path] = stamp_of(path, found)
        with contextlib.suppress(OSError):  # a bundle that cannot be written is read again the next time
            write_json(self._stamp_file, self._stamps)
        return ""
