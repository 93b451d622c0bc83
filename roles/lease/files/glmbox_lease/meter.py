"""The meter: how many seconds the box has been on. The wall clock is never asked: it jumps.

The kernel's boot clock only goes forward, also while the box is suspended. What it showed at the last look stands in
the state, and so the meter goes on where the watcher was away; a start of the box (in a container: of the container,
whose kernel goes on) is told by the boot's id and by when PID 1 began.
"""

import os
import time
from typing import NamedTuple, Optional

from glmbox_lease.state import State

BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Away for longer than that, the watcher cannot know whether somebody used the box meanwhile.
AWAY_SECONDS = 300.0


class Session(NamedTuple):
    """One run of the box. pid1: when PID 1 began, in clock ticks, "" where it is hidden. began: of the boot clock."""

    boot: str
    pid1: str
    began: float


def boot_seconds() -> float:
    """Return the boot clock, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ticks_of(pid: str) -> Optional[str]:
    """Return when a process began, in clock ticks of the boot clock; None where it is hidden from us."""
    try:
        with open("/proc/%s/stat" % pid, "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return None


def boot_id() -> str:
    """Return the id of the kernel's boot; in a container with systemd, systemd's own."""
    with open(BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def this_session() -> Session:
    """Return the present run of the box."""
    pid1 = ticks_of("1")
    # systemd hides PID 1 from hardened units; they begin with the box.
    began = pid1 if pid1 is not None else ticks_of("self")
    return Session(boot_id(), pid1 or "", int(began or 0) / os.sysconf("SC_CLK_TCK"))


def is_same(state: State, session: Session) -> bool:
    """Tell whether a state was last written in this session."""
    hidden = not state.pid1 or not session.pid1
    return state.boot == session.boot and (hidden or state.pid1 == session.pid1)


class Advance(NamedTuple):
    """What lies between two looks.

    known: there was an earlier look. started: the box was started since. away: nobody looked for long. seconds: for
    which the box was on.
    """

    known: bool
    started: bool
    away: bool
    seconds: float


def advance(state: State, session: Session, now: float) -> Advance:
    """Let the meter go on to now, of the boot clock."""
    known, started = bool(state.boot), not is_same(state, session)
    seconds = max(0.0, now - (session.began if started else state.tick))
    state.meter += seconds
    state.tick, state.boot, state.pid1 = now, session.boot, session.pid1 or ("" if started else state.pid1)
    return Advance(known, started, not started and seconds > AWAY_SECONDS, seconds)
