"""What the box is doing: requests, as the demo host counts them, and jobs, as their locks tell."""

import fcntl
import http.client
import os
import re
import urllib.request
from typing import Dict, List, NamedTuple

SAMPLE = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
SECONDS = 3.0
# Neither a proxy of the environment nor a redirect has business between the box and itself.
_LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Work(NamedTuple):
    """jobs: those that run. open: requests that run or wait. counts: of each demo host that answers, by its port."""

    jobs: List[str]
    open: int
    counts: Dict[str, List[float]]

    @property
    def answered(self) -> float:
        """Return how many requests the demo hosts have answered since they were started."""
        return sum(counted[1] for counted in self.counts.values())


def running_jobs(folder: str) -> List[str]:
    """Return the names of the jobs that run: those whose lock is held."""
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        try:
            with open(os.path.join(folder, name, "lock"), "rb") as lock:
                # Shared, since those who ask must not get into each other's way.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found.append(name)
        except OSError:
            continue  # never started, or gone since
    return found


def metrics_of(text: str) -> Dict[str, float]:
    """Return the sum of each metric's samples in Prometheus' text format."""
    sums: Dict[str, float] = {}
    for name, value in SAMPLE.findall(text):
        try:
            sums[name] = sums.get(name, 0.0) + float(value)
        except ValueError:
            continue
    return sums


def look_around(jobs_dir: str, ports: List[int]) -> Work:
    """Return what the box is doing now; a demo host that does not answer does nothing."""
    waiting, counts = 0.0, {}
    for port in ports:
        try:
            with _LOOPBACK.open("http://127.0.0.1:%d/metrics" % port, timeout=SECONDS) as answer:
                found = metrics_of(answer.read(2**20).decode(errors="replace"))
        except (OSError, ValueError, http.client.HTTPException):
            continue
        waiting += found.get("glmbox_demo_queue_running", 0.0) + found.get("glmbox_demo_queue_waiting", 0.0)
        names = ("glmbox_demo_ready", "glmbox_demo_requests_total", "glmbox_demo_rejected_total")
        counts[str(port)] = [found.get(name, 0.0) for name in names]
    return Work(running_jobs(jobs_dir), int(waiting), counts)
