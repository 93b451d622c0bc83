"""How the box is stopped, as its provider wants it. Each way returns "" or, in a sentence, why it did not work.

What is known of the providers' own interfaces, and whence: vast.ai's documentation of its API and of the variables
that every instance has (PUT of the state "stopped", a key for this instance alone); RunPod's documentation of podStop
and of its pods' variables (a key for this pod alone), and its own program runpodctl, which sends the key as a bearer to
the same address. Neither was ever asked from here: whatever they answer otherwise is taken for a failure, and said.
"""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

PID1 = "/proc/1/environ"
# Where vast.ai's and RunPod's images copy them: a first process such as sshd writes over its own.
COPIES = ("/etc/environment", "/etc/rp_environment")
COMMAND_SECONDS = 120
ANSWER_SECONDS = 30
# Without a name of its own, RunPod's front refuses Python's.
AGENT = "glmbox-lease"
KINDS = ("command", "api", "poweroff", "hook")


class Credential(NamedTuple):
    """What the provider gave the box: which instance it is, and the key for it."""

    id: str
    key: str


class Api(NamedTuple):
    """A provider's interface. ids: variables and what of their value is the id. request: of url and id."""

    title: str
    url: str
    key: str
    ids: Tuple[Tuple[str, str], ...]
    request: Callable[[str, str], Tuple[str, str, Dict[str, Any]]]
    refusal: Callable[[Dict[str, Any]], str]


def _vast_request(url: str, instance: str) -> Tuple[str, str, Dict[str, Any]]:
    return "PUT", "%s/api/v0/instances/%s/" % (url, instance), {"state": "stopped"}


def _vast_refusal(answer: Dict[str, Any]) -> str:
    return "" if answer.get("success") is True else str(answer.get("msg") or answer.get("error") or "no success")


def _runpod_request(url: str, pod: str) -> Tuple[str, str, Dict[str, Any]]:
    return "POST", url + "/graphql", {"query": 'mutation { podStop(input: {podId: "%s"}) { id desiredStatus } }' % pod}


def _runpod_refusal(answer: Dict[str, Any]) -> str:
    errors = answer.get("errors")
    if errors:
        return str(errors[0].get("message") if isinstance(errors[0], dict) else errors[0])
    status = ((answer.get("data") or {}).get("podStop") or {}).get("desiredStatus")
    return "" if status == "EXITED" else "its status is to be %s" % status


APIS = {
    "vast": Api(
        "vast.ai",
        "https://console.vast.ai",
        "CONTAINER_API_KEY",
        # The label is C.<id> on the instances that people have shown.
        (("CONTAINER_ID", r"(\d+)"), ("VAST_CONTAINERLABEL", r"(?:C\.)?(\d+)")),
        _vast_request,
        _vast_refusal,
    ),
    "runpod": Api(
        "RunPod",
        "https://api.runpod.io",
        "RUNPOD_API_KEY",
        (("RUNPOD_POD_ID", r"([A-Za-z0-9_-]{1,64})"),),
        _runpod_request,
        _runpod_refusal,
    ),
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: the key is for one host."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


def kind_of(stop: Dict[str, Any]) -> str:
    """Return which of the ways a stop is; "" for none or several of them."""
    kinds = [kind for kind in KINDS if stop.get(kind)]
    return kinds[0] if len(kinds) == 1 else ""


def variables_of_box() -> Dict[str, str]:
    """Return the variables that the provider gave the box: PID 1's, else their copies in files, else ours."""
    found = dict(os.environ)
    for path in COPIES:
        for line in _content(path).splitlines():
            with contextlib.suppress(ValueError):  # a quote that is not closed
                words = shlex.split(line, comments=True)
                if words:
                    name, _, value = words[-1].partition("=")
                    found[name] = value
    for pair in _content(PID1).split("\0"):
        name, _, value = pair.partition("=")
        found[name] = value
    return found


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def credential_of(api: Api, variables: Dict[str, str]) -> Tuple[Optional[Credential], str]:
    """Return the box's own credential, or why there is none."""
    for name, pattern in api.ids:
        match = re.fullmatch(pattern, variables.get(name, "").strip())
        key = variables.get(api.key, "").strip()
        if match and re.fullmatch(r"[\x21-\x7e]+", key):
            return Credential(match.group(1), key), ""
    names = " and ".join((api.key, " or ".join(name for name, _ in api.ids)))
    return None, (
        "%s cannot be asked to stop this box: %s, by which it does so, are not in the environment of the box's first "
        "process, nor in its files. Stop it in the console, or set lease_stop to another way." % (api.title, names)
    )


def problem_before(stop: Dict[str, Any]) -> str:
    """Return what can be known beforehand to stand in the way of a stop, or ""."""
    kind = kind_of(stop)
    if kind == "command":
        program = str(stop["command"][0])
        if not (os.path.isfile(program) and os.access(program, os.X_OK)) and "/" in program:
            return "%s, which stops the box, is not there or cannot be run." % program
    elif kind == "api":
        if stop["api"] not in APIS:
            return "lease_stop.api is %s; known are %s." % (stop["api"], " and ".join(sorted(APIS)))
        return credential_of(APIS[stop["api"]], variables_of_box())[1]
    elif kind == "poweroff":
        if not os.path.isdir("/run/systemd/system"):
            return "The box was not booted with systemd, so that it cannot power itself off. Set lease_stop."
    elif not kind:
        return "lease_stop has to have one of %s, with a value." % ", ".join(KINDS)
    return ""


def stop_box(stop: Dict[str, Any]) -> str:
    """Stop the box, or ask whoever can to do so; return "" where nothing went wrong so far, else what."""
    problem = problem_before(stop)
    if problem:
        return problem
    kind = kind_of(stop)
    if kind == "command":
        return _run([str(word) for word in stop["command"]])
    if kind == "api":
        api = APIS[stop["api"]]
        credential, problem = credential_of(api, variables_of_box())
        return problem if credential is None else _ask(api, credential, str(stop.get("url") or api.url))
    if kind == "poweroff":
        try:
            # What systemctl poweroff does in the end, and a process of root may without further rights.
            os.kill(1, signal.SIGRTMIN + 4)
        except OSError as error:
            return "The box could not power itself off: %s." % error.strerror
    return ""  # a hook: the controller looks


def _run(command: Any) -> str:
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "%s did not end within %d s." % (command[0], COMMAND_SECONDS)
    except OSError as error:
        return "%s could not be run: %s." % (command[0], error.strerror)
    if ended.returncode == 0:
        return ""
    lines = ended.stdout.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return "%s ended with exit code %d: %s" % (command[0], ended.returncode, lines[-1][:300])


def _ask(api: Api, credential: Credential, url: str) -> str:
    """Ask a provider's interface to stop the box. The key goes into a header alone, and out of all that is said."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "localhost"):
        return "%s is not asked at %s: the box's key travels by https alone." % (api.title, url)
    method, address, body = api.request(url.rstrip("/"), credential.id)
    headers = {
        "Authorization": "Bearer " + credential.key,
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": AGENT,
    }
    request = urllib.request.Request(address, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_SECONDS) as answer:
            said = _read(answer)
        problem = api.refusal(said) if isinstance(said, dict) else "an answer that is not JSON"
    except urllib.error.HTTPError as error:
        with error:
            said = _read(error)
        words = (said.get("msg") or said.get("message") or said.get("error")) if isinstance(said, dict) else ""
        meaning = {401: "it refuses the box's own key", 403: "the box's own key may not", 404: "it knows no such box"}
        problem = "status %d%s" % (
            error.code,
            "".join(", " + one for one in (meaning.get(error.code, ""), str(words or "")[:200]) if one),
        )
    except ssl.SSLCertVerificationError as error:
        problem = _of_certificate(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        problem = _of_certificate(reason) if isinstance(reason, ssl.SSLCertVerificationError) else str(reason)
    return "%s did not stop the box: %s." % (api.title, _clean(problem, credential.key).rstrip(".")) if problem else ""


def _read(answer: Any) -> Any:
    try:
        return json.loads(answer.read(2**20).decode(errors="replace"))
    except ValueError:
        return None


def _of_certificate(error: ssl.SSLCertVerificationError) -> str:
    return "its certificate was not accepted (%s); the box's clock may be wrong, or a proxy's certificate missing" % (
        error.verify_message
    )


def _clean(text: str, key: str) -> str:
    return " ".join(text.replace(key, "…").split())
