"""The processes of `make bench-serve` and what they hold of the memory. Runs in the box, as root.

Memory is PSS: what a process holds alone, and its share of what several processes hold. A file's pages that nobody
has mapped are not in it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

START_SECONDS = 180.0
SETTLED = 0.005  # share by which two readings, a second apart, may differ
PROMPT, TOKENS = "你好", 16


def descendants(parents: Mapping[int, int], root: int) -> set[int]:
    """Return ``root`` and all processes below it. parents: process to its parent."""
    found, size = {root}, 0
    while size != len(found):
        size = len(found)
        found |= {process for process, parent in parents.items() if parent in found}
    return found


def pss_mib(root: int) -> float:
    """Return the PSS of a process and all below it, in MiB."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything; the parent is the second field after it.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    total = 0
    for process in descendants(parents, root):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def settled_mib(*roots: int) -> float:
    """Return the PSS in MiB of several process trees together, once it no longer moves."""
    before = 0.0
    for _ in range(30):
        time.sleep(1)
        now = sum(pss_mib(root) for root in roots)
        if abs(now - before) <= SETTLED * now:
            return now
        before = now
    raise SystemExit(f"The memory does not settle: {before:.0f} MiB, then {now:.0f} MiB.")


def unit_environment() -> dict[str, str]:
    """Return the environment of the demo host's unit; where there are no units, this process's own."""
    if not Path("/run/systemd/system").exists():
        return dict(os.environ)
    shown = subprocess.run(
        ["systemctl", "show", "--property", "Environment", "--value", "glmbox-demos"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return {**os.environ, **dict(pair.split("=", 1) for pair in shlex.split(shown))}


@contextlib.contextmanager
def running(command: list[str], folder: str, port: int, path: str, log: Path) -> Iterator[int]:
    """Run a program in ``folder`` until the end of the block; its id, once ``path`` on ``port`` answers 200."""
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=unit_environment(), stdout=out, stderr=out)
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(port, path):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{' '.join(command)} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def demo_host(config: dict[str, Any], names: tuple[str, ...], model: str, work: Path) -> Any:
    """Return the context in which the demo host runs ``model`` with these scripts, configured as on the box else."""
    scripts = [script for script in config["scripts"] if script["name"] in names]
    path = work / "config.json"
    path.write_text(json.dumps({**config, "model_dir": model, "scripts": scripts}))
    command = ["/opt/glmbox/demos/environment/bin/python", "-m", "demo_host", str(path)]
    return running(command, str(work), config["health_port"], "/healthz", work / "host.log")


def answer_once(name: str, port: int) -> None:
    """Ask the script ``name`` on ``port`` for one short answer, the web page as a browser does."""
    if name == "api":
        _post(port, "/", {"prompt": PROMPT, "history": [], "max_length": 2 * TOKENS})
    elif name == "openai_api":
        _ask_stream(port)
    else:
        _ask_page(port)


def _ask_stream(port: int) -> None:
    # Upstream's script heeds no length, and the stand-in never ends an answer: the client leaves after some pieces.
    body = {"model": "chatglm2-6b", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply, pieces = connection.getresponse(), 0
    for line in reply:
        pieces += b'"content"' in line
        if pieces == TOKENS:
            connection.close()
            return
    raise SystemExit(f"Port {port} answered {reply.status} and {pieces} pieces.")


def _ask_page(port: int) -> None:
    if not _answers(port, "/"):
        raise SystemExit(f"The page on port {port} cannot be opened.")
    asked: dict[str, Any] = {"fn_index": 0, "session_hash": "bench"}
    with connect(f"ws://127.0.0.1:{port}/queue/join") as socket:
        for text in socket:
            message = json.loads(text)
            if message["msg"] == "send_hash":
                socket.send(json.dumps(asked))
            elif message["msg"] == "send_data":
                data = [PROMPT, [], 2 * TOKENS, 0.8, 0.95, None, None]
                socket.send(json.dumps({**asked, "event_data": None, "data": data}))
            elif message["msg"] == "process_completed":
                if not message["success"]:
                    raise SystemExit(f"The page on port {port} did not answer: {message}")
                return


def _post(port: int, path: str, body: dict[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    said = reply.read()
    connection.close()
    if reply.status != 200:
        raise SystemExit(f"Port {port} answered {reply.status}: {said[:500]!r}")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
