"""The model as cli_demo.py and web_demo2.py see it: openai_api.py on loopback, played here by a small server."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import demo_host
import pytest
from demo_host.remote import NoAnswer, RemoteModel, RemoteTokenizer, request_body

TOKENIZER = RemoteTokenizer()


class Host:
    """Answers each request with the next of its replies: (status, the body's lines); keeps what it was asked."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, str], list[str]]] = []
        self.asked: list[dict[str, Any]] = []
        self.left = threading.Event()
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                host.asked.append(json.loads(self.rfile.read(length)))
                status, headers, lines = host.replies.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for line in lines:
                        self.wfile.write(line.encode() + b"\r\n\r\n")
                        self.wfile.flush()
                        if host.left.wait(0.01):
                            break
                except OSError:
                    host.left.set()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def streams(self, *pieces: str) -> None:
        """Let the next reply be a stream of these pieces."""
        deltas = [{"role": "assistant"}, *({"content": piece} for piece in pieces), {}]
        lines = ["data: " + json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
        self.replies.append((200, {}, [*lines, "data: [DONE]"]))

    def refuses(self, status: int, sentence: str, **headers: str) -> None:
        """Let the next reply be a refusal in OpenAI's shape."""
        self.replies.append((status, headers, [json.dumps({"error": {"message": sentence}})]))


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_answer_grows_as_the_models_own_does(host: Host) -> None:
    host.streams("你", "好")
    triples = list(RemoteModel(host.port).stream_chat(TOKENIZER, "q", [("a", "b")], return_past_key_values=True))
    assert triples == [("你", [("a", "b"), ("q", "你")], None), ("你好", [("a", "b"), ("q", "你好")], None)]
    host.streams("x")
    assert list(RemoteModel(host.port).stream_chat(TOKENIZER, "q")) == [("x", [("q", "x")])]


def test_history_and_settings_reach_the_host(host: Host) -> None:
    host.streams("x")
    answer = RemoteModel(host.port).chat(TOKENIZER, "q", [("a", "b")], max_length=64, top_p=0.5, temperature=0.1)
    assert answer == ("x", [("a", "b"), ("q", "x")])
    body = host.asked[0]
    assert [(m["role"], m["content"]) for m in body["messages"]] == [("user", "a"), ("assistant", "b"), ("user", "q")]
    assert (body["stream"], body["max_length"], body["top_p"], body["temperature"]) == (True, 64, 0.5, 0.1)


def test_what_the_host_does_not_know_is_not_sent() -> None:
    assert set(request_body("q", None, {"past_key_values": 1, "do_sample": True})) == {"model", "messages", "stream"}


def test_placing_the_model_does_nothing() -> None:
    model = RemoteModel(1)
    assert model.half().quantize(4).cuda().eval() is model


def test_a_refusal_is_told_in_the_hosts_words(host: Host) -> None:
    host.refuses(400, "The prompt is too long.")
    with pytest.raises(NoAnswer, match="too long"):
        RemoteModel(host.port).chat(TOKENIZER, "q")


def test_an_error_in_mid_stream_is_told(host: Host) -> None:
    host.replies.append((200, {}, ["data: " + json.dumps({"error": {"message": "No room."}})]))
    with pytest.raises(NoAnswer, match="No room"):
        RemoteModel(host.port).chat(TOKENIZER, "q")


def test_a_busy_host_is_asked_again(host: Host) -> None:
    host.refuses(503, "The model is busy.", **{"Retry-After": "0"})
    host.streams("x")
    assert RemoteModel(host.port).chat(TOKENIZER, "q")[0] == "x"
    assert len(host.asked) == 2


def test_a_host_that_stays_busy_is_given_up(host: Host) -> None:
    for _ in range(20):
        host.refuses(503, "The model is busy.", **{"Retry-After": "0"})
    with pytest.raises(NoAnswer, match="busy"):
        RemoteModel(host.port, busy_seconds=0.0).chat(TOKENIZER, "q")
    assert len(host.asked) == 1


def test_a_host_that_is_down_is_told_with_what_to_type() -> None:
    with pytest.raises(NoAnswer, match="glmboxctl status"):
        RemoteModel(9, busy_seconds=0.0).chat(TOKENIZER, "q")


def test_a_reader_that_leaves_is_noticed(host: Host) -> None:
    host.streams(*("x" * 1 for _ in range(2000)))
    stream = RemoteModel(host.port).stream_chat(TOKENIZER, "q")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert host.left.wait(10)


def test_a_chat_in_the_terminal_needs_neither_torch_nor_transformers(host: Host, tmp_path: Path) -> None:
    """The stand-in of cli_demo.py, run as glmbox-chat runs it."""
    root = Path(demo_host.__file__).parents[4]
    release = tmp_path / "release"
    release.mkdir()
    (release / "demo_host").symlink_to(Path(demo_host.__file__).parent)
    demos = root / "local_box" / "miniature" / "demos"
    config = {"code_dir": str(demos), "scripts": [{"name": "openai_api", "port": host.port}]}
    (release / "demos.json").write_text(json.dumps(config))
    host.streams("你", "好")
    host.streams("再见")
    chat = subprocess.run(
        [sys.executable, "-m", "demo_host.remote", "cli_demo.py"],
        env={"PYTHONPATH": str(release), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        input="你好\n再\nstop\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert chat.stderr == ""
    assert "ChatGLM：你好" in chat.stdout
    assert "ChatGLM：再见" in chat.stdout
    assert [m["content"] for m in host.asked[1]["messages"]] == ["你好", "你好", "再"]
