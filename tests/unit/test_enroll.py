"""What enrolment refuses before it has logged in anywhere; tests/box/test_enroll.py is about real boxes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PLACES = {"inventories": f"{ROOT}/inventory", "providers": f"{ROOT}/providers"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def talk(server: socket.socket) -> None:
    """Answer each connection as a web server would."""
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An inventory with one enrolled host, which must be as it was in the end."""
    made = tmp_path_factory.mktemp("inventories") / "mine"
    shutil.copytree(ROOT / "inventory" / "rented_gpu", made, ignore=shutil.ignore_patterns(".state"))
    path = made / "hosts.yml"
    path.write_text(path.read_text() + "        taken: {ansible_host: 203.0.113.7, ansible_port: 16116}\n")
    before = path.read_text()
    yield made
    assert path.read_text() == before
    assert sorted(one.name for one in (made / ".state").iterdir()) == [".lock", "id_ed25519", "id_ed25519.pub"]


@pytest.fixture(scope="module")
def said(folder):
    """The message of each refused enrolment, by what is wrong; all in one run of Ansible."""
    dead = free_port()
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=talk, args=(server,), daemon=True).start()
    bare = folder.parent / "bare"
    bare.mkdir()
    broken = folder.parent / "broken"
    shutil.copytree(folder, broken)
    (broken / "hosts.yml").write_text("all: [\n")
    tries = {
        "proxy": {"line": "ssh abc-64410d5c@ssh.runpod.io -i ~/.ssh/id_ed25519"},
        "twin": {"line": "203.0.113.7:16116", "name": "box2"},
        "hostile": {"line": "ssh root@203.0.113.7 -o ProxyCommand=id"},
        "name": {"name": "on"},
        "no name": {"name": ""},
        "no line": {"line": ""},
        "dead": {"line": f"127.0.0.1:{dead}"},
        "http": {"line": f"127.0.0.1:{server.getsockname()[1]}"},
        "unknown": {"line": "ssh root@nowhere.invalid"},
        "command line": {"vars": {"password": "hunter2"}},
        "no inventory": {"inventory": f"{folder.parent}/nowhere"},
        "no wiring": {"inventory": f"{folder.parent}/bare"},
        "blank": {"inventory": f"{folder.parent}/my boxes"},
        "broken inventory": {"inventory": f"{folder.parent}/broken"},
    }
    tasks = []
    for what, change in tries.items():
        more = {"vars": change.pop("vars")} if "vars" in change else {}
        given = {"line": "203.0.113.9", "name": "box1", "inventory": str(folder), **PLACES, **change}
        tasks.append(
            {"name": what, "glmbox.box.enroll": given, "ignore_errors": True, "register": f"said_{len(tasks)}", **more}
        )
    messages = "{{ [" + ", ".join(f"said_{number}.msg" for number in range(len(tasks))) + "] | to_json }}"
    tasks.append({"copy": {"content": messages, "dest": str(folder.parent / "said.json")}})
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    play[0]["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    (folder.parent / "play.yml").write_text(json.dumps(play))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    command = ["ansible-playbook", str(folder.parent / "play.yml")]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    server.close()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr
    return dict(zip(tries, json.loads((folder.parent / "said.json").read_text()), strict=True))


@pytest.mark.parametrize(
    ("what", "part"),
    [
        ("proxy", "ssh.runpod.io is the SSH proxy of RunPod, which neither runs commands nor copies files. Take"),
        ("twin", "203.0.113.7:16116 is enrolled as taken already. Use that name, or forget it first: ansible-playbook"),
        ("hostile", "sets ProxyCommand, which runs a program on this machine"),
        ("name", "'on' cannot be a box's name"),
        ("no name", "The box needs a name. Give one, such as -e name=box1."),
        ("no line", "There is no SSH line"),
        ("dead", "does not answer: nothing listens there. Compare it with the console's SSH line"),
        ("http", "does not answer: what listens there speaks no SSH"),
        ("unknown", "nowhere.invalid:22 does not answer: "),
        ("command line", "A password does not belong on a command line"),
        ("no inventory", "There is no inventory"),
        ("blank", "my boxes has a blank in its path, which ssh would take apart. Move it."),
        ("no wiring", "has no group_vars/enrolled/ssh.yml, which says how enrolled boxes are reached"),
        ("broken inventory", "hosts.yml was not changed: it is no YAML (line 2: "),
    ],
)
def test_each_refusal_is_a_sentence_with_the_next_step(said, what, part):
    assert part in said[what]
    assert "\n" not in said[what]
    assert said[what].rstrip("'").endswith((".", "mine", ")"))
