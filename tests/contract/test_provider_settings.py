"""What an inventory's hosts are given by their provider's profile, as Ansible itself works it out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HOSTS = {
    "plain": {},
    "autodl": {"box_provider": "autodl"},
    "vast": {"box_provider": "vast"},
    "own": {"box_provider": "vast", "gateway_port": 3000, "box_data_dir": "/data/glmbox", "gateway_public_port": 4000},
    "runpod": {"box_provider": "runpod"},
    "unknown": {"box_provider": "nobody"},
}
BOX = {
    "variables": {
        "VAST_TCP_PORT_8080": "40080",
        "PUBLIC_IPADDR": "198.51.100.23",
        "RUNPOD_TCP_PORT_8080": "10080",
        "RUNPOD_PUBLIC_IP": "192.0.2.40",
    }
}
WANTED = ("gateway_port", "gateway_public_port", "gateway_public_url", "box_data_dir", "fetch_dir")
PAIRS = ", ".join(f"'{name}': {name}" for name in WANTED)
SAY = f"{{{{ {{{PAIRS}}} | to_json }}}}"
PLAY = [
    {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [
            {"copy": {"content": SAY, "dest": "{{ playbook_dir }}/before-{{ inventory_hostname }}.json"}},
            {"set_fact": {"box": BOX, "cacheable": True}},
            {"copy": {"content": SAY, "dest": "{{ playbook_dir }}/after-{{ inventory_hostname }}.json"}},
        ],
    }
]


@pytest.fixture(scope="module")
def worked_out(tmp_path_factory):
    """Return a function: the settings of a host "before" its box was asked, and "after"."""
    folder = tmp_path_factory.mktemp("project")
    inventory = folder / "inventory" / "rented_gpu"
    inventory.mkdir(parents=True)
    (inventory / "group_vars").symlink_to(ROOT / "inventory" / "rented_gpu" / "group_vars")
    hosts = {name: {"ansible_host": "203.0.113.7", **values} for name, values in HOSTS.items()}
    (inventory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    (folder / "playbooks").mkdir()
    (folder / "playbooks" / "group_vars").symlink_to(ROOT / "playbooks" / "group_vars")
    (folder / "playbooks" / "show.yml").write_text(json.dumps(PLAY))
    for name in ("providers", "artifacts", "collections", "ansible.cfg"):
        (folder / name).symlink_to(ROOT / name)
    command = ["ansible-playbook", "playbooks/show.yml", "-i", str(inventory)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return lambda when, host: json.loads((folder / "playbooks" / f"{when}-{host}.json").read_text())


@pytest.mark.parametrize(
    ("host", "port", "data"),
    [
        ("plain", 3389, "/var/lib/glmbox/data"),
        ("autodl", 6006, "/root/autodl-tmp/glmbox"),
        ("vast", 8080, "/var/lib/glmbox/data"),
        ("runpod", 8080, "/workspace/glmbox"),
        ("own", 3000, "/data/glmbox"),
        # Its spec refuses the name; nothing else may break before that is said.
        ("unknown", 3389, "/var/lib/glmbox/data"),
    ],
)
def test_port_and_disk_are_the_providers_unless_the_operator_sets_them(worked_out, host, port, data):
    settings = worked_out("before", host)
    assert (int(settings["gateway_port"]), settings["box_data_dir"]) == (port, data)
    assert settings["fetch_dir"] == f"{data}/artifacts"
    outside = HOSTS[host].get("gateway_public_port", port)
    assert settings["gateway_public_url"] == f"http://203.0.113.7:{outside}"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("plain", "203.0.113.7:3389"),
        ("autodl", "203.0.113.7:6006"),
        ("vast", "198.51.100.23:40080"),
        ("runpod", "192.0.2.40:10080"),
        ("own", "198.51.100.23:4000"),
    ],
)
def test_the_outside_address_is_learnt_on_the_box(worked_out, host, address):
    settings = worked_out("after", host)
    assert settings["gateway_public_url"] == f"http://{address}"
    assert int(settings["gateway_public_port"]) == int(address.split(":")[1])
