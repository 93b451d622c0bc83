"""The watcher: looks every few seconds, says what people have to know, and stops the box."""

import contextlib
import glob
import os
import time
from dataclasses import asdict
from typing import Any, Callable, Dict, Iterator, List

from glmbox_lease import rules
from glmbox_lease.meter import Session, advance, boot_seconds, this_session
from glmbox_lease.settings import Settings
from glmbox_lease.state import State, load, save, turn
from glmbox_lease.stops import kind_of, problem_before, stop_box
from glmbox_lease.words import span
from glmbox_lease.work import Work, look_around

Say = Callable[[str], None]
# What changes at every look is written down that often: after a crash of the box the meter lags by no more.
SAVE_SECONDS = 30.0
RUNNING = ("meter", "tick", "active_at")


def tell(sentence: str) -> None:
    """Say a sentence in the log and on every terminal, as `wall` would, which needs a list that containers lack."""
    print(sentence, flush=True)
    for terminal in glob.glob("/dev/pts/[0-9]*"):
        # Somebody else's, full, or gone: one of the others is read.
        with contextlib.suppress(OSError):
            handle = os.open(terminal, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                os.write(handle, ("\r\n\a*** glmbox: %s\r\n" % sentence).encode())
            finally:
                os.close(handle)


class Watcher:
    """Looks at one box. What it cannot write down (a full disk) it keeps in mind."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings = settings
        self.say = say
        self.unsaved: List[State] = []
        self.written: Dict[str, Any] = {}

    def load(self, session: Session, now: float) -> State:
        """Return the state as of now, with what a start of the box has changed."""
        if self.unsaved:
            state, how = self.unsaved[0], "kept"
        else:
            state, how = load(self.settings.state)
            self.written = asdict(state) if how == "kept" else {}
        if how == "broken":
            self.say("%s was damaged: the lease counts from the start of the box." % self.settings.state)
            state.hours, state.idle_minutes = self.settings.hours, self.settings.idle_minutes
        moved = advance(state, session, now)
        for sentence in rules.resume(state, self.settings, moved):
            self.say(sentence)
        rules.adopt(state, self.settings)
        return state

    def save(self, state: State) -> None:
        """Write the state down where it has changed, or keep it in mind."""
        found = asdict(state)
        same = all(self.written.get(name) == value for name, value in found.items() if name not in RUNNING)
        if same and not self.unsaved and abs(state.tick - self.written["tick"]) < SAVE_SECONDS:
            return
        try:
            save(self.settings.state, state)
            self.unsaved = []
        except OSError as error:
            if not self.unsaved:
                self.say("The lease could not be written down (%s); it is kept in mind." % error.strerror)
            self.unsaved = [state]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Take turns with the command, where the disk allows it."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(turn(self.settings.state))
            yield

    def look(self, session: Session, now: float, work: Work) -> bool:
        """Take one look; return whether the box is to be stopped."""
        with self.turn():
            state = self.load(session, now)
            said = rules.look(state, self.settings, work)
            stop = rules.wants_stop(state)
            if stop and state.asked_at is not None:
                said.append("The box was told to stop %s ago, and is still here." % span(state.meter - state.asked_at))
            if stop:
                rules.begin_stop(state)
            self.save(state)
        for sentence in said:
            self.say(sentence)
        return stop

    def stop(self, session: Session, clock: Callable[[], float]) -> None:
        """Stop the box; note and say how that went."""
        problem = stop_box(self.settings.stop)
        with self.turn():
            state = self.load(session, clock())
            if state.ended_at is None:
                self.say("The lease was extended while the box was being stopped: it may stop all the same.")
                return
            if problem:
                rules.record_failure(state, problem)
                self.save(state)
        if problem:
            again = span(state.try_at - state.meter)
            self.say("THE BOX IS NOT STOPPED, AND COSTS MONEY. %s It is tried again in %s." % (problem, again))
        elif kind_of(self.settings.stop) == "hook":
            self.say(
                "THE LEASE IS OVER, AND ONLY YOUR MACHINE CAN STOP THIS BOX: run playbooks/watch_lease.yml there, or "
                "stop it in the provider's console."
            )
        else:
            self.say("The box is told to stop.")


def watch(settings: Settings) -> None:
    """Look for ever."""
    session, watcher = this_session(), Watcher(settings, tell)
    problem = problem_before(settings.stop)
    if problem:
        tell("At its end this lease could not stop the box. %s" % problem)
    said = ""
    while True:
        try:
            work = look_around(settings.jobs_dir, settings.health_ports)
            if watcher.look(session, boot_seconds(), work):
                watcher.stop(session, boot_seconds)
            said = ""
        # A meter that ends by an error is one that nobody reads.
        except Exception as error:
            if repr(error) != said:
                said = repr(error)
                tell("A look at the lease failed, and is tried again: %s" % said)
        time.sleep(settings.tick_seconds)
