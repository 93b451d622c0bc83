"""Questions to a box from outside, as a user's programs would put them."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 300


def request(
    url: str, token: str = "", body: dict | None = None, basic: bool = False, user: str = "glmbox"
) -> urllib.request.Request:
    """Return a request: POST with a JSON body where there is one; the token as bearer, or as a user's password."""
    headers = {"Content-Type": "application/json"}
    if basic:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.Request(url, data=data, headers=headers)


def trusting(certificate: str) -> ssl.SSLContext:
    """Return a context that checks certificates: against a PEM file where one is named, else as the system does."""
    context = ssl.create_default_context(cafile=certificate or None)
    # The file's own certificate is enough, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def opened(asked: urllib.request.Request, certificate: str = ""):
    """Open a request: past every proxy where it goes to this machine, else as the environment says.

    certificate: a PEM file that the box's certificate is held against, or nothing for the system's.
    """
    here = asked.host.rsplit(":", 1)[0] in ("localhost", "127.0.0.1", "[::1]")
    handlers: list = [urllib.request.ProxyHandler({})] if here else []
    if asked.type == "https":
        handlers.append(urllib.request.HTTPSHandler(context=trusting(certificate)))
    return urllib.request.build_opener(*handlers).open(asked, timeout=TIMEOUT_SECONDS)


def send(asked: urllib.request.Request, certificate: str = "") -> tuple[int, str]:
    """Return a request's status and text; status 0 and the reason where nothing answers. certificate: as `opened`."""
    try:
        with opened(asked, certificate) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def refusals(url: str, certificate: str = "") -> list[str]:
    """Return a sentence for each door that opens without a token."""
    chat = {"model": "chatglm2-6b", "messages": [{"role": "user", "content": "x"}]}
    problems = []
    for label, asked in (
        ("GET /", request(url + "/")),
        ("POST /", request(url + "/", body={"prompt": "x", "history": []})),
        ("GET /v1/models", request(url + "/v1/models")),
        ("POST /v1/chat/completions", request(url + "/v1/chat/completions", body=chat)),
        ("POST / with a wrong token", request(url + "/", token="0" * 48, body={"prompt": "x", "history": []})),
    ):
        status, _ = send(asked, certificate)
        if status != 401:
            problems.append(f"{label} without the token gave status {status}, not 401.")
    return problems


def stream(url: str, token: str, prompt: str, certificate: str = "") -> tuple[str, float]:
    """Return a streamed answer and the seconds until its first word; raise ValueError where the stream is not whole."""
    chat = {"model": "chatglm2-6b", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    begun, first, words, ended = time.monotonic(), 0.0, [], False
    asked = request(url + "/v1/chat/completions", token=token, body=chat)
    try:
        with opened(asked, certificate) as reply:
            for raw in reply:
                line = raw.decode().strip()
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    delta = json.loads(line[6:])["choices"][0]["delta"]
                    if delta.get("content"):
                        first = first or time.monotonic() - begun
                        words.append(delta["content"])
    except OSError as error:
        raise ValueError(f"failed: {error}") from error
    if not ended or not words:
        raise ValueError(f"ended after {len(words)} pieces {'with' if ended else 'without'} [DONE]")
    return "".join(words), round(first, 2)


def all_answers(
    url: str, token: str, prompt: str, user: str = "glmbox", certificate: str = ""
) -> tuple[dict, list[str]]:
    """Put every question; return {answer, seconds, streamed, first_word_seconds} and a sentence for each failure.

    user: whose token it is. certificate: as `opened`.
    """
    found: dict = {"answer": "", "seconds": 0.0, "streamed": "", "first_word_seconds": 0.0}
    status, text = send(request(url + "/healthz"), certificate)
    if status != 200:
        return found, [f"{url}/healthz gave status {status}: {text.strip()[:300]}. Is the port open and mapped?"]
    problems = refusals(url, certificate)
    begun = time.monotonic()
    status, text = send(request(url + "/", token=token, body={"prompt": prompt, "history": []}), certificate)
    found["seconds"] = round(time.monotonic() - begun, 2)
    try:
        found["answer"] = json.loads(text)["response"]
    except (ValueError, KeyError, TypeError):
        pass
    if status != 200 or not found["answer"]:
        problems.append(f"POST / gave status {status} and no answer: {text.strip()[:300]}")
    try:
        found["streamed"], found["first_word_seconds"] = stream(url, token, prompt, certificate)
    except ValueError as error:
        problems.append(f"The stream of /v1/chat/completions {error}.")
    status, text = send(request(url + "/", token=token, basic=True, user=user), certificate)
    if status != 200 or "<html" not in text.lower():
        problems.append(f"GET / with the token gave status {status} and no page.")
    return found, problems
