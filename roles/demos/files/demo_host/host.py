"""The order of things: configuration, health, model, scripts, first words, ready; then watch."""

import os
import signal
import sys
import threading
import time
from typing import NoReturn

from demo_host.config import Config, ConfigError, read_config
from demo_host.health import start_health_server
from demo_host.log import take_stdout
from demo_host.notify import notify
from demo_host.one_model import LoadError, first_generation, load
from demo_host.patches import patch_for, set_environment
from demo_host.scripts import enter_code_dir, listens, start_script, taken_ports
from demo_host.state import Host, State
from demo_host.turns import Turns

STALL_SECONDS = 30.0  # for a stream's reader to ask for the next piece
FAILED_SHOWN_SECONDS = 2.0  # for which /healthz says "failed" before the process ends
PORT_CHECK_SECONDS = 10.0
DRAIN_SECONDS = 20.0  # for running generations to end when the host is told to stop; the unit allows more
FAREWELL_SECONDS = 0.3  # for requests that came before the ports were closed, and for the last bytes of answers


def main(arguments: list[str]) -> NoReturn:
    """Run the host until it is told to stop (exit code 0), fails (1) or cannot use its configuration (2)."""
    if len(arguments) != 1:
        print("usage: python -m demo_host CONFIG.json", file=sys.stderr)
        sys.exit(2)
    try:
        config = read_config(arguments[0])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    host = make_host(config)
    # Noted here and done by the main thread's watch: a signal may come while any lock is held.
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_stop.set())
    try:
        start_health_server(host)
    except OSError as error:
        host.fail(f"port {config.health_port} of the health server: {error}")
        os._exit(1)
    # Not in this thread: signals are handled between two steps of it, and a step of loading can be long.
    threading.Thread(target=start, args=(host,), name="start", daemon=True).start()
    watch(host, told_to_stop)
    # os._exit: threads inside torch, uvicorn and gradio do not survive the interpreter's own farewell.
    if told_to_stop.is_set():
        drain(host)
        os._exit(0)
    time.sleep(FAILED_SHOWN_SECONDS)
    os._exit(1)


def make_host(config: Config) -> Host:
    """Put together what the parts of the host share."""
    state = State([script.name for script in config.scripts])
    return Host(config, state, Turns(config.queue_limit, config.parallel_generations), take_stdout(config.log_text))


def start(host: Host) -> None:
    """Bring the host from "loading" to "ready"; any failure is noted in its state."""
    began = time.monotonic()
    try:
        taken = taken_ports([script.port for script in host.config.scripts])
        if taken:
            host.fail(f"port {', '.join(map(str, taken))} is taken by another program")
            return
        set_environment()
        tokenizer, model = load(host)
        host.log.write("loaded", seconds=round(time.monotonic() - began, 1), model=host.config.model_dir)
        host.state.set("starting", "the model is loaded, the scripts start")
        enter_code_dir(host.config.code_dir)
        patch_for(host, host.config.scripts, tokenizer, model)
        if not all(start_script(host, script) for script in host.config.scripts):
            return
        first_generation(host, tokenizer, model)
    except LoadError as error:
        host.fail(str(error))
    except Exception as error:
        host.fail(f"could not start: {type(error).__name__}: {error}")
    else:
        host.state.set("ready", "all scripts answer")
        host.log.write("ready", seconds=round(time.monotonic() - began, 1), scripts=len(host.config.scripts))
        notify("READY=1")


def drain(host: Host) -> None:
    """Let nobody in any more, and wait for those who are in the line, but not for ever.

    The ports are closed first: the gateway then turns to a second copy, where there is one.
    """
    host.state.set("stopping", "the demos are being stopped")
    notify("STOPPING=1")
    for stop in host.stop_listening:
        stop()
    time.sleep(FAREWELL_SECONDS)
    host.turns.close()
    end = time.monotonic() + DRAIN_SECONDS
    while host.turns.counts() != (0, 0) and time.monotonic() < end:
        notify("WATCHDOG=1")
        time.sleep(0.05)
    time.sleep(FAREWELL_SECONDS)
    host.log.write("stopped", running=host.turns.counts()[0], waiting=host.turns.counts()[1])


def watch(host: Host, told_to_stop: threading.Event) -> None:
    """Free the model from readers that stopped, see that it moves and all ports are open, until the end comes."""
    checked = time.monotonic()
    while (state := host.state.snapshot()["state"]) != "failed":
        if told_to_stop.wait(0.5):
            return
        # systemd ends the process where this thread no longer gets its turn.
        notify("WATCHDOG=1")
        if host.turns.expel_stalled(STALL_SECONDS):
            host.log.write("stalled", seconds=STALL_SECONDS)
        if host.turns.longest_silence() > host.config.stuck_seconds:
            host.fail(f"a generation has brought no token for {host.config.stuck_seconds} seconds")
        if state == "ready" and time.monotonic() - checked > PORT_CHECK_SECONDS:
            checked = time.monotonic()
            for script in host.config.scripts:
                # gradio serves from a thread of its own, whose death its script does not notice.
                if not listens(script.port):
                    host.fail(f"{script.file} no longer listens on port {script.port}", script.name)
