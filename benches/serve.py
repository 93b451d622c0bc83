"""`make bench-serve`: what the demos cost on one model behind the gateway, against the model itself and upstream's way.

    python benches/serve.py

Everything runs in one deployed Debian 12 box on this machine. Prints a table, then one JSON line; exits with 1 where a
figure misses its bound. docs/benchmarks.md records a run and says what each figure means.

There is no GPU: memory is the process's, the model is the miniature for `overhead_ms` and the crowd, and a stand-in of
1.1 GB for memory and health. On two cores torch's threads, the demos and the clients share what there is, so a busy
machine shows first in `healthz_p99_ms` and `overhead_ms`. Upstream's three scripts cannot run here as they are (no
CUDA, one port for two of them, a model from the hub): serve_upstream.py leads those three things elsewhere.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import box
from serve_clients import percentile

ROOT = box.ROOT
sys.path.insert(0, str(ROOT / "tests"))

from support import site  # noqa: E402

NAME = box.container("bench-serve")
WORK = "/var/tmp/bench"
CONFIG, PYTHON = "/opt/glmbox/demos/demos.json", "/opt/glmbox/demos/environment/bin/python"
# All fifty wait in line: a client that is told to come back in some seconds would measure its own sleep.
QUEUE_LIMIT = 64
AT_MOST = {"memory_ratio": 1.05, "overhead_ms": 5, "healthz_p99_ms": 50, "lost": 0}
# The way through the gateway contains the model's own: below 0 the machine was busy and nothing was measured.
AT_LEAST = {"throughput_ratio": 0.95, "overhead_ms": 0}
Found = dict[str, dict[str, list[float]]]


def measure_on_box(inventory: Path) -> Found:
    """Return what serve_on_box.py measured: bench to way to a list of values."""
    box.podman("exec", NAME, "mkdir", "-p", WORK)
    for file in sorted((ROOT / "benches").glob("serve_*.py")):
        box.podman("cp", str(file), f"{NAME}:{WORK}/{file.name}")
    token = (inventory / ".state" / "gateway_token").read_text()
    asked = ["exec", "--interactive", "--env", f"HF_MODULES_CACHE={WORK}/modules", NAME]
    command = box.as_root("podman", *asked, PYTHON, "-W", "ignore", f"{WORK}/serve_on_box.py", CONFIG, WORK)
    said = subprocess.run(command, input=token, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def figures_of(found: Found) -> dict[str, float]:
    """Return the figures: ratios and milliseconds from what was measured."""
    memory = {way: statistics.median(values) for way, values in found["memory_mib"].items()}
    first = {way: statistics.median(values) for way, values in found["overhead_ms"].items()}
    rounds = zip(*found["answers_per_second"].values(), strict=True)
    health = {way: percentile(values, 99) for way, values in found["healthz_ms"].items()}
    return {
        "memory_ratio": round(memory["all three"] / memory["api alone"], 3),
        "memory_ratio_upstream": round(memory["as upstream"] / memory["api alone"], 2),
        "overhead_ms": round(first["gateway"] - first["model"], 2),
        "healthz_p99_ms": round(health["demo host"], 1),
        "healthz_gateway_p99_ms": round(health["gateway"], 1),
        "lost": int(sum(found["crowd"]["lost"])),
        # Of each round, whose two ways ran one after the other: what else the machine did then slowed both.
        "throughput_ratio": round(statistics.median(crowded / alone for alone, crowded in rounds), 3),
    }


def missed(figures: dict[str, float]) -> list[str]:
    """Return the names of the figures that miss their bounds."""
    over = [key for key, bound in AT_MOST.items() if figures[key] > bound]
    return over + [key for key, bound in AT_LEAST.items() if figures[key] < bound]


def main() -> None:
    inventory = box.start_test_box("bench-serve", suite="bookworm")
    try:
        print("Deploying a box", flush=True)
        outcome = site(inventory, demos_queue_limit=QUEUE_LIMIT)
        if outcome.failure or outcome.status != "successful":
            raise SystemExit(f"The run failed: {outcome.failure}")
        found = measure_on_box(inventory)
    finally:
        box.stop_test_box("bench-serve")
    print(f"\n{'bench':<20}{'way':<20}{'median':>10}{'p99':>10}{'values':>8}")
    for bench, ways in found.items():
        for way, values in ways.items():
            middle, high = statistics.median(values), percentile(values, 99)
            print(f"{bench:<20}{way:<20}{middle:>10.2f}{high:>10.2f}{len(values):>8}")
    figures = figures_of(found)
    print(json.dumps({**figures, "missed": missed(figures)}))
    if missed(figures):
        sys.exit(1)


if __name__ == "__main__":
    main()
