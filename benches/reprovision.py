"""`make bench-reprovision`: a box with its system disk reset, activation, and a boot under either init.

    python benches/reprovision.py

Prints a table, then one JSON line; exits with 1 where a figure misses its bound. docs/benchmarks.md records a run.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import box

ROOT = box.ROOT
sys.path.insert(0, str(ROOT / "tests"))

from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send  # noqa: E402
from support import Outcome, site  # noqa: E402

SUITE, KIND = "bookworm", "autodl"
AT_MOST = {"reset_ratio": 0.15, "activate_seconds": 20, "supervisord_over_systemd_seconds": 5}
BOOTS = 3


def timed(inventory: Path, *options: str, **variables: Any) -> tuple[float, Outcome]:
    """Run site.yml, which has to succeed; return its wall seconds and what it did."""
    begun = time.monotonic()
    ended = site(inventory, *options, **variables)
    if ended.failure:
        raise SystemExit(f"The run failed: {ended.failure}")
    return time.monotonic() - begun, ended


def loading_seconds(ended: Outcome) -> float:
    """Return how long a run waited for the model: `wait_ready` of the demo host says it."""
    return float(ended.result("Wait until the first answer was generated")["ready_after"]["glmbox-demos.service"])


def answered(seconds: float, ended: Outcome) -> float:
    """Return after how many seconds of a run the box had answered all questions; what follows is for the next box."""
    (asked,) = [
        event["created"]
        for event in ended.events
        if event["event"] == "runner_on_ok" and event["event_data"]["task"] == "Ask in every way that the outside can"
    ]
    after = datetime.fromisoformat(ended.events[-1]["created"]) - datetime.fromisoformat(asked)
    return seconds - after.total_seconds()


def boot_seconds(name: str, port: str) -> float:
    """Return the seconds from the start of a stopped container until all demos answer through the gateway."""
    box.podman("stop", "--time", "10", name)
    begun = time.monotonic()
    box.podman("start", name)
    address = "http://" + box.podman("port", name, port).splitlines()[0]
    while send(request(address + "/healthz"))[0] != 200:
        if time.monotonic() - begun > 120:
            raise SystemExit(f"{name} did not come back within 120 s.")
        time.sleep(0.05)
    return time.monotonic() - begun


def measure(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of each way, and the figures."""
    seconds: dict[str, float] = {}
    name, port = box.container("bench-reset"), f"{box.KINDS[KIND].port}/tcp"
    inventory = box.start_test_box("bench-reset", suite=SUITE, kind=KIND)
    print("Deploying a bare container", flush=True)
    seconds["a bare container, nothing cached"], _ = timed(inventory, cache_dir=str(folder / "cache"))
    print("Resetting its system disk", flush=True)
    box.reset_test_box("bench-reset", KIND, SUITE)
    # The controller's cache is another, empty one: what is not on the data disk would have to be built.
    reset, ended = timed(inventory, cache_dir=str(folder / "none"))
    seconds["system disk reset, data disk kept"] = reset
    seconds["the same, until it answers"] = answered(reset, ended)
    seconds["a finished box"], ended = timed(inventory, cache_dir=str(folder / "none"))
    if ended.changed:
        raise SystemExit(f"There was something left to do: {', '.join(ended.changed)}")
    print("Preparing another container, then activating it", flush=True)
    box.reset_test_box("bench-reset", KIND, SUITE)
    timed(inventory, "--tags", "prepare", cache_dir=str(folder / "none"))
    activated, ended = timed(inventory, "--tags", "activate", cache_dir=str(folder / "none"))
    seconds["activate, with the model loading"] = activated
    seconds["activate, without"] = activated - loading_seconds(ended)
    supervised = [boot_seconds(name, port) for _ in range(BOOTS)]
    box.stop_test_box("bench-reset")
    print("Deploying a machine with systemd", flush=True)
    inventory = box.start_test_box("bench-booted", suite=SUITE)
    timed(inventory, cache_dir=str(folder / "cache"))
    booted = [boot_seconds(box.container("bench-booted"), "3389/tcp") for _ in range(BOOTS)]
    seconds["boot to ready, supervisord (median)"] = sorted(supervised)[BOOTS // 2]
    seconds["boot to ready, systemd (median)"] = sorted(booted)[BOOTS // 2]
    figures = {
        "reset_ratio": seconds["the same, until it answers"] / seconds["a bare container, nothing cached"],
        "activate_seconds": seconds["activate, without"],
        "supervisord_over_systemd_seconds": sorted(supervised)[BOOTS // 2] - sorted(booted)[BOOTS // 2],
    }
    return seconds, figures


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="glmbox-bench-"))
    try:
        seconds, figures = measure(folder)
    finally:
        box.stop_test_box("bench-reset")
        box.stop_test_box("bench-booted")
        shutil.rmtree(folder)
    print(f"\n{'what':<44}{'seconds':>10}")
    for what, took in seconds.items():
        print(f"{what:<44}{took:>10.1f}")
    print(json.dumps({name: round(figure, 3) for name, figure in figures.items()}))
    if any(figures[name] > most for name, most in AT_MOST.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
