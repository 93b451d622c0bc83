"""When a lease is over and what happens then: functions of state, settings and what was seen, in the meter's time."""

from typing import List, NamedTuple, Optional

from glmbox_lease.meter import Advance
from glmbox_lease.settings import Settings
from glmbox_lease.state import State
from glmbox_lease.words import how_to_go_on, plain, span
from glmbox_lease.work import Work

# A stop that was asked for and has not come is asked for again after so long; one that failed, sooner, then later.
STILL_HERE_SECONDS = 300.0
RESPITE_SECONDS = 600.0
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 60.0, 600.0


class Due(NamedTuple):
    """When a lease is over, and why: "hours" or "idle"."""

    at: float
    why: str


def due(state: State, settings: Settings) -> Optional[Due]:
    """Return when the lease is over as things stand; None where there is none."""
    if state.off:
        return None
    ends = []
    if settings.hours > 0:
        ends.append(Due(state.begin + settings.hours * 3600 + state.extra, "hours"))
    if settings.idle_minutes > 0:
        ends.append(Due(state.active_at + settings.idle_minutes * 60, "idle"))
    if not ends:
        return None
    first = min(ends)
    return Due(max(first.at, state.not_before), first.why)


def warn_seconds(settings: Settings, why: str) -> float:
    """Return how long before the end it is told: no longer than half of the whole."""
    whole = settings.hours * 3600 if why == "hours" else settings.idle_minutes * 60
    return min(settings.warn_minutes * 60, whole / 2)


def adopt(state: State, settings: Settings) -> None:
    """Go over to the settings where they have changed: hours that there were none of before begin now."""
    if (state.hours, state.idle_minutes) == (settings.hours, settings.idle_minutes):
        return
    # Shorter hours than were used already are told before they end the lease.
    grant_respite(state, settings)
    if state.hours <= 0:
        state.begin, state.extra = state.meter, 0.0
    if state.idle_minutes <= 0:
        state.active_at = state.meter
    state.hours, state.idle_minutes, state.off = settings.hours, settings.idle_minutes, False


def resume(state: State, settings: Settings, advance: Advance) -> List[str]:
    """Take account of a start of the box, or of a long absence of the watcher; return what is to be said.

    Who has just started the box, or mended the watcher, is not thrown out without a warning.
    """
    said = []
    if advance.started:
        if state.asked_at is not None:
            state.begin, state.extra, state.off = state.meter - advance.seconds, 0.0, False
            said.append("The box was started again after its stop: a new lease begins.")
        elif advance.known:
            said.append("The box was started again: the lease goes on.")
        state.active_at = state.meter
        forget_the_end(state)
    if advance.started or (advance.away and state.ended_at is None):
        grant_respite(state, settings)
    return said


def grant_respite(state: State, settings: Settings) -> None:
    """Leave ten minutes in which to take notice, or half of a shorter lease."""
    wholes = [whole for whole in (settings.hours * 3600, settings.idle_minutes * 60) if whole > 0]
    state.not_before = max(state.not_before, state.meter + min([RESPITE_SECONDS] + [whole / 2 for whole in wholes]))


def forget_the_end(state: State) -> None:
    """Go back to a lease that is not over."""
    state.ended_at, state.ended_why, state.debt, state.waiting_for, state.warned = None, "", 0.0, [], ""
    state.attempts, state.asked_at, state.problem, state.try_at = 0, None, "", 0.0


def note_activity(state: State, work: Work) -> None:
    """Note whether the box is used: a job or a request that runs, or counters that have changed since the last look."""
    changed = [port for port, counted in work.counts.items() if state.counts.get(port) != counted]
    state.counts.update(work.counts)
    if work.jobs or work.open or changed:
        state.active_at = state.meter


def look(state: State, settings: Settings, work: Work) -> List[str]:
    """Take one look at the box; change the state, and return what is to be said."""
    note_activity(state, work)
    end = due(state, settings)
    if end is None or state.meter < end.at:
        said = []
        if state.ended_at is not None:
            said.append("The lease goes on: the box is not stopped.")
            forget_the_end(state)
        return said + (warn(state, settings, end) if end else [])
    said = []
    if state.ended_at is None:
        # Requests are answered in order of arrival, so these are answered when so many more are.
        state.ended_at, state.ended_why, state.debt = state.meter, end.why, work.answered + work.open
        why = {
            "hours": "The lease of %s is over." % span(settings.hours * 3600 + state.extra),
            "idle": "Nobody has used the box for %s: the lease is over." % span(settings.idle_minutes * 60),
        }[end.why]
        said.append(why)
    left = list(work.jobs)
    if work.open and work.answered < state.debt:
        left.append("%d requests" % work.open if work.open > 1 else "a request")
    until = state.ended_at + settings.grace_minutes * 60
    if left and state.meter < until:
        if not state.waiting_for:
            said.append(
                "Before the box is stopped, it finishes %s, for up to %s. %s"
                % (plain(left), span(until - state.meter), how_to_go_on())
            )
        state.waiting_for = left
    else:
        if left and not state.attempts:
            said.append(
                "There is no more time for %s, which the stop cuts off. Jobs go on at the next run." % plain(left)
            )
        state.waiting_for = []
    return said


def warn(state: State, settings: Settings, end: Due) -> List[str]:
    """Return the warning that is due and was not given yet."""
    left = end.at - state.meter
    if left > warn_seconds(settings, end.why):
        state.warned = ""
        return []
    if state.warned == end.why:
        return []
    state.warned = end.why
    first = "The lease ends in %s" if end.why == "hours" else "Nobody uses the box, and its lease ends in %s"
    return ["%s; then the box is stopped. %s" % (first % span(left), how_to_go_on())]


def wants_stop(state: State) -> bool:
    """Tell whether the box is to be stopped now."""
    return state.ended_at is not None and not state.waiting_for and state.meter >= state.try_at


def still_here(state: State) -> float:
    """Return for how many seconds the box has outlived the stop that was asked for; 0 within what a stop may take."""
    lived = state.meter - state.asked_at if state.asked_at is not None else 0.0
    return lived if lived >= STILL_HERE_SECONDS else 0.0


def begin_stop(state: State) -> None:
    """Note that the box is told to stop. Before it is: it may stop before anything else can be written down."""
    state.attempts += 1
    state.problem, state.try_at = "", state.meter + STILL_HERE_SECONDS
    if state.asked_at is None:
        state.asked_at = state.meter


def record_failure(state: State, problem: str) -> None:
    """Note why the last try did not work; an earlier one that did is remembered, since it may still have its effect."""
    if state.asked_at is not None and state.try_at - state.asked_at < STILL_HERE_SECONDS + 1:
        state.asked_at = None
    state.problem = problem
    state.try_at = state.meter + min(RETRY_SECONDS * 2 ** min(state.attempts - 1, 8), LONGEST_RETRY_SECONDS)


def extend(state: State, settings: Settings, seconds: float) -> None:
    """Let the lease end so much later, and in no case sooner than that from now; one that was off is on again."""
    if settings.hours > 0:
        end = state.begin + settings.hours * 3600 + state.extra
        state.extra += (state.meter if state.off else max(end, state.meter)) + seconds - end
    state.not_before = max(0.0 if state.off else state.not_before, state.meter + seconds)
    state.off = False
    forget_the_end(state)


def switch_off(state: State) -> None:
    """Let there be no lease, until it is extended or its settings change."""
    state.off = True
    forget_the_end(state)
