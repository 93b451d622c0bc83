"""Templates, rendered by Jinja as Ansible would."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def unit(**service: object) -> list[str]:
    """Return the lines of the systemd unit of a service."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"comment": lambda text: f"# {text}", "bool": bool}
    defaults = yaml.safe_load((ROOT / "roles" / "service" / "defaults" / "main.yml").read_text())
    given = {"service_name": "x", "service_description": "X", "service_command": "/x", "service_user": "u"}
    template = environment.from_string((ROOT / "roles/service/templates/unit.service.j2").read_text())
    filled = template.render(
        ansible_managed="managed", **{"__service_inputs": "abc"}, **{**defaults, **given, **service}
    )
    return filled.splitlines()


def test_a_service_without_devices_gets_the_whole_hardening():
    lines = unit()
    for line in ("PrivateDevices=true", "ProtectClock=true", "NoNewPrivileges=true", "CapabilityBoundingSet="):
        assert line in lines


def test_a_service_with_a_gpu_sees_its_devices():
    """systemd before 252 turns ProtectClock into a list of allowed devices that hides /dev/nvidia*."""
    lines = unit(service_devices=True)
    assert "PrivateDevices=true" not in lines
    assert "ProtectClock=true" not in lines
    assert "ExecStartPre=-+/usr/bin/nvidia-modprobe -c 0 -u" in lines
    assert "ProtectSystem=strict" in lines


def test_a_unit_names_its_inputs_by_a_file():
    assert "ExecStartPre=/usr/bin/touch /run/x/abc" in unit()


def test_a_low_port_brings_one_capability():
    lines = unit(service_capabilities=["CAP_NET_BIND_SERVICE"])
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in lines
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in lines


def map_of(name: str) -> list[tuple[str, str]]:
    """Return the pairs of a map of the gateway's configuration, its default last."""
    text = (ROOT / "roles" / "gateway" / "templates" / "nginx.conf.j2").read_text()
    body = re.search(r'map "[^"]*" \$' + name + r" \{(.*?)\n    \}", text, re.DOTALL)
    pairs = [line.strip().rstrip(";").rsplit(" ", 1) for line in body.group(1).splitlines() if line.strip()]
    return [(key.strip('"'), value) for key, value in pairs if key != "default"]


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("0:0:0:/", True),
        ("0:0:1:/", False),
        ("1:0:1:/v1/models", True),
        ("1:1:0:/v1/models", False),
        ("0:1:0:/config", False),
        ("0:0:0:/healthz", False),
        ("0:0:0:/healthz\n", True),
        ("0:0:0:/healthz/more", True),
        ("0:0:0:/x:1:", True),
    ],
)
def test_who_is_refused(state, refused):
    opening = [key for key, value in map_of("glmbox_refused") if value == "0"]
    assert opening
    let_in = any(re.search(key[1:].replace("\\z", "\\Z"), state) for key in opening)
    assert let_in is not refused


def test_the_token_is_compared_as_it_is_written():
    text = (ROOT / "roles" / "gateway" / "templates" / "token.conf.j2").read_text()
    assert text.count("~^") == 3
