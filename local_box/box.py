"""The local box: a container that behaves like a rented VM, with a booted systemd, sshd and a port map.

    python local_box/box.py up | down | clean | test-up NAME | test-down NAME

podman runs it. Everything that tests vary (name, ports, mounts) is an argument of `start`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
INVENTORY = ROOT / "inventory" / "local_box"
TEST_BOXES = ROOT / ".boxes"
NAME = "glmbox-local"
SSH_PORT, GATEWAY_PORT = 16116, 16114
# Debian 11 has the glibc and nearly the Python of Ubuntu 20.04, the oldest image that people rent.
SUITE = "bullseye"
IMAGE_PACKAGES = (
    "ca-certificates,dbus,iproute2,openssh-server,procps,python3,sudo,systemd,systemd-sysv"  # what a provider's VM has
)
HOST_PACKAGES = (
    "aardvark-dns",
    "aria2",
    "iptables",
    "mmdebstrap",
    "netavark",
    "nftables",
    "openssh-client",
    "podman",
    "runc",
)
UP_SECONDS = 60
GATEWAY_INSIDE = 3389
# What process 1 is in a rented container of no kind: a script, which keeps the environment that it was given.
WITHOUT_INIT = "mkdir -p /run/sshd && /usr/sbin/sshd && while :; do sleep 3600 & wait $!; done"


class Kind(NamedTuple):
    """A container without systemd as a provider rents it; PID 1 is local_box/kinds/<name>.sh.

    init: where that script stands. data: the folder of the disk that survives. port: the one that is exposed.
    hook: what the provider runs when the container starts. environment: of PID 1; {ssh} and {gateway} are the mapped
    ports. installs: whether what is installed goes to that disk, too.
    """

    init: str
    data: str
    port: int
    hook: str
    environment: tuple[str, ...] = ()
    installs: bool = False


KINDS = {
    "autodl": Kind("/init/boot/boot.sh", "/root/autodl-tmp", 6006, "/etc/autodl.sh", installs=True),
    "vast": Kind(
        "/.launch",
        "/workspace",
        8080,
        "/root/onstart.sh",
        (
            "PUBLIC_IPADDR=127.0.0.1",
            "VAST_CONTAINERLABEL=C.1",
            "VAST_TCP_PORT_22={ssh}",
            "VAST_TCP_PORT_8080={gateway}",
        ),
    ),
    "runpod": Kind(
        "/start.sh",
        "/workspace",
        8080,
        "/post_start.sh",
        (
            "RUNPOD_PUBLIC_IP=127.0.0.1",
            "RUNPOD_POD_ID=abc123",
            "RUNPOD_TCP_PORT_22={ssh}",
            "RUNPOD_TCP_PORT_8080={gateway}",
        ),
    ),
}


class BoxError(Exception):
    """The local box cannot be had, in a sentence with the next step."""


def as_root(*command: str) -> list[str]:
    """Return a command that runs as root, through sudo where we are not root."""
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def run(*command: str, **more) -> subprocess.CompletedProcess:
    """Run a command and return what it printed; raise BoxError with its last words where it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if ended.returncode:
        words = (ended.stderr or ended.stdout).strip().splitlines() or ["nothing was printed"]
        raise BoxError(f"`{' '.join(command[:6])} …` failed: {' '.join(words[-3:])}")
    return ended


def podman(*arguments: str) -> str:
    """Return what a podman command prints."""
    return run(*as_root("podman", *arguments)).stdout.strip()


def missing_packages() -> list[str]:
    """Return which of the host's packages are not installed."""
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *HOST_PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {line.split()[0] for line in listed.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in HOST_PACKAGES if package not in there]


def ensure_packages() -> None:
    """Install what the box needs on this machine, saying so before."""
    missing = missing_packages()
    if not missing:
        return
    print(f"Installing with apt on this machine: {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        run(*as_root("apt-get", "-qq", *command), env=environment)


def image_name(suite: str) -> str:
    """Return the image's name, whose tag changes with its recipe."""
    recipe = hashlib.sha256(f"{suite} {IMAGE_PACKAGES}".encode()).hexdigest()[:12]
    return f"localhost/glmbox-box:{suite}-{recipe}"


def ensure_image(suite: str = SUITE) -> str:
    """Build the box's image with mmdebstrap where it does not stand yet, and return its name."""
    name = image_name(suite)
    if subprocess.run(as_root("podman", "image", "exists", name), check=False).returncode == 0:
        return name
    with tempfile.TemporaryDirectory() as draft:
        tarball = f"{draft}/box.tar"
        run(*as_root("mmdebstrap", "--variant=minbase", f"--include={IMAGE_PACKAGES}", suite, tarball))
        podman("import", "--quiet", tarball, name)
    return name


def make_key(state: Path) -> None:
    """Make the key that opens the box, once."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (state / "id_ed25519").exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "glmbox local box", "-f", str(state / "id_ed25519"))


def exists(name: str) -> bool:
    """Tell whether a container of this name stands, running or not."""
    return subprocess.run(as_root("podman", "container", "exists", name), check=False).returncode == 0


def is_running(name: str) -> bool:
    """Tell whether the container runs."""
    return exists(name) and podman("inspect", "--format", "{{.State.Running}}", name) == "true"


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def start(
    name: str = NAME,
    state: Path = INVENTORY / ".state",
    ssh_port: int = SSH_PORT,
    gateway_port: int = GATEWAY_PORT,
    options: tuple[str, ...] = (),
    suite: str = SUITE,
    systemd: bool = True,
    kind: str = "",
) -> None:
    """Make a box stand and answer: container, key, pinned host key. A box that stands already is left as it is.

    state: folder on this machine for key and known_hosts. ssh_port, gateway_port: ports of loopback that lead to 22 and
    3389, or to a kind's own. options: further options of `podman run`. systemd: whether it is booted, or sshd alone
    runs. kind: one of KINDS, without systemd whatever that says. Raises BoxError.
    """
    make_key(state)
    systemd = systemd and not kind
    if exists(name) and not is_running(name):
        podman("start", name)
    elif not exists(name):
        for port in (ssh_port, gateway_port):
            if not port_is_free(port):
                raise BoxError(f"Port {port} of 127.0.0.1 is taken by another program. Stop it and run again.")
        podman(
            *("run", "--detach", "--name", name, "--hostname", name, "--runtime", "runc"),
            f"--systemd={'always' if systemd else 'false'}",
            # podman's own limits need CAP_SYS_RESOURCE, which small VMs lack.
            *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=8192:8192"),
            *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
            # Hardened units make mount namespaces of their own; providers' containers may not.
            *(() if kind else ("--cap-add", "SYS_ADMIN")),
            *("--publish", f"127.0.0.1:{ssh_port}:22"),
            *("--publish", f"127.0.0.1:{gateway_port}:{KINDS[kind].port if kind else GATEWAY_INSIDE}"),
            *(kind_options(name, kind, ssh_port, gateway_port) if kind else ()),
            *options,
            image_name(suite),
            *first_process(systemd, kind),
        )
    if systemd:
        wait_until_up(name)
    let_in(name, state, ssh_port)


def first_process(systemd: bool, kind: str) -> tuple[str, ...]:
    """Return the command that is PID 1."""
    if kind:
        return ("bash", KINDS[kind].init)
    return ("/sbin/init",) if systemd else ("sh", "-c", WITHOUT_INIT)


def kind_options(name: str, kind: str, ssh_port: int, gateway_port: int) -> tuple[str, ...]:
    """Return the options of `podman run` that make a container one of a provider's: its PID 1, disk and environment."""
    what = KINDS[kind]
    scripts = ROOT / "local_box" / "kinds"
    mounts = ["--volume", f"{scripts / 'common.sh'}:/init/common.sh:ro"]
    mounts += ["--volume", f"{scripts / kind}.sh:{what.init}:ro", "--volume", f"{data_volume(name)}:{what.data}"]
    given = [pair.format(ssh=ssh_port, gateway=gateway_port) for pair in what.environment]
    return (*mounts, *(part for pair in given for part in ("--env", pair)))


def data_volume(name: str) -> str:
    """Return the name of the volume that is a container's data disk."""
    return f"{name}-data"


def wait_until_up(name: str) -> None:
    """Wait until systemd says that the box is up; logins during boot are cut."""
    patience = time.monotonic() + UP_SECONDS
    said = ""
    while time.monotonic() < patience:
        asked = subprocess.run(
            as_root("podman", "exec", name, "systemctl", "is-system-running", "--wait"),
            capture_output=True,
            text=True,
            check=False,
        )
        said = asked.stdout.strip() or asked.stderr.strip()
        if said in ("running", "degraded"):
            return
        time.sleep(0.5)
    raise BoxError(f"The box {name} did not come up within {UP_SECONDS} s; systemd says: {said}")


def let_in(name: str, state: Path, ssh_port: int) -> None:
    """Give the box the key and pin its host key, both past the network, so that there is nobody in the middle."""
    public = (state / "id_ed25519.pub").read_text()
    script = "umask 077; mkdir -p /root/.ssh; cat > /root/.ssh/authorized_keys; cat /etc/ssh/ssh_host_ed25519_key.pub"
    host_key = run(*as_root("podman", "exec", "--interactive", name, "sh", "-c", script), input=public).stdout
    kind, key = host_key.split()[:2]
    (state / "known_hosts").write_text(f"[127.0.0.1]:{ssh_port} {kind} {key}\n")


def write_inventory(folder: Path, ssh_port: int, gateway_port: int, /, **variables: object) -> Path:
    """Write an inventory for a box of a test: the local box's settings at other ports; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    host = {"ansible_host": "127.0.0.1", "ansible_port": ssh_port, "gateway_public_port": gateway_port, **variables}
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"test_box": host}}}, indent=1))
    link = folder / "group_vars"
    if not link.is_symlink():
        link.symlink_to(INVENTORY / "group_vars")
    return folder


def stop(name: str = NAME, keep_data: bool = False) -> None:
    """Remove the box, with all that it holds. keep_data: but for its data disk, as a provider's reset does."""
    if exists(name):
        podman("rm", "--force", "--time", "2", "--volumes", name)
    if not keep_data and data_volume(name) in podman("volume", "ls", "--quiet").split():
        podman("volume", "rm", "--force", data_volume(name))


def clean() -> None:
    """Remove box, image, key and token."""
    stop()
    for image in podman("images", "--quiet", "localhost/glmbox-box").split():
        podman("rmi", "--force", image)
    shutil.rmtree(INVENTORY / ".state", ignore_errors=True)


def container(name: str) -> str:
    """Return the name of a test's container: another checkout on this machine may test at the same time."""
    checkout = hashlib.sha256(str(ROOT).encode()).hexdigest()[:6]
    return f"glmbox-test-{checkout}-{name}"


def start_test_box(
    name: str,
    options: tuple[str, ...] = (),
    systemd: bool = True,
    suite: str = SUITE,
    kind: str = "",
    **variables: object,
) -> Path:
    """Start a fresh box for a test, at free ports, and return its inventory; leftovers of an earlier run are removed.

    options: further options of `podman run`. systemd, kind: as for `start`. suite: of Debian. variables: host variables
    for the inventory; a kind brings its port, data disk and hook.
    """
    ensure_packages()
    stop_test_box(name)
    ensure_image(suite)
    folder = TEST_BOXES / name
    ssh_port, gateway_port = free_port(), free_port()
    write_inventory(folder, ssh_port, gateway_port, **{**kind_variables(kind), **variables})
    start(container(name), folder / ".state", ssh_port, gateway_port, options, suite, systemd, kind)
    return folder


def reset_test_box(name: str, kind: str, suite: str = SUITE) -> None:
    """Give a test's box of a kind a new system disk, at its ports; its data disk stays, its host key is another."""
    folder = TEST_BOXES / name
    host = json.loads((folder / "hosts.yml").read_text())["all"]["hosts"]["test_box"]
    stop(container(name), keep_data=True)
    start(container(name), folder / ".state", host["ansible_port"], host["gateway_public_port"], suite=suite, kind=kind)


def kind_variables(kind: str) -> dict[str, object]:
    """Return the host variables that an operator would set for a box of a kind."""
    if not kind:
        return {}
    what = KINDS[kind]
    data = f"{what.data}/glmbox"
    installs = {"box_install_on": f"{data}/opt"} if what.installs else {}
    return {"gateway_port": what.port, "box_data_dir": data, "service_boot_hook": what.hook, **installs}


def stop_test_box(name: str) -> None:
    """Remove a test's box and its inventory."""
    stop(container(name))
    shutil.rmtree(TEST_BOXES / name, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The local box of glmbox, and boxes for tests.")
    parser.add_argument("what", choices=["up", "down", "clean", "test-up", "test-down"])
    parser.add_argument("name", nargs="?", default="molecule", help="of a test's box")
    parser.add_argument("--suite", default=SUITE, help="of Debian, for a test's box")
    parser.add_argument(
        "--kind", default="", choices=["", *KINDS], help="of container without systemd, for a test's box"
    )
    given = parser.parse_args()
    try:
        if given.what == "up":
            ensure_packages()
            ensure_image()
            start()
        elif given.what == "down":
            stop()
        elif given.what == "clean":
            clean()
        elif given.what == "test-up":
            print(start_test_box(given.name, suite=given.suite, kind=given.kind))
        else:
            stop_test_box(given.name)
    except BoxError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
