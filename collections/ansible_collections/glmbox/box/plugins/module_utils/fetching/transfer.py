"""One file on its way: which sources it is asked from, what is done when they fail, and the proof at the end.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Optional, Set

from ansible_collections.glmbox.box.plugins.module_utils.fetching.aria2 import (
    DISK_FULL,
    NOT_RESUMED,
    STALLED,
    UNNAMED,
    UNUSABLE,
    Aria2,
    reason_of,
)
from ansible_collections.glmbox.box.plugins.module_utils.fetching.follow import Follower, forget, front_of, note, resume
from ansible_collections.glmbox.box.plugins.module_utils.fetching.probe import Source
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import Shelf, Wrong

# A second source is used beside the first where it brings at least this much of the first one's rate.
WORTH_IT = 0.3
# A connection that brings this much (bytes a second) fills the link or the disk by itself.
FAST_ENOUGH = 64 * 2**20
TRIAL_SECONDS = 0.5
HEARING_SECONDS = 0.3
# How servers say that they want fewer connections.
COMPLAINS = ("it answered 403", "it answered 429", "it answered 503")
# What may pass by itself, so that it is tried again for a while; so is whatever befalls a source that sent something.
MAY_PASS = ("it answered 429", "it answered 5")
# A source that breaks off so often has to stand back where there is another.
STRIKES = 3
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0


class Broken(Exception):
    """A file that no source brought, with each source's reason."""


class Transfer:
    """A file on its way.

    sources: the best first; those with a reason are out already. connections: to each server. have: bytes that are
    here. proving: whether all has arrived and is being hashed.
    """

    def __init__(
        self,
        shelf: Shelf,
        aria2: Aria2,
        file: Dict[str, Any],
        sources: List[Source],
        settings: Dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.file, self.sources, self._settings = file, sources, settings
        self._shelf, self._aria2, self._say = shelf, aria2, say
        self._part = shelf.part(file)
        self.connections = self._streams = 1
        self.gid = ""
        self.have = 0
        self.proving = False
        self._follower: Optional[Follower] = None
        self._rewritten = False  # whether bytes that were hashed may have been written anew
        self._most = 0  # bytes that were ever here
        self._state: Dict[str, Any] = {}  # aria2c's, as it was last
        self._using: List[Source] = []
        self._alone = False  # one source at a time, to learn which of them lies
        self._resumed = False
        self._held = 0  # bytes, when the attempt began
        self._failures = 0  # one after the other, without a byte in between
        self._delivered: Set[str] = set()  # sources that once sent something
        self._strikes: Dict[str, int] = {}
        self._pause_until = 0.0
        self._heard: Dict[str, str] = {}  # what aria2c said of the sources in use, in this attempt
        self._last: Dict[str, str] = {}  # the same of all attempts
        self._ended = 0.0  # when an attempt ended with an error
        self._fast = True  # whether a sample that promises a fast connection is believed
        self._trial_ends = 0.0
        self._begun = self._moved = self._grew_at = time.monotonic()

    def begin(self) -> None:
        """Go on with what an earlier run left, or begin. Raises Broken."""
        self._begun = self._grew_at = time.monotonic()
        size = self.file["size"]
        if size == 0:
            with open(self._part, "wb"):
                pass
        whole = os.path.exists(self._part) and not os.path.exists(self._part + ".aria2")
        if whole and size == os.path.getsize(self._part):  # killed between the last byte and the proof
            self._resumed = size != 0
            self._prove()
            return
        self._resumed = resume(self._part)
        self._attempt()

    def turn(self, state: Optional[Dict[str, Any]], complaints: Dict[str, str]) -> bool:
        """Look after the file; return whether it stands now. state: aria2c's. Raises Broken."""
        now = time.monotonic()
        if self.proving:
            return self._proven()
        if not self.gid:
            if now >= self._pause_until or not self._usable():
                self._attempt()
            return False
        if state is None:
            return False
        self._state = state
        named = self._named(complaints)
        self._heard.update(named)
        self._last.update(self._heard)
        have, total = int(state["completedLength"]), int(state["totalLength"])
        if have < self.have or NOT_RESUMED in named.values():
            self._unfollow()
        if have > self.have:
            self._moved = now
        if have > self._most:
            self._most, self._grew_at = have, now
        self.have = have
        if self._follower:
            self._follower.follow(front_of(state.get("bitfield", ""), int(state.get("pieceLength", 0))))
        if self._streams < self.connections and now > self._trial_ends and state["status"] == "active":
            if self._fast and have - self._held < FAST_ENOUGH * TRIAL_SECONDS:
                self._fast = False  # servers that cap a connection's rate give its first bytes at once
                self._stop()
                self._attempt()
                return False
            self._trial_ends = float("inf")
        if self.file["size"] and total and total != self.file["size"]:
            self._stop()
            self._begin_anew("it says that the file has %d bytes, not %d" % (total, self.file["size"]))
        elif state["status"] == "complete":
            used = {uri["uri"] for file in state["files"] for uri in file["uris"] if uri["status"] == "used"}
            self._using = [source for source in self._using if source.url in used] or self._using
            self._stop()
            self._prove()
        elif state["status"] == "error":
            self._ended = self._ended or now
            if not self._heard and now < self._ended + HEARING_SECONDS:
                return False  # aria2c's own words come by another way, a moment later
            said = state.get("errorMessage", "").rstrip(".")
            words = reason_of(said, state["errorCode"])
            words = said if said and words.startswith(UNNAMED) else words
            reasons = {source.url: self._last.get(source.url, words) for source in self._using}
            if UNUSABLE in self._heard.values():
                self._stop()
                self._begin_anew("")
            else:
                self._fail(self._heard or reasons, state["errorCode"])
        elif now > self._moved + self._settings["stall_seconds"] + 1:
            # A source that has done its share has no connection any more, while one that stalls keeps the rest.
            waits = self._aria2.connected(self.gid)
            blamed = [source.url for source in self._using if source.url in waits]
            self._fail(dict.fromkeys(blamed or [source.url for source in self._using], STALLED))
        return False

    def report(self) -> Dict[str, Any]:
        """Return what the table at the end says of this file."""
        return {
            "artifact": self.file["artifact"],
            "path": self.file["path"],
            "bytes": self.have,
            "source": self._names() or "nothing to send",
            "seconds": round(max(time.monotonic() - self._begun, 0.001), 3),
            "verified": "sha256" if self.file["sha256"] else "first use, sha256 recorded",
        }

    def _names(self) -> str:
        return ", ".join(sorted({source.name() for source in self._using}))

    def _usable(self) -> List[Source]:
        usable = [source for source in self.sources if not source.reason]
        if not usable:
            return []
        best = usable[0]
        beside = [source for source in usable[1:] if source.proxy == best.proxy and source.rate >= best.rate * WORTH_IT]
        if self._alone or self.connections == 1 or not best.rate:
            return [best]
        return [best, *beside[:1]]

    def _attempt(self) -> None:
        self._using = self._usable()
        if not self._using:
            raise Broken(self._sentence())
        self._held, self._heard, self._ended = self.have, {}, 0.0
        self._moved = time.monotonic()
        self._streams = 1 if self._fast and self._using[0].rate >= FAST_ENOUGH else self.connections
        self._trial_ends = self._moved + TRIAL_SECONDS
        if not self._follower and not self._rewritten:
            self._follower = Follower(self._part)
        folder, name = os.path.split(self._part)
        urls = [source.url for source in self._using]
        self.gid = self._aria2.add(urls, folder, name, self._streams, self._using[0].proxy)

    def _stop(self) -> None:
        if self.gid:
            self._aria2.forget(self.gid)
            self.gid = ""

    def _fail(self, reasons: Dict[str, str], code: str = "") -> None:
        """End an attempt that failed and prepare the next. reasons: address to why. Raises Broken."""
        grew = self.have > self._held
        self._stop()
        if code == DISK_FULL:
            note(self._part, self._state)
            raise Broken(
                "The disk of %s is full, with %d bytes of %s there. Free some and run again: it goes on from there."
                % (self._shelf.dest, self.have, self.file["path"])
            )
        self._failures = 0 if grew else self._failures + 1
        self._pause_until = time.monotonic() + min(PAUSE_SECONDS * (1 + self._failures), LONGEST_PAUSE_SECONDS)
        complained = any(reason.startswith(COMPLAINS) for reason in reasons.values())
        if complained and self._streams > 1:
            self.connections = self._streams // 2 if grew else 1
            self._say("%s: connections to a server from now on: %d" % (self.file["path"], self.connections))
            return
        blamed = [source for source in self._using if source.url in reasons]
        others = [source for source in self.sources if not source.reason and source not in blamed]
        for source in blamed:
            source.reason = self._verdict(source, reasons[source.url], grew, others)
            if source.reason:
                self._say("%s: %s, so it is out" % (source.name(), source.reason))

    def _verdict(self, source: Source, reason: str, grew: bool, others: List[Source]) -> str:
        """Return why a source is out from now on, or nothing where it is given another chance.

        reason: why it failed. grew: whether the attempt brought anything. others: those that are not to blame.
        """
        if grew:
            self._delivered.add(source.url)
            self._strikes[source.url] = self._strikes.get(source.url, 0) + (STRIKES if reason == STALLED else 1)
            return reason if others and self._strikes[source.url] >= STRIKES else ""
        may_pass = reason.startswith(MAY_PASS) or source.url in self._delivered
        patient = time.monotonic() < self._grew_at + self._settings["patience_seconds"]
        return "" if may_pass and patient and not others else reason

    def _named(self, complaints: Dict[str, str]) -> Dict[str, str]:
        """Return which of the sources in use aria2c complained of, and why."""
        used = {source.url for source in self._using}
        # Where it gives a number alone, the download's own message says more.
        return {url: why for url, why in complaints.items() if url in used and not why.startswith(UNNAMED)}

    def _prove(self) -> None:
        self.have = os.path.getsize(self._part)
        if not self._follower:
            self._follower = Follower(self._part)
        self._follower.finish()
        self.proving = True

    def _proven(self) -> bool:
        """Return whether the file stands; where its bytes are wrong, another source has its turn."""
        assert self._follower is not None
        if self._follower.is_alive():
            return False
        self.proving = False
        try:
            self._shelf.accept(self.file, self._part, self._names(), self._settings["keep_bad"], self._follower.found)
        except Wrong as error:
            self._say(str(error))
            self._most, self._grew_at = 0, time.monotonic()
            clear = len(self._using) == 1 and not self._resumed
            self._begin_anew("it" + str(error).partition(self._names())[2].rstrip(".") if clear else "")
            return False
        forget(self._part)
        return True

    def _begin_anew(self, reason: str) -> None:
        """Throw away what is here. reason: why the source is out, if there was but one; else they are asked singly."""
        forget(self._part)
        self._unfollow()
        if reason and len(self._using) == 1:
            self._using[0].reason = reason
            self._say("%s: %s, so it is out" % (self._using[0].name(), reason))
        self._alone, self._resumed, self._rewritten = True, False, False
        self.have = self._held = 0

    def _unfollow(self) -> None:
        """Leave the hashing until all is here: what was hashed so far may be written anew."""
        if self._follower:
            self._follower.drop()
        self._follower, self._rewritten = None, True

    def _sentence(self) -> str:
        reasons = "; ".join("%s: %s" % (source.name(), self._reason(source)) for source in self.sources)
        return (
            "%s of %s did not arrive. %s. Add a mirror with fetch_extra_mirrors, or put the file into the bundle, and "
            "run again." % (self.file["path"], self.file["artifact"], reasons)
        )

    def _reason(self, source: Source) -> str:
        """Return why a source is out; a share's link that lives for hours is told apart."""
        if "/seafhttp/files/" in source.url and ("answered 4" in source.reason or "HTML" in source.reason):
            return (
                "%s; this is a Seafile token link, which expires within hours: use the form "
                "https://<host>/d/<share>/files/?p=<path>&dl=1" % source.reason
            )
        return source.reason
