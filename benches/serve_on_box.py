"""The box's half of `make bench-serve`: overhead, crowd, memory and health of the demos.

    python serve_on_box.py <the deployed configuration, demos.json> <work folder>  (the gateway's token on stdin)

Runs in the deployed box as root, by the demos' own Python. Prints one JSON object: bench to way to a list of values.
First the deployed service on its miniature, then, with the service stopped, demo hosts on the stand-in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import serve_memory
from serve_clients import LongAnswer, Server, crowd

HERE = Path(__file__).resolve().parent
GATEWAY_PORT = 3389
PROMPT = "你好"
STREAMS, STREAM_TOKENS = 60, 8
CLIENTS, ROUNDS, ANSWERS, ANSWER_TOKENS = 50, 3, 100, 16
PROBES, PROBE_SECONDS = 400, 0.025
LAYERS, HIDDEN_SIZE = 22, 1024  # 278 million weights, 1.1 GB as float32
ALL = ("api", "openai_api", "web_demo")
MEMORY_ROUNDS = 5
Found = dict[str, dict[str, list[float]]]


def overhead(host: Server, gateway: Server, model: str) -> Found:
    """Milliseconds to the first piece of an answer: the model asked in its process, the demo host, the gateway.

    The very first byte of a stream is of its role, which openai_api.py sends before it asks the model: shown, not
    compared. Connections are kept alive, and the ways take turns.
    """
    command = [sys.executable, str(HERE / "serve_model.py"), "ask", model]
    found: dict[str, list[float]] = {way: [] for way in ("model", "demo host", "gateway", "gateway, role")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as direct:
        assert direct.stdin and direct.stdout
        direct.stdin.write(PROMPT + "\n")
        direct.stdin.flush()
        direct.stdout.readline()  # it is loaded: the gateway cuts off connections on which nothing is asked
        inside, outside = host.connect(), gateway.connect()
        for number in range(STREAMS + 5):
            direct.stdin.write(PROMPT + "\n")
            direct.stdin.flush()
            asked = float(direct.stdout.readline())
            time.sleep(0.05)  # torch's threads of one process spin for a while after its last piece
            _, hosted = host.first_bytes(inside, PROMPT, STREAM_TOKENS)
            time.sleep(0.05)
            role, guarded = gateway.first_bytes(outside, PROMPT, STREAM_TOKENS)
            time.sleep(0.05)
            if number >= 5:  # the first few warm caches
                for way, seconds in zip(found, (asked, hosted, guarded, role), strict=True):
                    found[way].append(seconds * 1000)
        direct.stdin.close()
    return {"overhead_ms": found}


def throughput(gateway: Server) -> Found:
    """Answers a second of one client and of many, the ways taking turns; answers lost, requests told to come back."""
    prompts = [PROMPT, "你是谁?", "Who are you?", "hello"] * (ANSWERS // 4)
    settings = {"temperature": 0, "max_tokens": ANSWER_TOKENS}
    rates: dict[str, list[float]] = {"one client": [], f"{CLIENTS} clients": []}
    lost, refused = [], []
    for number in range(ROUNDS + 1):
        for way, clients in zip(rates, (1, CLIENTS), strict=True):
            seconds, without, told = crowd(gateway, prompts, clients, **settings)
            if number:  # the first round warms up
                rates[way].append(ANSWERS / seconds)
                lost.append(float(without))
                refused.append(float(told))
    return {"answers_per_second": rates, "crowd": {"lost": lost, "told to come back": refused}}


def health(host: Server, gateway: Server, asked: Server) -> Found:
    """Milliseconds of /healthz while the model writes one long answer, every so often, each on a new connection."""
    found: dict[str, list[float]] = {"demo host": [], "gateway": []}
    with LongAnswer(asked, 8000):
        time.sleep(2)
        for _ in range(PROBES):
            for way, server in zip(found, (host, gateway), strict=True):
                begun = time.monotonic()
                seconds, said = server.healthz()
                if not said["busy"]:
                    raise SystemExit("The long answer ended before its time.")
                found[way].append(seconds * 1000)
                time.sleep(max(0.0, begun + PROBE_SECONDS - time.monotonic()))
    return {"healthz_ms": found}


def memory_of_upstream(config: dict[str, Any], model: str, work: Path) -> float:
    """Return the PSS in MiB of the three scripts, each a process of its own."""
    pids, contexts = [], []
    try:
        for script in config["scripts"]:
            file = f"{config['code_dir']}/{script['file']}"
            command = [sys.executable, str(HERE / "serve_upstream.py"), file, str(script["port"]), model]
            log = work / f"{script['name']}.log"
            contexts.append(
                serve_memory.running(command, config["code_dir"], script["port"], script["ready_path"], log)
            )
            pids.append(contexts[-1].__enter__())
            serve_memory.answer_once(script["name"], script["port"])
        return serve_memory.settled_mib(*pids)
    finally:
        for context in contexts:
            context.__exit__(None, None, None)


def memory_and_health(config: dict[str, Any], model: str, work: Path, gateway: Server) -> Found:
    """MiB of the demo host with api alone, with all three scripts (then its health), and of upstream's three."""
    ways = {"api alone": ALL[:1], "all three": ALL}
    found: dict[str, list[float]] = {way: [] for way in ways}
    ports = {script["name"]: script["port"] for script in config["scripts"]}
    health_of: Found = {}
    # In turns: what loading leaves behind in the process differs from start to start by more than the scripts take.
    for way, names in [*ways.items()] * MEMORY_ROUNDS:
        with serve_memory.demo_host(config, names, model, work) as pid:
            for name in names:
                serve_memory.answer_once(name, ports[name])
            found[way].append(serve_memory.settled_mib(pid))
            print(f"{way}: {found[way][-1]:.0f} MiB", file=sys.stderr, flush=True)
            if len(found["all three"]) == MEMORY_ROUNDS:
                print("measuring: health", file=sys.stderr, flush=True)
                health_of = health(Server(config["health_port"]), gateway, Server(ports["openai_api"]))
    print("measuring: the three scripts as upstream means them", file=sys.stderr, flush=True)
    found["as upstream"] = [memory_of_upstream(config, model, work)]
    return {"memory_mib": found, **health_of}


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    work, token = Path(sys.argv[2]), sys.stdin.read().strip()
    ports = {script["name"]: script["port"] for script in config["scripts"]}
    host, gateway = Server(ports["openai_api"]), Server(GATEWAY_PORT, token)
    print("measuring: overhead", file=sys.stderr, flush=True)
    found = overhead(host, gateway, config["model_dir"])
    print("measuring: throughput", file=sys.stderr, flush=True)
    found.update(throughput(gateway))
    # A run that is cut off later was not for nothing.
    print(json.dumps(found), file=sys.stderr, flush=True)
    # The gateway leads to the ports that the stand-in's hosts then open.
    subprocess.run(["systemctl", "stop", "glmbox-web-demo2", "glmbox-demos"], check=True)
    print("measuring: memory", file=sys.stderr, flush=True)
    model = str(work / "stand_in")
    command = [sys.executable, str(HERE / "serve_model.py"), "write", config["model_dir"], model]
    written = subprocess.run(
        [*command, str(LAYERS), str(HIDDEN_SIZE)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    found.update(memory_and_health(config, model, work, gateway))
    found["stand_in"] = {"bytes": [float(written.splitlines()[-1])]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
