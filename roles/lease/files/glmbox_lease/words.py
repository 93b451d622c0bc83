"""Durations and lists, in words and back."""

import re
from typing import List

UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
LONGEST_SECONDS = 366 * 86400


def span(seconds: float) -> str:
    """Return a duration in words: "5 h 3 min", "3 min", "20 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return "%d s" % whole
    minutes = round(whole / 60)
    if minutes < 60:
        return "%d min" % minutes
    hours, rest = divmod(minutes, 60)
    return "%d h %d min" % (hours, rest) if rest else "%d h" % hours


def seconds_of(text: str) -> float:
    """Return the seconds of "+2h", "90min", "1.5h", "1d"; raise ValueError with a sentence."""
    match = re.fullmatch(r"\+?(\d{1,6}(?:\.\d{1,3})?)(s|min|m|h|d)", text)
    seconds = float(match.group(1)) * UNITS[match.group(2)] if match else 0.0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError("'%s' is no time to extend the lease by. Write it as +2h, +30min or +1d, up to a year." % text)
    return seconds


def plain(names: List[str]) -> str:
    """Return a list as one would say it."""
    return names[0] if len(names) == 1 else "%s and %s" % (", ".join(names[:-1]), names[-1])


def how_to_go_on() -> str:
    """Return what to type where the box is still wanted."""
    return "`glmbox-lease +2h` on the box keeps it for two hours more, `glmbox-lease off` for good."
