"""GET /healthz and GET /metrics on a port and in threads of their own, so that they answer during a generation."""

import json
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from demo_host.state import Host


def health_report(host: Host) -> dict[str, Any]:
    """Return the body of GET /healthz."""
    running, waiting = host.turns.counts()
    return {
        **host.state.snapshot(),
        "model": host.config.model_dir,
        "device": host.config.device,
        "precision": host.config.precision,
        "busy": running > 0,
        "queue": {"running": running, "waiting": waiting, "limit": host.turns.limit},
    }


def metrics_text(host: Host) -> str:
    """Return the body of GET /metrics in Prometheus' text format; seconds and bytes."""
    counted = host.state.counters()
    running, waiting = host.turns.counts()
    ready = int(host.state.snapshot()["state"] == "ready")
    lines = _metric("glmbox_demo_ready", "gauge", "1 when the demos answer", [("", ready)])
    lines += _metric(
        "glmbox_demo_requests_total",
        "counter",
        "Generations by script and outcome",
        [
            (f'{{script="{script}",outcome="{outcome}"}}', n)
            for (script, outcome), n in sorted(counted.generations.items())
        ],
    )
    lines += _metric(
        "glmbox_demo_rejected_total",
        "counter",
        "Requests that were refused before they reached the model",
        [(f'{{script="{script}",reason="{reason}"}}', n) for (script, reason), n in sorted(counted.rejected.items())],
    )
    name = "glmbox_demo_generation_seconds"
    lines += [f"# HELP {name} Seconds for which a generation held the model", f"# TYPE {name} summary"]
    lines += [f"{name}_sum {counted.seconds:.6f}", f"{name}_count {sum(counted.generations.values())}"]
    lines += _metric(
        "glmbox_demo_tokens_total",
        "counter",
        "Tokens drawn by script",
        [(f'{{script="{script}"}}', n) for script, n in sorted(counted.tokens.items())],
    )
    lines += _metric("glmbox_demo_queue_running", "gauge", "Generations that run", [("", running)])
    lines += _metric("glmbox_demo_queue_waiting", "gauge", "Generations that wait", [("", waiting)])
    memory = [(f'{{kind="{kind}"}}', n) for kind, n in gpu_memory().items()]
    if memory:
        lines += _metric("glmbox_demo_gpu_memory_bytes", "gauge", "GPU memory of this process", memory)
    return "\n".join(lines) + "\n"


def gpu_memory() -> dict[str, int]:
    """Return what torch holds of the GPU's memory, in bytes; nothing before torch uses a GPU."""
    torch = sys.modules.get("torch")  # never imported here: that takes seconds
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return {}
    return {"allocated": cuda.memory_allocated(), "reserved": cuda.memory_reserved()}


def _metric(name: str, kind: str, text: str, samples: list[tuple[str, int]]) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"] + [f"{name}{labels} {value}" for labels, value in samples]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # 5 would let clients wait for a second where many come at once
    host: Host

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for the machine's name, which can take seconds on a box without network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds for a client to send its request
    server: _Server

    def do_GET(self) -> None:
        """Answer /healthz (200 when ready, else 503) and /metrics."""
        if self.path == "/healthz":
            report = health_report(self.server.host)
            self._send(200 if report["state"] == "ready" else 503, "application/json", json.dumps(report))
        elif self.path == "/metrics":
            self._send(200, "text/plain; version=0.0.4", metrics_text(self.server.host))
        else:
            self._send(404, "text/plain", "there are /healthz and /metrics\n")

    do_HEAD = do_GET

    def send_error(self, code: int, *more: Any) -> None:
        """Refuse other methods as what they are, not allowed here, instead of as not implemented (501)."""
        super().send_error(405 if code == 501 else code, *more)

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a probe asks every few seconds."""


def start_health_server(host: Host) -> ThreadingHTTPServer:
    """Serve on 127.0.0.1 and the configured port from a daemon thread.

    Raises:
        OSError: the port is taken.
    """
    server = _Server(("127.0.0.1", host.config.health_port), _Handler)
    server.host = host
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
