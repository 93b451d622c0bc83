"""Progress of jobs, as lines that read the same on a terminal and in a log: no colour, no carriage returns."""

from __future__ import annotations

import re
from typing import Any

# Colours and cursor movements; what else cannot be printed becomes a blank.
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|.)")
LINE_CHARACTERS = 100
# From here on, seconds are noise in an estimate.
COARSE_SECONDS = 20 * 60
# Up to so many files each has a row in a table; beyond, only those from this size on.
TABLE_ROWS = 20
TABLE_BYTES = 8 * 2**20


def plain(text: object) -> str:
    """Return text without anything that would move a cursor or change a colour."""
    return "".join(sign if sign.isprintable() else " " for sign in ESCAPES.sub("", str(text))).strip()


def duration(seconds: float) -> str:
    """Return a time in seconds as one reads it: 43 s, 12 min 5 s, 22 min, 2 h 3 min."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        rest = f" {whole % 60} s" if whole % 60 and whole < COARSE_SECONDS else ""
        return f"{whole // 60} min{rest}"
    rest = f" {whole % 3600 // 60} min" if whole % 3600 >= 60 else ""
    return f"{whole // 3600} h{rest}"


def _number(value: object) -> float | None:
    """Return what a job wrote where a number belongs; None where it is none, which costs no more than a column."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        return None
    return float(value)


def _bytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _count(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:.1f}"


def _speed(rate: float, unit: str) -> str:
    if unit == "bytes":
        return f"{_bytes(rate)}/s"
    # Slow steps are told by the minute: 0.0 a second says nothing.
    return f"{rate:.1f} {unit}/s" if rate >= 0.1 or rate == 0 else f"{rate * 60:.1f} {unit}/min"


def line(item: dict[str, Any]) -> str:
    """Return one line about one thing that makes progress.

    item: label, done, total (None where unknown), unit ("bytes" or a plural noun), rate (a second, None where unknown).
    """
    done, total, rate = (_number(item.get(key)) for key in ("done", "total", "rate"))
    done, unit = done or 0.0, plain(item.get("unit") or "")
    parts = [plain(item.get("label") or "")]
    if total:
        parts.append(f"{min(100, int(100 * done / total))}%")
    if unit == "bytes":
        parts.append(f"{_bytes(done)} of {_bytes(total)}" if total else _bytes(done))
    elif unit or total or done:
        parts.append(f"{_count(done)} of {_count(total)} {unit}" if total else f"{_count(done)} {unit}")
    if rate is not None:
        parts.append(_speed(rate, unit))
    if rate and total and done < total:
        parts.append(f"{duration((total - done) / rate)} left")
    return "  ".join(part.strip() for part in parts if part.strip())


def lines(status: dict[str, Any]) -> list[str]:
    """Return the lines about one job: each item of its progress, else its log's last line, else how long it runs."""
    found = [line(item) for item in status["progress"] if isinstance(item, dict)]
    if not found and status["last_lines"]:
        found = [plain(status["last_lines"][-1])[:LINE_CHARACTERS]]
    return [text for text in found if text] or [f"runs for {duration(status['seconds'] or 0)}"]


def report(display: Any, host: str, statuses: list[dict[str, Any]]) -> None:
    """Print what running jobs do, each line with the names of host and job before it.

    display: Ansible's, of an action or a callback. statuses: as `jobs.status` returns them; who does not run is left
    out.
    """
    for status in statuses:
        if status["state"] == "running":
            for text in lines(status):
                display.display(f"{host}  {status['name']}  {text}")


def table(fetched: list[dict[str, Any]]) -> list[str]:
    """Return a table of what was brought: file, bytes, source, rate, verified how; many small files share a row.

    fetched: artifact, path, bytes, source, seconds, verified of each.
    """
    big = [file for file in fetched if file["bytes"] >= TABLE_BYTES or len(fetched) <= TABLE_ROWS]
    rows = [
        [
            f"{file['artifact']}/{file['path']}",
            _bytes(file["bytes"]),
            file["source"],
            _rate_of([file]),
            file["verified"],
        ]
        for file in big
    ]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for file in fetched:
        if file not in big:
            groups.setdefault((file["artifact"], file["source"], file["verified"]), []).append(file)
    for (artifact, source, verified), files in groups.items():
        size = _bytes(sum(file["bytes"] for file in files))
        rows.append([f"{artifact}/ ({len(files)} small files)", size, source, _rate_of(files), verified])
    if not rows:
        return []
    rows.insert(0, ["file", "size", "source", "rate", "verified"])
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rate_of(files: list[dict[str, Any]]) -> str:
    seconds = max(file["seconds"] for file in files)
    return _speed(sum(file["bytes"] for file in files) / seconds, "bytes") if seconds else "-"
