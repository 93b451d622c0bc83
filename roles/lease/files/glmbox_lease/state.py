"""What is remembered from look to look, across restarts of the watcher and of the box."""

import contextlib
import fcntl
import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, Iterator, List, Optional, Tuple


@dataclass
class State:
    """All times are of the meter (seconds for which the box was on), `tick` alone is of the boot clock."""

    meter: float = 0.0
    tick: float = 0.0
    boot: str = ""
    pid1: str = ""
    # The settings that it was last looked at with; -1: none.
    hours: float = -1.0
    idle_minutes: float = -1.0
    begin: float = 0.0
    extra: float = 0.0
    not_before: float = 0.0
    off: bool = False
    # Since when nobody used the box, and what the demo hosts had counted then: port to [ready, answered, refused].
    active_at: float = 0.0
    counts: Dict[str, List[float]] = field(default_factory=dict)
    warned: str = ""
    # The end: since when, why, how many requests were answered when all of that moment are, what is waited for.
    ended_at: Optional[float] = None
    ended_why: str = ""
    debt: float = 0.0
    waiting_for: List[str] = field(default_factory=list)
    # The stop: how often it was tried, when it was asked for without an error, what went wrong last, when it is next.
    attempts: int = 0
    asked_at: Optional[float] = None
    problem: str = ""
    try_at: float = 0.0


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _fits(name: str, value: Any) -> bool:
    if name in ("ended_at", "asked_at") and value is None:
        return True
    if name in ("boot", "pid1", "warned", "ended_why", "problem"):
        return isinstance(value, str)
    if name == "off":
        return isinstance(value, bool)
    if name == "waiting_for":
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if name == "counts":
        return isinstance(value, dict) and all(
            isinstance(one, list) and all(map(_is_time, one)) for one in value.values()
        )
    return _is_time(value)


def load(path: str) -> Tuple[State, str]:
    """Return the state in a file and "kept"; a fresh one and "absent" or "broken" where there is none to be had."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return State(), "absent"
    except (OSError, ValueError):
        return State(), "broken"
    try:
        found = json.loads(text)
        known = {one.name for one in fields(State)}
        if set(found) != known or not all(_fits(name, value) for name, value in found.items()):
            return State(), "broken"
        return State(**found), "kept"
    except (ValueError, TypeError):
        return State(), "broken"


def save(path: str, state: State) -> None:
    """Write the state so that a reader, or a power cut, finds the old one or the new one, never a part."""
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".draft-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(state), file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


@contextlib.contextmanager
def turn(path: str) -> Iterator[None]:
    """Hold the lock by which the watcher and the command take turns at the state."""
    with open(path + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
