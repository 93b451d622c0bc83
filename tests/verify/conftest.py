"""testinfra against any inventory: `pytest tests/verify --inventory inventory/rented_gpu`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import testinfra
from support import ROOT, run_ansible

# What the tests want to know of a host, as the playbooks see it.
WANTED = (
    "inventory_hostname ansible_host ansible_port ansible_user ansible_ssh_private_key_file ansible_ssh_common_args "
    "box_install_dir box_user box_config_dir box_log_dir service_config_dir "
    "box_spared_artifacts fetch_dir fetch_artifacts fetch_catalogue fetch_bundle "
    "openssl_version python_version torch_lock weights_model "
    "demos_health_port demos_api_port demos_openai_port demos_web_port "
    "gateway_port gateway_public_url gateway_token_file gateway_config_dir"
).split()
DEFAULTS = {
    "ansible_port": 22,
    "ansible_user": "root",
    "ansible_ssh_private_key_file": "",
    "ansible_ssh_common_args": "",
}


def pytest_addoption(parser):
    parser.addoption("--inventory", default="inventory/local_box", help="inventory whose hosts are looked at")


def pytest_generate_tests(metafunc):
    if "settings" in metafunc.fixturenames:
        path = Path(metafunc.config.getoption("--inventory"))
        hosts = settings_of(path if path.is_absolute() else ROOT / path)
        metafunc.parametrize("settings", hosts, ids=[host["inventory_hostname"] for host in hosts], scope="session")


_known: dict[Path, list[dict]] = {}


def settings_of(inventory: Path) -> list[dict]:
    """Return the wanted variables of each host of an inventory, worked out by Ansible itself."""
    if inventory not in _known:
        pairs = ", ".join(f"'{name}': {name} | default({json.dumps(DEFAULTS.get(name))})" for name in WANTED)
        with tempfile.TemporaryDirectory() as facts:
            # A container tells its outside address itself; what the first run learns, the second knows.
            how = {
                "host_pattern": "all",
                "cmdline": f"--playbook-dir {ROOT / 'playbooks'}",
                "settings": {"fact_cache": facts},
            }
            variables = '{"variables": ["{{ box_public_port_variable }}", "{{ box_public_host_variable }}"]}'
            run_ansible(inventory, module="glmbox.box.box_facts", module_args=variables, **how)
            say = f"msg={{{{ {{{pairs}}} }}}}"
            asked = run_ansible(inventory, module="ansible.builtin.debug", module_args=say, **how)
        _known[inventory] = [
            event["event_data"]["res"]["msg"] for event in asked.events if event["event"] == "runner_on_ok"
        ]
        if not _known[inventory]:
            raise pytest.UsageError(f"{inventory} has no host that Ansible can read: {asked.failure or asked.status}")
    return _known[inventory]


@pytest.fixture(scope="session")
def box(settings, tmp_path_factory):
    """The box as testinfra sees it, over the same SSH as Ansible."""
    arguments = settings["ansible_ssh_common_args"].replace('"', "").split("-o ")
    options = [argument.strip().replace("=", " ", 1) for argument in arguments if argument.strip()]
    config = tmp_path_factory.mktemp("ssh") / "config"
    lines = [f"Host {settings['ansible_host']}", *options, "ControlMaster auto", "ControlPersist 60s"]
    lines.append(f"ControlPath {config.parent}/%C")
    if settings["ansible_ssh_private_key_file"]:
        lines.append(f"IdentityFile {settings['ansible_ssh_private_key_file']}")
    config.write_text("\n  ".join(lines) + "\n")
    address = f"ssh://{settings['ansible_user']}@{settings['ansible_host']}:{settings['ansible_port']}"
    return testinfra.get_host(address, ssh_config=str(config), sudo=settings["ansible_user"] != "root")


@pytest.fixture(scope="session")
def token(settings):
    """The token that the last deploy left on the controller."""
    return Path(settings["gateway_token_file"]).read_text(encoding="ascii").strip()
