"""Accidents while `artifact` fetches: kills, a power-off, two controllers, a full disk, a clock that jumps."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import box
import pytest
from fetch_box import MIB, content, fetch_box, told, until
from misbehaving.client import behave, counts
from support import ROOT

# How many bytes may come twice: what arrived since aria2c noted it last (it does so each second), and samples.
TWICE = 1.05
SMALL = "/small/fetched"
CONNECTIONS = 4
JOBS = "/var/lib/glmbox/jobs"


@pytest.fixture(scope="module")
def on(tmp_path_factory):
    """A box with three servers and a tiny disk."""
    options = ("--mount", "type=tmpfs,destination=/small,tmpfs-size=64m")
    with fetch_box("fetch-killed", tmp_path_factory.mktemp("killed"), 3, *options) as made:
        yield made


@pytest.fixture(autouse=True)
def afresh(on):
    on.behave_all()


def kill(on, name: str) -> list[str]:
    """Kill all processes of a job at once; return their names. They are known by their environment."""
    marked = f"grep -lzx 'JOB_DIR={JOBS}/{name}' /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3"
    script = f"pids=$({marked}); for pid in $pids; do cat /proc/$pid/comm; done; kill -9 $pids"
    return on.inside(script).split()


def test_kills_at_a_tenth_at_half_and_near_the_end_cost_next_to_nothing(on):
    """Of runner, fetcher and aria2c together, on three artifacts side by side."""
    data = content(32 * MIB)
    on.publish({f"{at}.bin": data for at in (10, 50, 90)})
    for at, port in zip((10, 50, 90), on.ports, strict=True):
        behave(port, rate=len(data) // 38 // CONNECTIONS)
        on.table(f"at-{at}", {f"{at}.bin": data}, [port])
    started = on.fetch("at-10", "at-50", "at-90", wait=False, connections=CONNECTIONS)
    assert sorted(told(started)["begun"]) == ["at-10", "at-50", "at-90"]
    for at in (10, 50, 90):
        until(lambda at=at: on.sent(f"{at}.bin") >= at / 100 * len(data))
        killed = kill(on, f"fetch-at-{at}")
        assert "aria2c" in killed and len(killed) >= 3
        before = on.sent(f"{at}.bin")
        assert before < len(data)
        assert on.standing(f"at-{at}") == []
        assert on.fetch(f"at-{at}", wait=False, connections=CONNECTIONS).failure == ""
    assert on.fetch("at-10", "at-50", "at-90", connections=CONNECTIONS).failure == ""
    for at in (10, 50, 90):
        assert on.sha256(f"at-{at}/{at}.bin") == hashlib.sha256(data).hexdigest()
        assert on.sent(f"{at}.bin") <= TWICE * len(data), at


def test_a_killed_aria2c_is_told_and_the_next_run_goes_on(on):
    data = content(16 * MIB, 7)
    on.publish({"lone.bin": data})
    on.table("lone", {"lone.bin": data}, [on.ports[0]])
    behave(on.ports[0], rate=len(data) // 12 // CONNECTIONS)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(on.fetch, "lone", connections=CONNECTIONS)
        until(lambda: on.sent("lone.bin") >= 0.5 * len(data))
        on.inside("kill -9 $(pgrep aria2c)")
        killed = waiting.result()
    assert "aria2c was killed, or ended by itself (" in killed.failure
    assert "Run again: it goes on from there." in killed.failure
    assert on.standing("lone") == []
    assert on.fetch("lone").failure == ""
    assert on.sha256("lone/lone.bin") == hashlib.sha256(data).hexdigest()
    assert on.sent("lone.bin") <= (TWICE + 0.06) * len(data)  # it came in a third of the time of the other tests


def test_a_power_off_in_the_middle_costs_next_to_nothing(on):
    data = content(24 * MIB, 2)
    on.publish({"power.bin": data})
    on.table("power", {"power.bin": data}, [on.ports[0]])
    behave(on.ports[0], rate=len(data) // 34 // CONNECTIONS)
    on.fetch("power", wait=False, connections=CONNECTIONS)
    until(lambda: on.sent("power.bin") >= 0.4 * len(data))
    before = on.power_off()
    behave(on.ports[0], rate=2 * MIB)
    assert on.fetch("power", connections=CONNECTIONS).failure == ""
    assert on.sha256("power/power.bin") == hashlib.sha256(data).hexdigest()
    assert before["power.bin"] + on.sent("power.bin") <= TWICE * len(data)


def test_two_controllers_at_once_fetch_a_file_once(on):
    data = content(16 * MIB, 3)
    on.publish({"both.bin": data})
    on.table("both", {"both.bin": data}, [on.ports[0]])
    behave(on.ports[0], rate=MIB // 2)
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(on.fetch, "both") for _ in range(2)]
    assert [run.result().failure for run in runs] == ["", ""]
    assert on.sha256("both/both.bin") == hashlib.sha256(data).hexdigest()
    assert on.sent("both.bin") <= 1.02 * len(data)


def test_what_arrived_serves_a_controller_that_wants_it_from_elsewhere(on):
    data = content(16 * MIB, 4)
    on.publish({"moved.bin": data})
    first, other, _ = on.ports
    behave(first, rate=MIB // 4)
    on.table("moved", {"moved.bin": data}, [first])
    on.fetch("moved", wait=False)
    until(lambda: on.sent("moved.bin") > 0.6 * len(data))
    behave(first, rate=4096)  # else a slow machine's next run finds all of it here
    got = on.fetch("moved", extra_mirrors={"moved": [f"http://127.0.0.1:{other}/{{path}}"]})
    assert got.failure == ""
    assert on.sha256("moved/moved.bin") == hashlib.sha256(data).hexdigest()
    assert 0 < counts(other)["sent"]["moved.bin"] < 0.45 * len(data)


def test_a_disk_that_is_too_small_is_told_in_numbers_before_anything_is_fetched(on):
    on.publish({"large.bin": b"never asked for"})
    on.table("large", {"large.bin": b"never asked for"}, [on.ports[0]], size=100 * MIB)
    on.table("guessed", {"large.bin": b"never asked for"}, [on.ports[0]], size=None, estimate=100 * MIB)
    for name in ("large", "guessed"):
        got = on.fetch(name, dest=SMALL)
        words = f"MiB free, and 110 are needed for what is missing of {name} and a tenth to spare. Free some, or set"
        assert f"The disk of {SMALL} has 6" in got.failure
        assert words in got.failure
    on.table("unknown", {"large.bin": b"never asked for"}, [on.ports[0]], size=None)
    on.inside("cat /dev/zero > /small/filler 2>/dev/null || true")
    assert f"The disk of {SMALL} is full. Free some and run again" in on.fetch("unknown", dest=SMALL).failure
    on.inside("rm -r /small/*")
    assert counts(on.ports[0])["requests"] == {}


@pytest.mark.parametrize("jobs_dir", ["/small/jobs", JOBS], ids=["the box's only disk", "a disk for data"])
def test_a_disk_that_fills_up_is_told_and_once_freed_the_rest_comes(on, jobs_dir):
    data = content(32 * MIB, 5)
    on.publish({"filling.bin": data})
    on.table("filling", {"filling.bin": data}, [on.ports[0]], size=None)
    behave(on.ports[0], rate=8 * MIB)
    on.inside(f"mkdir -p {SMALL} && head -c {44 * MIB} /dev/zero > /small/filler")
    got = on.fetch("filling", dest=SMALL, jobs_dir=jobs_dir)
    assert f"The disk of {SMALL} is full, with " in got.failure
    assert "bytes of filling.bin there. Free some and run again: it goes on from there." in got.failure
    assert on.inside(f"ls {SMALL}/filling 2>/dev/null || true") == ""
    on.inside("rm /small/filler")
    assert on.fetch("filling", dest=SMALL, jobs_dir=jobs_dir).failure == ""
    assert on.inside(f"sha256sum < {SMALL}/filling/filling.bin").split()[0] == hashlib.sha256(data).hexdigest()
    # A piece, a megabyte of aria2c's, made room for the note of what was there.
    assert on.sent("filling.bin") <= TWICE * len(data) + 2 * MIB
    on.inside("rm -r /small/*")


def test_a_clock_that_jumps_as_libfaketime_shows_it_to_the_job_does_no_harm(on):
    """Only what the job reads jumps, not the kernel's clock, which a container must not set: no more is proven."""
    on.inside("apt-get -qq install -y --no-install-recommends libfaketime >/dev/null")
    library = on.inside("find /usr/lib -name libfaketime.so.1")
    fake = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": "/root/faked", "FAKETIME_NO_CACHE": "1"}
    fake |= {"DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    data = content(8 * MIB, 6)
    on.publish({"clock.bin": data})
    on.table("clock", {"clock.bin": data}, [on.ports[0]])
    behave(on.ports[0], rate=MIB)
    on.inside("echo +0d > /root/faked")
    ended, faked = threading.Event(), set()

    def jump() -> None:
        for number in range(1000):
            on.inside(f"echo {'-+'[number % 2]}{number % 7 + 1}d > /root/faked.new && mv /root/faked.new /root/faked")
            faked.update(
                on.inside(
                    "grep -l /libfaketime /proc/[0-9]*/maps | xargs -n 1 dirname | xargs -I {} cat {}/comm || true"
                ).split()
            )
            if ended.wait(0.5):
                return

    with ThreadPoolExecutor() as pool:
        pool.submit(jump)
        try:
            got = on.fetch("clock", play={"environment": fake})
        finally:
            ended.set()
    assert {"aria2c", "python3"} <= faked
    assert got.failure == ""
    assert on.sha256("clock/clock.bin") == hashlib.sha256(data).hexdigest()
    assert 7 < told(got)["fetched"][0]["seconds"] < 20
    assert "fetch-clock  clock  " in got.output
    assert on.fetch("clock").changed == []


def test_no_interleaving_of_kills_damage_and_bad_mirrors_ends_in_a_wrong_file(on):
    """Thirty of them, by fixed seeds; where one goes wrong, what was done in it is told."""
    for folder in ("collections", "tests"):
        box.podman("cp", str(ROOT / folder), f"{box.container(on.name)}:/srv/{folder}")
    said = on.inside("PYTHONPATH=/srv/collections:/srv/tests python3 /srv/tests/interleavings.py 1 30 2>&1 || true")
    assert said.splitlines()[-1] == "all right", said
