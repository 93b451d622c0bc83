"""What the host knows of itself: its state, its scripts' states, and what it has counted."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from demo_host.config import Config
from demo_host.log import Log
from demo_host.turns import Turns


class State:
    """The host's state ("loading", "starting", "ready", "stopping", "failed") and counters; safe from all threads."""

    def __init__(self, script_names: list[str]) -> None:
        self._lock = threading.Lock()
        self._state, self._detail = "loading", "the model is being loaded"
        self._scripts = dict.fromkeys(script_names, "waiting")
        self._began = time.monotonic()
        self.generations: Counter[tuple[str, str]] = Counter()  # (script, outcome) -> number
        self.rejected: Counter[tuple[str, str]] = Counter()  # (script, reason) -> number
        self.generation_seconds = 0.0
        self.tokens: Counter[str] = Counter()  # script -> number
        self._percent = 0

    def set_percent(self, percent: int) -> None:
        """Note how much of the model's files is loaded, in percent."""
        with self._lock:
            self._percent = percent

    def set(self, state: str, detail: str) -> None:
        """Change the state; nothing leads out of "failed"."""
        with self._lock:
            if self._state != "failed":
                self._state, self._detail = state, detail

    def set_script(self, name: str, state: str) -> None:
        """Change the state of one script: "waiting", "starting", "ready" or "failed"."""
        with self._lock:
            self._scripts[name] = state

    def count_generation(self, script: str, outcome: str, seconds: float, tokens: int = 0) -> None:
        """Count one generation, the seconds that it held the model, and the tokens that it drew."""
        with self._lock:
            self.tokens[script] += tokens
            self.generations[(script, outcome)] += 1
            self.generation_seconds += seconds

    def count_rejected(self, script: str, reason: str) -> None:
        """Count one request that was refused: its input, its size or the full queue."""
        with self._lock:
            self.rejected[(script, reason)] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return state, detail, percent loaded, the scripts' states and the uptime in seconds, all of one moment."""
        with self._lock:
            return {
                "state": self._state,
                "detail": self._detail,
                "loaded_percent": self._percent,
                "scripts": dict(self._scripts),
                "uptime_seconds": round(time.monotonic() - self._began, 1),
            }

    def counters(self) -> "Counters":
        """Return what was counted, all of one moment."""
        with self._lock:
            return Counters(dict(self.generations), dict(self.rejected), dict(self.tokens), self.generation_seconds)


class Counters(NamedTuple):
    """Numbers by (script, outcome), by (script, reason) and by script; seconds in which the model was held."""

    generations: dict[tuple[str, str], int]
    rejected: dict[tuple[str, str], int]
    tokens: dict[str, int]
    seconds: float


@dataclass
class Host:
    """What the parts of the host share; ``stop_listening`` closes the scripts' ports and no connection."""

    config: Config
    state: State
    turns: Turns
    log: Log
    stop_listening: list[Callable[[], object]] = field(default_factory=list)

    def fail(self, detail: str, script: str | None = None) -> None:
        """Note and log why the host cannot go on; the main thread then ends the process with code 1."""
        if script is not None:
            self.state.set_script(script, "failed")
        if self.state.snapshot()["state"] != "failed":
            self.log.write("failed", script=script, detail=detail)
        self.state.set("failed", detail)
