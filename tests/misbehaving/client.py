"""How a test starts tests/misbehaving/server.py, tells it what to do and reads what it counted. Keys: see there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")
# A proxy of the machine's environment has no business on loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def control(port: int, method: str, path: str, body: Any = None) -> Any:
    """Send one control request; return what its JSON says. Raises ValueError with the server's words if it refuses."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, method=method)
    try:
        with OPENER.open(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode()) from error


def behave(port: int, **keys: Any) -> None:
    """Replace the server's behaviour. No keys: it behaves."""
    control(port, "PUT", "/_control", keys)


def counts(port: int) -> dict[str, Any]:
    """Return what the server has counted since the last reset."""
    return control(port, "GET", "/_counts")


def reset_counts(port: int) -> None:
    """Let the server count from nought."""
    control(port, "DELETE", "/_counts")


def start(folder: Path, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """Start a server of the folder on loopback; return it and its port once it answers. port: 0 picks a free one."""
    command = [sys.executable, str(SERVER), "--port", str(port), "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    words = process.stdout.readline().split()
    if words[:1] != ["listening"]:
        process.kill()
        raise RuntimeError(f"the misbehaving server did not start; it ended with {process.wait()}")
    for _ in range(50):
        try:
            counts(int(words[1]))
            return process, int(words[1])
        except OSError:
            time.sleep(0.1)
    stop(process)
    raise RuntimeError("the misbehaving server does not answer")


def stop(process: subprocess.Popen[str]) -> None:
    """End a server that start() returned."""
    process.kill()
    process.communicate()
