"""The profiles of rental companies: their data, and what they make of a box."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils import providers
from ansible_collections.glmbox.box.plugins.module_utils.host import folder_problems

ROOT = Path(__file__).resolve().parent.parent.parent
PROFILES = providers.load_profiles(str(ROOT / "providers"))
KEYS = {
    "title": str, "ssh_hosts": list, "ssh_proxies": list, "signs": dict, "init": str, "gateway_port": int,
    "other_ports": list, "public_port_variable": str, "public_host_variable": str, "public_address": str,
    "data_dir": str, "install_on": str, "accelerator": str, "boot_hook": dict, "stop": dict,
    "notes": list, "unsure": list,
}  # fmt: skip
VAST = {"VAST_CONTAINERLABEL": "C.1", "VAST_TCP_PORT_22": "40022", "VAST_TCP_PORT_8080": "40080"}


def test_the_spec_allows_the_profiles_and_no_other():
    specs = yaml.safe_load((ROOT / "roles" / "box" / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    assert specs["check"]["options"]["box_provider"]["choices"] == sorted(PROFILES)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_has_all_keys_of_their_types(name):
    profile = PROFILES[name]
    assert {key: type(value) for key, value in profile.items()} == KEYS
    assert profile["init"] in ("systemd", "none")
    assert all(0 < port < 65536 for port in [profile["gateway_port"], *profile["other_ports"]])
    assert set(profile["signs"]) == {"files", "variables"}
    for pattern in [*profile["ssh_hosts"], *profile["ssh_proxies"]]:
        re.compile(pattern)
    for path in [*profile["signs"]["files"], profile["accelerator"], profile["boot_hook"]["path"]]:
        assert path == "" or path.startswith("/")
    for variable in [*profile["signs"]["variables"], profile["public_host_variable"]]:
        assert re.fullmatch(r"[A-Z_]*", variable)
    assert re.fullmatch(r"|[A-Z_]+\{port\}", profile["public_port_variable"])
    assert set(profile["unsure"]) <= set(profile)
    assert all(type(note) is str and note.endswith(".") and "\n" not in note.strip() for note in profile["notes"])


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profiles_data_disk_hook_and_stop_can_be_used(name):
    profile = PROFILES[name]
    if profile["data_dir"]:
        assert folder_problems({"box_data_dir": profile["data_dir"]}) == []
        assert profile["data_dir"].endswith("/glmbox")
    if profile["install_on"]:
        assert profile["install_on"].startswith(profile["data_dir"] + "/") and profile["init"] == "none"
    hook = profile["boot_hook"]
    assert set(hook) == {"kind", "path", "how"}
    assert hook["kind"] == ("file" if profile["init"] == "none" else "none")
    assert bool(hook["path"]) == bool(hook["how"]) == (hook["kind"] == "file")
    stop = dict(profile["stop"])
    assert stop.pop("keeps_billing").endswith(".")
    assert len(stop) == 1
    (way, how), *_ = stop.items()
    assert {"command": type(how) is list, "api": how == name, "hook": how is True}[way]


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_value_of_a_profile_says_where_it_comes_from(name):
    """A comment above each value that is said of the company, and one at the top that names the sources."""
    lines = (ROOT / "providers" / f"{name}.yml").read_text().splitlines()
    assert lines[0] == "---"
    assert lines[1].startswith("# ")
    if name == "generic":
        return
    assert "Sources:" in lines[1]
    for key in ("ssh_hosts", "signs", "init", "gateway_port", "data_dir", "install_on", "boot_hook", "stop"):
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
        assert lines[at - 1].startswith("#"), key


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("connect.westb.seetacloud.com", "autodl"),
        ("connect.cqa1.seetacloud.com", "autodl"),
        ("region-42.seetacloud.com", "autodl"),
        ("region-1.autodl.com", "autodl"),
        ("ssh4.vast.ai", "vast"),
        ("SSH.VAST.AI", "vast"),
        ("ssh.runpod.io", "runpod"),
        ("js4.blockelite.cn", "ai_galaxy"),
        ("gpu1.ai-galaxy.cn", "ai_galaxy"),
        ("203.0.113.7", ""),
        ("ssh.vast.ai.evil.example", ""),
        ("connect.seetacloud.community", ""),
        ("evilregion-1.autodl.com", ""),
    ],
)
def test_a_host_names_its_company(host, name):
    assert providers.by_host(PROFILES, host) == name


def test_the_boxs_signs_name_its_company():
    assert providers.by_signs(PROFILES, ["/root/autodl-tmp"], {}) == "autodl"
    assert providers.by_signs(PROFILES, [], {"RUNPOD_POD_ID": "x"}) == "runpod"
    assert providers.by_signs(PROFILES, ["/opt"], {"PUBLIC_IPADDR": "x"}) == ""
    assert providers.provider_notes(PROFILES, "vast", [], VAST) == []
    assert providers.provider_notes(PROFILES, "generic", [], {}) == []
    (wrong,) = providers.provider_notes(PROFILES, "generic", ["/init/boot/boot.sh"], {})
    assert wrong.endswith("Set it to autodl.")
    (missing,) = providers.provider_notes(PROFILES, "runpod", [], {})
    assert "shows none of its signs (/etc/rp_environment, RUNPOD_POD_ID)" in missing


def test_an_outside_address_that_only_the_console_knows_is_asked_for():
    autodl, url = PROFILES["autodl"], "http://Region-1.autodl.com:6006"
    assert "set gateway_public_url" in providers.address_note(autodl, 6006, url, "Region-1.autodl.com")
    assert providers.address_note(autodl, 6006, "https://u1.autodl.example:8443", "Region-1.autodl.com") == ""
    assert providers.address_note(PROFILES["vast"], 8080, "http://203.0.113.7:8080", "203.0.113.7") == ""
    assert providers.address_note(PROFILES["generic"], 3389, "http://203.0.113.7:3389", "203.0.113.7") == ""


def test_what_is_asked_of_a_box_is_no_secret():
    paths, names = providers.asked_of_box(PROFILES)
    assert "/init/boot/boot.sh" in paths
    assert set(names) == {
        "PUBLIC_IPADDR", "RUNPOD_POD_ID", "RUNPOD_PUBLIC_IP", "RUNPOD_TCP_PORT_{port}", "VAST_CONTAINERLABEL",
        "VAST_TCP_PORT_{port}",
    }  # fmt: skip


def test_a_port_that_is_not_mapped_is_a_sentence():
    vast = PROFILES["vast"]
    assert providers.mapped_ports(vast, VAST) == {22: 40022, 8080: 40080}
    assert providers.port_problem(vast, VAST, 8080, 8080) == ""
    problem = providers.port_problem(vast, VAST, 3389, 3389)
    assert "Port 3389 is not mapped to the outside: vast.ai has set no VAST_TCP_PORT_3389 on the box" in problem
    assert "Set gateway_port to one that is (8080)" in problem
    # The operator says it, or the port is mapped to itself, as vast.ai does for ports from 70000 on.
    assert providers.port_problem(vast, VAST, 3389, 41000) == ""
    assert providers.port_problem(vast, {"VAST_TCP_PORT_70000": "41234"}, 41234, 41234) == ""
    assert "Add 8080 to the pod's TCP ports" in providers.port_problem(PROFILES["runpod"], {}, 8080, 8080)
    assert providers.port_problem(PROFILES["autodl"], {}, 6006, 6006) == ""
