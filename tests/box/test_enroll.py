"""Enrolment on real boxes: passwords, keys, host keys, ways that lead nowhere, and the way back."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import box
import pexpect
import pytest
import yaml
from support import ROOT

PASSWORD = "wonder-wall-4711"
FIRST, SECOND = box.container("enrol-1"), box.container("enrol-2")
# Password logins as providers have them; `closed` is let in and gets no command run, as on an SSH proxy.
OPEN_UP = f"""
printf 'PasswordAuthentication yes\\nPermitRootLogin yes\\n' > /etc/ssh/sshd_config.d/01-password.conf
useradd --no-create-home --shell /usr/sbin/nologin closed
useradd --create-home --shell /bin/bash renter
echo 'renter ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/renter
# A greeting that spoils sftp and scp.
echo 'echo "Welcome to the box!"' > /home/renter/.bashrc
printf 'root:{PASSWORD}\\nclosed:{PASSWORD}\\n' | chpasswd
rm /root/.ssh/authorized_keys
kill -HUP $(cat /run/sshd.pid)
"""
# As vast.ai tells its containers what is theirs, in process 1's environment, beside a key that is nobody's business.
SECRET = "a-key-to-the-account"
VAST = {"VAST_CONTAINERLABEL": "C.4711", "VAST_TCP_PORT_22": "40022", "VAST_TCP_PORT_8080": "40080"}
VAST |= {"PUBLIC_IPADDR": "198.51.100.23", "CONTAINER_API_KEY": SECRET}
NEW_HOST_KEY = "rm /etc/ssh/ssh_host_*; ssh-keygen -q -A; kill -HUP $(cat /run/sshd.pid)"


def port_of(inventory: Path) -> int:
    return yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["hosts"]["test_box"]["ansible_port"]


@pytest.fixture(scope="module")
def ports():
    """The SSH ports of two boxes behind one address, into which a password leads; the second is a container."""
    found = []
    options = [option for pair in VAST.items() for option in ("--env", "=".join(pair))]
    for name, systemd, more in (("enrol-1", True, ()), ("enrol-2", False, options)):
        found.append(port_of(box.start_test_box(name, tuple(more), systemd, suite="bookworm")))
        box.podman("exec", box.container(name), "sh", "-c", OPEN_UP)
    yield found
    box.stop_test_box("enrol-1")
    box.stop_test_box("enrol-2")


@pytest.fixture(scope="module")
def inventory():
    """An inventory as users have it, with settings that need no GPU."""
    folder = ROOT / ".boxes" / "enrol-inventory"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(box.INVENTORY / "group_vars", folder / "group_vars", ignore=lambda *_: ["ssh.yml"])
    shutil.copytree(ROOT / "inventory" / "rented_gpu" / "group_vars" / "enrolled", folder / "group_vars" / "enrolled")
    shutil.copy(ROOT / "inventory" / "rented_gpu" / "hosts.yml", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def password_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "password"
    path.write_text(PASSWORD + "\n")
    return path


def play(
    playbook: str, inventory: Path, *options: str, environment: dict | None = None, **variables
) -> tuple[int, str]:
    """Run a playbook of the project; return its exit code and all that it printed, in which no password may stand."""
    pairs = [f"-e{key}='{value}'" for key, value in {"inventory": inventory, **variables}.items()]
    ended = subprocess.run(
        ["ansible-playbook", f"playbooks/{playbook}.yml", *pairs, *options],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert PASSWORD not in ended.stdout
    assert "Traceback" not in ended.stdout
    return ended.returncode, ended.stdout


def enrol(inventory: Path, line: str, name: str, *options: str, **variables) -> tuple[int, str]:
    """Enrol without the check at the end, which the first test has seen."""
    return play("enroll_box", inventory, "--skip-tags=preflight", *options, ssh=line, name=name, **variables)


def refused(outcome: tuple[int, str]) -> str:
    code, said = outcome
    assert code == 2, said
    return " ".join(said.split())


def hosts(inventory: Path) -> dict:
    return yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["children"]["enrolled"]["hosts"]


def test_a_password_is_typed_once_and_the_box_is_checked(ports, inventory):
    before = (inventory / "hosts.yml").read_text()
    line = f"-essh='ssh -p {ports[0]} root@127.0.0.1'"
    command = ["playbooks/enroll_box.yml", line, "-ename=box1", f"-einventory={inventory}", "-vvv"]
    run = pexpect.spawn("ansible-playbook", command, cwd=str(ROOT), timeout=60, encoding="utf-8")
    run.expect("Password of root@127.0.0.1")
    shown = run.before
    run.sendline(PASSWORD)
    run.expect(pexpect.EOF)
    run.close()
    shown += run.before
    assert run.exitstatus == 0, shown
    assert PASSWORD not in shown
    assert "ok: [box1]" in shown
    host_key = box.podman("exec", FIRST, "ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert host_key in shown
    entry = {"ansible_host": "127.0.0.1", "ansible_port": ports[0], "ansible_user": "root", "box_provider": "generic"}
    assert hosts(inventory) == {"box1": entry}
    assert (inventory / "hosts.yml").read_text().startswith(before)
    state = inventory / ".state"
    assert {path.name: oct(path.stat().st_mode)[-3:] for path in state.iterdir() if path.name != ".lock"} == {
        "id_ed25519": "600",
        "id_ed25519.pub": "644",
        "known_hosts": "600",
    }
    assert (state / "known_hosts").read_text().split()[:2] == [f"[127.0.0.1]:{ports[0]}", "ssh-ed25519"]
    there = box.podman("exec", FIRST, "sh", "-c", "stat -c %a /root/.ssh /root/.ssh/authorized_keys; cat /root/.ssh/a*")
    assert there.splitlines() == ["700", "600", (state / "id_ed25519.pub").read_text().strip()]


def everything(inventory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in inventory.rglob("*") if path.is_file()}


def test_again_needs_no_password_and_changes_nothing(ports, inventory):
    before = everything(inventory)
    code, said = enrol(inventory, f"root@127.0.0.1:{ports[0]}", "box1")
    assert code == 0, said
    assert "changed=0" in said
    assert everything(inventory) == before
    assert box.podman("exec", FIRST, "wc", "-l", "/root/.ssh/authorized_keys").split()[0] == "1"


def test_ways_that_lead_nowhere(ports, inventory, password_file, tmp_path):
    before = everything(inventory)
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-one\n")
    line = f"ssh root@127.0.0.1 -p {ports[1]}"
    said = refused(enrol(inventory, line, "box2", password_file=wrong))
    assert f"127.0.0.1:{ports[1]} refuses the password for root" in said
    assert "not-the-one" not in said
    assert "no terminal to ask for the password on" in refused(enrol(inventory, line, "box2"))
    line = f"ssh closed@127.0.0.1 -p {ports[1]}"
    closed = refused(enrol(inventory, line, "box2", password_file=password_file))
    assert "lets you in and runs no commands (it says: This account is currently not available.)" in closed
    assert everything(inventory) == before


def test_a_second_box_behind_the_same_address_has_a_host_key_of_its_own(ports, inventory, password_file):
    with open(password_file) as file:  # a file descriptor will do as well
        pairs = [f"-einventory={inventory}", f"-essh=127.0.0.1:{ports[1]}", "-ename=box2"]
        command = ["ansible-playbook", "playbooks/enroll_box.yml", "--skip-tags=preflight", *pairs]
        command.append(f"-epassword_file=/dev/fd/{file.fileno()}")
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, pass_fds=[file.fileno()], check=False)
    assert ended.returncode == 0, ended.stdout
    assert "It is a box of vast.ai." in ended.stdout
    assert hosts(inventory)["box2"]["box_provider"] == "vast"
    pinned = [line.split()[0] for line in (inventory / ".state" / "known_hosts").read_text().splitlines()]
    assert pinned == [f"[127.0.0.1]:{port}" for port in ports]


def test_a_container_tells_its_ports_and_keeps_its_secrets(inventory):
    """The local box's settings name 3389 on purpose, which was not asked for when this one was rented."""
    check = ["ansible-playbook", "playbooks/check_box.yml", "-i", str(inventory), "--limit", "box2", "-vvv"]
    asked = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "Port 3389 is not mapped to the outside: vast.ai has set no VAST_TCP_PORT_3389" in asked.stdout
    assert "Set gateway_port to one that is (8080)" in asked.stdout
    assert SECRET not in asked.stdout
    show = ["ansible", "box2", "-i", str(inventory), "-m", "glmbox.box.box_facts", "-a"]
    show.append('{"variables": ["VAST_TCP_PORT_{port}", "PUBLIC_IPADDR"]}')
    shown = subprocess.run(show, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert all(f"{name}: '{VAST[name]}'" in shown for name in ("VAST_TCP_PORT_22", "VAST_TCP_PORT_8080")), shown
    assert f"PUBLIC_IPADDR: {VAST['PUBLIC_IPADDR']}" in shown
    assert "VAST_CONTAINERLABEL" not in shown
    assert SECRET not in shown


def test_a_host_key_that_changed_is_refused_and_accepted_by_the_command_that_is_said(ports, inventory, password_file):
    before = everything(inventory)
    box.podman("exec", SECOND, "sh", "-c", NEW_HOST_KEY)
    line = f"ssh -p {ports[1]} root@127.0.0.1"
    said = refused(enrol(inventory, line, "box2", password_file=password_file))
    assert f"The host key of 127.0.0.1:{ports[1]} is SHA256:" in said
    assert everything(inventory) == before
    command = re.search(r"ansible-playbook playbooks/enroll_box.yml( -e ('[^']*'|[^ '\"]+))+", said.replace("\\", ""))[
        0
    ]
    assert "-e accept_new_host_key=true" in command
    ended = subprocess.run(
        ["bash", "-c", command + " --skip-tags=preflight"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert ended.returncode == 0, ended.stdout.decode()
    after = (inventory / ".state" / "known_hosts").read_text().splitlines()
    assert len(after) == 2
    assert after[0] in before[str(inventory / ".state" / "known_hosts")].decode().splitlines()


def test_a_box_behind_a_jump_host(ports, inventory, password_file, tmp_path):
    """The operator's own ssh opens the jump host, as its configuration says; here the first box is one."""
    address = box.podman("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", SECOND)
    state = inventory / ".state"
    config = [f"Match host 127.0.0.1\n  IdentityFile {state}/id_ed25519\n  UserKnownHostsFile {state}/known_hosts\n"]
    (tmp_path / "config").write_text("".join(config))
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    line = f"ssh -J root@127.0.0.1:{ports[0]} root@{address}"
    code, said = enrol(inventory, line, "behind", password_file=password_file, environment=path)
    assert code == 0, said
    assert hosts(inventory)["behind"]["ansible_ssh_extra_args"] == f"-o ProxyJump=root@127.0.0.1:{ports[0]}"
    command = ["ansible", "behind", "-i", str(inventory), "-m", "ansible.builtin.command", "-a", "cat /etc/hostname"]
    asked = subprocess.run(command, cwd=ROOT, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert SECOND in asked.stdout, asked.stdout + asked.stderr


def test_a_key_opens_a_box_that_takes_no_password_for_a_sudoer_whose_shell_talks(ports, inventory, tmp_path):
    for name, lock in (("plain", ""), ("locked", "a passphrase")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", lock, "-f", tmp_path / name]
        subprocess.run(command, check=True)
    public = (tmp_path / "plain.pub").read_text().strip()
    only_keys = f"""
    sed -i s/yes/no/ /etc/ssh/sshd_config.d/01-password.conf; kill -HUP $(cat /run/sshd.pid)
    mkdir -m 755 /home/renter/.ssh; printf '%s' '{public}' > /home/renter/.ssh/authorized_keys
    chown -R renter /home/renter/.ssh"""
    box.podman("exec", SECOND, "sh", "-c", only_keys)
    assert play("forget_box", inventory, name="box2")[0] == 0
    line = f"ssh -p {ports[1]} renter@127.0.0.1"
    assert "takes no password, only publickey. Give the private key" in refused(enrol(inventory, line, "box2"))
    locked = refused(enrol(inventory, line, "box2", key=tmp_path / "locked"))
    assert f"locked is locked by a passphrase. Unlock it with `ssh-add {tmp_path}/locked`" in locked
    code, said = enrol(inventory, f"{line} -i {tmp_path}/plain", "box2")
    assert code == 0, said
    assert hosts(inventory)["box2"]["ansible_become"] is True
    # The key stood there without a newline after it, and in a folder of another mode.
    keys = box.podman("exec", SECOND, "sh", "-c", "stat -c %a /home/renter/.ssh; cat /home/renter/.ssh/authorized_keys")
    assert keys.splitlines() == ["700", public, (inventory / ".state" / "id_ed25519.pub").read_text().strip()]
    command = ["ansible", "box2", "-i", str(inventory), "-m", "ansible.builtin.command", "-a", "id -un"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "root" in asked.stdout, asked.stdout + asked.stderr


def test_a_box_that_moved_keeps_its_name_and_settings(ports, inventory):
    path = inventory / "hosts.yml"
    entry = f"          ansible_port: {ports[1]}\n"
    path.write_text(path.read_text().replace(entry, f"{entry}          demos_web2: false   # mine\n"))
    assert play("forget_box", inventory, name="box1")[0] == 0
    code, said = enrol(inventory, f"127.0.0.1:{ports[0]}", "box2")
    assert code == 0, said
    assert hosts(inventory)["box2"] == {
        "ansible_host": "127.0.0.1",
        "ansible_port": ports[0],
        "demos_web2": False,
        "ansible_user": "root",
        # Process 1's environment is no sudoer's to read before sudo, and what was said at first stays.
        "box_provider": "generic",
        "ansible_become": True,
    }
    assert f"[127.0.0.1]:{ports[1]}" not in (inventory / ".state" / "known_hosts").read_text()


def test_the_way_back(inventory):
    for name in ("box2", "behind"):
        code, said = play("forget_box", inventory, name=name)
        assert code == 0, said
    assert (inventory / "hosts.yml").read_text() == (ROOT / "inventory" / "rented_gpu" / "hosts.yml").read_text()
    assert (inventory / ".state" / "known_hosts").read_text() == ""
    assert "names no box2; it has no box" in refused(play("forget_box", inventory, name="box2"))
    assert PASSWORD.encode() not in b"".join(everything(inventory).values())
