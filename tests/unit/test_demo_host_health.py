"""Health, metrics, notification and log lines; and the process as a whole where it needs no model."""

import http.client
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import demo_host
import pytest
from demo_host.health import health_report, metrics_text, start_health_server
from demo_host.host import drain, watch
from demo_host.log import Log, LoggingHandler
from demo_host.notify import notify
from demo_host_fakes import log_lines, make_host


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_health_is_200_only_when_ready() -> None:
    host = make_host()
    host.config = replace(host.config, health_port=free_port())
    server = start_health_server(host)
    try:
        seen = []
        for state in ("loading", "starting", "ready"):
            host.state.set(state, "")
            status, body = get(host.config.health_port, "/healthz")
            seen.append((status, json.loads(body)["state"]))
        assert seen == [(503, "loading"), (503, "starting"), (200, "ready")]
        host.fail("api.py came to its end", "api")
        host.state.set("ready", "too late")
        status, body = get(host.config.health_port, "/healthz")
        assert (status, json.loads(body)["state"], json.loads(body)["scripts"]["api"]) == (503, "failed", "failed")
        assert get(host.config.health_port, "/metrics")[0] == 200
        assert get(host.config.health_port, "/")[0] == 404
        assert get(host.config.health_port, "/healthz", "HEAD") == (503, "")
        assert get(host.config.health_port, "/healthz", "DELETE")[0] == 405
        with pytest.raises(OSError, match="in use"):
            start_health_server(host)
    finally:
        server.shutdown()
        server.server_close()


def test_the_report_has_the_queue_and_the_plan() -> None:
    host = make_host(queue_limit=3)
    host.turns.join()
    host.turns.join()
    report = health_report(host)
    assert report["queue"] == {"running": 1, "waiting": 1, "limit": 3}
    assert (report["busy"], report["loaded_percent"]) == (True, 0)
    assert (report["model"], report["device"], report["precision"]) == ("/m", "cpu", "fp32")
    assert report["scripts"] == {"api": "waiting", "openai_api": "waiting", "web_demo": "waiting"}
    assert report["uptime_seconds"] >= 0


def test_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    host = make_host()
    host.state.count_generation("api", "ok", 1.5, 12)
    host.state.count_generation("api", "ok", 0.5)
    host.state.count_rejected("api", "queue")
    lines = metrics_text(host).splitlines()
    assert 'glmbox_demo_requests_total{script="api",outcome="ok"} 2' in lines
    assert 'glmbox_demo_rejected_total{script="api",reason="queue"} 1' in lines
    assert "glmbox_demo_generation_seconds_sum 2.000000" in lines
    assert "glmbox_demo_generation_seconds_count 2" in lines
    assert 'glmbox_demo_tokens_total{script="api"} 12' in lines
    assert not any("gpu" in line for line in lines)
    cuda = SimpleNamespace(is_initialized=lambda: True, memory_allocated=lambda: 7, memory_reserved=lambda: 9)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert 'glmbox_demo_gpu_memory_bytes{kind="allocated"} 7' in metrics_text(host)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@glmbox-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1")
        assert receiver.recv(100) == b"READY=1"


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_log_lines_are_json_and_bear_any_text() -> None:
    stream = io.StringIO()
    Log(stream, log_text=True).write("generation", prompt="你\ud800\n", error=None)
    line = json.loads(stream.getvalue())
    assert line["prompt"] == "你?\n"
    assert "error" not in line
    assert stream.getvalue().count("\n") == 1


def test_the_libraries_errors_become_lines_without_their_message() -> None:
    host = make_host()
    logger = logging.getLogger("demo_host_test")
    logger.propagate = False
    logger.addHandler(LoggingHandler(host.log))
    try:
        raise KeyError("secret")
    except KeyError:
        logger.exception("it broke")
    logger.info("not worth a line")
    (line,) = log_lines(host)
    assert (line["level"], line["message"]) == ("error", "it broke")
    assert line["error"].startswith("KeyError at ")


def start_process(tmp_path: Path, config: dict[str, Any]) -> "subprocess.Popen[str]":
    path = tmp_path / "demos.json"
    path.write_text(json.dumps(config))
    folder = str(Path(demo_host.__file__).parent.parent)
    # torch and transformers are stand-ins that load for ever.
    stub = tmp_path / "stubs"
    stub.mkdir()
    (stub / "torch.py").write_text("import time\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{stub}"}
    command = [sys.executable, "-m", "demo_host", str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_bad_configuration_ends_with_2_and_all_problems(tmp_path: Path) -> None:
    process = start_process(tmp_path, {"device": "tpu", "scripts": []})
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.count("\n  - ") == 6


def test_health_answers_while_loading_and_sigterm_ends_it_with_0(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "api.py"):
        (tmp_path / name).write_text("{}")
    port = free_port()
    scripts = [{"name": "api", "file": "api.py", "port": free_port()}]
    folders = {"model_dir": str(tmp_path), "code_dir": str(tmp_path)}
    plan = {"device": "cpu", "precision": "fp32", "health_port": port, "scripts": scripts}
    process = start_process(tmp_path, {**folders, **plan})
    try:
        for _ in range(100):
            time.sleep(0.1)
            try:
                status, body = get(port, "/healthz")
                break
            except ConnectionRefusedError:
                continue
        assert (status, json.loads(body)["state"]) == (503, "loading")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
        assert process.returncode == 0
        assert time.monotonic() - began < 5
    finally:
        process.kill()


def test_what_runs_is_finished_before_the_host_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host()
    monkeypatch.setattr("demo_host.host.FAREWELL_SECONDS", 0)
    ticket = host.turns.join()
    threading.Timer(0.2, ticket.leave).start()
    began = time.monotonic()
    drain(host)
    assert 0.15 < time.monotonic() - began < 5
    assert log_lines(host)[-1] | {"time": ""} == {"time": "", "event": "stopped", "running": 0, "waiting": 0}
    assert host.state.snapshot()["state"] == "stopping"


def test_what_does_not_end_holds_the_stop_up_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host()
    monkeypatch.setattr("demo_host.host.DRAIN_SECONDS", 0.1)
    host.turns.join()
    drain(host)
    assert log_lines(host)[-1]["running"] == 1


def test_a_hung_model_fails_the_host() -> None:
    host = make_host()
    host.config = replace(host.config, stuck_seconds=0)
    ticket = host.turns.join()
    with ticket.working():
        watch(host, threading.Event())
    assert host.state.snapshot()["state"] == "failed"
    assert "no token for 0 seconds" in host.state.snapshot()["detail"]
