"""One call of the model: its place in the line, its outcome, its log line."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from demo_host.request import CURRENT, ClientGone, Refused
from demo_host.state import Host
from demo_host.turns import QueueFull, TurnLost


class Generation:
    """Context manager around one generation of ``script``; waits for its turn on entry, logs on exit.

    Raises on entry:
        Refused: the line is full, or closed.
    """

    def __init__(self, host: Host, script: str, prompt: str) -> None:
        self._host, self._script, self._prompt = host, script, prompt
        self.answer = ""
        self.tokens = 0
        self.request = CURRENT.get()

    def __enter__(self) -> "Generation":
        # A request that came through the gate brings its ticket. gradio's calls stand in line here.
        ticket = self.request.take_ticket() if self.request else None
        try:
            self.ticket = ticket or self._host.turns.join()
        except QueueFull as full:
            self._host.state.count_rejected(self._script, "queue")
            raise Refused(503, str(full)) from full
        self.ticket.turn.result()
        self._began = time.monotonic()
        self._waited = self._began - self.ticket.joined
        return self

    def __call__(self, _ids: Any, scores: Any) -> Any:
        """Count a token: the model asks its logits processors before it draws one, and this changes no score."""
        self.tokens += 1
        self.ticket.moved_at = time.monotonic()
        return scores

    def client_gone(self) -> bool:
        """Return whether the client of this generation has gone away."""
        return self.request is not None and self.request.gone.done()

    def on_expelled(self, close: Callable[[], None]) -> None:
        """Free the memory of a stream that nobody reads by ``close`` when it loses its turn."""
        self.ticket.on_expelled = close

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.ticket.leave()
        seconds = time.monotonic() - self._began
        outcome = self._outcome(error)
        log, text = self._host.log, self._host.log.log_text
        self._host.state.count_generation(self._script, outcome, seconds, self.tokens)
        log.write(
            "generation",
            script=self._script,
            seconds=round(seconds, 3),
            waited_seconds=round(self._waited, 3),
            prompt_chars=len(self._prompt) if isinstance(self._prompt, str) else None,
            answer_chars=len(self.answer),
            tokens=self.tokens,
            outcome=outcome,
            error=log.describe(error) if outcome == "error" and error else None,
            prompt=self._prompt if text else None,
            answer=self.answer if text else None,
        )
        if isinstance(error, Refused) and self.request:
            self.request.refusal = error
        if outcome == "error" and str(error).startswith("CUDA error"):
            # After a failed assertion on the device every later call of this process fails as well.
            self._host.fail(f"the GPU refuses further work ({error})".splitlines()[0], self._script)

    def _outcome(self, error: BaseException | None) -> str:
        if isinstance(error, (GeneratorExit, ClientGone)) or (error is None and self.client_gone()):
            return "cancelled"
        if error is None:
            return "ok"
        names = {Refused: "refused", TurnLost: "stalled"}
        return names.get(type(error), "error")
