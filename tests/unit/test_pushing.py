"""Large files between controller and box, past a login shell that prints, with and without a line end."""

from __future__ import annotations

import os
import shlex
import subprocess
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleError
from ansible_collections.glmbox.box.plugins.module_utils import pushing


class Connection:
    """SSH to this machine, through a login shell that prints first."""

    def __init__(self, noise: bytes) -> None:
        self._shell, self.noise = SimpleNamespace(quote=shlex.quote), noise

    def exec_command(self, command, in_data=None, sudoable=True):
        ended = subprocess.run(["/bin/sh", "-c", command], input=in_data or b"", capture_output=True, check=False)
        return ended.returncode, self.noise + ended.stdout, ended.stderr


@pytest.fixture(
    params=[b"", b"Welcome.\n", b"7 days are left: ", b"\x1b[31mhi"], ids=["quiet", "line", "half", "colour"]
)
def connection(request, monkeypatch):
    monkeypatch.setattr(pushing, "CHUNK_BYTES", 1000)
    return Connection(request.param)


@pytest.fixture
def shown():
    return SimpleNamespace(display=lambda line: None)


def test_a_file_is_brought_byte_by_byte_and_goes_on(connection, shown, tmp_path):
    content = os.urandom(2500)
    (tmp_path / "there").write_bytes(content)
    (tmp_path / "here").write_bytes(content[:700])
    pushing.pull_file(connection, shown, "box", str(tmp_path / "there"), 2500, str(tmp_path / "here"))
    assert (tmp_path / "here").read_bytes() == content


def test_a_file_that_became_shorter_is_said_to_be(connection, shown, tmp_path):
    (tmp_path / "there").write_bytes(b"x" * 1200)
    with pytest.raises(AnsibleError, match="stopped after 1000 bytes"):
        pushing.pull_file(connection, shown, "box", str(tmp_path / "there"), 2500, str(tmp_path / "here"))


def test_a_file_is_pushed_to_where_an_earlier_push_ended(connection, shown, tmp_path):
    content = os.urandom(2500)
    (tmp_path / "here").write_bytes(content)
    (tmp_path / "a there").write_bytes(content[:1100])
    pushing.push_file(connection, shown, "box", str(tmp_path / "here"), str(tmp_path / "a there"), "it")
    assert (tmp_path / "a there").read_bytes() == content
