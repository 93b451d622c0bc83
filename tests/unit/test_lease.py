"""The lease: what happens when, with a boot clock of our own and a stop that is noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from demo_host.health import start_health_server
from demo_host_fakes import make_host
from glmbox_lease import meter, rules, state, stops, watch
from glmbox_lease.meter import Session
from glmbox_lease.settings import Settings
from glmbox_lease.show import status_of
from glmbox_lease.words import seconds_of, span
from glmbox_lease.work import Work, look_around, metrics_of, running_jobs

MINUTE, HOUR = 60.0, 3600.0
IDLE = Work([], 0, {"8100": [1.0, 5.0, 0.0]})


class Box:
    """A box whose clock, work and provider are ours; it is looked at every ten seconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self.settings = Settings(str(folder / "lease.json"), str(folder / "jobs"), [8100], **settings)
        if not self.settings.stop:
            self.settings.stop = {"command": ["/bin/true"]}
        self.now, self.session, self.boots = 5000.0, Session("boot 0", "40", 5000.0), 0
        self.work, self.said, self.stops = IDLE, [], []
        self.problem = ""
        monkeypatch.setattr(watch, "stop_box", self._stop)
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # hours pass here within a second
        self.start_watcher()

    def _stop(self, stop: dict) -> str:
        self.stops.append(self.on)
        return self.problem

    @property
    def on(self) -> float:
        """Return for how many minutes the box has been on since the lease began."""
        return round((self.state.meter - self.state.begin) / MINUTE, 1)

    @property
    def state(self) -> state.State:
        return state.load(self.settings.state)[0]

    @property
    def shown(self) -> dict:
        return status_of(self.state, self.settings, self.now, self.session.boot)

    def start_watcher(self, **settings: object) -> None:
        """Start the watcher, as a new process would be."""
        self.settings = replace(self.settings, **settings)
        self.watcher = watch.Watcher(self.settings, self.said.append)

    def look(self) -> None:
        if self.watcher.look(self.session, self.now, self.work):
            self.watcher.stop(self.session, lambda: self.now)

    def run(self, minutes: float) -> list[str]:
        """Let so many minutes pass; return what was said."""
        before = len(self.said)
        for _ in range(round(minutes * 6)):
            self.now += 10
            self.look()
        return self.said[before:]

    def restart(self, off_minutes: float = 0.0, container: bool = False) -> None:
        """Start the box again after so many minutes off, a kernel or only a container."""
        self.boots += 1
        if container:
            self.now += off_minutes * MINUTE
            self.session = Session(self.session.boot, str(40 + self.boots), self.now)
        else:
            self.now = 30.0
            self.session = Session(f"boot {self.boots}", "1", 0.0)
        self.start_watcher()
        self.look()

    def command(self, word: str) -> None:
        """Do what the command does."""
        found = self.state
        meter.advance(found, self.session, self.now)
        if word == "off":
            rules.switch_off(found)
        else:
            rules.extend(found, self.settings, seconds_of(word))
        state.save(self.settings.state, found)


@pytest.fixture
def make(tmp_path, monkeypatch):
    # Who asks the wall clock, which jumps, finds none.
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
    return lambda **settings: Box(tmp_path, monkeypatch, **settings)


def test_the_box_is_stopped_when_its_hours_are_over(make):
    box = make(hours=2)
    assert box.run(109) == []
    assert box.run(2)[0].startswith("The lease ends in 10 min; then the box is stopped. `glmbox-lease +2h`")
    assert box.run(8.5) == []
    assert box.stops == []
    assert box.run(1) == ["The lease of 2 h is over.", "The box is told to stop."]
    assert box.stops == [120.0]
    assert box.shown["state"] == "stopping"


def test_without_limits_nothing_is_ever_stopped(make):
    box = make()
    box.run(600)
    assert (box.said, box.stops, box.shown["state"]) == ([], [], "none")


def test_an_idle_box_is_stopped_and_a_used_one_is_not(make):
    box = make(idle_minutes=30)
    for minute in range(50):
        box.run(1)
        box.work = Work([], 0, {"8100": [1.0, 6.0 + minute, 0.0]})
    box.look()
    assert box.said == []
    assert "Nobody uses the box, and its lease ends in 10 min" in box.run(20.5)[0]
    box.work = Work([], 0, {"8100": [1.0, 99.0, 0.0]})
    assert box.run(19) == []
    assert len(box.run(2)) == 1
    assert box.run(10) == ["Nobody has used the box for 30 min: the lease is over.", "The box is told to stop."]
    assert len(box.stops) == 1


@pytest.mark.parametrize(
    "work",
    [Work(["finetune"], 0, {}), Work([], 1, {"8100": [1.0, 5.0, 0.0]})],
    ids=["a job", "one long generation"],
)
def test_work_that_runs_is_use(make, work):
    box = make(idle_minutes=5)
    box.work = work
    box.run(60)
    assert (box.said, box.stops) == ([], [])


def test_what_counts_as_use():
    found = state.State(meter=100.0, counts={"8100": [1.0, 5.0, 0.0]})
    for work, used in [
        (IDLE, False),
        (Work([], 0, {}), False),  # a demo host that is down
        (Work([], 0, {"8100": [1.0, 5.0, 1.0]}), True),  # a request that was refused
        (Work([], 0, {"8100": [0.0, 0.0, 0.0]}), True),  # a demo host that is started again
        (Work([], 0, {"8100": [1.0, 5.0, 0.0], "8110": [1.0, 0.0, 0.0]}), True),
    ]:
        tried = state.State(**{**asdict(found), "active_at": 0.0})
        rules.note_activity(tried, work)
        assert (tried.active_at == 100.0) == used, work


def test_running_work_is_finished_before_the_stop(make):
    box = make(hours=1)
    box.work = Work(["finetune"], 2, {"8100": [1.0, 5.0, 0.0]})
    said = box.run(61)
    assert "Before the box is stopped, it finishes finetune and 2 requests, for up to 30 min." in said[-1]
    assert box.shown["state"] == "finishing"
    # Three more came meanwhile: only the two of that moment are waited for.
    box.work = Work(["finetune"], 3, {"8100": [1.0, 7.0, 0.0]})
    assert box.run(10) == []
    assert "Still running: finetune." in box.shown["text"]
    box.work = Work([], 3, {"8100": [1.0, 7.0, 0.0]})
    assert box.run(0.5) == ["The box is told to stop."]


def test_work_that_does_not_end_is_cut_off_and_that_is_told(make):
    box = make(hours=1, grace_minutes=20)
    box.work = Work(["finetune"], 0, {})
    box.run(79)
    assert box.stops == []
    said = box.run(2)
    assert said[0] == "There is no more time for finetune, which the stop cuts off. Jobs go on at the next run."
    assert box.stops == [80.0]


@pytest.mark.parametrize("when", [30, 55, 61], ids=["early", "after the warning", "while work is finished"])
def test_an_extension_is_two_hours_more(make, when):
    box = make(hours=1)
    box.work = Work(["finetune"], 0, {})
    box.run(when)
    box.command("+2h")
    box.work = IDLE
    end = max(60, when) + 120
    box.run(end - when - 1)
    assert box.stops == []
    box.run(3)
    assert box.stops == [pytest.approx(end, abs=0.3)]
    assert sum("The lease ends in" in one for one in box.said) == (1 if when == 30 else 2)


def test_an_extension_holds_an_idle_end_back_as_well(make):
    box = make(idle_minutes=30)
    box.run(25)
    box.command("+2h")
    box.run(119)
    assert box.stops == []
    box.run(2)
    assert len(box.stops) == 1


def test_an_extension_calls_a_stop_off_that_did_not_work(make):
    box = make(hours=1)
    box.problem = "The provider is away."
    box.run(61)
    assert len(box.stops) == 1
    box.command("+1h")
    assert box.run(45) == []
    assert box.shown["state"] == "running"


def test_off_is_off_until_it_is_extended_or_set_anew(make):
    box = make(hours=1)
    box.run(55)
    box.command("off")
    assert box.run(500) == []
    assert (box.stops, box.shown["state"]) == ([], "off")
    box.start_watcher()
    box.run(10)
    box.command("+30min")
    box.run(29)
    assert box.stops == []
    box.run(2)
    assert len(box.stops) == 1


def test_off_ends_where_other_hours_are_set(make):
    box = make(hours=1)
    box.run(10)
    box.command("off")
    box.start_watcher(hours=3.0)
    box.run(100)
    assert box.shown["state"] == "running"
    assert box.shown["left_seconds"] == pytest.approx(70 * MINUTE, abs=20)


def test_shorter_hours_than_were_used_are_told_first(make):
    box = make(hours=8)
    box.run(180)
    box.start_watcher(hours=2.0)
    assert "The lease ends in 10 min" in box.run(9)[0]
    assert box.stops == []
    box.run(2)
    assert len(box.stops) == 1


def test_hours_that_there_were_none_of_begin_when_they_are_set(make):
    box = make(idle_minutes=600)
    box.run(300)
    box.start_watcher(hours=1.0)
    box.run(59)
    assert box.stops == []
    box.run(2)
    assert len(box.stops) == 1


def test_a_failed_stop_is_tried_again_and_said_each_time(make):
    box = make(hours=1)
    box.problem = "vast.ai did not stop the box: status 500."
    said = box.run(60 + 30)
    loud = [one for one in said if "THE BOX IS NOT STOPPED, AND COSTS MONEY. vast.ai did not stop the box" in one]
    assert box.stops == [60.0, 61.0, 63.0, 67.0, 75.0, 85.0]
    assert [one.rpartition("again in ")[2] for one in loud] == [
        "1 min.",
        "2 min.",
        "4 min.",
        "8 min.",
        "10 min.",
        "10 min.",
    ]
    assert box.shown["state"] == "failing"
    assert "status 500" in box.shown["text"]
    box.problem = ""
    assert box.run(10)[-1] == "The box is told to stop."


def test_a_stop_without_effect_is_tried_again_and_said(make):
    box = make(hours=1)
    box.run(64)
    assert box.stops == [60.0]
    assert box.run(2)[0] == "The box was told to stop 5 min ago, and is still here."
    assert box.stops == [60.0, 65.0]
    assert box.shown["state"] == "failing"
    assert "It was told to stop" in box.shown["text"]


def test_a_stop_that_had_an_effect_late_is_not_forgotten_by_a_failure(make):
    box = make(hours=1)
    box.run(62)
    box.problem = "The network is down already."
    box.run(5)
    assert box.shown["state"] == "failing"
    box.restart()
    assert "a new lease begins" in box.said[-1]


def test_where_only_the_controller_can_stop_it_the_box_says_so(make):
    box = make(hours=1, stop={"hook": True})
    assert "ONLY YOUR MACHINE CAN STOP THIS BOX" in box.run(61)[-1]
    assert box.shown["state"] == "waiting"
    assert "still here" in box.run(6)[0]
    assert box.shown["state"] == "waiting"


@pytest.mark.parametrize("container", [False, True], ids=["a machine", "a container"])
def test_a_reboot_in_the_middle_goes_on_with_the_same_lease(make, container):
    """The hours in which it was off are not counted, though a container's kernel went on."""
    box = make(hours=2)
    box.run(60)
    box.restart(off_minutes=600, container=container)
    assert box.said == ["The box was started again: the lease goes on."]
    assert box.on == pytest.approx(60, abs=1)
    box.run(58)
    assert box.stops == []
    box.run(3)
    assert len(box.stops) == 1


@pytest.mark.parametrize("container", [False, True], ids=["a machine", "a container"])
def test_a_start_after_the_stop_begins_a_new_lease(make, container):
    box = make(hours=1)
    box.run(61)
    assert len(box.stops) == 1
    box.restart(off_minutes=900, container=container)
    assert box.said[-1] == "The box was started again after its stop: a new lease begins."
    box.run(58)
    assert len(box.stops) == 1
    box.run(3)
    assert len(box.stops) == 2


def test_a_stop_that_ends_the_watcher_is_known_afterwards(make, monkeypatch):
    """A machine that powers itself off, or a container's shutdown, may leave no time to note that it worked."""
    box = make(hours=1)

    def vanish(stop: dict) -> str:
        raise SystemExit

    monkeypatch.setattr(watch, "stop_box", vanish)
    with pytest.raises(SystemExit):
        box.run(61)
    box.restart()
    assert box.said[-1] == "The box was started again after its stop: a new lease begins."
    box.run(45)
    assert box.shown["state"] == "running"


def test_who_starts_a_box_again_that_could_not_be_stopped_is_not_thrown_out_at_once(make):
    box = make(hours=1, warn_minutes=0)
    box.problem = "No key."
    box.run(70)
    tried = len(box.stops)
    box.restart()
    box.run(9.5)
    assert len(box.stops) == tried
    box.run(1)
    assert len(box.stops) == tried + 1


@pytest.mark.parametrize("minutes", [1, 50], ids=["shortly", "for long"])
def test_the_watchers_absence_counts(make, minutes):
    box = make(hours=1)
    box.run(5)
    box.now += minutes * MINUTE
    box.start_watcher()
    box.run(54 - minutes)
    assert box.stops == []
    box.run(12)
    # After a long one, there are ten minutes in which to take notice.
    assert box.stops[0] == (60 if minutes == 1 else 65)


def test_after_a_long_absence_an_end_is_still_told_before_it_comes(make):
    box = make(hours=1, idle_minutes=20)
    box.run(5)
    box.now += 3 * HOUR
    box.start_watcher()
    assert "in 10 min" in box.run(1)[0]
    box.run(8)
    assert box.stops == []
    box.run(2)
    assert len(box.stops) == 1


def test_a_boot_clock_that_stands_or_goes_back_ends_and_prolongs_nothing(make):
    """A machine that was put back to a snapshot has the same boot and an older clock."""
    box = make(hours=1)
    box.run(30)
    box.now -= 25 * MINUTE
    box.look()
    assert box.on == pytest.approx(30, abs=0.5)
    box.run(29)
    assert box.stops == []
    box.run(2)
    assert len(box.stops) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"meter": 1}', "\x00" * 100, '"x"'])
def test_a_damaged_memory_counts_from_the_start_of_the_box(make, text):
    box = make(hours=2)
    box.run(90)
    Path(box.settings.state).write_text(text)
    said = box.run(1)
    assert "was damaged: the lease counts from the start of the box" in said[0]
    assert box.on == pytest.approx(91, abs=1)
    box.run(30)
    assert len(box.stops) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("meter", "1"), ("tick", float("nan")), ("begin", True), ("off", 0), ("ended_at", "x"), ("counts", {"8100": 1})],
)
def test_a_memory_of_another_shape_is_damaged(tmp_path, name, value):
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({**asdict(state.State()), name: value}))
    assert state.load(str(path))[1] == "broken"
    path.write_text(json.dumps(asdict(state.State(ended_at=3.0, counts={"8100": [1.0, 2, 0]}))))
    assert state.load(str(path))[1] == "kept"


def test_a_full_disk_does_not_end_the_watch(make, monkeypatch):
    box = make(hours=1)
    box.run(30)

    def full(path: str, found: state.State) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "save", full)
    box.work = Work(["finetune"], 0, {})
    said = box.run(65)
    assert sum("could not be written down (No space left on device)" in one for one in said) == 1
    assert sum("is over" in one for one in said) == 1
    assert len(box.stops) == 1  # when the 30 minutes of grace were over


def test_an_unwatched_lease_says_so(make):
    box = make(hours=2)
    box.run(10)
    assert (box.shown["state"], box.shown["left_seconds"]) == ("running", pytest.approx(110 * MINUTE, abs=20))
    box.now += 80
    assert box.shown["state"] == "unwatched"
    assert "NOBODY WATCHES THE LEASE" in box.shown["text"]


def test_what_stays_billed_is_said(make):
    box = make(hours=1, stop={"command": ["/bin/true"], "keeps_billing": "the data disk"})
    box.run(1)
    assert "Billed all the same: the data disk" in box.shown["text"]
    assert "At its end the box runs /bin/true." in box.shown["text"]


def test_an_extension_during_a_stop_wins(make, monkeypatch):
    box = make(hours=1)

    def slow(stop: dict) -> str:
        box.command("+1h")
        return ""

    monkeypatch.setattr(watch, "stop_box", slow)
    assert "it may stop all the same" in box.run(61)[-1]
    assert box.shown["state"] == "running"


def test_an_error_in_a_look_is_said_once_and_the_watch_goes_on(make, monkeypatch):
    box = make(hours=1, tick_seconds=1.0)
    naps, said = [], []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "tell", said.append)
    monkeypatch.setattr(watch.time, "sleep", nap)
    monkeypatch.setattr(watch, "look_around", lambda *_: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        watch.watch(box.settings)
    assert said == ["A look at the lease failed, and is tried again: ZeroDivisionError('division by zero')"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("+2h", 7200), ("2h", 7200), ("+90min", 5400), ("+1.5h", 5400), ("30m", 1800), ("+1d", 86400), ("+20s", 20)],
)
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "+", "2", "-2h", "+0h", "+2 h", "+999999d", "1e3h", "+2h;reboot", "two hours", "+2hh"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is no time to extend the lease by"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (-5, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "1 h"), (3700, "1 h 2 min"), (7200, "2 h")],
)
def test_durations_are_said(seconds, text):
    assert span(seconds) == text


def test_metrics_are_summed_over_their_labels():
    text = '# HELP x y\nx{script="api",outcome="ok"} 3\nx{script="b"} 2\nready 1\nbad nonsense\nseconds_sum 1.5\n'
    assert metrics_of(text) == {"x": 5.0, "ready": 1.0, "seconds_sum": 1.5}


def test_the_demo_hosts_own_metrics_are_understood(tmp_path):
    host = make_host()
    host.config = replace(host.config, health_port=0)
    server = start_health_server(host)
    try:
        port = server.server_address[1]
        host.state.count_generation("api", "ok", 0.5)
        host.state.count_rejected("openai_api", "full")
        ticket = host.turns.join()
        assert look_around(str(tmp_path), [port, 1]) == Work([], 1, {str(port): [0.0, 1.0, 1.0]})
        ticket.leave()
        assert look_around(str(tmp_path), [port]).open == 0
    finally:
        server.shutdown()


def test_jobs_are_known_by_their_locks(tmp_path):
    for name in ("old", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    (tmp_path / "never-started").mkdir()
    holder = subprocess.Popen(["flock", str(tmp_path / "runs" / "lock"), "cat"], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while running_jobs(str(tmp_path)) != ["runs"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        holder.communicate()
    assert running_jobs(str(tmp_path)) == []
    assert running_jobs(str(tmp_path / "none")) == []


def test_the_boot_clock_and_the_session_are_this_machines():
    session = meter.this_session()
    assert session == meter.this_session()
    assert 0 <= session.began <= meter.boot_seconds()
    assert meter.ticks_of(str(os.getpid())) is not None


def test_a_hidden_first_process_is_no_new_session():
    """The command sees PID 1, systemd's hardened watcher does not."""
    found = state.State(boot="b", tick=100.0)
    assert meter.advance(found, Session("b", "7", 3.0), 110.0) == meter.Advance(True, False, False, 10.0)
    assert meter.advance(found, Session("b", "", 90.0), 120.0).started is False
    assert found.pid1 == "7"
    assert meter.advance(found, Session("b", "8", 115.0), 130.0) == meter.Advance(True, True, False, 15.0)


def run_command(settings: Path, *words: str) -> subprocess.CompletedProcess:
    files = Path(watch.__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", "glmbox_lease", str(settings), *words],
        env={**os.environ, "PYTHONPATH": str(files)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_in_its_own_process(tmp_path):
    settings = tmp_path / "settings.json"
    given = {"state": str(tmp_path / "lease.json"), "jobs_dir": str(tmp_path), "health_ports": [], "hours": 1.0}
    settings.write_text(json.dumps({**given, "stop": {"command": ["/bin/true"]}}))
    assert "NOBODY WATCHES" in run_command(settings).stdout
    assert "has not begun yet" in run_command(settings, "+2h").stderr
    box = watch.Watcher(Settings(**given, stop={"command": ["/bin/true"]}), print)
    box.look(meter.this_session(), meter.boot_seconds(), IDLE)
    shown = json.loads(run_command(settings, "show", "--json").stdout)
    assert (shown["state"], shown["left_seconds"]) == ("running", pytest.approx(3600, abs=20))
    extended = run_command(settings, "+2h")
    assert (extended.returncode, "A lease of 3 h" in extended.stdout) == (0, True)
    assert "The lease is off" in run_command(settings, "off").stdout
    assert "It ends in 1 h," in run_command(settings, "extend", "1h").stdout
    for words in (["+2"], ["-2h"], ["show", "me"], ["destroy"]):
        refused = run_command(settings, *words)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.count("\n") == 1
    assert run_command(settings, "check").returncode == 0
    settings.write_text(json.dumps({**given, "stop": {"command": ["/no/such/program"]}}))
    assert "/no/such/program, which stops the box, is not there" in run_command(settings, "check").stderr
    settings.write_text("{")
    assert run_command(settings, "watch").returncode == 2


def test_kinds():
    assert stops.kind_of({"hook": True, "keeps_billing": "x"}) == "hook"
    assert stops.kind_of({"poweroff": True}) == "poweroff"
    assert stops.kind_of({"hook": True, "api": "vast"}) == ""
    assert stops.kind_of({}) == ""
