"""Services that get ready one after the other, that fail, and that take too long."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.glmbox.box.plugins.modules import wait_ready

DEMOS = {"unit": "glmbox-demos.service", "url": "http://127.0.0.1:1/healthz"}
PAGE = {"unit": "glmbox-web-demo2.service", "url": "http://127.0.0.1:2/health"}


class Box:
    """What its pages and its systemd say, look after look; the last word stays."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pages: dict[str, list[dict]], restarts: list[int]) -> None:
        self.pages, self.restarts, self.seconds = pages, restarts, 0.0
        monkeypatch.setattr(wait_ready, "health_of", lambda url: self.next(self.pages[url]))
        monkeypatch.setattr(wait_ready, "unit_state", lambda _unit: {"NRestarts": str(self.next(self.restarts))})
        monkeypatch.setattr(wait_ready, "journal", lambda unit: f"the last words of {unit}")
        monkeypatch.setattr(wait_ready.time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(wait_ready.time, "sleep", self.sleep)

    @staticmethod
    def next(words: list):
        return words.pop(0) if len(words) > 1 else words[0]

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def wait(capsys: pytest.CaptureFixture[str], **arguments: object) -> dict:
    with patch_module_args({"services": [DEMOS, PAGE], **arguments}), pytest.raises(SystemExit):
        wait_ready.main()
    return json.loads(capsys.readouterr().out)


def test_all_have_to_be_ready_and_each_has_its_time(monkeypatch, capsys):
    loading = {"status": 503, "state": "loading", "detail": "3 of 7 shards"}
    Box(monkeypatch, {DEMOS["url"]: [loading, loading, {"status": 200}], PAGE["url"]: [{"status": 200}]}, [0])
    told = wait(capsys)
    assert told["ready_after"] == {DEMOS["unit"]: 1.0, PAGE["unit"]: 0.0}
    assert (told["seconds"], told["waiting"], told["details"]) == (1.0, False, {})


def test_a_slice_ends_with_what_is_not_ready(monkeypatch, capsys):
    loading = {"status": 503, "state": "loading", "detail": "3 of 7 shards"}
    Box(monkeypatch, {DEMOS["url"]: [loading], PAGE["url"]: [{"status": 200}]}, [4])
    told = wait(capsys, slice_seconds=5)
    assert told["waiting"] and told["details"] == {DEMOS["unit"]: "3 of 7 shards"}
    assert told["restarts"] == {DEMOS["unit"]: 4, PAGE["unit"]: 4}


@pytest.mark.parametrize(
    ("said", "restarts", "why"),
    [
        ({"status": 503, "state": "failed", "detail": "no memory"}, [0], "it failed (no memory)"),
        ({"status": 0, "detail": "refused"}, [0, 0, 1, 2, 3], "it keeps ending and being restarted (refused)"),
        ({"status": 0, "detail": "refused"}, [0], "it was not ready in the time given (refused)"),
    ],
)
def test_hope_ends_with_the_services_own_words(monkeypatch, capsys, said, restarts, why):
    Box(monkeypatch, {DEMOS["url"]: [{"status": 200}], PAGE["url"]: [said]}, restarts)
    told = wait(capsys, seconds=20)
    assert told["failed"] and f"{PAGE['unit']}: {why}" in told["msg"]
    assert f"the last words of {PAGE['unit']}" in told["msg"] and DEMOS["unit"] not in told["msg"]


def test_check_mode_waits_for_nothing(monkeypatch, capsys):
    Box(monkeypatch, {DEMOS["url"]: [{"status": 0}], PAGE["url"]: [{"status": 0}]}, [0])
    assert wait(capsys, _ansible_check_mode=True)["changed"] is False
