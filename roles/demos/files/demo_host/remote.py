"""Runs cli_demo.py and web_demo2.py, unmodified, in a process of their own that asks the one model over loopback.

    python -m demo_host.remote cli_demo.py
    python -m demo_host.remote web_demo2.py --server.port 8104

Streamlit must own its process, and a chat in a terminal is one by nature. Neither needs a copy of the model: what
they get for one sends the conversation to openai_api.py on this machine and yields its answer as it grows.
transformers and torch are never imported, so that a chat begins at once.
"""

import http.client
import json
import os
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import demo_host

CONFIG = "demos.json"  # beside this package, in the release
SCRIPT_OF_THE_API = "openai_api"
ANSWER_SECONDS = 600.0  # until the next piece of an answer, the wait in the line included
BUSY_SECONDS = 60.0  # for which a full line, or a host that loads, is asked again


class NoAnswer(Exception):
    """The demo host did not answer; the message is a sentence for the person who asked."""


class RemoteTokenizer:
    """Nothing: text is sent as it is."""


class RemoteModel:
    """What a script gets for a model. Placing and converting it does nothing: the demo host has done that.

    port: of openai_api.py on loopback. busy_seconds: for which a host that has no room is asked again.
    """

    def __init__(self, port: int, busy_seconds: float = BUSY_SECONDS) -> None:
        self._port, self._busy_seconds = port, busy_seconds

    def _itself(self, *_: Any, **__: Any) -> "RemoteModel":
        return self

    cuda = cpu = half = float = to = eval = quantize = _itself

    def chat(self, tokenizer: Any, query: str, history: Any = None, **options: Any) -> tuple[str, list[Any]]:
        """Return the answer and the history with it; see stream_chat."""
        answer = ("", [*(history or []), (query, "")])
        for response, new_history, *_ in self.stream_chat(tokenizer, query, history, **options):
            answer = (response, new_history)
        return answer

    def stream_chat(
        self,
        tokenizer: Any,
        query: str,
        history: Any = None,
        past_key_values: Any = None,
        return_past_key_values: bool = False,
        **options: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the growing answer and the history with it, as the model's own stream_chat() does.

        Raises:
            NoAnswer: the host is down, busy, or refuses the request; the sentence tells.
        """
        response = ""
        for piece in self._pieces(request_body(query, history, options)):
            response += piece
            new_history = [*(history or []), (query, response)]
            yield (response, new_history, None) if return_past_key_values else (response, new_history)

    def _pieces(self, body: dict[str, Any]) -> Iterator[str]:
        # http.client heeds no proxy variables.
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        try:
            reply = self._let_in(connection, body)
            if reply.status != 200:
                raise NoAnswer(sentence_of(reply.read()))
            for line in reply:
                yield from piece_of(line)
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"The demo host does not answer ({error}); see: glmboxctl status") from error
        finally:
            # Where the reader has left in mid-stream, this tells the host to stop.
            connection.close()

    def _let_in(self, connection: http.client.HTTPConnection, body: dict[str, Any]) -> http.client.HTTPResponse:
        """Ask until there is room: a line can be full, and a host that is restarted does not listen for a while."""
        patience = time.monotonic() + self._busy_seconds
        while True:
            pause = 1.0
            try:
                reply = ask(connection, body)
                if reply.status != 503 or time.monotonic() >= patience:
                    return reply
                pause = float(reply.headers.get("Retry-After", pause))
            except ConnectionRefusedError:
                if time.monotonic() >= patience:
                    raise
            connection.close()
            time.sleep(pause)


def ask(connection: http.client.HTTPConnection, body: dict[str, Any]) -> http.client.HTTPResponse:
    """Send the request and return the reply, its body unread."""
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
    return connection.getresponse()


def request_body(query: str, history: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the body for openai_api.py: the rounds of ``history`` as messages, and the settings that it knows."""
    messages = []
    for question, answer in history or []:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": query})
    settings = {key: options[key] for key in ("max_length", "top_p", "temperature") if options.get(key) is not None}
    return {"model": "chatglm2-6b", "messages": messages, "stream": True, **settings}


def piece_of(line: bytes) -> Iterator[str]:
    """Yield the text that a line of the event stream brings, if any.

    Raises:
        NoAnswer: the line is an error.
    """
    text = line.decode("utf-8").strip()
    if not text.startswith("data: ") or text == "data: [DONE]":
        return
    data = json.loads(text[len("data: ") :])
    if "error" in data:
        raise NoAnswer(data["error"]["message"])
    content = data["choices"][0]["delta"].get("content")
    if content:
        yield content


def sentence_of(body: bytes) -> str:
    """Return the sentence in the body of a refusal."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The demo host sent something else than an answer: {body[:200]!r}"


def stand_in_for_transformers(port: int) -> None:
    """Let the scripts import transformers, and get the remote model from it."""

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> RemoteTokenizer:
            return RemoteTokenizer()

    class AutoModel:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> RemoteModel:
            return RemoteModel(port)

    module = ModuleType("transformers")
    vars(module).update(AutoTokenizer=AutoTokenizer, AutoModel=AutoModel)
    sys.modules["transformers"] = module


def run_streamlit(path: str, options: list[str]) -> None:
    """Serve a streamlit script from this process; does not return."""
    from streamlit.web import cli

    sys.argv = ["streamlit", "run", path, *options]
    cli.main()


def main(arguments: list[str]) -> None:
    """Run the script of the demos' folder that the first argument names, with the rest as its own."""
    release = Path(demo_host.__path__[0]).parent
    config = json.loads((release / CONFIG).read_text(encoding="utf-8"))
    ports = {script["name"]: script["port"] for script in config["scripts"]}
    path = os.path.join(config["code_dir"], arguments[0])
    stand_in_for_transformers(ports[SCRIPT_OF_THE_API])
    sys.dont_write_bytecode = True  # the checkout stays as it is
    sys.path.insert(0, config["code_dir"])
    if "streamlit" in Path(path).read_text(encoding="utf-8"):
        run_streamlit(path, arguments[1:])
    try:
        runpy.run_path(path, run_name="__main__")
    except NoAnswer as error:
        sys.exit(str(error))
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
