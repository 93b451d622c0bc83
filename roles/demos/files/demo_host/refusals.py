"""The HTTP answers that the host gives in a script's stead."""

import json
from typing import Any


def refusal_messages(path: str, status: int, sentence: str) -> list[dict[str, Any]]:
    """Return the two ASGI messages of a refusal: FastAPI's error shape, or OpenAI's for paths under /v1/."""
    data = _error_body(path, status, sentence)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"5"))
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": data},
    ]


def stream_error_message(path: str, status: int, sentence: str) -> dict[str, Any]:
    """Return the last ASGI message of an event stream that began well and cannot go on."""
    event = b"data: " + _error_body(path, status, sentence) + b"\r\n\r\n"
    return {"type": "http.response.body", "body": event, "more_body": False}


def _error_body(path: str, status: int, sentence: str) -> bytes:
    body: dict[str, Any] = {"detail": sentence}
    if path.startswith("/v1/"):
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
    return json.dumps(body).encode()


def sentence_of(problems: list[str]) -> str:
    """Join problems to one sentence."""
    return f"Invalid input: {'; '.join(problems)}."
