"""The gateway while it changes: users come and go, wrong tokens are slowed down, TLS goes on and off."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import time
from pathlib import Path

import box
import pytest
from ansible_collections.glmbox.box.plugins.module_utils.questions import request, send, trusting
from support import Outcome, site
from websockets.asyncio.client import connect as connect_in_one_thread
from websockets.sync.client import connect

NAME = box.container("served")


def url_of(scheme: str = "http") -> str:
    """Return the box's address as the outside sees it."""
    return f"{scheme}://" + box.podman("port", NAME, "3389/tcp").splitlines()[0]


def token_of(inventory: Path, user: str = "glmbox") -> str:
    """Return a user's token, as it stands on the controller."""
    name = "gateway_token" if user == "glmbox" else f"gateway_token.{user}"
    return (inventory / ".state" / name).read_text(encoding="ascii").strip()


def gateway(inventory: Path, *options: str, **variables: object) -> Outcome:
    """Run the gateway's part of site.yml, which has to succeed."""
    ended = site(inventory, "--tags", "gateway", *options, **variables)
    assert ended.failure == ""
    return ended


def main_pid() -> str:
    """Return the pid of nginx's master: the same after a reload, another after a restart."""
    return box.podman("exec", NAME, "systemctl", "show", "--property=MainPID", "--value", "glmbox-gateway.service")


def models(inventory: Path, user: str = "glmbox", token: str = "") -> int:
    """Return the status of a request with a user's token, or with the one given."""
    return send(request(url_of() + "/v1/models", token=token or token_of(inventory, user)))[0]


def password_of(user: str, token: str) -> dict[str, str]:
    """Return the header by which a browser tells the password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()}


async def first_message(inventory: Path, certificate: str) -> str:
    """Return what the page's websocket says first through TLS, which the client with two threads may lose."""
    context, headers = trusting(certificate), password_of("glmbox", token_of(inventory))
    url = url_of("wss") + "/queue/join"
    async with connect_in_one_thread(url, ssl=context, additional_headers=headers) as socket:
        return json.loads(await socket.recv())["msg"]


@pytest.fixture(scope="module")
def inventory(served_box):
    """The inventory of the deployed box, which is left as it was found: the same token, one user, no TLS, no /docs."""
    before = token_of(served_box)
    yield served_box
    (served_box / ".state" / "gateway_token").write_text(before + "\n")
    gateway(served_box)
    assert models(served_box) == 200
    assert send(request(url_of() + "/docs", token=before))[0] == 404
    assert [path.name for path in (served_box / ".state").glob("gateway_token*")] == ["gateway_token"]


def test_a_user_comes_and_goes_while_anothers_stream_goes_on(inventory):
    """A page's websocket is begun by the second user, who is revoked before the question is asked through it."""
    pid = main_pid()
    gateway(inventory, gateway_users=["glmbox", "alice"])
    alice, ours = token_of(inventory, "alice"), token_of(inventory)
    assert alice != ours
    assert [models(inventory), models(inventory, "alice")] == [200, 200]
    with connect(url_of("ws") + "/queue/join", additional_headers=password_of("alice", alice)) as socket:
        # As gradio 3.50's page does; between `send_data` and the answer there may be a minute.
        assert json.loads(socket.recv())["msg"] == "send_hash"
        socket.send(json.dumps({"fn_index": 0, "session_hash": "gateway"}))
        while json.loads(socket.recv())["msg"] != "send_data":
            pass
        revoked = gateway(inventory, gateway_renew=["glmbox"])
        assert models(inventory, token=alice) == 401
        data = ["你好", [], 2048, 0.8, 0.95, None, None]
        socket.send(json.dumps({"fn_index": 0, "session_hash": "gateway", "event_data": None, "data": data}))
        messages = [json.loads(text)["msg"] for text in socket]
    assert messages.count("process_generating") > 1
    assert messages[-1] == "process_completed"
    assert main_pid() == pid
    assert not (inventory / ".state" / "gateway_token.alice").exists()
    # The token of glmbox was renewed by the same run, and stands in nothing that the run printed.
    assert token_of(inventory) != ours
    assert [models(inventory), models(inventory, token=ours)] == [200, 401]
    assert token_of(inventory) not in revoked.output


def test_wrong_tokens_are_slowed_down_and_logged_and_right_ones_are_not(inventory):
    begun = time.monotonic()
    wrong = [f"wrong{number:043}" for number in range(12)]
    found: list[tuple[int, str, float]] = []

    def guess(token: str) -> None:
        status, text = send(request(url_of() + "/v1/models?token=" + token, token=token))
        found.append((status, text, time.monotonic() - begun))

    threads = [threading.Thread(target=guess, args=(token,)) for token in wrong]
    for thread in threads:
        thread.start()
    # A browser's first request brings nothing, and is answered at once, as right tokens are.
    statuses = [models(inventory), send(request(url_of() + "/"))[0], models(inventory)]
    calm = time.monotonic() - begun
    for thread in threads:
        thread.join()
    assert statuses == [200, 401, 200]
    assert calm < max(seconds for _, _, seconds in found)
    refused = [seconds for status, _, seconds in found if status == 401]
    beyond = [text for status, text, _ in found if status == 429]
    assert len(refused) + len(beyond) == 12
    assert len(beyond) >= 4
    assert max(refused) > 3
    assert "wrong tokens from your address" in json.loads(beyond[0])["error"]["message"]
    lines = box.podman("exec", NAME, "journalctl", "--output", "cat", "--lines", "60", "-t", "glmbox_gateway")
    assert len(re.findall(r'^\S+ - "GET /v1/models" (401|429) \d+ B [\d.]+ s$', lines, re.MULTILINE)) >= 12
    assert re.search(r'^\S+ glmbox "GET /v1/models" 200 \d+ B [\d.]+ s$', lines, re.MULTILINE)
    journal = box.podman("exec", NAME, "journalctl", "--output", "cat", "--no-pager")
    assert [token for token in [*wrong, token_of(inventory)] if token in journal] == []


def test_too_many_requests_of_one_address_are_told_to_wait(inventory):
    gateway(inventory, gateway_requests_per_second=1)
    asked = request(url_of() + "/healthz")
    replies = [send(asked) for _ in range(12)]
    statuses = [status for status, _ in replies]
    assert statuses[:5] == [200] * 5
    refused = [text for status, text in replies if status == 429]
    assert refused
    assert json.loads(refused[0])["error"]["code"] == "rate_limit_exceeded"


def test_tls_with_a_certificate_of_the_boxs_own(inventory):
    pid = main_pid()
    served = gateway(inventory, "--tags", "verify", "--diff", gateway_tls="self_signed", gateway_docs=True)
    certificate = inventory / ".state" / "certificate.pem"
    said = served.result("Show how to go on")["msg"]
    assert f"curl --cacert {certificate} -X POST {url_of('https')}/" in said
    assert re.search(r"^([0-9A-F]{2}:){31}[0-9A-F]{2}$", said, re.MULTILINE)
    assert "PRIVATE KEY" not in served.output
    assert main_pid() == pid
    asked = request(url_of("https") + "/docs", token=token_of(inventory))
    assert send(asked, str(certificate))[0] == 200
    # Without the certificate nobody would know whom he talks to.
    status, why = send(asked)
    assert status == 0
    assert "certificate verify failed" in why
    assert asyncio.run(first_message(inventory, str(certificate))) == "send_hash"
    plain = box.run("curl", "--silent", "--include", url_of() + "/x?y=1").stdout
    assert plain.startswith("HTTP/1.1 301")
    assert f"Location: {url_of('https')}/x?y=1" in plain
    # A second run finds all of it, the certificate too.
    assert gateway(inventory, gateway_tls="self_signed", gateway_docs=True).changed == []


def test_bad_wishes_change_nothing(inventory, tmp_path):
    refused = site(inventory, "--tags", "gateway", gateway_users=["No Body"], gateway_tls="files", gateway_docs="often")
    assert refused.status == "failed"
    assert refused.changed == []
    for part in ("has the name No Body", "gateway_certificate names none", "gateway_docs", "nothing was changed"):
        assert part in refused.failure
