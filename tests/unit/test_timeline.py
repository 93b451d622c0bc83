"""The timeline: uptimes become the run's seconds, the longest branch is found, bars lie where they should."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml
from ansible_collections.glmbox.box.plugins.callback import timeline as callback
from ansible_collections.glmbox.box.plugins.module_utils import job_processes, jobs
from ansible_collections.glmbox.box.plugins.module_utils.timeline import (
    LINE_CHARACTERS,
    WAIT,
    WORK,
    Part,
    Row,
    branch_line,
    jobs_of,
    longest_branch,
    offset_of,
    record,
    remarks,
    roles_of,
    stages_line,
    text,
)
from ansible_collections.glmbox.box.plugins.module_utils.timeline_picture import place, svg, ticks
from ansible_collections.glmbox.box.plugins.modules import timeline as module

ROOT = Path(__file__).resolve().parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def segment(kind: str, begun: float, ended: float, *waits_for: str, what: str = "") -> dict:
    one = {"what": what or kind, "kind": kind, "begun": begun, "ended": ended}
    return {**one, "for": list(waits_for)} if waits_for else one


def job(name: str, begun: float | None, ended: float | None, *segments: object, state: str = "done") -> dict:
    return {"name": name, "state": state, "begun": begun, "ended": ended, "segments": list(segments)}


def rows(*told: dict, now: float = 100.0, offset: float = 0.0, length: float = 100.0) -> list[Row]:
    return jobs_of({"jobs": list(told), "now": now}, offset, length)


def spans(row: Row) -> list[tuple[str, str, float, float]]:
    return [(part.what, part.kind, part.begun, part.ended) for part in row.parts]


def steps(branch: list[Row]) -> list[tuple[str, float]]:
    return [(row.name, row.seconds(WORK)) for row in branch]


# The run of the example: sources arrive, OpenSSL compiles, Python configures meanwhile, the environment comes last.
DEPLOYMENT = (
    job("fetch-openssl-1.1.1w", 3, 8),
    job("fetch-python-3.11.2", 3, 17),
    job("build-openssl", 6, 62, segment(WAIT, 6, 8, "openssl-1.1.1w"), segment(WORK, 8, 58), segment(WORK, 58, 62)),
    job(
        "build-python",
        8,
        82,
        segment(WAIT, 8, 17, "python-3.11.2"),
        segment(WORK, 17, 40, what="configure"),
        segment(WAIT, 40, 58, "openssl"),
        segment(WORK, 58, 80, what="make"),
        segment(WORK, 80, 82, what="pack for the cache"),
    ),
    job("build-venv", 9, 95, segment(WORK, 9, 11), segment(WAIT, 11, 80, "python"), segment(WORK, 80, 95)),
)


# -- prepare and activate


@pytest.mark.parametrize(
    ("seconds", "cards", "line"),
    [
        ({}, 1, ""),
        ({"prepare": 61.23}, 1, "prepare took 61.2 s"),
        ({"prepare": 61.23, "activate": 90}, 0, "prepare took 61.2 s, activate took 90.0 s"),
        ({"prepare": 61.23, "activate": 90}, 1, "prepare took 61.2 s, activate took 90.0 s = 1.5 GPU minutes"),
        ({"activate": 90}, 8, "activate took 90.0 s = 12.0 GPU minutes"),
    ],
)
def test_stages_are_told_in_one_line(seconds, cards, line):
    assert stages_line(seconds, cards) == line


def test_the_stages_are_plays_of_this_project():
    for play, stage in callback.STAGES.items():
        plays = yaml.safe_load((ROOT / "playbooks" / f"{stage}_box.yml").read_text())
        assert [one["name"] for one in plays] == [play]


# -- clocks, and what is shown


def test_an_uptime_becomes_a_second_of_the_run():
    # The controller's clock said 500 when the run began, and 520 when the box was up for 1000 s.
    assert offset_of(now=1000, asked=520, begun=500) == -980
    (row,) = rows(job("x", 985, 990), now=1000, offset=-980)
    assert (row.begun, row.ended) == (5, 10)
    assert spans(row) == [("", WORK, 5, 10)]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (job("before", -20, -1), False),
        (job("into it", -20, 5), True),
        (job("within", 5, 6), True),
        (job("still running", -20, None, state="running"), True),
        (job("died before", -20, None, state="dead"), False),
        (job("died within", 20, None, state="dead"), True),
        (job("never began", None, None, state="absent"), False),
        (job("of an earlier start of the box", 90, 4000), False),
        (job("of an earlier start of the box, dead", 4000, None, state="dead"), False),
    ],
)
def test_only_what_ran_during_the_run_is_shown(told, shown):
    assert bool(rows(told)) == shown


def test_what_began_before_the_run_is_cut_and_says_so():
    (row,) = rows(job("x", -20, None, segment(WAIT, -20, -5, "y"), segment(WAIT, -5, 10, "z"), state="running"))
    assert spans(row) == [("wait", WAIT, 0, 10), ("", WORK, 10, 100)]
    assert remarks(row) == "still runs, began 20 s before this run, waited 10 s for z"


def test_what_a_job_did_is_told_segment_by_segment_and_the_rest_is_work():
    inner = segment(WORK, 12, 14, what="unpack")
    (row,) = rows(job("x", 0, 30, segment(WAIT, 1, 9, "a"), inner, segment(WORK, 11, 20, what="proof")))
    assert spans(row) == [
        ("", WORK, 0, 1),
        ("wait", WAIT, 1, 9),
        ("", WORK, 9, 11),
        ("proof", WORK, 11, 12),
        ("unpack", WORK, 12, 14),
        ("proof", WORK, 14, 20),
        ("", WORK, 20, 30),
    ]


def test_a_moment_between_two_segments_is_nothing():
    (row,) = rows(job("x", 0, 10, segment(WORK, 0.02, 5, what="a"), segment(WORK, 5.03, 10, what="b")))
    assert [part.what for part in row.parts] == ["a", "b"]


@pytest.mark.parametrize("broken", [None, 7, "x", {}, segment(WORK, 1, 2) | {"ended": "soon"}, {"begun": 1, "for": 3}])
def test_what_a_job_wrote_wrongly_costs_a_detail(broken):
    (row,) = rows(job("x", 0, 10, broken, segment(WORK, 2, 8, what="make")))
    assert [part.what for part in row.parts] == ["", "make", ""]


def test_a_job_that_died_is_shown_to_its_last_sign_of_life():
    (row,) = rows(job("x", 2, None, segment(WORK, 2, 8), state="dead"))
    assert (row.ended, remarks(row)) == (8, "died")


def test_waits_for_the_same_are_added_up():
    waits = [segment(WAIT, 0, 5, "a"), segment(WORK, 5, 6), segment(WAIT, 6, 8, "b", "c"), segment(WAIT, 8, 12, "a")]
    (row,) = rows(job("x", 0, 12, *waits))
    assert remarks(row) == "waited 9 s for a, 2 s for b and c"


def test_tasks_of_a_role_become_its_parts():
    tasks = [Part("box", WORK, 0, 1), Part("box", WORK, 1, 2), Part("fetch", WORK, 2, 3), Part("box", WAIT, 3, 9)]
    box, fetch = roles_of([*tasks, Part("gateway", WORK, 9, 9.01)])
    assert spans(box) == [("box", WORK, 0, 2), ("box", WAIT, 3, 9)]
    assert (box.begun, box.ended, fetch.name) == (0, 9, "fetch")


# -- the longest branch


def test_the_longest_branch_follows_what_was_waited_for_last():
    found = longest_branch(rows(*DEPLOYMENT))
    # Python's configure stood in nobody's way, nor did OpenSSL's last step, nor Python's.
    assert steps(found) == [
        ("fetch-openssl-1.1.1w", 5),
        ("build-openssl", 50),
        ("build-python", 22),
        ("build-venv", 15),
    ]
    assert branch_line(found, 99.6) == (
        "longest branch: fetch-openssl-1.1.1w 5 s > build-openssl 50 s > build-python 22 s > build-venv 15 s "
        "= 92 s of 100 s"
    )


def test_of_several_that_were_waited_for_together_the_last_one_counts():
    told = [job("fetch-a", 0, 9), job("build-b", 0, 20), job("build-c", 1, 30, segment(WAIT, 1, 20, "a", "b"))]
    assert steps(longest_branch(rows(*told))) == [("build-b", 20), ("build-c", 10)]


def test_what_was_no_job_ends_the_branch():
    told = job("build-c", 1, 30, segment(WORK, 1, 5), segment(WAIT, 5, 20, "pushed"))
    assert steps(longest_branch(rows(told))) == [("build-c", 10)]


def test_a_wait_for_nobody_is_in_no_branch_and_ends_none():
    told = job("build-c", 0, 30, segment(WORK, 0, 5), segment(WAIT, 5, 20))
    assert steps(longest_branch(rows(told))) == [("build-c", 15)]


def test_a_circle_ends():
    told = [
        job("build-a", 0, 20, segment(WAIT, 0, 10, "b")),
        job("build-b", 0, 12, segment(WAIT, 0, 5, "a"), segment(WORK, 5, 12)),
    ]
    assert steps(longest_branch(rows(*told))) == [("build-b", 5), ("build-a", 10)]


def test_without_jobs_there_is_no_branch():
    assert longest_branch([]) == []


# -- text


def test_the_text():
    roles = roles_of([Part("box", WORK, 0, 6), Part("openssl", WAIT, 6, 80), Part("gateway", WORK, 80, 100)])
    told = job("build-x", 10, 60, segment(WAIT, 10, 40, "openssl-1.1.1w"), segment(WORK, 40, 60), state="failed")
    assert "\n".join(text("box-1", roles, rows(told), 100)) == (
        "TIMELINE of box-1: # works, . waits; begin and end in seconds of this run\n"
        "controller                          begin    end  0                                            100 s\n"
        "  box                                   0      6  ###\n"
        "  openssl                               6     80     .....................................\n"
        "  gateway                              80    100                                          ##########\n"
        "jobs on box-1\n"
        "  build-x                              10     60       ...............##########\n"
        "    failed, waited 30 s for openssl-1.1.1w\n"
        "longest branch: build-x 20 s = 20 s of 100 s"
    )


def test_a_cell_shows_what_took_most_of_it_and_a_moment_is_seen():
    roles = roles_of([Part("x", WORK, 0, 0.4), Part("x", WAIT, 0.4, 2), Part("x", WORK, 99.0, 99.1)])
    bar = text("h", roles, [], 100)[2][50:]
    assert bar == "." + " " * 48 + "#"


def test_lines_fit_and_nothing_moves_the_cursor():
    hostile = "build-\x1b[2J\r" + "n" * 90
    waits = [segment(WAIT, n, n + 1, f"artifact-\n{n}") for n in range(20)]
    shown = text("a\tb", roles_of([Part("r", WORK, 0, 100)]), rows(job(hostile, 0, 50, *waits)), 100)
    assert max(len(line) for line in shown[:-1]) <= LINE_CHARACTERS
    assert all(line.isprintable() for line in shown)
    assert shown[0].startswith("TIMELINE of a b:")


# -- the picture


def drawn(*told: dict, host: str = "box-1", length: float = 100) -> tuple[ElementTree.Element, dict[str, tuple]]:
    """Return a picture, and its bars by what their titles say: class, left edge, right edge."""
    roles = roles_of([Part("box", WORK, 0, 6), Part("box", WAIT, 6, 80)])
    root = ElementTree.fromstring(svg("Run of now", roles, {host: rows(*told, length=length)}, length))
    bars = {}
    for rect in root.iter(SVG + "rect"):
        title = rect.find(SVG + "title")
        if title is not None:
            left = float(rect.get("x"))
            bars[title.text] = (rect.get("class"), left, round(left + float(rect.get("width")), 2))
    return root, bars


def test_bars_lie_where_the_times_say():
    told = job("build-x", 10, 60, segment(WAIT, 10, 40, "y", what="wait for y"), segment(WORK, 40, 60, what="make"))
    root, bars = drawn(told)
    left, right = place(0, 100), place(100, 100)
    assert 0 < left < right < float(root.get("width"))

    def at(seconds: float) -> float:
        return round(left + (right - left) * seconds / 100, 2)

    assert bars == {
        "box works 6.0 s, from 0.0 s to 6.0 s": ("work", at(0), at(6)),
        "box waits 74.0 s, from 6.0 s to 80.0 s": ("wait", at(6), at(80)),
        "build-x (wait for y) waits 30.0 s, from 10.0 s to 40.0 s": ("wait", at(10), at(40)),
        "build-x (make) works 20.0 s, from 40.0 s to 60.0 s": ("work", at(40), at(60)),
        "build-x is on the longest branch 20.0 s, from 40.0 s to 60.0 s": ("branch", at(40), at(60)),
    }


def test_the_axis_is_marked_where_its_times_lie():
    root, _ = drawn(job("x", 0, 9))
    marks = {one.text: float(one.get("x")) for one in root.iter(SVG + "text") if one.get("text-anchor") == "middle"}
    assert marks == {
        "0 s": place(0, 100),
        "15 s": place(15, 100),
        "30 s": place(30, 100),
        "45 s": place(45, 100),
        "1 min": place(60, 100),
        "1 min 15 s": place(75, 100),
        "1 min 30 s": place(90, 100),
    }
    assert sorted(marks.values()) == sorted(float(line.get("x1")) for line in root.iter(SVG + "line"))


def test_everything_lies_on_the_background():
    root, _ = drawn(*DEPLOYMENT)
    background = next(one for one in root.iter(SVG + "rect") if one.get("class") == "background")
    assert (background.get("width"), background.get("height")) == (root.get("width"), root.get("height"))
    lowest = max(float(one.get("y", 0)) for one in root.iter())
    assert lowest < float(root.get("height"))


def test_names_are_text_and_nothing_else():
    hostile = "<script>&\"'\x00\x1b]0;x\x07\ud800"
    root, bars = drawn(job(f"fetch-{hostile}", 0, 50), host=hostile)
    shown = " ".join(one.text or "" for one in root.iter(SVG + "text"))
    assert "jobs on <script>&\"'" in shown
    assert any(title.startswith("fetch-<script>&\"'") for title in bars)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {"svg", "style", "g", "rect", "title", "text", "line"}


@pytest.mark.parametrize(
    ("length", "marks"),
    [
        (0.5, [0]),
        (9.4, [0, 2, 4, 6, 8]),
        (214.3, [0, 30, 60, 90, 120, 150, 180, 210]),
        (5000, [0, 600, 1200, 1800, 2400, 3000, 3600, 4200, 4800]),
        (30 * 86400, [0, 345600, 691200, 1036800, 1382400, 1728000, 2073600, 2419200]),
    ],
)
def test_ticks_are_round_and_few(length, marks):
    assert ticks(length) == marks


# -- the box's half


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A folder for jobs on a machine without systemd; what is left of them is ended afterwards."""
    monkeypatch.setattr(jobs, "systemd_is_booted", lambda: False)
    monkeypatch.setattr(job_processes, "TERM_SECONDS", 1.0)
    folder = str(tmp_path / "jobs")
    yield folder
    for name in jobs.names(folder):
        jobs.stop(folder, name)


def up() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def test_a_job_tells_its_uptimes_and_segments(state):
    before = up()
    segments = [segment(WORK, 1, 2)]
    write = ["sh", "-c", f"sleep 0.25; echo '{json.dumps({'segments': segments})}' >$JOB_RESULT"]
    jobs.start(state, "done", write, {})
    jobs.start(state, "runs", ["sleep", "60"], {})
    jobs.wait(state, ["done"], 5)
    done = module.told_of(state, "done")
    assert before - 0.02 <= done["begun"] <= done["ended"] - 0.2
    assert done["ended"] <= up()
    assert (done["state"], done["segments"]) == ("done", segments)
    runs = module.told_of(state, "runs")
    assert (runs["state"], runs["ended"], runs["segments"]) == ("running", None, [])
    time.sleep(0.3)
    jobs.stop(state, "runs")
    stopped = module.told_of(state, "runs")
    assert stopped["state"] == "stopped"
    assert 0.2 < stopped["ended"] - stopped["begun"] < 5


@pytest.mark.parametrize("written", ["[]", '"x"', '{"segments": 7}', "{}", "no JSON"])
def test_a_result_of_another_kind_has_no_segments(state, written):
    jobs.start(state, "x", ["sh", "-c", f"echo '{written}' >$JOB_RESULT"], {})
    jobs.wait(state, ["x"], 5)
    assert module.told_of(state, "x")["segments"] == []


# -- the controller's half


@pytest.mark.parametrize(
    ("action", "args", "waits"),
    [
        ("glmbox.box.job", {"name": "x", "do": "wait"}, True),
        ("glmbox.box.job", {"name": "x"}, False),
        ("glmbox.box.build", {"do": "wait"}, True),
        ("glmbox.box.artifact", {}, True),
        ("glmbox.box.artifact", {"wait": False}, False),
        ("glmbox.box.artifact", {"wait": "false"}, False),
        ("ansible.builtin.wait_for", {"do": "wait"}, False),
    ],
)
def test_which_tasks_only_wait(action, args, waits):
    assert callback.is_wait(action, args) == waits


def test_a_box_that_goes_away_is_told_with_the_next_step():
    one, shown = callback.CallbackModule(), []
    one._display = SimpleNamespace(warning=shown.append)
    one.v2_runner_on_unreachable(SimpleNamespace(host=SimpleNamespace(get_name=lambda: "box-1")))
    (text,) = shown
    assert text.startswith("box-1 does not answer any more: ") and "run the same command again" in text


def test_old_runs_go_and_nothing_else(tmp_path):
    for day in range(1, 29):
        (tmp_path / f"2025-01-{day:02}_10-00-00" / "deep").mkdir(parents=True)
    for name in ("2024-01-01", "notes", "2024-01-01_10-00-00.bak"):
        (tmp_path / name).mkdir()
    (tmp_path / "2024-01-02_10-00-00").symlink_to(tmp_path / "notes")
    (tmp_path / "2025-01-28_10-00-00" / "deep" / "file").touch()
    # A clock that was set back: the newest run has the oldest name.
    callback.prune(str(tmp_path), "2025-01-01_10-00-00")
    left = {path.name for path in tmp_path.iterdir()}
    runs = {"2025-01-01_10-00-00"} | {f"2025-01-{day:02}_10-00-00" for day in range(10, 29)}
    assert left == runs | {"2024-01-01", "notes", "2024-01-01_10-00-00.bak", "2024-01-02_10-00-00"}
    assert len(runs) == callback.KEPT_FOLDERS


def test_the_record_is_json():
    told = rows(*DEPLOYMENT)
    found = json.loads(json.dumps(record("2025-01-01_10-00-00", roles_of([Part("r", WORK, 0, 1)]), {"h": told}, 100)))
    assert [one["name"] for one in found["longest_branch"]["h"]] == [row.name for row in longest_branch(told)]
    assert found["jobs"]["h"][0]["parts"][0]["kind"] == WORK
    assert found["roles"][0]["ended"] == 1


class Screen:
    def __init__(self):
        self.warnings, self.shown = [], []

    def warning(self, text):
        self.warnings.append(text)

    def display(self, text):
        self.shown.append(text)


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "runs").touch()
    one = callback.CallbackModule()
    one._display = Screen()
    one._write(str(tmp_path / "runs"), {"timeline.txt": "x"})
    (warning,) = one._display.warnings
    assert f"could not be kept in {tmp_path}/runs: " in warning
    assert one._display.shown == []


PLAY = """
- hosts: all
  gather_facts: false
  vars: {{dir: {folder}/jobs, runs: {folder}/runs, how: wait}}
  tasks:
    - glmbox.box.job: {{name: build-x, state_dir: "{{{{ dir }}}}", command: [sleep, "1.5"]}}
    - glmbox.box.job: {{name: build-x, state_dir: "{{{{ dir }}}}", do: "{{{{ how }}}}"}}
    - ansible.builtin.assert: {{that: "not (fails | default(false))"}}
    - glmbox.box.timeline: {{state_dir: "{{{{ dir }}}}", runs_dir: "{{{{ runs }}}}"}}
"""


@pytest.fixture
def play(tmp_path, state):
    """A function that runs a playbook with a job on this very machine, and returns what it printed."""
    (tmp_path / "play.yml").write_text(PLAY.format(folder=tmp_path))
    program = [sys.executable, "-m", "ansible", "playbook"]
    host = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]

    def run(*more: str) -> str:
        variables = dict(
            os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_LOCAL_TEMP=str(tmp_path / "local")
        )
        command = [*program, str(tmp_path / "play.yml"), *host, *more]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
        assert "SECONDS\nplay " in done.stdout, done.stdout + done.stderr
        return done.stdout

    return run


def test_a_real_run_shows_keeps_and_does_not_repeat_its_timeline(play, tmp_path):
    runs = tmp_path / "runs"
    assert "TIMELINE" not in play("-e", "fails=true")
    assert not runs.exists()
    shutil.rmtree(tmp_path / "jobs")
    shown = play()
    (folder,) = runs.iterdir()
    assert callback.FOLDER_NAME.fullmatch(folder.name)
    assert f"The timeline stands in {folder} " in shown
    assert (folder / "timeline.txt").read_text() in shown
    ElementTree.parse(folder / "timeline.svg")
    told = json.loads((folder / "timeline.json").read_text())
    (one,) = told["jobs"]["localhost"]
    assert (one["name"], one["state"]) == ("build-x", "done")
    assert 1.4 < one["ended"] - one["begun"] < 4
    # The job was begun by the run's first task, and lies there by the controller's clock.
    assert -0.5 < one["begun"] < one["ended"] < told["seconds"]
    (role,) = told["roles"]
    assert WAIT in [part["kind"] for part in role["parts"]]
    assert "TIMELINE" not in play()
    assert list(runs.iterdir()) == [folder]
