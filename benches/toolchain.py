"""`make bench-toolchain`: OpenSSL and Python by glmbox, from their sources and from the cache, against the manual way.

    python benches/toolchain.py

Everything runs in Debian 11 boxes on this machine. Prints a table, then one JSON line; exits with 1 where a figure
misses its bound. docs/benchmarks.md records a run and says what each figure means.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import box
import yaml

ROOT = box.ROOT
sys.path.insert(0, str(ROOT / "tests"))

from support import Outcome, site  # noqa: E402

ROLES = ("openssl", "python")
NOOP_ROLES = ("openssl", "python", "cuda", "torch")
SHELF = "/var/lib/glmbox/data/artifacts"
# What somebody types who has read the two projects' own instructions; the sources stand on the box on both sides.
MANUAL = f"""
set -e
mkdir -p /root/manual && cd /root/manual
tar xf {SHELF}/openssl-1.1.1w/openssl-1.1.1w.tar.gz
tar xf {SHELF}/python-3.11.2/Python-3.11.2.tgz
cd openssl-1.1.1w
./config --prefix=/opt/manual/openssl --openssldir=/opt/manual/openssl/ssl
make -j8
make install
cd ../Python-3.11.2
./configure --prefix=/opt/manual/python --with-openssl=/opt/manual/openssl --with-openssl-rpath=auto
make -j8
make install
/opt/manual/python/bin/python3.11 -c 'import ssl, sqlite3, bz2, lzma, ctypes, readline'
"""
BOUNDS = {
    "cold_ratio": 0.6,
    "cached_seconds": 15,
    "cached_ratio": 0.05,
    "noop_tasks": 4,
    "noop_seconds": 3,
}


def checked(outcome: Outcome) -> Outcome:
    """Return the outcome of a run that succeeded; end the bench where it did not."""
    if outcome.failure or outcome.status != "successful":
        raise SystemExit(f"The run failed: {outcome.failure}")
    return outcome


def tasks_of(outcome: Outcome, roles: tuple[str, ...]) -> list[float]:
    """Return the seconds of each task of some roles that ran and was not skipped."""
    return [
        event["event_data"]["duration"]
        for event in outcome.events
        if event["event"] == "runner_on_ok" and event["event_data"].get("role") in roles
    ]


def packages() -> str:
    """Return the Debian packages that the two roles compile with."""
    wanted: list[str] = []
    for role in ROLES:
        wanted += yaml.safe_load((ROOT / "roles" / role / "vars" / "main.yml").read_text())[f"__{role}_packages"]
    return " ".join(sorted(set(wanted)))


def bare(name: str, cache: Path) -> tuple[Path, dict]:
    """Start a bare box with the two sources on its shelf; return its inventory and the runs' variables."""
    inventory = box.start_test_box(name)
    settings = {"cache_dir": str(cache)}
    sources = ["openssl-1.1.1w", "python-3.11.2"]
    checked(site(inventory, "--tags", "box,fetch", fetch_artifacts=sources, **settings))
    return inventory, settings


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="glmbox-bench-"))
    cache = folder / "cache"
    try:
        inventory, settings = bare("bench-first", cache)
        name = box.container("bench-first")
        print("Installing the compilers, which neither side is timed for", flush=True)
        install = f"apt-get -qq install -y --no-install-recommends {packages()} >/dev/null 2>&1"
        box.podman("exec", name, "sh", "-c", install)
        print("The manual way", flush=True)
        begun = time.monotonic()
        subprocess.run(box.as_root("podman", "exec", name, "bash", "-c", MANUAL), stdout=subprocess.DEVNULL, check=True)
        manual = time.monotonic() - begun
        box.podman("exec", name, "rm", "-rf", "/root/manual", "/opt/manual")
        print(f"took {manual:.1f} s. glmbox, from the sources", flush=True)
        cold = sum(tasks_of(checked(site(inventory, "--tags", "openssl,python", **settings)), ROLES))
        print(f"took {cold:.1f} s. Keeping the builds, and a second box", flush=True)
        checked(site(inventory, "--tags", "cache", **settings))
        box.stop_test_box("bench-first")
        second, settings = bare("bench-second", cache)
        cached = sum(tasks_of(checked(site(second, "--tags", "openssl,python", **settings)), ROLES))
        print(f"took {cached:.1f} s from the cache. A finished box", flush=True)
        checked(site(second, "--tags", "prepare", **settings))
        noop = tasks_of(checked(site(second, "--tags", "prepare", **settings)), NOOP_ROLES)
    finally:
        box.stop_test_box("bench-first")
        box.stop_test_box("bench-second")
        shutil.rmtree(folder)
    figures = {
        "cold_ratio": round(cold / manual, 3),
        "cached_seconds": round(cached, 1),
        "cached_ratio": round(cached / cold, 4),
        "noop_tasks": len(noop),
        "noop_seconds": round(sum(noop), 2),
    }
    print(f"\n{'OpenSSL 1.1.1w and CPython 3.11.2':<40}{'seconds':>10}")
    rows = {"the manual way": manual, "glmbox, from the sources": cold, "glmbox, from the cache": cached}
    for way, seconds in rows.items():
        print(f"{way:<40}{seconds:>10.1f}")
    print(f"{'four roles on a finished box':<40}{sum(noop):>10.1f}")
    missed = [key for key, bound in BOUNDS.items() if figures[key] > bound]
    print(json.dumps({**figures, "manual_seconds": round(manual, 1), "cold_seconds": round(cold, 1), "missed": missed}))
    if missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
