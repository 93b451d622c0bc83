"""So many generations at a time (one, unless told otherwise), in order of arrival, in a line of bounded length.

threading.Lock promises no order, and cannot be waited for by an event loop and a thread alike.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import islice


class QueueFull(Exception):
    """Nobody is let in; the message is a sentence."""


class TurnLost(Exception):
    """The ticket's turn has not come, or is over: it left, or was expelled."""


class Ticket:
    """A place in the line. ``turn`` is done when the place is among the first: await it or block on it."""

    def __init__(self, turns: "Turns") -> None:
        self.turn: Future[None] = Future()
        self.joined = time.monotonic()
        self.idle_since: float | None = None  # monotonic seconds; set while it has its turn and does not compute
        self.moved_at: float | None = None  # monotonic seconds; set while it computes, anew with each token
        self.on_expelled: Callable[[], None] | None = None
        self._turns = turns

    def leave(self) -> None:
        """Give the place up; the next one's turn comes. Doing it twice does no harm."""
        self._turns.remove(self)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold while the model computes.

        Raises:
            TurnLost: the ticket's turn has not come, or is over.
        """
        self._turns.set_idle(self, None)
        self.moved_at = time.monotonic()
        try:
            yield
        finally:
            self.moved_at = None
            with suppress(TurnLost):  # left meanwhile: nothing to keep account of
                self._turns.set_idle(self, time.monotonic())


class Turns:
    """The line: the first ``places`` tickets may use the model, up to ``limit`` more wait."""

    def __init__(self, limit: int, places: int = 1) -> None:
        self.limit = limit
        self.places = places
        self._lock = threading.Lock()
        self._line: deque[Ticket] = deque()
        self._closed = False

    def join(self) -> Ticket:
        """Take the last place in the line.

        Raises:
            QueueFull: ``limit`` tickets are waiting already, or the line is closed.
        """
        ticket = Ticket(self)
        with self._lock:
            if self._closed:
                raise QueueFull("The demos are being restarted; try again in a moment.")
            if len(self._line) >= self.limit + self.places:
                raise QueueFull(f"The model is busy and {self.limit} are waiting already; try again in a moment.")
            self._line.append(ticket)
            called = self._promote()
        _tell(called)
        return ticket

    def close(self) -> None:
        """Let nobody in any more; those who are in the line keep their places."""
        with self._lock:
            self._closed = True

    def remove(self, ticket: Ticket) -> bool:
        """Take ``ticket`` out of the line; return whether it was there."""
        with self._lock:
            present = ticket in self._line
            if present:
                self._line.remove(ticket)
            called = self._promote()
        _tell(called)
        return present

    def set_idle(self, ticket: Ticket, since: float | None) -> None:
        """Note that a ticket which has its turn computes (None) or has not since then.

        Raises:
            TurnLost: its turn has not come, or is over.
        """
        with self._lock:
            if ticket not in self._active():
                raise TurnLost("this generation lost its turn")
            ticket.idle_since = since

    def expel_stalled(self, seconds: float) -> bool:
        """Expel whoever has its turn and was not asked to compute for ``seconds``; return whether anybody was.

        A consumer that stops asking a stream for more (a browser that is gone, a client that does not
        read) would else hold the model for ever.
        """
        with self._lock:
            now = time.monotonic()
            stalled = [t for t in self._active() if t.idle_since is not None and now - t.idle_since >= seconds]
            # Removed under the same lock as the test: working() cannot begin in between.
            for ticket in stalled:
                self._line.remove(ticket)
            called = self._promote()
        _tell(called)
        for ticket in stalled:
            if ticket.on_expelled:
                ticket.on_expelled()
        return bool(stalled)

    def longest_silence(self) -> float:
        """Return for how many seconds the model has computed for somebody without a new token; 0.0 while it rests."""
        with self._lock:
            moved = [ticket.moved_at for ticket in self._active() if ticket.moved_at is not None]
        return max(0.0, time.monotonic() - min(moved)) if moved else 0.0

    def counts(self) -> tuple[int, int]:
        """Return how many run and how many wait."""
        with self._lock:
            length = len(self._line)
        return min(length, self.places), max(length - self.places, 0)

    def _active(self) -> list[Ticket]:
        return list(islice(self._line, self.places))

    def _promote(self) -> list[Ticket]:
        called = [t for t in self._active() if t.idle_since is None and not t.turn.done()]
        for ticket in called:
            ticket.idle_since = time.monotonic()
        return called


def _tell(called: list[Ticket]) -> None:
    # Outside the lock: the futures run their callbacks here and now.
    for ticket in called:
        ticket.turn.set_result(None)
