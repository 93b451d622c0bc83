"""What a deployed box must be, seen from inside over SSH."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import files_of, load

SERVICES = ("glmbox-demos", "glmbox-gateway")


def test_only_ssh_and_the_gateway_listen_beyond_loopback(box, settings):
    lines = box.check_output("cat /proc/net/tcp /proc/net/tcp6").splitlines()
    listening = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
    # The kernel writes addresses in host order: 127.0.0.0/8 ends in 7F, also inside ::ffff:0:0/96; ::1 ends in 01.
    loopback = re.compile(r"[0-9A-F]{6}7F|0{16}FFFF0000[0-9A-F]{6}7F|0{24}01000000")
    outside = {int(port, 16) for address, port in listening if not loopback.fullmatch(address)}
    ssh = {int(port) for port in re.findall(r"^port (\d+)$", box.check_output("sshd -T"), re.MULTILINE)}
    assert outside - ssh == {int(settings["gateway_port"])}


def test_the_demos_listen_on_loopback(box, settings):
    for name in ("health", "api", "openai", "web"):
        assert box.socket(f"tcp://127.0.0.1:{settings[f'demos_{name}_port']}").is_listening


@pytest.fixture(scope="module")
def systemd(box) -> bool:
    """Whether systemd has booted the box; else supervisord keeps its services running."""
    return box.file("/run/systemd/system").exists


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_now_and_after_a_boot(box, settings, systemd, name):
    (line,) = [line for line in box.check_output("glmboxctl status").splitlines() if line.startswith(name + " ")]
    assert line.split()[1] == "running"
    if systemd:
        assert box.service(name).is_running
        assert box.service(name).is_enabled
    else:
        program = box.check_output(f"cat {settings['service_config_dir']}/{name}.ini")
        assert "autostart=true" in program.splitlines()


@pytest.mark.parametrize("name", SERVICES)
def test_under_supervisord_a_service_is_unprivileged(box, settings, systemd, name):
    if systemd:
        pytest.skip("systemd keeps it running")
    parent = box.check_output("cat /run/glmbox-services/supervisord.pid")
    pids = box.check_output(f"cat /proc/{parent}/task/{parent}/children").split()
    arguments = {pid: box.check_output(f"tr '\\0' ' ' </proc/{pid}/cmdline") for pid in pids}
    program = {"glmbox-demos": "demo_host /opt", "glmbox-gateway": "/usr/sbin/nginx"}[name]
    (main,) = [pid for pid, text in arguments.items() if program in text]
    shown = dict(line.split(":", 1) for line in box.check_output(f"cat /proc/{main}/status").splitlines())
    number = box.check_output(f"id -u {settings['box_user']}")
    assert set(shown["Uid"].split()) == {number}
    assert shown["NoNewPrivs"].strip() == "1"
    assert {int(shown[kind].strip(), 16) for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert shown["Groups"].split() == [box.check_output(f"id -g {settings['box_user']}")]


def test_supervisord_listens_on_a_socket_of_roots_alone(box, systemd):
    if systemd:
        pytest.skip("systemd keeps the services running")
    socket = box.file("/run/glmbox-services/supervisor.sock")
    assert (socket.is_socket, socket.user, socket.mode & 0o077) == (True, "root", 0)


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_is_unprivileged_and_hardened(box, settings, systemd, name):
    if not systemd:
        pytest.skip("supervisord keeps it running")
    keys = "User,NoNewPrivileges,ProtectSystem,ProtectHome,PrivateTmp,CapabilityBoundingSet,NRestarts,MainPID"
    shown = dict(
        line.split("=", 1) for line in box.check_output(f"systemctl show -p {keys} {name}.service").splitlines()
    )
    assert shown["User"] == settings["box_user"]
    assert shown["NoNewPrivileges"] == "yes"
    assert (shown["ProtectSystem"], shown["ProtectHome"], shown["PrivateTmp"]) == ("strict", "yes", "yes")
    assert shown["CapabilityBoundingSet"] == ""
    assert shown["NRestarts"] == "0"
    owner = box.check_output(f"stat -c %U /proc/{shown['MainPID']}")
    assert owner == settings["box_user"]


@pytest.mark.parametrize("name", [*SERVICES, "glmbox-web-demo2"])
def test_a_unit_is_exposed_to_little(box, systemd, name):
    """From 0 to 10, as systemd weighs what a unit may do; a plain one has 9.6."""
    if not systemd:
        pytest.skip("supervisord keeps it running")
    said = box.check_output(f"systemd-analyze security --no-pager {name}.service")
    assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)[1]) <= 2.5


def test_the_user_cannot_log_in(box, settings):
    user = box.user(settings["box_user"])
    assert user.shell == "/usr/sbin/nologin"
    assert user.password in ("!", "*", "!!")


def test_the_distributions_nginx_is_off(box, systemd):
    masters = box.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").count("nginx: master process")
    assert masters == 1
    if systemd:
        assert not box.service("nginx").is_running
        assert not box.service("nginx").is_enabled


def test_openssl_is_the_wished_one_and_trusts_the_systems_certificates(box, settings):
    program = f"{settings['box_install_dir']}/openssl/bin/openssl"
    assert box.check_output(f"{program} version").startswith(f"OpenSSL {settings['openssl_version']} ")
    stores = box.check_output(f"readlink -f {settings['box_install_dir']}/openssl/ssl/certs")
    assert stores == "/etc/ssl/certs"


def test_python_is_the_wished_one_linked_to_our_openssl(box, settings):
    short = ".".join(settings["python_version"].split(".")[:2])
    script = "import sys, ssl; print(sys.version.split()[0], ssl.OPENSSL_VERSION)"
    said = box.check_output(f"/usr/local/bin/python{short} -c {shlex.quote(script)}")
    assert said.startswith(f"{settings['python_version']} OpenSSL {settings['openssl_version']} ")


def test_what_stands_was_built_for_this_very_system(box, settings):
    release = dict(line.split("=", 1) for line in box.check_output("cat /etc/os-release").splitlines() if "=" in line)
    glibc = box.check_output("getconf GNU_LIBC_VERSION").split()[1]
    for name in ("openssl", "python", "venv"):
        system = json.loads(box.check_output(f"cat {settings['box_install_dir']}/{name}/.glmbox-stamp.json"))["system"]
        distribution = f"{release['ID']} {release['VERSION_ID']}".replace('"', "")
        assert (system["distribution"], system["glibc"]) == (distribution, glibc)


def test_the_environment_is_whole(box, settings):
    python = f"{settings['box_install_dir']}/venv/bin/python"
    assert box.run(f"{python} -m pip check").rc == 0
    script = "import torch, transformers; print(torch.version.cuda, transformers.__version__)"
    cuda = "11.8" if "cu118" in settings["torch_lock"] else "None"
    assert box.check_output(f"{python} -c {shlex.quote(script)}") == f"{cuda} 4.30.2"


def test_every_artifact_stands_with_its_hash(box, settings):
    tables = load(settings["fetch_catalogue"], settings["fetch_bundle"])
    spared = {name for name, path in settings["box_spared_artifacts"].items() if box.file(path).exists}
    names = [name for name in settings["fetch_artifacts"] if name not in spared]
    small = [file for file in files_of(tables, names) if (file["size"] or 0) < 2**28]
    listing = "".join(f"{file['sha256']}  {file['artifact']}/{file['path']}\n" for file in small)
    checked = box.run(f"cd {settings['fetch_dir']} && printf %s {shlex.quote(listing)} | sha256sum --check --quiet")
    assert checked.rc == 0, checked.stdout
    assert len(small) > 10


def test_what_failed_or_is_arriving_stands_under_no_final_name(box, settings):
    assert box.check_output(f"find {settings['fetch_dir']} -name '*.bad' -o -name '*.aria2'") == ""
    assert box.check_output(f"ls -A {settings['fetch_dir']}/.arriving") == ""


def test_the_token_is_readable_by_the_gateway_alone(box, settings, token):
    file = box.file(f"{settings['gateway_config_dir']}/token.conf")
    assert (file.user, file.group, file.mode) == ("root", settings["box_user"], 0o640)
    # Told by hash: an argument of a command on the box could be read by others.
    parts = re.findall(rb"Bearer ([0-9a-zA-Z_-]+)", file.content)
    assert [hashlib.sha256(part).digest() for part in parts] == [hashlib.sha256(token.encode()).digest()]
    assert Path(settings["gateway_token_file"]).stat().st_mode & 0o777 == 0o600


def test_the_token_stands_in_no_log_and_no_argument(box, settings, systemd, token):
    logs = "journalctl --no-pager --output cat" if systemd else f"cat {settings['box_log_dir']}/*.log*"
    journal = box.check_output(logs)
    assert "glmbox" in journal
    assert token not in journal
    arguments = box.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "nginx" in arguments
    assert token not in arguments


def test_health_tells_the_model(box, settings):
    health = json.loads(box.check_output(f"cat {settings['box_install_dir']}/demos/demos.json"))
    assert health["model_dir"].endswith("/" + settings["weights_model"])
