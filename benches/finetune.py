"""`make bench-finetune`: what the playbook adds to a training, and what the training takes from those who ask.

    python benches/finetune.py [steps]

Everything runs in one deployed Debian 12 box on this machine, with the miniature. Prints a table, then one JSON line;
exits with 1 where a figure misses its bound. docs/benchmarks.md says what each figure means.

`overhead_ratio` is the wall time of finetune.yml over that of main.py in it (training, evaluation). What is added
is constant, some twenty seconds, so the training has to be of eight minutes; a real one takes hours.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import box

ROOT = box.ROOT
sys.path.insert(0, str(ROOT / "tests"))

from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send  # noqa: E402
from support import run_ansible, site  # noqa: E402

NAME = box.container("bench-finetune")
STEPS = 18000
AT_MOST = {"overhead_ratio": 1.05, "demo_downtime_seconds": 0}
PAUSE_SECONDS = 0.5


class Visitor(threading.Thread):
    """Asks the base demos through the gateway until told to stop; adds up the seconds in which nobody answered."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self.stop, self.asked, self.down_seconds = threading.Event(), 0, 0.0
        self._url, self._token = url, token

    def run(self) -> None:
        answered = time.monotonic()
        body = {"prompt": "hi", "history": [], "max_length": 24}
        while not self.stop.wait(PAUSE_SECONDS):
            status, _ = send(request(self._url + "/", token=self._token, body=body))
            now = time.monotonic()
            if status != 200:
                self.down_seconds += now - answered
            answered, self.asked = now, self.asked + 1


def write_data(folder: Path) -> dict[str, str]:
    """Write a small data set; return the variables that name it."""
    rows = [{"content": word, "summary": "I am the tuned model."} for word in ("hi", "hello", "hey", "good morning")]
    files = {"finetune_train_file": rows * 16, "finetune_validation_file": rows}
    for name, content in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    return {name: str(folder / name) for name in files}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    inventory = box.start_test_box("bench-finetune", suite="bookworm")
    try:
        print("Deploying a box", flush=True)
        deployed = site(inventory)
        if deployed.failure:
            raise SystemExit(f"The deployment failed: {deployed.failure}")
        url = "http://127.0.0.1:" + box.podman("port", NAME, "3389/tcp").rsplit(":", 1)[1]
        visitor = Visitor(url, (inventory / ".state" / "gateway_token").read_text().strip())
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                **write_data(Path(folder)),
                "finetune_serve": False,
                "finetune_steps": steps,
                "finetune_pre_seq_len": 16,
                "finetune_batch": 4,
                "finetune_accumulation": 1,
                "finetune_max_source_length": 16,
                "finetune_max_target_length": 28,
            }
            print(f"Training {steps} steps", flush=True)
            visitor.start()
            begun = time.monotonic()
            trained = run_ansible(inventory, playbook=str(ROOT / "playbooks" / "finetune.yml"), extravars=settings)
            took = time.monotonic() - begun
            visitor.stop.set()
            visitor.join(60)
        if trained.failure:
            raise SystemExit(f"The training failed: {trained.failure}")
        made = trained.result("train | Wait until it is done")["job"]["result"]
    finally:
        box.stop_test_box("bench-finetune")
    alone = made["train_seconds"] + made["evaluate_seconds"]
    figures = {
        "overhead_ratio": round(took / alone, 3),
        "demo_downtime_seconds": round(visitor.down_seconds, 1),
        "playbook_seconds": round(took, 1),
        "main_py_seconds": round(alone, 1),
        "asked_meanwhile": visitor.asked,
    }
    print(f"\n{'figure':<28}{'value':>12}{'bound':>10}")
    for name, value in figures.items():
        print(f"{name:<28}{value:>12}{AT_MOST.get(name, ''):>10}")
    print(json.dumps(figures))
    if visitor.asked < 10 or any(figures[name] > bound for name, bound in AT_MOST.items()):
        sys.exit(1)


if __name__ == "__main__":
    main()
