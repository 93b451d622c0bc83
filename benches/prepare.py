"""`make bench-prepare`: the whole of prepare on a bare box, beside a slow download, over its longest branch.

    python benches/prepare.py [megabytes of the download]

Prints a table, then one JSON line; exits with 1 where the figure misses its bound. docs/benchmarks.md records a run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import box
import yaml

ROOT = box.ROOT
sys.path.insert(0, str(ROOT / "tests"))

from support import site  # noqa: E402

NAME = box.container("bench-prepare")
MIB = 2**20
BOUND = 1.15
CHAIN = ("build-openssl", "build-python", "build-venv")
AFTERWARDS = "pack for the cache"
# Each connection gets an eighth of 1 MiB/s: the fetcher opens eight.
NGINX = """
apt-get -qq update && apt-get -qq install -y --no-install-recommends nginx-light >/dev/null 2>&1
printf 'server { listen 127.0.0.1:8808; root /srv/slow; limit_rate 128k; }' >/etc/nginx/sites-enabled/default
systemctl restart nginx
"""


def chain_seconds(segments: list[dict]) -> float:
    """Return how long one build of the chain worked after it had what it waited for; what lies before ran beside."""
    free = max((one["ended"] for one in segments if one["kind"] == "wait"), default=0.0)
    worked = [one for one in segments if one["kind"] == "work" and one["begun"] >= free and one["what"] != AFTERWARDS]
    return sum(one["ended"] - one["begun"] for one in worked)


def main() -> None:
    size = (int(sys.argv[1]) if len(sys.argv) > 1 else 200) * MIB
    folder = Path(tempfile.mkdtemp(prefix="glmbox-bench-"))
    try:
        content = hashlib.shake_256(b"slow").digest(size)
        (folder / "slow.bin").write_bytes(content)
        shutil.copytree(ROOT / "artifacts", folder / "artifacts")
        file = {"path": "slow.bin", "size": size, "sha256": hashlib.sha256(content).hexdigest()}
        table = {"slow": {"mirrors": ["http://127.0.0.1:8808/{path}"], "files": [file]}}
        (folder / "artifacts" / "slow.yml").write_text(yaml.safe_dump(table))
        inventory = box.start_test_box("bench-prepare")
        box.podman("exec", NAME, "mkdir", "-p", "/srv/slow")
        box.podman("cp", str(folder / "slow.bin"), f"{NAME}:/srv/slow/slow.bin")
        box.podman("exec", NAME, "sh", "-c", NGINX)
        print("Preparing a bare box", flush=True)
        outcome = site(
            inventory,
            "--tags",
            "prepare",
            cache_dir=str(folder / "cache"),
            fetch_catalogue=str(folder / "artifacts"),
            fetch_extra_artifacts=["slow"],
        )
        if outcome.failure:
            raise SystemExit(f"The run failed: {outcome.failure}")
    finally:
        box.stop_test_box("bench-prepare")
        shutil.rmtree(folder)
    times = [
        datetime.fromisoformat(event["created"])
        for event in outcome.events
        if event["event_data"].get("play") == "Prepare the box"
    ]
    prepare = (max(times) - min(times)).total_seconds()
    jobs = {job["name"]: job for job in outcome.result("Ask when the jobs ran")["jobs"]}
    branches = {"the download": jobs["fetch-slow"]["ended"] - jobs["fetch-slow"]["begun"]}
    branches["OpenSSL, Python, environment"] = sum(chain_seconds(jobs[name]["segments"]) for name in CHAIN)
    print(f"\n{'branch':<40}{'seconds':>10}")
    for branch, seconds in branches.items():
        print(f"{branch:<40}{seconds:>10.1f}")
    print(f"{'prepare':<40}{prepare:>10.1f}")
    ratio = round(prepare / max(branches.values()), 3)
    longest = {f"{branch}_seconds".replace(" ", "_").lower(): round(seconds, 1) for branch, seconds in branches.items()}
    print(json.dumps({"prepare_over_longest": ratio, "prepare_seconds": round(prepare, 1), **longest}))
    if ratio > BOUND:
        sys.exit(1)


if __name__ == "__main__":
    main()
