"""What `make bench-serve` measures, on a machine with a GPU and at the model's real size; run by hand.

    python benches/serve_on_gpu.py <folder of upstream's demos> <folder of the model's code> <work folder> [seconds]

The model's folder holds its configuration, Python files and tokenizer, and no weights: random ones of the size that the
configuration says are written to the work folder, so that memory and time are the real ones and the words are nonsense.
The demos run as upstream's unmodified scripts in the demo host of this checkout, without gateway and box: a machine
that is lent with a GPU is a container at best. ``seconds`` is the time after which no further crowd is begun.
Prints what it found, then one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import serve_memory
from serve_clients import LongAnswer, Server, content_of, crowd, percentile

HERE = Path(__file__).resolve().parent
HOST = HERE.parent / "roles" / "demos" / "files"
HEALTH_PORT, PORTS = 8100, {"api": 8101, "openai_api": 8102, "web_demo": 8103}
QUEUE_LIMIT = 64  # as in serve.py: nobody is told to come back
PROMPT = "你好"
STREAMS, STREAM_TOKENS = 30, 8
LONG_STREAMS, LONG_TOKENS = 2, 192
PROBES, PROBE_SECONDS = 300, 0.04
CLIENTS, ANSWERS, ANSWER_TOKENS, ROUNDS = 50, 100, 8, 3


def used_mib() -> float:
    """Return what is used of the first card's memory, in MiB; 0.0 where there is none."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[0])
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def demo_host(names: list[str], code: str, model: str, device: str, work: Path) -> Iterator[tuple[float, list[Any]]]:
    """Run the demo host with the scripts of these names; the seconds until it was ready, and its log's events."""
    config = {
        "model_dir": model,
        "code_dir": code,
        "device": device,
        "precision": "fp16" if device == "cuda" else "fp32",
        "health_port": HEALTH_PORT,
        "queue_limit": QUEUE_LIMIT,
        "scripts": [
            {
                "name": name,
                "file": name + ".py",
                "port": PORTS[name],
                "ready_path": {"api": "/docs", "openai_api": "/v1/models", "web_demo": "/"}[name],
            }
            for name in names
        ],
    }
    file, log = work / "demos.json", work / f"host-{len(names)}.log"
    file.write_text(json.dumps(config))
    begun = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "demo_host", str(file)]
    with serve_memory.running(command, str(HOST), HEALTH_PORT, "/healthz", log):
        yield time.monotonic() - begun, [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]


class Direct:
    """The model in a process of its own, asked without any demo (serve_gpu_model.py)."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-W", "ignore", str(HERE / "serve_gpu_model.py"), "ask", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask()

    def ask(self, pieces: int = STREAM_TOKENS) -> tuple[float, float]:
        """Return the seconds to the first piece of an answer, and from there to the last of so many."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{PROMPT}\t{pieces}\n")
        self._process.stdin.flush()
        first, rest = self._process.stdout.readline().split()
        return float(first), float(rest)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def stream(server: Server, tokens: int) -> float:
    """Return the pieces of an answer a second, from the first to the last."""
    connection = server.connect()
    reply, _ = server.ask(connection, PROMPT, stream=True, max_tokens=tokens)
    times = [time.perf_counter() for line in reply if content_of(line)]
    connection.close()
    return (len(times) - 1) / (times[-1] - times[0])


def health(openai: Server) -> list[float]:
    """Return the milliseconds of /healthz, each on a new connection, while the model writes."""
    host, found = Server(HEALTH_PORT), []
    with LongAnswer(openai, 8000):
        time.sleep(1)
        for _ in range(PROBES):
            seconds, said = host.healthz()
            if not said["busy"]:
                raise SystemExit("The long answer ended before its time.")
            found.append(seconds * 1000)
            time.sleep(PROBE_SECONDS)
    return found


def taking_turns(direct: Direct, openai: Server) -> dict[str, list[float]]:
    """Milliseconds to the first piece of an answer, and pieces a second of a long one, of the model and the host."""
    found: dict[str, list[float]] = {}
    connection = openai.connect()
    for number in range(STREAMS + 3):
        alone, _ = direct.ask()
        _, hosted = openai.first_bytes(connection, PROMPT, STREAM_TOKENS)
        if number >= 3:  # the first ones warm up
            found.setdefault("first piece ms, model", []).append(alone * 1000)
            found.setdefault("first piece ms, demo host", []).append(hosted * 1000)
    connection.close()
    for _ in range(LONG_STREAMS):
        _, rest = direct.ask(LONG_TOKENS)
        found.setdefault("tokens a second, model", []).append((LONG_TOKENS - 1) / rest)
        found.setdefault("tokens a second, demo host", []).append(stream(openai, LONG_TOKENS))
    return found


def crowds(openai: Server, until: float) -> dict[str, list[float]]:
    """Answers a second of one client and of many, the ways taking turns, until the time is up."""
    found: dict[str, list[float]] = {"lost": []}
    for number in range(ROUNDS):
        begun = time.monotonic()
        for clients in (1, CLIENTS):
            seconds, lost, _ = crowd(openai, [PROMPT] * ANSWERS, clients, max_tokens=ANSWER_TOKENS)
            found.setdefault(f"answers a second, {clients}", []).append(ANSWERS / seconds)
            found["lost"].append(float(lost))
        if number + 1 < ROUNDS and 2 * time.monotonic() - begun > until:
            break
    return found


def figures_of(found: dict[str, list[float]]) -> dict[str, float]:
    """Return the figures of docs/benchmarks.md."""
    middle = {way: statistics.median(values) for way, values in found.items()}
    rounds = zip(found["answers a second, 1"], found[f"answers a second, {CLIENTS}"], strict=True)
    return {
        "memory_ratio": round(middle["MiB, all three"] / max(1.0, middle["MiB, api alone"]), 3),
        "overhead_ms": round(middle["first piece ms, demo host"] - middle["first piece ms, model"], 2),
        "healthz_p99_ms": round(percentile(found["healthz ms"], 99), 1),
        "lost": int(sum(found["lost"])),
        "throughput_ratio": round(statistics.median(crowded / alone for alone, crowded in rounds), 3),
        "tokens_per_second": round(middle["tokens a second, demo host"], 1),
        "tokens_ratio": round(middle["tokens a second, demo host"] / middle["tokens a second, model"], 3),
        "load_seconds": round(middle["load s"], 1),
        "ready_seconds": round(middle["ready s"], 1),
    }


def main() -> None:
    code, source, work = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    until = time.monotonic() + float(sys.argv[4] if len(sys.argv) > 4 else 3600)
    work.mkdir(exist_ok=True)
    model, found, bare = str(work / "stand_in"), {}, used_mib()
    if not Path(model).exists():
        command = [sys.executable, "-W", "ignore", str(HERE / "serve_gpu_model.py"), "write", source, model]
        subprocess.run(command, check=True)
    openai, device = Server(PORTS["openai_api"]), "cuda" if shutil.which("nvidia-smi") else "cpu"
    for way, names in {"api alone": ["api"], "all three": list(PORTS)}.items():
        with demo_host(names, code, model, device, work) as (seconds, events):
            for name in names:
                serve_memory.answer_once(name, PORTS[name])
            found[f"MiB, {way}"] = [used_mib() - bare]
            found.setdefault("ready s", []).append(seconds)
            found.setdefault("load s", []).extend(event["seconds"] for event in events if event["event"] == "loaded")
            print(f"{way}: {found[f'MiB, {way}'][0]:.0f} MiB, ready after {seconds:.1f} s", flush=True)
            if len(names) == 1:
                continue
            found["healthz ms"] = health(openai)
            print("health is measured", flush=True)
            direct = Direct(model)
            found.update(taking_turns(direct, openai))
            direct.close()
            print("first pieces and tokens are measured", flush=True)
            found.update(crowds(openai, until))
    for way, values in found.items():
        print(f"{way:<32}{statistics.median(values):>10.2f}{percentile(values, 99):>10.2f}{len(values):>8}")
    print(json.dumps(figures_of(found)))


if __name__ == "__main__":
    main()
