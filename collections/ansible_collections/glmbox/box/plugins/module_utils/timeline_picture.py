"""A run's timeline as an SVG picture, which needs nothing but a browser."""

from __future__ import annotations

import math
import textwrap
from xml.etree import ElementTree

from ansible_collections.glmbox.box.plugins.module_utils.progress import duration, plain
from ansible_collections.glmbox.box.plugins.module_utils.timeline import (
    WAIT,
    Row,
    branch_line,
    cut,
    longest_branch,
    remarks,
)

WIDTH, LEFT, RIGHT, TOP = 1000, 260, 30, 64
LINE_HEIGHT, BAR_HEIGHT = 24, 14
LABEL_CHARACTERS = 32
LINE_CHARACTERS = 130
MOST_TICKS = 9
STEPS_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
# A background of its own, so that it reads the same on a dark page; fonts that every system has.
STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328 }
.title { font-size: 15px; font-weight: bold }
.heading { font-weight: bold }
.small { font-size: 11px; fill: #59636e }
.background { fill: #ffffff }
.grid { stroke: #d1d9e0 }
.work { fill: #0969da; stroke: #ffffff; stroke-width: 0.5 }
.wait { fill: #ffd8a8; stroke: #bc6c25; stroke-width: 0.5 }
.branch { fill: #cf222e }
"""


def ticks(length: float) -> list[int]:
    """Return the seconds at which the axis is marked: at most ten, round in seconds, minutes or hours."""
    days = 86400 * max(1, math.ceil(length / 86400 / MOST_TICKS))
    step = next((step for step in STEPS_SECONDS if length / step <= MOST_TICKS), days)
    return list(range(0, int(length) + 1, step))


def place(seconds: float, length: float) -> float:
    """Return where a time of the run lies, in pixels from the left."""
    return round(LEFT + seconds / length * (WIDTH - LEFT - RIGHT), 2)


def svg(title: str, roles: list[Row], hosts: dict[str, list[Row]], length: float) -> str:
    """Return the picture. title: one line. roles: the controller's rows. hosts: each with its jobs' rows."""
    picture = _Picture(length)
    picture.heading("controller")
    for row in roles:
        picture.row(row, [])
    for host, jobs in hosts.items():
        branch = longest_branch(jobs)
        picture.heading(f"jobs on {host}")
        for row in jobs:
            picture.row(row, [step for step in branch if step.name == row.name])
        for line in textwrap.wrap(branch_line(branch, length), LINE_CHARACTERS):
            picture.line(line)
    return picture.finished(title)


class _Picture:
    """Rows from top to bottom; the height is known at the end."""

    def __init__(self, length: float) -> None:
        self._length, self._y = length, TOP
        self._body = ElementTree.Element("g")

    def _text(self, x: float, y: float, words: str, kind: str = "label", **more: str) -> None:
        at = {"x": str(x), "y": str(y), "class": kind, **more}
        ElementTree.SubElement(self._body, "text", at).text = plain(words)

    def _rect(self, kind: str, begun: float, ended: float, y: float, height: float, told: str) -> None:
        left, right = place(begun, self._length), place(ended, self._length)
        size = {"x": str(left), "y": str(y), "width": f"{max(right - left, 1):.2f}", "height": str(height)}
        bar = ElementTree.SubElement(self._body, "rect", {"class": kind, **size})
        seconds = f"{ended - begun:.1f} s, from {begun:.1f} s to {ended:.1f} s"
        ElementTree.SubElement(bar, "title").text = f"{plain(told)} {seconds}"

    def heading(self, words: str) -> None:
        self._y += LINE_HEIGHT // 2
        self._text(12, self._y + BAR_HEIGHT, cut(words, LINE_CHARACTERS), "heading")
        self._y += LINE_HEIGHT

    def line(self, words: str) -> None:
        self._text(12, self._y + BAR_HEIGHT, words)
        self._y += LINE_HEIGHT

    def row(self, row: Row, branch: list[Row]) -> None:
        """Draw a row, its remarks beneath, and a line under those parts that are on the longest branch."""
        self._text(20, self._y + BAR_HEIGHT - 3, cut(row.name, LABEL_CHARACTERS))
        for part in row.parts:
            what = f" ({part.what})" if part.what not in ("", row.name) else ""
            verb = "waits" if part.kind == WAIT else "works"
            self._rect(part.kind, part.begun, part.ended, self._y, BAR_HEIGHT, f"{row.name}{what} {verb}")
        for step in branch:
            for part in step.parts:
                told = f"{row.name} is on the longest branch"
                self._rect("branch", part.begun, part.ended, self._y + BAR_HEIGHT + 1, 3, told)
        self._y += LINE_HEIGHT
        for line in textwrap.wrap(remarks(row) if row.state else "", LINE_CHARACTERS):
            self._text(32, self._y + BAR_HEIGHT - 5, line, "small")
            self._y += LINE_HEIGHT - 6

    def finished(self, title: str) -> str:
        """Return the picture with background, title, legend and time axis."""
        height = self._y + 16
        size = {"width": str(WIDTH), "height": str(height), "viewBox": f"0 0 {WIDTH} {height}"}
        root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size})
        ElementTree.SubElement(root, "title").text = plain(title)
        ElementTree.SubElement(root, "style").text = STYLE
        ElementTree.SubElement(root, "rect", {"class": "background", "width": str(WIDTH), "height": str(height)})
        rows, self._body = self._body, ElementTree.SubElement(root, "g")
        self._text(12, 24, title, "title")
        self._legend()
        for seconds in ticks(self._length):
            x = str(place(seconds, self._length))
            ends = {"x1": x, "x2": x, "y1": str(TOP), "y2": str(height - 12)}
            ElementTree.SubElement(self._body, "line", {"class": "grid", **ends})
            self._text(float(x), TOP - 6, duration(seconds), "small", **{"text-anchor": "middle"})
        root.append(rows)
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode") + "\n"

    def _legend(self) -> None:
        x = WIDTH - RIGHT - 330
        for kind, words, width in (("work", "works", 90), ("wait", "waits", 90), ("branch", "longest branch", 150)):
            high = 3 if kind == "branch" else BAR_HEIGHT
            box = {"x": str(x), "y": str(13 + (BAR_HEIGHT - high) // 2), "width": "18", "height": str(high)}
            ElementTree.SubElement(self._body, "rect", {"class": kind, **box})
            self._text(x + 24, 24, words, "small")
            x += width
