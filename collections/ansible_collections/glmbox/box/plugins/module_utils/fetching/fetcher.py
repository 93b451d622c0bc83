"""The program that runs as a job on the box: brings the missing files of one artifact, whole.

    python3 fetcher.pyz <spec.json>

Runs on the box: standard library alone, Python 3.8. The spec holds dest (folder), artifact, files (as `files_of` of the
catalogue gives them) and settings: connections, stall_seconds, patience_seconds, sample_bytes, proxy ("auto", "none" or
an address), preferred_hosts, forbidden_hosts, keep_bad, peers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from functools import partial
from typing import Any, Callable, Dict, List

from ansible_collections.glmbox.box.plugins.module_utils.fetching import peers
from ansible_collections.glmbox.box.plugins.module_utils.fetching.aria2 import Aria2, Aria2Missing
from ansible_collections.glmbox.box.plugins.module_utils.fetching.probe import (
    Source,
    host_of,
    proxy_of_box,
    ranked,
    survey,
)
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf
from ansible_collections.glmbox.box.plugins.module_utils.fetching.transfer import Broken, Transfer
from ansible_collections.glmbox.box.plugins.module_utils.files import disk_of, read_json, write_json

MIB = 2**20
# Files from this size on come one or two at a time, over many connections; smaller ones side by side, over one each.
BIG_BYTES = 16 * MIB
BIG_AT_ONCE = 2
SMALL_AT_ONCE = 8
BRISK_SECONDS, TURN_SECONDS = 0.02, 0.1
# How often stamps are written while files keep arriving; what has none is only hashed again.
SAVE_SECONDS = 2.0
LEAST_SAMPLE_BYTES = 128 * 1024
# What a download and its neighbours may need beyond the files themselves.
SPARE = 1.1


def say(words: str) -> None:
    """Write a line into the job's log."""
    with contextlib.suppress(OSError):  # a full disk is told of by what ends
        print(time.strftime("%H:%M:%S"), words, flush=True)


def size_of(file: Dict[str, Any]) -> int:
    """Return a file's size in bytes, or what it is taken to be."""
    return file["size"] or file.get("estimate") or 0


def is_big(file: Dict[str, Any]) -> bool:
    """Tell whether a file is worth many connections."""
    return size_of(file) >= BIG_BYTES


class Progress:
    """What the job tells whoever waits: one line for the artifact."""

    def __init__(self, artifact: str, files: List[Dict[str, Any]]) -> None:
        self._artifact, self._count = artifact, len(files)
        self._total = sum(size_of(file) for file in files)
        self._path = os.environ.get("JOB_PROGRESS", "")
        self._seen = [(time.monotonic(), 0)]
        self._first = True

    def write(self, done: int, finished: int, names: List[str]) -> None:
        """Write how far it is, at most twice a second. done: in bytes. finished: files. names: of those under way."""
        now = time.monotonic()
        if self._first:
            self._seen, self._first = [(now, done)], False
        elif now - self._seen[-1][0] < 0.5:
            return
        # The rate of the last ten seconds: what a person would call the rate now.
        self._seen = [(when, what) for when, what in self._seen if when > now - 10] + [(now, done)]
        begun, before = self._seen[0]
        rate = (done - before) / (now - begun) if now > begun else None
        label = self._artifact
        if names and self._count > 1:
            label += " (%d of %d files here, now %s)" % (finished, self._count, ", ".join(names[:2]))
        item = {"label": label, "done": done, "total": self._total or None, "unit": "bytes", "rate": rate}
        if self._path:
            with contextlib.suppress(OSError):
                write_json(self._path, [item])


class Fetcher:
    """The files of one artifact on their way."""

    def __init__(self, spec: Dict[str, Any]) -> None:
        self.spec, self.settings = spec, spec["settings"]
        self.shelf = Shelf(spec["dest"])
        self.fetched: List[Dict[str, Any]] = []
        self.problems: List[str] = []
        self._saved = time.monotonic()

    def run(self) -> bool:
        """Bring what is missing; return whether all stands."""
        lock = self.shelf.lock(self.spec["artifact"])
        wanted = self.shelf.missing(self.spec["files"], recheck=False)
        for file in self.spec["files"]:
            if file not in wanted:
                self.shelf.stamp(file)
        for folder in (self.shelf.dest, self.shelf.partial):
            os.makedirs(folder, exist_ok=True)
        try:
            self._check_space(wanted)
            if not self.problems:
                if self.settings["peers"]:
                    wanted = self._from_peers(wanted)
                self._from_mirrors(wanted)
        except Aria2Missing as error:
            self.problems.append(str(error))
        finally:
            self.shelf.save()
            lock.close()
            if os.environ.get("JOB_RESULT"):
                write_json(os.environ["JOB_RESULT"], {"fetched": self.fetched, "problems": self.problems})
        return not self.problems

    def _check_space(self, wanted: List[Dict[str, Any]]) -> None:
        needed = sum(max(0, size_of(file) - self.shelf.here(file)) for file in wanted) * SPARE
        free = disk_of(self.shelf.dest)["free_mib"]
        if needed / MIB > free:
            self.problems.append(
                "The disk of %s has %d MiB free, and %d are needed for what is missing of %s and a tenth to spare. "
                "Free some, or set box_data_dir to a folder on a larger disk."
                % (self.shelf.dest, free, needed / MIB, self.spec["artifact"])
            )

    def _from_peers(self, wanted: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        """Take what other boxes of the inventory have; return what they have not."""
        left = []
        progress = Progress(self.spec["artifact"], wanted)
        neighbours = peers.Neighbours(self.shelf, self.settings, say)

        def moved(path: str, have: int) -> None:
            progress.write(sum(one["bytes"] for one in self.fetched) + have, len(self.fetched), [path])

        for file in wanted:
            got = neighbours.take(file, partial(moved, file["path"]))
            if got:
                self.fetched.append(got)
            else:
                left.append(file)
            if time.monotonic() > self._saved + SAVE_SECONDS:
                self.shelf.save()
                self._saved = time.monotonic()
        return left

    def _sources(self, files: List[Dict[str, Any]]) -> Dict[str, List[Source]]:
        """Return the sources of each file (by its part), the best first; files of the same hosts share one survey."""
        proxy = self.settings["proxy"]
        proxy = proxy_of_box() if proxy == "auto" else "" if proxy == "none" else proxy
        groups: Dict[Any, List[Dict[str, Any]]] = {}
        for file in files:
            groups.setdefault(tuple(host_of(url) for url in file["urls"]), []).append(file)
        chosen: Dict[str, List[Source]] = {}
        for group in groups.values():
            largest = max(group, key=size_of)
            surveyed = survey(largest["urls"], proxy, largest["size"], self._sample_bytes(largest, proxy))
            for source in surveyed:
                if source.delivers.rpartition(":")[0] in self.settings["forbidden_hosts"] or (
                    source.delivers in self.settings["forbidden_hosts"]
                ):
                    source.reason = "it redirects to %s, which is forbidden" % source.delivers
                say("%s: %s" % (source.name(), source.reason or "%.1f MiB/s" % (source.rate / MIB)))
            for file in group:
                chosen[file["part"]] = self._for_file(file, largest, surveyed)
        return chosen

    def _sample_bytes(self, largest: Dict[str, Any], proxy: str) -> int:
        """Return how many bytes a sample has: a percent is no loss, and without a choice less will do."""
        if len(largest["urls"]) == 1 and not proxy:
            return LEAST_SAMPLE_BYTES
        return max(min(self.settings["sample_bytes"], size_of(largest) // 100), LEAST_SAMPLE_BYTES)

    def _for_file(self, file: Dict[str, Any], largest: Dict[str, Any], surveyed: List[Source]) -> List[Source]:
        """Return a file's sources by what a survey of another file of the same hosts showed."""
        sources = []
        for seen in surveyed:
            source = Source(file["urls"][largest["urls"].index(seen.url)], seen.proxy)
            source.rate, source.reason, source.delivers = seen.rate, seen.reason, seen.delivers
            sources.append(source)
        # What is out stays in the list's end, for the report.
        return ranked(sources, self.settings["preferred_hosts"]) + [source for source in sources if source.reason]

    def _from_mirrors(self, wanted: List[Dict[str, Any]]) -> None:
        for file in [file for file in wanted if not file["urls"]]:
            self.problems.append(
                "%s of %s has no mirror and is not in the bundle. Fill the bundle on a machine that has it, then run "
                "again." % (file["path"], file["artifact"])
            )
        wanted = [file for file in wanted if file["urls"]]
        if not wanted:
            return
        sources = self._sources(wanted)
        tools = os.path.join(self.shelf.dest, "aria2-static")
        with Aria2(self.shelf.partial, tools, self.settings["stall_seconds"]) as aria2:
            transfers = [
                Transfer(self.shelf, aria2, file, sources[file["part"]], self.settings, say) for file in wanted
            ]
            transfers.sort(key=lambda one: is_big(one.file))  # the small ones first, else in the table's order
            big = [one for one in transfers if is_big(one.file)]
            for one in big:
                one.connections = max(1, self.settings["connections"] // min(BIG_AT_ONCE, len(big)))
            self._turn(aria2, transfers)

    def _turn(self, aria2: Aria2, transfers: List[Transfer]) -> None:
        """Keep transfers going until each has arrived or has failed."""
        progress = Progress(self.spec["artifact"], [one.file for one in transfers])
        waiting, active = list(transfers), []  # type: List[Transfer], List[Transfer]
        while waiting or active:
            for one in startable(waiting, active):
                waiting.remove(one)
                active.append(one)
                self._step(active, one, one.begin)
            states, complaints = aria2.active(), aria2.complaints()
            for one in list(active):
                if self._step(active, one, partial(one.turn, states.get(one.gid), complaints)):
                    active.remove(one)
                    self.fetched.append(one.report())
                    say("%(path)s arrived from %(source)s" % self.fetched[-1])
            finished = len(transfers) - len(waiting) - len(active)
            progress.write(sum(one.have for one in transfers), finished, [one.file["path"] for one in active])
            if active:
                time.sleep(BRISK_SECONDS if any(not is_big(one.file) for one in active) else TURN_SECONDS)
            if time.monotonic() > self._saved + SAVE_SECONDS:
                with contextlib.suppress(OSError):  # it is done again at the end
                    self.shelf.save()
                self._saved = time.monotonic()

    def _step(self, active: List[Transfer], one: Transfer, step: Callable[[], Any]) -> Any:
        """Return what a step of a transfer returns; one that is broken leaves the active ones."""
        try:
            return step()
        except (Broken, OSError, ValueError) as error:
            active.remove(one)
            label = "" if isinstance(error, Broken) else "%s of %s: " % (one.file["path"], one.file["artifact"])
            self.problems.append(label + str(error))
            return None


def startable(waiting: List[Transfer], active: List[Transfer]) -> List[Transfer]:
    """Return which transfers may begin beside the active ones; what is only being hashed takes no place."""
    places = {True: BIG_AT_ONCE, False: SMALL_AT_ONCE}
    for one in active:
        places[is_big(one.file)] -= not one.proving
    chosen = []
    for one in waiting:
        if places[is_big(one.file)] > 0:
            places[is_big(one.file)] -= 1
            chosen.append(one)
    return chosen


def main() -> None:
    os.umask(0o022)  # the user that serves has to read what root's own umask might hide
    fetcher = Fetcher(read_json(sys.argv[1]))
    stands = fetcher.run()
    for problem in fetcher.problems:
        say(problem)
    sys.exit(0 if stands else 1)


if __name__ == "__main__":
    main()
