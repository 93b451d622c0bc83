"""How a box is stopped: commands, and stand-ins for the providers' interfaces that answer as documented."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from glmbox_lease import stops
from glmbox_lease.meter import Session
from glmbox_lease.settings import Settings
from glmbox_lease.state import State
from glmbox_lease.watch import Watcher
from glmbox_lease.work import Work

KEY = "secret-4711-of-this-instance"
GOOD = {
    "vast": {"CONTAINER_ID": "123", "CONTAINER_API_KEY": KEY},
    "runpod": {"RUNPOD_POD_ID": "riixlu8o", "RUNPOD_API_KEY": KEY},
}


class Provider(BaseHTTPRequestHandler):
    """vast.ai's instances and RunPod's pods, with one box of each; the server's `answer` makes it answer otherwise."""

    def do_PUT(self) -> None:
        body = self._body()
        if not self._knows():
            return self._send(401, {"success": False, "error": "auth_error", "msg": f"Invalid key {KEY}"})
        if self.path != "/api/v0/instances/123/":
            return self._send(404, {"success": False, "error": "no_such_instance", "msg": "Instance not found."})
        self.server.stopped.append(body)
        self._send(200, {"success": body == {"state": "stopped"}})

    def do_POST(self) -> None:
        query = self._body().get("query", "")
        if not self._knows() or self.path != "/graphql":
            return self._send(401, {"error": "Unauthorized"})
        if 'podStop(input: {podId: "riixlu8o"}) { id desiredStatus }' not in query:
            return self._send(200, {"errors": [{"message": "Something went wrong."}], "data": {"podStop": None}})
        self.server.stopped.append(query)
        self._send(200, {"data": {"podStop": {"id": "riixlu8o", "desiredStatus": "EXITED"}}})

    def _knows(self) -> bool:
        # As RunPod's front does with Python's own name.
        named = not self.headers["User-Agent"].startswith("Python-urllib")
        return named and self.headers["Authorization"] == f"Bearer {self.server.key}"

    def _body(self) -> dict:
        self.server.seen.append((self.path, dict(self.headers)))
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _send(self, status: int, body: object) -> None:
        status, body, headers = self.server.answer or (status, json.dumps(body), {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.key, server.answer, server.stopped, server.seen = KEY, None, [], []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def pid1(tmp_path, monkeypatch):
    """Return a function that sets what the box's first process was given; ours has nothing of it."""
    for name in [name for name in os.environ if name.startswith(("CONTAINER_", "VAST_", "RUNPOD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(stops, "PID1", str(tmp_path / "environ"))
    monkeypatch.setattr(stops, "COPIES", (str(tmp_path / "none"), str(tmp_path / "copy")))

    def give(**variables: str) -> None:
        (tmp_path / "environ").write_text("".join(f"{name}={value}\0" for name, value in variables.items()))

    give(PATH="/bin")
    return give


@pytest.mark.parametrize("api", ["vast", "runpod"])
def test_the_provider_stops_the_box_with_the_boxs_own_key(provider, pid1, api):
    pid1(**GOOD[api])
    assert stops.stop_box({"api": api, "url": provider.url}) == ""
    assert len(provider.stopped) == 1
    (path, headers) = provider.seen[0]
    assert KEY not in path
    assert headers["User-Agent"] == "glmbox-lease"


def test_vasts_label_tells_the_instance_as_well(provider, pid1):
    pid1(VAST_CONTAINERLABEL="C.123", CONTAINER_API_KEY=KEY)
    assert stops.stop_box({"api": "vast", "url": provider.url}) == ""


@pytest.mark.parametrize("api", ["vast", "runpod"])
def test_a_wrong_key_is_said_and_stands_nowhere(provider, pid1, api):
    pid1(**GOOD[api])
    provider.key = "another"
    problem = stops.stop_box({"api": api, "url": provider.url})
    assert "did not stop the box: status 401, it refuses the box's own key" in problem
    assert KEY not in problem
    assert provider.stopped == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "<html>hello</html>", {}), "an answer that is not JSON"),
        ((200, "{}", {}), "no success"),
        ((200, '{"success": false, "msg": "Not now."}', {}), "Not now."),
        ((200, '{"success": "true"}', {}), "no success"),
        ((403, "error code: 1010", {}), "status 403, the box's own key may not"),
        ((404, '{"msg": "Instance not found."}', {}), "status 404, it knows no such box, Instance not found."),
        ((429, "API requests too frequent", {}), "status 429"),
        ((500, KEY, {}), "status 500"),
        ((500, json.dumps({"msg": f"I saw {KEY}"}), {}), "status 500, I saw …"),
        ((307, "", {"Location": "http://127.0.0.1:1/elsewhere"}), "status 307"),
    ],
)
def test_whatever_else_vast_answers_is_a_failure(provider, pid1, answer, words):
    pid1(**GOOD["vast"])
    provider.answer = answer
    problem = stops.stop_box({"api": "vast", "url": provider.url})
    assert problem.startswith("vast.ai did not stop the box: ")
    assert words.rstrip(".") in problem
    assert KEY not in problem
    assert len(provider.seen) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"data": {"podStop": None}}, "its status is to be None"),
        ({"data": {"podStop": {"id": "x", "desiredStatus": "RUNNING"}}}, "its status is to be RUNNING"),
        ({"errors": [{"message": "Pod not found"}], "data": None}, "Pod not found"),
        ({"errors": ["odd"]}, "odd"),
        ([], "not JSON"),
    ],
)
def test_whatever_else_runpod_answers_is_a_failure(provider, pid1, answer, words):
    pid1(**GOOD["runpod"])
    provider.answer = (200, json.dumps(answer), {})
    assert words in stops.stop_box({"api": "runpod", "url": provider.url})


def test_a_provider_that_cannot_be_reached_is_a_failure(pid1):
    pid1(**GOOD["vast"])
    assert "Connection refused" in stops.stop_box({"api": "vast", "url": "http://127.0.0.1:1"})


@pytest.mark.parametrize(
    ("api", "variables"),
    [
        ("vast", {}),
        ("vast", {"CONTAINER_ID": "123"}),
        ("vast", {"CONTAINER_API_KEY": KEY}),
        ("vast", {"CONTAINER_ID": "12/../34", "CONTAINER_API_KEY": KEY}),
        ("vast", {"CONTAINER_ID": "123", "CONTAINER_API_KEY": KEY + "\nX-Evil: 1"}),
        ("runpod", {"RUNPOD_POD_ID": "riixlu8o"}),
        ("runpod", {"RUNPOD_POD_ID": 'x"}) { id } }', "RUNPOD_API_KEY": KEY}),
    ],
)
def test_without_a_whole_credential_nobody_is_asked(provider, pid1, api, variables):
    pid1(**variables)
    problem = stops.stop_box({"api": api, "url": provider.url})
    assert "cannot be asked to stop this box" in problem
    assert stops.APIS[api].key in problem
    assert KEY not in problem
    assert stops.problem_before({"api": api}) == problem
    assert provider.seen == []


def test_a_key_does_not_travel_in_the_clear(pid1):
    pid1(**GOOD["vast"])
    assert "by https alone" in stops.stop_box({"api": "vast", "url": "http://203.0.113.7"})


def test_a_first_process_that_is_hidden_leaves_our_own_variables(pid1, monkeypatch, provider):
    monkeypatch.setattr(stops, "PID1", "/nonexistent/environ")
    monkeypatch.setenv("CONTAINER_ID", "123")
    monkeypatch.setenv("CONTAINER_API_KEY", KEY)
    assert stops.stop_box({"api": "vast", "url": provider.url}) == ""


@pytest.mark.parametrize("form", ["{}={}", 'export {}="{}"', "{}='{}' # set by the provider"])
def test_a_first_process_that_has_lost_them_leaves_the_images_copy(pid1, tmp_path, provider, form):
    lines = ['BROKEN="', "", "# export X=1", *(form.format(*pair) for pair in GOOD["runpod"].items())]
    (tmp_path / "copy").write_text("\n".join(lines))
    assert stops.stop_box({"api": "runpod", "url": provider.url}) == ""


def test_the_key_reaches_neither_state_nor_log(provider, pid1, tmp_path):
    pid1(**GOOD["vast"])
    provider.key = "another"
    said: list[str] = []
    settings = Settings(str(tmp_path / "lease.json"), "", [], hours=1.0, stop={"api": "vast", "url": provider.url})
    watcher = Watcher(settings, said.append)
    session = Session("boot", "1", 0.0)
    for now in range(0, 3700, 100):
        if watcher.look(session, now, Work([], 0, {})):
            watcher.stop(session, lambda: 3600.0)
    kept = (tmp_path / "lease.json").read_text()
    assert "status 401" in kept and "THE BOX IS NOT STOPPED" in said[-1]
    assert KEY not in kept + "".join(said)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 0", ""),
        ("echo first; echo 'cannot do that' >&2; exit 3", "ended with exit code 3: cannot do that"),
        ("exit 1", "ended with exit code 1: it said nothing"),
    ],
)
def test_a_command_stops_the_box(tmp_path, script, words):
    program = tmp_path / "shutdown"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    problem = stops.stop_box({"command": [str(program)]})
    assert problem.partition(str(program))[2].strip() == words


def test_a_command_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(stops, "COMMAND_SECONDS", 0.2)
    assert "did not end within" in stops.stop_box({"command": ["/bin/sleep", "30"]})


def test_a_command_that_is_missing_is_said_beforehand(tmp_path):
    assert "is not there or cannot be run" in stops.problem_before({"command": [str(tmp_path / "none")]})
    (tmp_path / "text").write_text("")
    assert "is not there or cannot be run" in stops.stop_box({"command": [str(tmp_path / "text")]})


def test_other_things_are_no_way_to_stop(monkeypatch):
    assert "lease_stop has to have one of" in stops.stop_box({})
    assert "known are runpod and vast" in stops.stop_box({"api": "lambda"})
    monkeypatch.setattr(stops.os.path, "isdir", lambda path: False)
    assert "not booted with systemd" in stops.stop_box({"poweroff": True})
    assert stops.stop_box({"hook": True}) == ""


def test_a_poweroff_asks_systemd(monkeypatch):
    sent = []
    monkeypatch.setattr(stops.os.path, "isdir", lambda path: True)
    monkeypatch.setattr(stops.os, "kill", lambda pid, sign: sent.append((pid, sign)))
    assert stops.stop_box({"poweroff": True}) == ""
    assert sent == [(1, stops.signal.SIGRTMIN + 4)]


def test_a_state_never_holds_settings():
    assert not {"stop", "key", "url"} & set(vars(State()))
    assert Path(stops.__file__).is_file()
