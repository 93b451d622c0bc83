"""Checks of the JSON bodies of api.py and openai_api.py, before they reach a script: pure functions.

No message quotes the input: messages are logged, prompts are not.
"""

import json
import math
from collections.abc import Callable
from typing import Any

MAX_LENGTH = 32768  # tokens, the model's seq_length
ROLES = ("user", "assistant", "system")


def parse_object(body: bytes) -> tuple[dict[str, Any], str]:
    """Return the JSON object in ``body`` and "", or {} and one sentence of what is wrong."""
    try:
        # parse_constant: Python's parser takes NaN and Infinity, which JSON does not have.
        data = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return {}, "the body must be a valid JSON object in UTF-8"
    if not isinstance(data, dict):
        return {}, "the body must be a JSON object"
    return data, ""


def check_api(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with a body for POST / of api.py."""
    problems = []
    if not _is_text(data.get("prompt")) or not data["prompt"].strip():
        problems.append("prompt must be text that is not empty")
    history = data.get("history")
    if history is not None and not (isinstance(history, list) and all(_is_pair(entry) for entry in history)):
        problems.append("history must be null or a list of pairs of texts")
    return problems + _sampling_problems(data)


def check_openai(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with a body for POST /v1/chat/completions of openai_api.py."""
    problems = []
    if not _is_text(data.get("model")):
        problems.append("model must be text")
    problems += _messages_problems(data.get("messages")) + _sampling_problems(data)
    if not isinstance(data.get("stream"), (bool, type(None))):
        problems.append("stream must be true or false")
    tokens = data.get("max_tokens")
    if tokens is not None and not (type(tokens) is int and 1 <= tokens <= MAX_LENGTH):
        problems.append(f"max_tokens must be a whole number from 1 to {MAX_LENGTH}")
    return problems


def _messages_problems(messages: Any) -> list[str]:
    if not isinstance(messages, list) or not messages:
        return ["messages must be a list that is not empty"]
    if not all(isinstance(m, dict) and m.get("role") in ROLES and _is_text(m.get("content")) for m in messages):
        return ["every message must have a role (user, assistant or system) and content that is text"]
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        return ["the last message must be the user's and not empty"]
    return []


def _sampling_problems(data: dict[str, Any]) -> list[str]:
    problems = []
    length, top_p, temperature = data.get("max_length"), data.get("top_p"), data.get("temperature")
    if length is not None and not (type(length) is int and 1 <= length <= MAX_LENGTH):
        problems.append(f"max_length must be a whole number from 1 to {MAX_LENGTH}")
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        problems.append("top_p must be a number above 0 and up to 1")
    if temperature is not None and not (is_number(temperature) and 0 <= temperature <= 5):
        problems.append("temperature must be a number from 0 to 5")
    return problems


def is_number(value: Any) -> bool:
    # type(), not isinstance: true is an int to Python. math.isfinite() overflows on huge integers.
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")  # half a surrogate pair passes JSON and breaks the tokenizer
    except UnicodeEncodeError:
        return False
    return True


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_text(text) for text in value)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


Check = Callable[[dict[str, Any]], list[str]]

# By script: (method, path) of every route that reaches the model, and its check.
CHECKS: dict[str, dict[tuple[str, str], Check]] = {
    "api.py": {("POST", "/"): check_api},
    "openai_api.py": {("POST", "/v1/chat/completions"): check_openai},
}

# By script: the settings of a request that it takes and does not pass on to the model; the facade honours them.
# max_tokens is what OpenAI's clients send: tokens of the answer alone, where max_length counts the prompt as well.
# api.py takes a temperature of 0 for one that was not given.
UNHEEDED: dict[str, tuple[str, ...]] = {
    "api.py": ("temperature",),
    "openai_api.py": ("temperature", "top_p", "max_length", "max_tokens"),
}


def unheeded(script_file: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return those settings of the request body ``data`` which the script would not pass on."""
    return {key: data[key] for key in UNHEEDED.get(script_file, ()) if data.get(key) is not None}
