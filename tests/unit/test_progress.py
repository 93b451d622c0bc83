"""Progress as one reads it."""

from __future__ import annotations

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.progress import duration, line, report

MIB = 2**20


def item(**values):
    return {"label": "x", "done": 0, "total": None, "unit": "bytes", "rate": None, **values}


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (
            {"label": "a.bin", "done": 812 * MIB, "total": 1838.1 * MIB, "rate": 24.1 * MIB},
            "a.bin  44%  812.0 MiB of 1838.1 MiB  24.1 MiB/s  42 s left",
        ),
        ({"done": 2560, "total": 10 * MIB}, "x  0%  2.5 KiB of 10.0 MiB"),
        ({"done": 3 * MIB}, "x  3.0 MiB"),
        ({"done": 3 * MIB, "rate": 2048}, "x  3.0 MiB  2.0 KiB/s"),
        ({"done": 3 * MIB, "total": 6 * MIB, "rate": 0}, "x  50%  3.0 MiB of 6.0 MiB  0.0 KiB/s"),
        ({"done": MIB, "total": MIB, "rate": MIB}, "x  100%  1.0 MiB of 1.0 MiB  1.0 MiB/s"),
        ({"done": 2 * MIB, "total": MIB}, "x  100%  2.0 MiB of 1.0 MiB"),
        ({"total": 0}, "x  0.0 KiB"),
        (
            {"done": 120, "total": 3000, "unit": "steps", "rate": 2.1},
            "x  4%  120 of 3000 steps  2.1 steps/s  22 min left",
        ),
        (
            {"done": 1, "total": 3, "unit": "epochs", "rate": 0.01},
            "x  33%  1 of 3 epochs  0.6 epochs/min  3 min 20 s left",
        ),
        ({"done": 7, "unit": "files"}, "x  7 files"),
    ],
)
def test_what_is_known_is_shown_and_the_rest_is_left_out(values, shown):
    assert line(item(**values)) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (43.9, "43 s"),
        (60, "1 min"),
        (725, "12 min 5 s"),
        (1371, "22 min"),
        (3600, "1 h"),
        (7380, "2 h 3 min"),
        (90000, "25 h"),
    ],
)
def test_times(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    "broken",
    [{}, {"done": "many", "total": [], "rate": True}, {"done": float("nan"), "total": -3, "rate": float("inf")}],
)
def test_what_a_job_wrote_wrongly_costs_a_column_and_no_run(broken):
    assert line({"label": "x", "unit": "steps", **broken}) == "x  0 steps"


def test_nothing_moves_the_cursor_or_changes_a_colour():
    assert line(item(label="\x1b[31mred\x1b[0m\r\nx", done=7, unit="files")) == "red  x  7 files"


class Screen:
    def __init__(self):
        self.shown = []

    def display(self, text):
        self.shown.append(text)


def status(**values):
    return {"name": "fetch", "state": "running", "progress": [], "last_lines": [], "seconds": 61.0, **values}


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (
            {"progress": [item(done=1, unit="files"), item(label="y", done=2, unit="files")]},
            ["x  1 files", "y  2 files"],
        ),
        ({"progress": ["nonsense"], "last_lines": ["one", "\x1b[1mtwo " + "." * 200]}, ["two " + "." * 96]),
        ({}, ["runs for 1 min 1 s"]),
        ({"state": "done", "progress": [item()]}, []),
    ],
)
def test_a_report_names_host_and_job_on_each_line(found, shown):
    screen = Screen()
    report(screen, "box1", [status(**found)])
    assert screen.shown == [f"box1  fetch  {text}" for text in shown]
