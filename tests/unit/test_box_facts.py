"""What a box says of itself, strange nvidia-smis among it."""

from __future__ import annotations

import os
import socket

import pytest
from ansible_collections.glmbox.box.plugins.module_utils import machine
from ansible_collections.glmbox.box.plugins.modules import box_facts

CARD = {"name": "NVIDIA GeForce RTX 4090", "memory_mib": 24564, "driver": "535.54.03", "compute_capability": "8.9"}
STUB = """#!/bin/sh
case "$1" in *compute_cap*) cat "${0%/*}/capability";; *) cat "${0%/*}/cards";; esac
exit CODE
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Return a function that puts a stub of nvidia-smi on PATH, with what it says of cards and of capabilities."""

    def put(cards: str, capability: str, code: int = 0) -> dict:
        (tmp_path / "cards").write_text(cards)
        (tmp_path / "capability").write_text(capability)
        (tmp_path / "nvidia-smi").write_text(STUB.replace("CODE", str(code)))
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return box_facts.gpus()

    return put


def test_a_card(nvidia_smi):
    found = nvidia_smi("24564, 535.54.03, NVIDIA GeForce RTX 4090\n", "8.9\n")
    assert found == {"gpus": [CARD], "gpu_problem": ""}


@pytest.mark.parametrize(
    ("cards", "capability", "change"),
    [
        ("[N/A], 535.54.03, RTX 4090\n", "8.9\n", {"memory_mib": 0}),
        ("24564, 440.33, Tesla T4\n", 'Field "compute_cap" is not a valid field.\n', {"compute_capability": ""}),
        ("24564, 535.54.03, A card, with a comma\n", "8.9\n", {"name": "A card, with a comma"}),
        ("24564, 535.54.03, RTX 4090\n", "a warning\n8.9\n", {"compute_capability": ""}),
    ],
)
def test_what_is_not_told_is_left_open(nvidia_smi, cards, capability, change):
    (card,) = nvidia_smi(cards, capability)["gpus"]
    assert {key: card[key] for key in change} == change


@pytest.mark.parametrize("cards", ["No devices were found\n", "24564\n", "Unable to determine the handle, x, y\n"])
def test_what_is_no_card_is_told_in_its_own_words(nvidia_smi, cards):
    found = nvidia_smi(cards, "8.9\n")
    assert found["gpus"] == []
    assert found["gpu_problem"] == f"nvidia-smi says: {cards.strip()}"


def test_nvidia_smi_fails(nvidia_smi):
    found = nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", "", 9)
    assert found["gpus"] == []
    assert "couldn't communicate" in found["gpu_problem"]


def test_the_compiler_is_the_systems(tmp_path, monkeypatch):
    stub = tmp_path / "cc"
    monkeypatch.setattr(machine, "SYSTEM_PATH", str(tmp_path))
    monkeypatch.setattr(machine, "distribution", lambda: ("debian", "11"))
    assert (machine.compiler(), machine.has_compiler()) == ("gcc 10", False)
    monkeypatch.setattr(machine, "distribution", lambda: ("plan", "9"))
    assert machine.compiler() == ""
    stub.write_text("#!/bin/sh\n[ $1 = -dumpversion ] && echo 12.2.0 || echo 'cc (Debian 12.2.0-14) 12.2.0'\n")
    stub.chmod(0o755)
    assert (machine.compiler(), machine.has_compiler()) == ("gcc 12", True)
    stub.write_text("#!/bin/sh\nexit 1\n")
    assert (machine.compiler(), machine.has_compiler()) == ("", True)


def test_only_what_is_asked_for_is_read_of_the_first_processs_environment(tmp_path):
    environment = {
        "VAST_TCP_PORT_22": "40022",
        "VAST_TCP_PORT_8080": "40080",
        "VAST_TCP_PORT_8080_TOKEN": "a secret",
        "PUBLIC_IPADDR": "198.51.100.23",
        "CONTAINER_API_KEY": "a secret",
        "EMPTY": "",
    }
    (tmp_path / "environ").write_text("\0".join(f"{name}={value}" for name, value in environment.items()) + "\0")
    wanted = ["VAST_TCP_PORT_{port}", "PUBLIC_IPADDR", "RUNPOD_POD_ID"]
    found = box_facts.variables_of_first(wanted, str(tmp_path / "environ"))
    assert found == {name: environment[name] for name in ("VAST_TCP_PORT_22", "VAST_TCP_PORT_8080", "PUBLIC_IPADDR")}
    assert box_facts.variables_of_first(wanted, str(tmp_path / "nowhere")) == {}


def test_who_listens_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = [one for one in box_facts.listeners() if one["port"] == port]
    assert found["address"] == "127.0.0.1"
    assert found["program"].endswith(f"(process {os.getpid()})")


DPKG = """#!/bin/sh
printf 'installed zstd\\nhalf-configured nginx\\nconfig-files aria2\\ninstalled acl\\ninstalled acl\\n'
"""


def test_packages_are_those_that_are_installed_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert box_facts.packages() == []
    (tmp_path / "dpkg-query").write_text(DPKG)
    (tmp_path / "dpkg-query").chmod(0o755)
    assert box_facts.packages() == ["acl", "zstd"]


def test_commands_are_glmboxs_own(tmp_path):
    for name in ("glmbox-lease", "glmboxctl", "htop"):
        (tmp_path / name).touch()
    assert box_facts.commands(str(tmp_path)) == ["glmbox-lease", "glmboxctl"]
    assert box_facts.commands(str(tmp_path / "none")) == []


def test_enabled_units_are_those_that_systemd_starts(tmp_path):
    (tmp_path / "multi-user.target.wants").mkdir()
    (tmp_path / "multi-user.target.wants" / "nginx.service").symlink_to("/lib/systemd/system/nginx.service")
    (tmp_path / "ours.service").touch()
    assert box_facts.enabled_units(str(tmp_path)) == ["nginx.service"]
    assert box_facts.enabled_units(str(tmp_path / "none")) == []


def test_users_have_a_home_and_a_shell(tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n+@ldap\nglmbox:x:9:9::/var:/usr/sbin/nologin\n")
    told = box_facts.users(str(tmp_path / "passwd"))
    assert told == {"root": ["/root", "/bin/bash"], "glmbox": ["/var", "/usr/sbin/nologin"]}
