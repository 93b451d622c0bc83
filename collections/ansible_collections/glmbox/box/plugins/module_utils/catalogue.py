"""The artifact tables and the bundle, as the controller sees them."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
from urllib.parse import quote, urlsplit

import yaml
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of

HEX = re.compile(r"[0-9a-f]{64}")


class CatalogueError(Exception):
    """All that is wrong with a table or a wish, one sentence a line."""


def load(catalogue: str, bundle: str) -> dict:
    """Return all artifacts by name: the project's tables, then what a bundle lists of its own (wheels).

    A table maps a name to {files: [{path, sha256?, size?, estimate?, mirrors?}], mirrors?: [url with {path}]}; sizes in
    bytes, an estimate for the disk alone.
    """
    tables: dict = {}
    own = sorted(glob.glob(os.path.join(catalogue, "*.yml")))
    for source in own + sorted(glob.glob(os.path.join(bundle, "*", "manifest.yml"))):
        with open(source, encoding="utf-8") as file:
            try:
                found = yaml.safe_load(file) or {}
            except yaml.YAMLError as error:
                raise CatalogueError(f"The table {source} is no YAML: {error}. Mend it.") from error
        for name, table in found.items():
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


def files_of(tables: dict, names: list[str], mirrors: Mirrors | None = None, trust: Trust | None = None) -> list[dict]:
    """Return the files of the named artifacts, ready to be fetched.

    Each has artifact, path, sha256 ("" where the first that comes is to be trusted), size and estimate (bytes, or
    None), urls, and part (its name while it arrives). mirrors: what the operator changed about mirrors. trust: which
    artifacts without a hash may come at all. Raises CatalogueError for names that no table has and for entries that
    are not whole.
    """
    problems, files = [], []
    mirrors, trust = mirrors or Mirrors(), trust or Trust()
    for name in names:
        if name not in tables:
            kin = sorted(one for one in tables if one.rsplit("-", 1)[0] == name.rsplit("-", 1)[0])
            known = f"Known are {', '.join(kin)}." if kin else f"Known are {', '.join(sorted(tables))}."
            problems.append(f"No table knows the artifact {name}. {known}")
            continue
        table = tables[name]
        for file in table["files"]:
            path = file["path"]
            sha256 = str(file.get("sha256") or trust.hash_of(name, path))
            if sha256 and not HEX.fullmatch(sha256):
                problems.append(f"The sha256 of {path} of {name} is {sha256}, which is none.")
            elif not sha256 and name not in trust.names:
                problems.append(
                    f"{path} of {name} has no sha256: nobody has published one, so it is not fetched. To accept what "
                    f"arrives the first time, add {name} to fetch_trust_on_first_use; its hash is then written to "
                    f"{trust.path} and enforced from then on."
                )
            if path.startswith("/") or ".." in path.split("/"):
                problems.append(f"{path} of {name} leaves the artifact's folder.")
            urls = mirrors.urls(name, path, file.get("mirrors", table.get("mirrors", [])))
            # Without a hash, what was begun from other mirrors is not gone on with.
            content = str(file.get("sha256") or hashlib.sha256(json.dumps(urls).encode()).hexdigest())
            files.append(
                {
                    "artifact": name,
                    "path": path,
                    "sha256": sha256,
                    "size": file.get("size"),
                    "estimate": file.get("estimate"),
                    "urls": urls,
                    "part": f"{content}-{hashlib.sha256(f'{name}/{path}'.encode()).hexdigest()[:12]}",
                }
            )
    if problems:
        raise CatalogueError("\n".join(problems))
    return files


class Mirrors:
    """What the operator changed about mirrors.

    extra: artifact to further addresses with {path}, asked before the table's. forbidden: hosts that are never asked.
    """

    def __init__(self, extra: dict | None = None, forbidden: list[str] | None = None) -> None:
        self._extra, self._forbidden = extra or {}, {host.lower() for host in forbidden or []}

    def urls(self, name: str, path: str, mirrors: list[str]) -> list[str]:
        """Return the addresses of one file. mirrors: the table's, with {path}."""
        urls = [mirror.replace("{path}", quote(path)) for mirror in [*self._extra.get(name, []), *mirrors]]
        return list(dict.fromkeys(url for url in urls if (urlsplit(url).hostname or "") not in self._forbidden))


class Trust:
    """Hashes that nobody had published, as they were at the first fetch. path: their file on the controller."""

    def __init__(self, names: list[str] | None = None, path: str = "") -> None:
        self.names, self.path = names or [], path

    def _known(self) -> dict:
        try:
            with open(self.path, encoding="utf-8") as file:
                return yaml.safe_load(file) or {}
        except OSError:
            return {}
        except yaml.YAMLError as error:
            raise CatalogueError(f"{self.path} is no YAML any more: {error}. Mend it, or delete it.") from error

    def hash_of(self, name: str, path: str) -> str:
        """Return the recorded sha256 of a file, or nothing."""
        return (self._known().get(name) or {}).get(path, "") if self.path else ""

    def record(self, found: list[dict]) -> list[str]:
        """Write down the hashes that files came with; return a sentence for each that another box saw differently.

        found: artifact, path and sha256 of each. Boxes deployed side by side take turns.
        """
        problems = []
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        with open(self.path + ".lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._known()
            for file in found:
                known[file["artifact"]] = known.get(file["artifact"]) or {}
                first = known[file["artifact"]].setdefault(file["path"], file["sha256"])
                if first != file["sha256"]:
                    problems.append(
                        f"{file['path']} of {file['artifact']} came with sha256 {file['sha256']}, and {self.path} "
                        f"records {first}. If the new one is right, delete the line there; else delete the file."
                    )
            draft = self.path + ".draft"
            with open(draft, "w", encoding="utf-8") as target:
                target.write("# Hashes as they were at the first fetch; what differs from now on is refused.\n")
                yaml.safe_dump(known, target)
            os.replace(draft, self.path)
        return problems


class Bundle:
    """A folder on the controller that holds artifacts already, as <artifact>/<path>: a shelf like the box's own."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._shelf = Shelf(folder)

    def path(self, file: dict) -> str:
        return self._shelf.final(file)

    def has(self, file: dict) -> bool:
        return os.path.isfile(self.path(file))

    def problems(self, files: list[dict]) -> list[str]:
        """Return what is wrong with the bundle's copies; what was proven is not read again."""
        by_artifact: dict[str, list[dict]] = {}
        for file in files:
            by_artifact.setdefault(file["artifact"], []).append(file)
        found = []
        for artifact, some in by_artifact.items():
            held = None
            with contextlib.suppress(OSError):  # a bundle that cannot be written is read again the next time
                held = self._shelf.lock(artifact)  # boxes deployed side by side read it once
            found += self._wrong(some)
            with contextlib.suppress(OSError):
                self._shelf.save()
            if held:
                held.close()
        return found

    def _wrong(self, files: list[dict]) -> list[str]:
        wrong = self._shelf.missing(files, recheck=False)
        for file in files:
            if file not in wrong:
                self._shelf.stamp(file)
        return [
            f"{self.path(file)} ({os.path.getsize(self.path(file))} bytes) does not have the sha256 {file['sha256']}: "
            "the bundle's copy is damaged. Delete it and fill the bundle again."
            for file in wrong
        ]
