"""One generation at a time, in order of arrival, in a line of bounded length.

threading.Lock promises no order, and cannot be waited for by an event loop and a thread alike.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress


class QueueFull(Exception):
    """As many as may wait are waiting already."""


class TurnLost(Exception):
    """The ticket is not the first in the line (any more): it left, or was expelled."""


class Ticket:
    """A place in the line. ``turn`` is done when the place is the first: await it or block on it."""

    def __init__(self, turns: "Turns") -> None:
        self.turn: Future[None] = Future()
        self.joined = time.monotonic()
        self.idle_since: float | None = None  # monotonic seconds; set while first and not computing
        self.on_expelled: Callable[[], None] | None = None
        self._turns = turns

    def leave(self) -> None:
        """Give the place up; the next one's turn comes. Doing it twice does no harm."""
        self._turns.remove(self)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold while the model computes.

        Raises:
            TurnLost: the ticket is not the first in the line.
        """
        self._turns.set_idle(self, None)
        try:
            yield
        finally:
            with suppress(TurnLost):  # left meanwhile: nothing to keep account of
                self._turns.set_idle(self, time.monotonic())


class Turns:
    """The line: the first ticket may use the model, up to ``limit`` more wait."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._line: deque[Ticket] = deque()

    def join(self) -> Ticket:
        """Take the last place in the line.

        Raises:
            QueueFull: ``limit`` tickets are waiting already.
        """
        ticket = Ticket(self)
        with self._lock:
            if len(self._line) > self.limit:
                raise QueueFull(f"{self.limit} are waiting already")
            self._line.append(ticket)
            first = self._promote()
        _tell(first)
        return ticket

    def remove(self, ticket: Ticket) -> bool:
        """Take ``ticket`` out of the line; return whether it was there."""
        with self._lock:
            present = ticket in self._line
            if present:
                self._line.remove(ticket)
            first = self._promote()
        _tell(first)
        return present

    def set_idle(self, ticket: Ticket, since: float | None) -> None:
        """Note that the first ticket computes (None) or has not since then.

        Raises:
            TurnLost: ``ticket`` is not the first in the line.
        """
        with self._lock:
            if not self._line or self._line[0] is not ticket:
                raise TurnLost("this generation lost its turn")
            ticket.idle_since = since

    def expel_stalled(self, seconds: float) -> bool:
        """Expel the first ticket if nobody has asked it to compute for ``seconds``; return whether that was so.

        A consumer that stops asking a stream for more (a browser that is gone, a client that does not
        read) would else hold the model for ever.
        """
        with self._lock:
            if not self._line:
                return False
            stalled = self._line[0]
            if stalled.idle_since is None or time.monotonic() - stalled.idle_since < seconds:
                return False
            # Removed under the same lock as the test: working() cannot begin in between.
            self._line.popleft()
            first = self._promote()
        _tell(first)
        if stalled.on_expelled:
            stalled.on_expelled()
        return True

    def counts(self) -> tuple[int, int]:
        """Return how many run (0 or 1) and how many wait."""
        with self._lock:
            length = len(self._line)
        return min(length, 1), max(length - 1, 0)

    def _promote(self) -> Ticket | None:
        if self._line and self._line[0].idle_since is None and not self._line[0].turn.done():
            self._line[0].idle_since = time.monotonic()
            return self._line[0]
        return None


def _tell(first: Ticket | None) -> None:
    # Outside the lock: the future runs its callbacks here and now.
    if first is not None:
        first.turn.set_result(None)
