"""A run's timeline: what ran when on the controller and on the box, what was waited for, and the longest branch.

Times are seconds since the run began, by the controller's clock. Of the box only uptimes are known.
"""

from __future__ import annotations

import itertools
import textwrap
from typing import Any, NamedTuple

from ansible_collections.glmbox.box.plugins.module_utils.progress import plain

WORK, WAIT = "work", "wait"
# Less is no row, and no gap between two parts.
LEAST_SECONDS = 0.05
# A stopped job's end is known to a tenth of a second.
SKEW_SECONDS = 0.1
LINE_CHARACTERS = 100
NAME_CHARACTERS = 32
BAR_CHARACTERS = 50
STATES = {"running": "still runs", "failed": "failed", "dead": "died", "stopped": "was stopped"}


class Part(NamedTuple):
    """A stretch of a row. kind: "work" or "wait". waits_for: names of builds and artifacts."""

    what: str
    kind: str
    begun: float
    ended: float
    waits_for: tuple[str, ...] = ()


class Row(NamedTuple):
    """A role or a job. state: a job's, as `jobs.status` tells it. parts: those within the run, in their order."""

    name: str
    state: str
    begun: float
    ended: float
    parts: list[Part]

    def seconds(self, kind: str) -> float:
        """Return how long the row worked, or waited."""
        return sum(part.ended - part.begun for part in self.parts if part.kind == kind)


def offset_of(now: float, asked: float, begun: float) -> float:
    """Return what turns an uptime of the box into seconds since the run began.

    now: the box's uptime, when the controller's clock said `asked`. begun: what that clock said when the run began.
    """
    return asked - begun - now


def merged(parts: list[Part]) -> list[Part]:
    """Return parts with neighbours joined that tell the same and touch."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if (
            last
            and part.begun - last.ended < LEAST_SECONDS
            and part == last._replace(begun=part.begun, ended=part.ended)
        ):
            found[-1] = last._replace(ended=part.ended)
        else:
            found.append(part)
    return found


def roles_of(spans: list[Part]) -> list[Row]:
    """Return a row for each role, in the order in which they began. spans: the run's tasks; `what` is the role."""
    by_role: dict[str, list[Part]] = {}
    for span in spans:
        by_role.setdefault(span.what, []).append(span)
    rows = [Row(role, "", parts[0].begun, parts[-1].ended, merged(parts)) for role, parts in by_role.items()]
    return [row for row in rows if row.seconds(WORK) + row.seconds(WAIT) >= LEAST_SECONDS]


def jobs_of(told: dict[str, Any], offset: float, length: float) -> list[Row]:
    """Return a row for each job that ran during the run, in the order in which they began.

    told: what the module `timeline` returned. offset: see `offset_of`. length: of the run, in seconds.
    """
    latest = told["now"] + SKEW_SECONDS
    # What lies in the future was written before the box's last restart, when its uptime was another one.
    sane = [job for job in told["jobs"] if job["begun"] is not None and max(job["begun"], job["ended"] or 0) <= latest]
    rows = [_job(job, told["now"], offset, length) for job in sane]
    during = [row for row in rows if row.ended > 0 and row.begun < length]
    return sorted(during, key=lambda row: (row.begun, row.name))


def _job(job: dict[str, Any], now: float, offset: float, length: float) -> Row:
    segments = [part for part in (_segment(one, offset) for one in job["segments"]) if part]
    begun = job["begun"] + offset
    if job["ended"] is not None:
        ended = job["ended"] + offset
    elif job["state"] == "running":
        ended = now + offset
    else:  # it died, and its last sign of life is all that is known
        ended = max([begun, *(part.ended for part in segments)])
    return Row(plain(job["name"]), job["state"], begun, ended, _parts(segments, max(begun, 0.0), min(ended, length)))


def _segment(one: Any, offset: float) -> Part | None:
    try:
        begun, ended = float(one["begun"]) + offset, float(one["ended"]) + offset
        waits_for = tuple(plain(name) for name in one.get("for") or ())
        return Part(plain(one["what"]), WAIT if one["kind"] == WAIT else WORK, begun, ended, waits_for)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # what a job wrote wrongly costs a detail, and no timeline


def _parts(segments: list[Part], begun: float, ended: float) -> list[Part]:
    """Return what fills the time of a job: of segments within each other the inner one, and work where none is."""
    cuts = {begun, ended} if begun < ended else set()
    cuts |= {time for part in segments for time in (part.begun, part.ended) if begun < time < ended}
    parts = []
    for first, last in itertools.pairwise(sorted(cuts)):
        here = [part for part in segments if part.begun <= first and last <= part.ended]
        if segments and not here and last - first < LEAST_SECONDS:
            continue
        inner = min(here, key=lambda part: part.ended - part.begun, default=Part("", WORK, first, last))
        parts.append(inner._replace(begun=first, ended=last))
    return merged(parts)


def longest_branch(jobs: list[Row]) -> list[Row]:
    """Return the critical path: the job that ended last, before it what that waited for last, and so on; first first.

    Each row's parts are the work that stood in the way of the next one: after the last wait, and before the next went
    on, which may be before the job ended.
    """
    known = {row.name: row for row in jobs}
    row = max(jobs, key=lambda row: row.ended, default=None)
    until = row.ended if row else 0.0
    branch: list[Row] = []
    while row:
        del known[row.name]  # a circle, which no sane job tells of, ends here
        waits = [part for part in row.parts if part.kind == WAIT and part.waits_for and part.ended <= until]
        since = waits[-1].ended if waits else 0.0
        work = [
            part._replace(ended=min(part.ended, until))
            for part in row.parts
            if part.kind == WORK and since <= part.begun < until
        ]
        branch.insert(0, row._replace(parts=work))
        names = [prefix + name for name in (waits[-1].waits_for if waits else ()) for prefix in ("build-", "fetch-")]
        row = max((known[name] for name in names if name in known), key=lambda row: row.ended, default=None)
        until = min(since, row.ended) if row else until
    return branch


def branch_line(branch: list[Row], length: float) -> str:
    """Return the longest branch as a sentence. length: of the run, in seconds."""
    steps = [(row.name, round(row.seconds(WORK))) for row in branch]
    chain = " > ".join(f"{name} {seconds} s" for name, seconds in steps)
    return f"longest branch: {chain} = {sum(seconds for _, seconds in steps)} s of {length:.0f} s"


def stages_line(seconds: dict[str, float], cards: int) -> str:
    """Return how long prepare and activate took as a sentence, with what that is of rented GPUs' time.

    seconds: of the stages that ran, by their names. cards: how many GPUs the run's boxes have together.
    """
    parts = []
    for stage, taken in seconds.items():
        gpu = f" = {taken * cards / 60:.1f} GPU minutes" if stage == "activate" and cards else ""
        parts.append(f"{stage} took {taken:.1f} s{gpu}")
    return ", ".join(parts)


def remarks(row: Row) -> str:
    """Return how a job ended, where not well, whether it is older than the run, and what it waited for how long."""
    words = [STATES[row.state]] if row.state in STATES else []
    if row.begun < -LEAST_SECONDS:
        words.append(f"began {-row.begun:.0f} s before this run")
    waits: dict[str, float] = {}
    for part in row.parts:
        if part.kind == WAIT:
            what = f" for {' and '.join(part.waits_for)}" if part.waits_for else ""
            waits[what] = waits.get(what, 0.0) + part.ended - part.begun
    if waits:
        words.append("waited " + ", ".join(f"{seconds:.0f} s{what}" for what, seconds in waits.items()))
    return ", ".join(words)


def cut(name: str, characters: int) -> str:
    """Return a name that has at most so many characters."""
    return name if len(name) <= characters else name[: characters - 2] + ".."


def _bar(parts: list[Part], length: float) -> str:
    """Return a row's bar: in each cell what it did most of that cell's time."""
    cell = length / BAR_CHARACTERS
    signs = ""
    for number in range(BAR_CHARACTERS):
        seconds = {WORK: 0.0, WAIT: 0.0}
        for part in parts:
            within = min(part.ended, (number + 1) * cell) - max(part.begun, number * cell)
            seconds[part.kind] += max(0.0, within)
        most = max(seconds.values())
        signs += " " if most <= 0 else "#" if seconds[WORK] == most else "."
    return signs


def text(host: str, roles: list[Row], jobs: list[Row], length: float) -> list[str]:
    """Return a host's timeline as lines of at most 100 characters, the longest branch, which may be longer, last.

    roles: the controller's rows. jobs: the host's rows. length: of the run, in seconds.
    """

    def line(name: str, begun: str, ended: str, bar: str) -> str:
        return f"{name:<{NAME_CHARACTERS + 2}}{begun:>7}{ended:>7}  {bar}".rstrip()

    def rows(found: list[Row]) -> list[str]:
        lines = []
        for row in found:
            name = "  " + cut(row.name, NAME_CHARACTERS - 1)
            lines.append(line(name, f"{row.begun:.0f}", f"{row.ended:.0f}", _bar(row.parts, length)))
            if row.state and remarks(row):
                indent = " " * 4
                lines += textwrap.wrap(remarks(row), LINE_CHARACTERS, initial_indent=indent, subsequent_indent=indent)
        return lines

    host = plain(host)
    end = f"{length:.0f} s"
    scale = "0" + end.rjust(BAR_CHARACTERS - 1)
    return [
        f"TIMELINE of {host}: # works, . waits; begin and end in seconds of this run",
        line("controller", "begin", "end", scale),
        *rows(roles),
        f"jobs on {host}",
        *rows(jobs),
        branch_line(longest_branch(jobs), length),
    ]


def record(date: str, roles: list[Row], hosts: dict[str, list[Row]], length: float) -> dict[str, Any]:
    """Return the timeline as a JSON value. date: of the run. hosts: each with its jobs' rows. length: in seconds."""

    def listed(rows: list[Row]) -> list[dict[str, Any]]:
        return [dict(row._asdict(), parts=[part._asdict() for part in row.parts]) for row in rows]

    return {
        "date": date,
        "seconds": length,
        "roles": listed(roles),
        "jobs": {host: listed(jobs) for host, jobs in hosts.items()},
        "longest_branch": {host: listed(longest_branch(jobs)) for host, jobs in hosts.items()},
    }
