"""A host without a GPU, a network or a model, for the tests of the demo host."""

import io
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from demo_host.config import Config, Script
from demo_host.log import Log
from demo_host.state import Host, State
from demo_host.turns import Turns

API = Script("api", "api.py", 8101)
OPENAI = Script("openai_api", "openai_api.py", 8102)
WEB = Script("web_demo", "web_demo.py", 8103)


def make_host(queue_limit: int = 2, max_body_bytes: int = 1000, log_text: bool = False, code_dir: str = "/c") -> Host:
    config = Config("/m", code_dir, "cpu", "fp32", 8100, (API, OPENAI, WEB), queue_limit, max_body_bytes, log_text)
    return Host(config, State(["api", "openai_api", "web_demo"]), Turns(queue_limit), Log(io.StringIO(), log_text))


def log_lines(host: Host) -> list[dict[str, Any]]:
    return [json.loads(line) for line in host.log._stream.getvalue().splitlines()]  # type: ignore[attr-defined]


class FakeTokenizer:
    """One token a character."""

    def build_prompt(self, query: str, history: Any = None) -> str:
        return "".join(question + answer for question, answer in history or []) + query

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


class FakeModel:
    """Says one letter after another; notes what it was asked."""

    def __init__(self, letters: str = "abc", error: Exception | None = None) -> None:
        self.config = SimpleNamespace(seq_length=100)
        self.device = "fake"
        self.letters, self.error = letters, error
        self.asked: list[dict[str, Any]] = []
        self.closed = 0

    def chat(self, tokenizer: Any, query: str, history: Any = None, **options: Any) -> tuple[str, list[Any]]:
        self.asked.append({"query": query, **options})
        if self.error:
            raise self.error
        return self.letters, [*(history or []), (query, self.letters)]

    def stream_chat(self, tokenizer: Any, query: str, history: Any = None, **options: Any) -> Iterator[tuple[Any, ...]]:
        self.asked.append({"query": query, **options})
        try:
            for end in range(1, len(self.letters) + 1):
                if self.error and end == 2:
                    raise self.error
                yield self.letters[:end], [*(history or []), (query, self.letters[:end])]
        finally:
            self.closed += 1
