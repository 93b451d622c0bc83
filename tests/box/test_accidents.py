"""Bad input and accidents: one message, nothing changed, exit code not 0."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import box
import fill_bundle
import pytest
from support import ROOT, Outcome, site

NAME = box.container("accidents")
# A connection that an earlier test opened would be shared, and would not ask for key or host key again.
ALONE = {"ansible_ssh_extra_args": "-o ControlPath=none"}


def inside(*command: str) -> str:
    """Return what a command prints inside the box, run past SSH."""
    return box.podman("exec", NAME, *command)


@pytest.fixture(autouse=True)
def untouched(bare_box):
    """Hold every test to it: the box is as bare afterwards as it was before."""
    before = inside("sh", "-c", "ls -A /opt /etc /var/lib /usr/local/bin; dpkg -l | wc -l")
    yield
    assert inside("sh", "-c", "ls -A /opt /etc /var/lib /usr/local/bin; dpkg -l | wc -l") == before


def refused(outcome: Outcome) -> str:
    """Return the one message of a refused run."""
    assert outcome.status == "failed"
    assert outcome.exit_code != 0
    assert outcome.changed == []
    assert "nothing was changed" in outcome.failure
    assert "Traceback" not in outcome.failure
    return outcome.failure


@pytest.fixture
def inventory_with(bare_box, tmp_path):
    """Return a function that copies the box's inventory with other host variables."""

    def make(**variables) -> Path:
        hosts = json.loads((bare_box / "hosts.yml").read_text())
        hosts["all"]["hosts"]["test_box"].update(variables)
        copy = tmp_path / "inventory"
        shutil.copytree(bare_box, copy, symlinks=True)
        (copy / "hosts.yml").write_text(json.dumps(hosts))
        return copy

    return make


def test_bad_values_and_names_come_in_one_message(bare_box):
    said = refused(
        site(bare_box, python_jobs="many", demos_device="tpu", python_verison="3.10", fetch_recheck="perhaps")
    )
    # The device is handed on to another role, which would say the same once more.
    assert "4 problems" in said
    for part in ("python_jobs", "demos_device", "Did you mean python_version?", "fetch_recheck"):
        assert part in said


def test_an_unknown_version_names_the_known_ones(bare_box):
    said = refused(site(bare_box, python_version="3.11.99"))
    assert "No table knows the artifact python-3.11.99" in said
    assert "python-3.10.20" in said


def test_a_missing_key(bare_box):
    said = refused(site(bare_box, ansible_ssh_private_key_file="/nowhere/id_ed25519"))
    assert "The SSH key /nowhere/id_ed25519 does not exist. Set ansible_ssh_private_key_file" in said


def test_a_box_that_does_not_answer(inventory_with):
    said = refused(site(inventory_with(ansible_port=box.free_port())))
    assert "nothing listens there. Check ansible_port" in said


def test_a_port_that_is_not_ssh(inventory_with):
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = refused(site(inventory_with(ansible_port=server.server_port)))
    finally:
        server.shutdown()
    assert f"127.0.0.1:{server.server_port} does not answer" in said


def test_a_wrong_key(bare_box, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    said = refused(site(bare_box, ansible_ssh_private_key_file=str(tmp_path / "key"), **ALONE))
    assert "the box refuses the login" in said


def test_another_host_key(inventory_with):
    inventory = inventory_with()
    known = inventory / ".state" / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", inventory / "other"], check=True)
    other = (inventory / "other.pub").read_text().split()[:2]
    known.write_text(" ".join([known.read_text().split()[0], *other]) + "\n")
    for path in (inventory / "other", inventory / "other.pub"):
        path.unlink()
    said = refused(site(inventory, **ALONE))
    assert "its host key is not the pinned one" in said


def test_no_python_on_the_box(bare_box):
    said = refused(site(bare_box, ansible_python_interpreter="/usr/bin/python2"))
    assert "/usr/bin/python2 is missing on the box" in said


def test_a_full_disk_with_numbers(bare_box):
    said = refused(site(bare_box, box_data_dir="/small/glmbox"))
    assert re.search(r"The disk of /small/glmbox has \d\d MiB free and \d{3,} are needed", said)
    assert "set box_data_dir" in said


def test_a_port_that_is_taken(bare_box):
    script = "import socket; socket.create_server(('0.0.0.0', 3389)).accept()"
    box.podman("exec", "--detach", NAME, "python3", "-c", script)
    try:
        said = refused(site(bare_box))
    finally:  # the first connection ends it
        inside("python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 3389))")
    assert re.search(
        r"Port 3389 is taken by something else on the box: python3 \(process \d+\)\. Stop it, or set gateway_port\.",
        said,
    )


def bundle_copy(folder: Path) -> Path:
    """Return a copy of the bundle whose files are links, so that one can be replaced without harm."""
    shutil.copytree(fill_bundle.BUNDLE, folder, copy_function=os.link, ignore=shutil.ignore_patterns(".stamps.json"))
    return folder


def test_a_damaged_tarball_in_the_bundle(bare_box):
    folder = bundle_copy(ROOT / ".boxes" / "damaged-bundle")
    try:
        tarball = folder / "python-3.11.2" / "Python-3.11.2.tgz"
        content = bytearray(tarball.read_bytes())
        content[len(content) // 2] ^= 1
        tarball.unlink()
        tarball.write_bytes(content)
        said = refused(site(bare_box, fetch_bundle=str(folder)))
    finally:
        shutil.rmtree(folder)
    assert f"{tarball} ({len(content)} bytes) does not have the sha256 2411c74bda5bbcfc" in said
    assert "the bundle's copy is damaged" in said


def test_an_empty_bundle(bare_box, tmp_path):
    said = refused(site(bare_box, fetch_bundle=str(tmp_path)))
    assert "No table knows the artifact wheels-py311-cpu" in said


def test_a_lost_token(bare_box):
    unit = "/etc/systemd/system/glmbox-gateway.service"
    inside("touch", unit)
    try:
        said = refused(site(bare_box))
    finally:
        inside("rm", unit)
    assert "gateway_token is gone from this controller. Put it back, or make a new token with -e" in said


def test_settings_that_do_not_fit_come_in_one_message(bare_box):
    said = refused(
        site(
            bare_box,
            gateway_port=99999,
            gateway_max_body="junk",
            torch_lock="py310-cu118",
            box_data_dir="data",
            box_log_dir="/var/log",
            box_ca_bundle="/nowhere.pem",
        )
    )
    assert "6 problems" in said
    for part in (
        "gateway_port is 99999",
        "gateway_max_body is junk",
        "torch_lock py310-cu118 is not made for python_version 3.11.2",
        "box_data_dir is data, which is not an absolute path",
        "box_log_dir is /var/log; it has to lie in a folder named glmbox",
        "box_ca_bundle is /nowhere.pem, and there is no such file",
    ):
        assert part in said


def test_a_token_that_could_be_guessed(inventory_with):
    inventory = inventory_with()
    (inventory / ".state" / "gateway_token").write_text("\n")
    assert "holds no token of at least 32 letters and digits" in refused(site(inventory))


def test_an_inventory_without_hosts(bare_box):
    empty = site(ROOT / "inventory" / "rented_gpu")
    assert empty.status == "failed"
    assert "inventory/rented_gpu names no host. Put your box into its hosts.yml" in empty.failure


@pytest.fixture
def rented(inventory_with):
    """The inventory that users copy, for the bare box."""
    inventory = inventory_with()
    (inventory / "group_vars").unlink()
    shutil.copytree(ROOT / "inventory" / "rented_gpu" / "group_vars", inventory / "group_vars")
    shutil.copy(box.INVENTORY / "group_vars" / "all" / "ssh.yml", inventory / "group_vars" / "all")
    return inventory


def test_a_rented_box_without_its_gpu(rented):
    said = refused(site(rented))
    assert "test_box has one problem" in said
    assert "The box has no usable GPU (nvidia-smi is not on PATH)" in said


def test_a_rented_box_without_its_gpu_can_be_prepared(rented):
    looked = site(rented, "--tags", "prepare", "--check", "--diff")
    assert (looked.status, looked.failure) == ("successful", "")
    assert {"Fetch the artifacts", "Begin to build OpenSSL", "Begin to build Python"} <= set(looked.changed)


def test_a_container_without_systemd_is_taken_and_what_it_lacks_is_said():
    inventory = box.start_test_box("no-systemd", systemd=False)
    try:
        looked = site(inventory, "--tags", "preflight", box_data_dir="/root/data/glmbox")
    finally:
        box.stop_test_box("no-systemd")
    assert (looked.status, looked.failure, looked.changed) == ("successful", "", [])
    assert "No systemd has booted the box, so supervisord keeps the services running" in looked.output


def test_a_login_that_is_not_root(bare_box, inventory_with):
    said = refused(site(inventory_with(ansible_user="renter")))
    assert "The login is not root and does not become it. Set ansible_become: true" in said
