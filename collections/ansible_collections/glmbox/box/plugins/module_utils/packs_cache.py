"""The controller's cache of finished builds: packs as boxes made them, each with its manifest.

python -m ansible_collections.glmbox.box.plugins.module_utils.packs_cache list|prune [FOLDER] [--mib N]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator

from ansible_collections.glmbox.box.plugins.module_utils.building import packs
from ansible_collections.glmbox.box.plugins.module_utils.building.identity import stem_of
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json, sha256_of, write_json
from ansible_collections.glmbox.box.plugins.module_utils.progress import duration, plain

FOLDER = "~/.cache/glmbox/builds"
LIMIT_MIB = 10240
MIB = 2**20
STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
SHA256 = re.compile(r"[0-9a-f]{64}")
# A Debian package; apt takes a hyphen at the end for the wish to remove it.
PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*[a-z0-9.+]")
SYSTEM = ("architecture", "glibc", "distribution", "compiler")


class Cache:
    """A folder of packs. Its user may delete what is in it at any time."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.expanduser(folder)

    def path(self, stem: str) -> str:
        """Return where the pack of a build is, or would be."""
        return os.path.join(self.folder, stem + packs.PACK)

    def get(self, stem: str, inputs: dict) -> tuple[dict, str]:
        """Return the manifest of a build's whole, undamaged pack (else an empty one), and what was wrong with it."""
        manifest = packs.usable(self.folder, stem, inputs)
        if not manifest:
            if read_json(os.path.join(self.folder, stem + packs.MANIFEST)) is None:
                return {}, ""
            packs.drop(self.folder, stem)
            return {}, f"{self.path(stem)} is not the build that its name says, or not whole; it was removed."
        refusal = self.refusal(dict(manifest, stem=stem))
        if refusal:  # brought by an earlier release, which looked less closely
            packs.drop(self.folder, stem)
            return {}, f"{refusal} It was removed."
        if sha256_of(self.path(stem)) != manifest.get("sha256"):
            packs.drop(self.folder, stem)
            return {}, f"{self.path(stem)} does not have the sha256 of its manifest; it was removed."
        with contextlib.suppress(OSError):  # a cache that one may only read has somebody else to prune it
            os.utime(self.path(stem))  # what was used last goes last
        return manifest, ""

    def drop(self, stem: str) -> None:
        """Remove a pack that a box could not use."""
        packs.drop(self.folder, stem)

    def has(self, stem: str) -> bool:
        """Tell whether a pack is there, as far as its manifest tells."""
        return any(one["stem"] == stem for one in self.listed())

    def refusal(self, manifest: dict) -> str:
        """Return why what a box says of a pack cannot be true, or nothing. A box is somebody else's machine."""
        stem, inputs = manifest.get("stem"), manifest.get("inputs")
        named = isinstance(inputs, dict) and {"name", "version", "system"} <= set(inputs) and stem == stem_of(inputs)
        if not named or not STEM.fullmatch(str(stem)):
            called = f"{str(stem)[:100]!r}, which is not what its inputs make it"
            return f"A pack of the box is called {called}. It is not used."
        wrong = _wrong(manifest)
        return (
            f"The manifest of the box's pack {stem} makes no sense ({', '.join(wrong)}). It is not used."
            if wrong
            else ""
        )

    def put(self, manifest: dict, draft: str) -> str:
        """Take in a pack that was brought as the file `draft`; return why not, if so."""
        stem = manifest["stem"]
        if sha256_of(draft) != manifest["sha256"]:
            os.unlink(draft)
            return f"The pack of {stem} arrived damaged, and was deleted. The next run brings it again."
        os.replace(draft, self.path(stem))
        kept = {key: value for key, value in manifest.items() if key != "stem"}
        write_json(os.path.join(self.folder, stem + packs.MANIFEST), kept)
        return ""

    @contextlib.contextmanager
    def turn(self, stem: str) -> Iterator[None]:
        """Let runs side by side bring the same pack one after the other."""
        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(self.folder, f".{stem}.lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def listed(self) -> list[dict]:
        """Return the manifests of all packs, the latest used first; each with `stem`, and `used` in epoch seconds."""
        whole = [one for one in packs.listed(self.folder) if not self.refusal(one)]
        found = [dict(one, used=os.path.getmtime(self.path(one["stem"]))) for one in whole]
        return sorted(found, key=lambda one: -one["used"])

    def prune(self, limit_mib: int) -> list[str]:
        """Remove packs, the longest unused first, until the rest fits; return the stems of those that went."""
        gone, total = [], 0
        for one in packs.listed(self.folder):
            if self.refusal(one):
                packs.drop(self.folder, one["stem"])
                gone.append(one["stem"])
        for one in self.listed():
            total += one["size"]
            if total > limit_mib * MIB:
                packs.drop(self.folder, one["stem"])
                gone.append(one["stem"])
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            path = os.path.join(self.folder, name)
            # What a run that was cut left behind, unless one is at work there.
            if name.endswith(".draft") and time.time() - os.path.getmtime(path) > 86400:
                os.unlink(path)
        return gone


def _wrong(manifest: dict) -> list[str]:
    """Return which parts of a manifest are not what they have to be."""
    inputs, system = manifest["inputs"], manifest["inputs"]["system"]
    size, seconds, sha256, packages = (manifest.get(key) for key in ("size", "seconds", "sha256", "packages"))
    right = {
        "name": isinstance(inputs["name"], str),
        "version": isinstance(inputs["version"], str),
        "system": isinstance(system, dict) and all(isinstance(system.get(part), str) for part in SYSTEM),
        "size": isinstance(size, int) and size >= 0,
        "seconds": isinstance(seconds, (int, float)) and 0 <= seconds < float("inf"),
        "sha256": isinstance(sha256, str) and SHA256.fullmatch(sha256),
        "packages": isinstance(packages, list)
        and all(isinstance(one, str) and PACKAGE.fullmatch(one) for one in packages),
    }
    return [part for part, is_right in right.items() if not is_right]


def table(found: list[dict], now: float) -> list[str]:
    """Return a table of packs. found: as Cache.listed returns them. now: seconds of the epoch."""
    rows = [["build", "version", "for", "size", "took", "last used"]]
    for one in found:
        inputs = one["inputs"]
        on = inputs["system"]
        rows.append(
            [
                plain(inputs["name"]),
                plain(inputs["version"]),
                plain(f"{on['distribution']} {on['architecture']}, glibc {on['glibc']}, {on['compiler']}"),
                f"{one['size'] / MIB:.0f} MiB",
                duration(one["seconds"]),
                f"{duration(max(0.0, now - one['used']))} ago",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description="The cache of finished builds on this machine.")
    parser.add_argument("what", choices=["list", "prune"])
    parser.add_argument("folder", nargs="?", default=FOLDER)
    parser.add_argument("--mib", type=int, default=LIMIT_MIB, help="what may stay, in MiB; 0 removes all")
    given = parser.parse_args()
    cache = Cache(given.folder)
    if given.what == "prune":
        gone = cache.prune(given.mib)
        print(
            "\n".join(f"removed {stem}" for stem in gone)
            or f"Nothing to remove: {cache.folder} is below {given.mib} MiB."
        )
    found = cache.listed()
    print("\n".join(table(found, time.time())) if found else f"{cache.folder} holds no builds.")
    print(f"{sum(one['size'] for one in found) / MIB:.0f} MiB in {cache.folder}")


if __name__ == "__main__":
    main()
