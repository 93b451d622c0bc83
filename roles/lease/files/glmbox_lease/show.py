"""How a lease stands, in words and as JSON."""

import os
from typing import Any, Dict, List

from glmbox_lease import rules
from glmbox_lease.settings import Settings
from glmbox_lease.state import State
from glmbox_lease.stops import APIS, kind_of, problem_before
from glmbox_lease.words import plain, span

# Without a look for so long, nobody watches.
STALE_SECONDS = 60.0


def how_it_stops(stop: Dict[str, Any]) -> str:
    """Return what happens at the end, in a sentence."""
    kind = kind_of(stop)
    if kind == "api":
        return "At its end %s is asked to stop the box." % (
            APIS[stop["api"]].title if stop["api"] in APIS else stop["api"]
        )
    return {
        "command": "At its end the box runs %s." % " ".join(str(word) for word in stop.get("command") or []),
        "poweroff": "At its end the box powers itself off, which the provider may go on to bill.",
        "hook": "At its end your machine has to stop the box: playbooks/watch_lease.yml runs lease_stop_command there.",
    }.get(kind, "Nothing is set that stops the box: set lease_stop.")


def status_of(state: State, settings: Settings, now: float, boot: str) -> Dict[str, Any]:
    """Return the lease as of now, of the boot clock: state, left_seconds, idle_seconds, why, text.

    state: "none", "off", "running", "ending" (it is warned of), "finishing" (running work), "stopping", "failing" (the
    stop did not work, or has no effect), "waiting" (for the controller) or "unwatched".
    """
    if settings.hours <= 0 and settings.idle_minutes <= 0:
        text = "No lease: the box runs, and costs money, until somebody stops it (lease_hours, lease_idle_minutes)."
        return {"state": "none", "left_seconds": None, "idle_seconds": None, "why": "", "text": text}
    stale = state.boot != boot or now - state.tick > STALE_SECONDS + settings.tick_seconds
    if not stale:
        state.meter += max(0.0, now - state.tick)
    end = rules.due(state, settings)
    name, lines = _phase(state, settings, end)
    if stale:
        name = "unwatched"
        lines.insert(
            0, "NOBODY WATCHES THE LEASE: the service glmbox-lease does not run, and the box will not be stopped."
        )
    idle = state.meter - state.active_at
    if settings.idle_minutes > 0 and not state.off:
        lines.append("Unused for %s; after %s it is over." % (span(idle), span(settings.idle_minutes * 60)))
    lines.append(how_it_stops(settings.stop))
    if settings.stop.get("keeps_billing"):
        lines.append("Billed all the same: %s" % settings.stop["keeps_billing"])
    # Others than root do not see what the provider gave the box.
    problem = problem_before(settings.stop) if os.geteuid() == 0 else ""
    if problem and name != "failing":
        lines.append("At its end this lease could not stop the box. %s" % problem)
    left = None if end is None else max(0.0, end.at - state.meter)
    why = end.why if end else ""
    return {"state": name, "left_seconds": left, "idle_seconds": idle, "why": why, "text": "\n".join(lines)}


def _phase(state: State, settings: Settings, end: Any) -> Any:
    lines: List[str] = []
    if end is None:
        return "off", ["The lease is off: the box runs, and costs money, until somebody stops it."]
    if state.ended_at is None:
        left = end.at - state.meter
        if settings.hours > 0:
            whole = settings.hours * 3600 + state.extra
            used = state.meter - state.begin
            lines.append("A lease of %s, of which %s are used." % (span(whole), span(used)))
        lines.append(
            "It ends in %s, %s." % (span(left), "by its hours" if end.why == "hours" else "unless the box is used")
        )
        return ("ending" if state.warned else "running"), lines
    lines.append("The lease is over since %s." % span(state.meter - state.ended_at))
    if state.waiting_for:
        return "finishing", lines + ["Still running: %s." % plain(state.waiting_for)]
    lived = rules.still_here(state)
    if kind_of(settings.stop) == "hook":
        return "waiting", lines + ["Only your machine can stop the box: run playbooks/watch_lease.yml there."]
    if state.problem or lived:
        what = state.problem or "It was told to stop %s ago, and is still here." % span(lived)
        return "failing", lines + ["THE BOX IS NOT STOPPED, AND COSTS MONEY. %s" % what, "Tries: %d." % state.attempts]
    return "stopping", lines + ["The box is told to stop."]
