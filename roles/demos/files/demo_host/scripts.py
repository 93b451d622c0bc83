"""Runs each script, unmodified, in a thread of its own, and waits for its port."""

import asyncio
import http.client
import os
import runpy
import socket
import sys
import threading
import time
from typing import Any

from demo_host.config import Script
from demo_host.state import Host

START_SECONDS = 120.0  # for a script to answer on its port, the import of gradio on a slow disk included

_thread = threading.local()


def current_script() -> Script:
    """Return the script whose thread this is.

    Raises:
        RuntimeError: this thread runs no script.
    """
    script: Script | None = getattr(_thread, "script", None)
    if script is None:
        raise RuntimeError("this thread runs none of the scripts")
    return script


def enter_code_dir(code_dir: str) -> None:
    """Make the scripts' folder the current one, and the first to import from (utils.py), as for ``python x.py``."""
    os.chdir(code_dir)
    sys.dont_write_bytecode = True  # the checkout stays as it is
    sys.path.insert(0, code_dir)


def quiet_print(*_: Any, **__: Any) -> None:
    """Stand in for print() in the scripts, which print every prompt and every answer."""


def run_script(host: Host, script: Script) -> None:
    """Run ``script`` in this thread for as long as it serves; its end, however it comes, fails the host."""
    _thread.script = script
    # As in a main thread: without one gradio makes no lock for its queue, and no event is ever processed.
    asyncio.set_event_loop(asyncio.new_event_loop())
    replaced = {} if host.log.log_text else {"print": quiet_print}
    path = os.path.join(host.config.code_dir, script.file)
    # Scripts start one after the other, and read these at once if at all.
    sys.argv = [path, *script.arguments]
    # After the folder of all: what a script in a folder of its own has beside it hides nothing of the others'.
    sys.path.append(os.path.dirname(path))
    try:
        runpy.run_path(path, init_globals=replaced, run_name="__main__")
        host.fail(f"{script.file} came to its end", script.name)
    except BaseException as error:  # SystemExit too: uvicorn exits where it cannot serve
        ready = host.state.snapshot()["state"] == "ready"
        # While starting no prompt has been seen, and the message is what an operator needs.
        message = "" if ready else f" ({error})"
        host.fail(f"{script.file} ended with {host.log.describe(error)}{message}", script.name)


def start_script(host: Host, script: Script, seconds: float = START_SECONDS) -> bool:
    """Start ``script`` and wait until its ``ready_path`` answers 200; return whether it does.

    One after the other: while runpy runs a script, ``sys.modules["__main__"]`` is that script.
    """
    host.state.set_script(script.name, "starting")
    thread = threading.Thread(target=run_script, args=(host, script), name=script.name, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < end:
        if answers(script.port, script.ready_path):
            host.state.set_script(script.name, "ready")
            return True
        time.sleep(0.1)
    if thread.is_alive():
        host.fail(f"{script.file} did not answer on port {script.port} within {seconds:.0f} seconds", script.name)
    return False


def answers(port: int, path: str) -> bool:
    """Return whether GET ``path`` on the loopback ``port`` gives 200. (http.client heeds no proxy variables.)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def taken_ports(ports: list[int]) -> list[int]:
    """Return those of ``ports`` on which nobody can listen on loopback."""
    return [port for port in ports if not _is_free(port)]


def listens(port: int) -> bool:
    """Return whether something accepts connections on the loopback ``port``."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as test:
        # As the servers do it: connections of a former process that still fade away are no hindrance.
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
