"""`make bench-fetch`: what glmbox takes for a transfer or a check, against what a user would take instead.

    python benches/fetch.py [runs]

Everything runs in one box on this machine, against nginx on the box's loopback. Prints a table, then one JSON line.
docs/benchmarks.md records a run and says what each figure means.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import box
import yaml
from ansible_collections.glmbox.box.plugins.module_utils import program
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import files_of, load

ROOT = box.ROOT
sys.path.insert(0, str(ROOT / "tests"))

from support import run_ansible  # noqa: E402

NAME = box.container("bench")
PACKAGES = "aria2 curl nginx-light wget"
WORK = "/var/tmp/bench"
MODEL = "chatglm2-6b"
STAMP_TASK = "Look at the stamps"


def measure_on_box(runs: int) -> dict:
    """Return what fetch_on_box.py measured: bench to way to a list of seconds (or shares)."""
    with tempfile.TemporaryDirectory() as draft:
        packed = Path(draft, "fetcher.pyz")
        packed.write_bytes(program.fetcher())
        box.podman("exec", NAME, "mkdir", "-p", WORK)
        box.podman("cp", str(packed), f"{NAME}:{WORK}/fetcher.pyz")
        box.podman("cp", str(ROOT / "benches" / "fetch_on_box.py"), f"{NAME}:{WORK}/fetch_on_box.py")
    asked = ["exec", NAME, "python3", f"{WORK}/fetch_on_box.py", f"{WORK}/fetcher.pyz", WORK, str(runs)]
    said = subprocess.run(box.as_root("podman", *asked), stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])


def stamp_check(inventory: Path, runs: int) -> tuple[list[float], int]:
    """Return the seconds that a play takes to find a 12.5 GB model proven by its stamps, and the tasks that it took.

    The files are sparse and the stamps are written for them, since nothing reads a byte.
    """
    files = files_of(load(str(ROOT / "artifacts"), "/nonexistent"), [MODEL])
    dest = f"{WORK}/model"
    script = (
        "import json, os, sys\n"
        "dest, name, stamps = sys.argv[1], sys.argv[2], {}\n"
        "for file in json.load(sys.stdin):\n"
        "    path = os.path.join(dest, name, file['path'])\n"
        "    os.makedirs(os.path.dirname(path), exist_ok=True)\n"
        "    with open(path, 'wb') as opened: opened.truncate(file['size'])\n"
        "    one = os.stat(path)\n"
        "    stamps[file['path']] = {'size': one.st_size, 'mtime_ns': one.st_mtime_ns, 'inode': one.st_ino,"
        " 'sha256': file['sha256']}\n"
        "os.makedirs(dest + '/.stamps', exist_ok=True)\n"
        "json.dump(stamps, open(dest + '/.stamps/' + name + '.json', 'w'))\n"
    )
    command = box.as_root("podman", "exec", "--interactive", NAME, "python3", "-c", script, dest, MODEL)
    box.run(*command, input=json.dumps(files))
    arguments = {"names": [MODEL], "catalogue": str(ROOT / "artifacts"), "bundle": "/nonexistent", "dest": dest}
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"name": STAMP_TASK, "glmbox.box.artifact": arguments}]}
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "play.yml").write_text(yaml.safe_dump([play]))
        for _ in range(runs):
            outcome = run_ansible(inventory, playbook=f"{folder}/play.yml")
            if outcome.failure or outcome.changed:
                raise SystemExit(f"The stamps were not believed: {outcome.failure or outcome.changed}")
            (event,) = [
                one["event_data"]
                for one in outcome.events
                if one["event"] == "runner_on_ok" and one["event_data"]["task"] == STAMP_TASK
            ]
            seconds.append(event["duration"])
    return seconds, len(outcome.tasks)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    inventory = box.start_test_box("bench")
    try:
        print(f"Installing in the box: {PACKAGES}", flush=True)
        install = f"apt-get -qq update && apt-get -qq install -y --no-install-recommends {PACKAGES} >/dev/null 2>&1"
        box.podman("exec", NAME, "sh", "-c", install)
        found = measure_on_box(runs)
        stamps, tasks = stamp_check(inventory, runs)
    finally:
        box.stop_test_box("bench")
    median = {
        bench: {way: statistics.median(all_runs) for way, all_runs in ways.items()} for bench, ways in found.items()
    }

    def ratio(bench: str, way: str) -> float:
        return round(median[bench][way] / median[bench]["glmbox"], 2)

    print(f"\n{'bench':<12}{'way':<26}{'median':>10}   all runs")
    for bench, ways in found.items():
        for way, all_runs in ways.items():
            shown = " ".join(f"{one:.2f}" for one in all_runs)
            print(f"{bench:<12}{way:<26}{median[bench][way]:>10.2f}   {shown}")
    print(
        f"{'stamps':<12}{'glmbox':<26}{statistics.median(stamps):>10.2f}   {' '.join(f'{one:.2f}' for one in stamps)}"
    )
    figures = {
        "vs_wget": ratio("capped", "wget -c"),
        "vs_aria2c": ratio("capped", "aria2c -x8"),
        "vs_aria2c_s8": ratio("capped", "aria2c -x8 -s8"),
        "vs_curl": ratio("uncapped", "curl"),
        "vs_curl_synced_and_proven": ratio("uncapped", "curl, sync, sha256sum"),
        "verify_vs_sha256sum": ratio("verified", "sha256sum"),
        "stamp_check_seconds": round(statistics.median(stamps), 2),
        "stamp_check_tasks": tasks,
        "refetched_ratio": round(median["refetched"]["glmbox"], 4),
        "runs": runs,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
