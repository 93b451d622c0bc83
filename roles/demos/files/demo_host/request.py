"""The HTTP request that a generation belongs to, known to the facade through a context variable."""

from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from demo_host.turns import Ticket


class Refused(Exception):
    """The model is not asked: ``status`` is the HTTP status, the message one sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClientGone(Exception):
    """The client went away; nobody reads the answer."""


class Request:
    """A request that was let in: its ticket, whether its client is gone, why the facade refused it.

    ``sampling`` holds what the client asked for and its script does not pass on.
    """

    def __init__(self, ticket: Ticket, sampling: dict[str, Any] | None = None) -> None:
        self.sampling = sampling or {}
        self.gone: Future[None] = Future()
        self.refusal: Refused | None = None
        self._ticket: Ticket | None = ticket

    def take_ticket(self) -> Ticket | None:
        """Return the ticket for the first generation of this request, None for any further one."""
        ticket, self._ticket = self._ticket, None
        return ticket

    def client_left(self) -> None:
        """Note that the client is gone; twice does no harm."""
        if not self.gone.done():
            self.gone.set_result(None)


CURRENT: ContextVar[Request | None] = ContextVar("demo_host_request", default=None)
