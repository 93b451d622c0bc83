"""glmbox-lease: show [--json], check, +2h (or: extend 2h), off; watch is the service. First, the settings."""

import json
import sys
from typing import List

from glmbox_lease import rules
from glmbox_lease.meter import advance, boot_id, boot_seconds, this_session
from glmbox_lease.settings import Settings, SettingsError, read_settings
from glmbox_lease.show import status_of
from glmbox_lease.state import load, save, turn
from glmbox_lease.stops import problem_before
from glmbox_lease.watch import watch
from glmbox_lease.words import seconds_of

USAGE = "Usage: glmbox-lease [show [--json] | +2h | off | check]"


def show(settings: Settings, as_json: bool) -> int:
    """Print how the lease stands; return 1 where somebody has to look after it."""
    found = status_of(load(settings.state)[0], settings, boot_seconds(), boot_id())
    print(json.dumps(found) if as_json else found["text"])
    return int(found["state"] in ("failing", "unwatched"))


def change(settings: Settings, word: str) -> int:
    """Extend the lease, or switch it off."""
    seconds = 0.0 if word == "off" else seconds_of(word)
    if settings.hours <= 0 and settings.idle_minutes <= 0:
        sys.exit("There is no lease to change. Set lease_hours or lease_idle_minutes, and run site.yml.")
    with turn(settings.state):
        state, how = load(settings.state)
        if how != "kept":
            sys.exit("The lease has not begun yet: the service glmbox-lease has to run.")
        session, now = this_session(), boot_seconds()
        rules.resume(state, settings, advance(state, session, now))
        if word == "off":
            rules.switch_off(state)
        else:
            rules.extend(state, settings, seconds)
        save(settings.state, state)
    return show(settings, False)


def main(words: List[str]) -> int:
    """Do what the words say; return the exit code."""
    settings = read_settings(words[0]) if words else sys.exit(USAGE)
    words = words[1:] or ["show"]
    if words[0] == "extend" and len(words) == 2:
        words = words[1:]
    if words in (["show"], ["show", "--json"]):
        return show(settings, len(words) == 2)
    if words == ["watch"]:
        watch(settings)
    if words == ["check"]:
        problem = problem_before(settings.stop)
        sys.exit("At its end this lease could not stop the box. %s" % problem if problem else 0)
    if len(words) == 1 and (words[0] == "off" or words[0][:1] in "+0123456789"):
        return change(settings, words[0])
    sys.exit(USAGE)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SettingsError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)  # the service is not started again for that
    except (PermissionError, ValueError) as problem:
        sys.exit("Only root may change the lease." if isinstance(problem, PermissionError) else str(problem))
