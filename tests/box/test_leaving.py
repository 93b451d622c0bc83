"""A rented box from arriving to leaving: 2 GB and half a core, conda first on PATH, a login shell that talks, no way
out but a proxy with a login; prepared, cut off, activated, and left as it was found.

The tests build on each other, in their order.
"""

from __future__ import annotations

import re

import box
import pytest
from support import ROOT, run_ansible, site

NAME = "leaving"
PASSWORD = "s3cret-of-the-proxy"
PROXY, MIRROR = f"http://renter:{PASSWORD}@127.0.0.1:3128", "http://mirror.test"
# Each would betray itself if it were run.
CONDAS = "python python3 pip pip3 openssl c_rehash curl bzip2 xz zstd tar gcc cc ld make aria2c ssh-keygen nginx"
BASHRC = """echo "Welcome. Your disk is /root/data."
echo '[notice] the notebook runs at 8888'
export PATH=/root/miniconda3/bin:$PATH
. /root/slow.sh
"""
FAKE = """#!/bin/bash
echo "$0 $*" >>/root/conda-was-run
exit 97
"""
# A way of locking that the box's own unattended upgrades take.
LOCKS = """
import fcntl, time
files = [open(path, "w") for path in ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(15)
"""
# Everything on the box's own disk: name, kind, mode, owner, and content or target.
LIST = r"""
cd / && find . -xdev \( -path ./tmp -o -path ./root/watch \) -prune -o -printf '%p %y %m %U:%G %l\n'
find . -xdev \( -path ./tmp -o -path ./root/watch \) -prune -o -type f -print0 | xargs -0 sha256sum
"""
# The books that apt, dpkg, useradd, ldconfig and systemd keep of their own work: nobody's installation.
BOOKS = (
    "./etc/group-",
    "./etc/gshadow-",
    "./etc/passwd-",
    "./etc/shadow-",
    "./var/cache/apt/",
    "./var/cache/debconf/",
    "./var/cache/ldconfig/",
    "./var/lib/apt/",
    "./var/lib/dpkg/",
    "./var/lib/systemd/",
    "./var/log/",
)
CHECK, REMOVE = (str(ROOT / "playbooks" / name) for name in ("check_box.yml", "remove_box.yml"))


class Box:
    """The box, past SSH."""

    def __init__(self, inventory):
        self.inventory, self.name = inventory, box.container(NAME)
        self.before = {}

    def inside(self, script, *options):
        return box.podman("exec", *options, self.name, "/bin/sh", "-c", script)

    def write(self, path, text, mode="0644"):
        draft = ROOT / ".boxes" / "leaving-draft"
        draft.write_text(text)
        box.podman("cp", str(draft), f"{self.name}:{path}")
        self.inside(f"chmod {mode} {path}; chown root:root {path}")
        draft.unlink()

    def start(self, program, *arguments):
        self.inside(" ".join(["exec", "/usr/bin/python3", program, *arguments]), "--detach")


@pytest.fixture(scope="module")
def on():
    one = Box(box.start_test_box(NAME, options=("--memory", "2g", "--cpus", "0.5"), suite="bookworm"))
    one.inside("mkdir -p /root/miniconda3/bin /root/miniconda3/conda-meta /root/watch /root/data")
    one.write("/root/miniconda3/bin/conda", FAKE, "0755")
    one.inside(f"cd /root/miniconda3/bin; for each in {CONDAS}; do cp conda $each; done; touch /root/slow.sh")
    one.write("/root/.bashrc", BASHRC)
    one.write("/etc/profile.d/conda.sh", BASHRC)
    one.write("/root/watch/locks.py", LOCKS)
    one.inside("cp /etc/apt/sources.list /root/watch/")
    one.before = listed(one)
    yield one
    box.stop_test_box(NAME)


def listed(on):
    """Return what a box is: its files by name, its packages with state and holds, its users and groups."""
    files = {}
    for line in on.inside(LIST).splitlines():
        name = line.split(" ")[0] if line.startswith(".") else line.partition("  ")[2]
        if not name.startswith(BOOKS):
            files.setdefault(name, []).append(line.replace(name, "").strip())
    told = on.inside("dpkg-query -W -f '${Package} ${Status}\\n'; apt-mark showhold; getent passwd; getent group")
    return {**files, **{line: "told" for line in told.splitlines()}}


def differences(before, after):
    return {name: (before.get(name), after.get(name)) for name in before | after if before.get(name) != after.get(name)}


def test_a_login_shell_that_cannot_be_read_past_is_refused(on):
    on.write("/root/slow.sh", "printf 'Good day, '\n")
    said = run_ansible(on.inventory, playbook=CHECK)
    assert "The login shell on the box prints `Good day,` before all that is run" in said.failure


def test_what_a_login_shell_costs_is_told_with_its_line(on):
    on.write("/root/slow.sh", "true\nsleep 1.2\n")
    said = run_ansible(on.inventory, playbook=CHECK)
    on.write("/root/slow.sh", "")
    assert (said.failure, said.changed) == ("", [])
    assert re.search(r"note: The box takes \d\.\d s before .* 1\.[2-9] s of it in /root/slow.sh, line 2\.", said.output)


def test_it_is_prepared_with_half_a_core_and_no_card_through_a_proxy(on):
    on.write("/root/watch/way_out.py", (ROOT / "tests" / "way_out.py").read_text())
    on.start("/root/watch/way_out.py", "3128", f"renter:{PASSWORD}", "/root/watch", "/root/watch/sources.list")
    # It has just booted, and updates itself.
    on.start("/root/watch/locks.py")
    # A box for a card, rented without it.
    done = site(on.inventory, "--tags prepare", demos_device="cuda", box_http_proxy=PROXY, box_apt_mirror=MIRROR)
    assert done.failure == ""
    assert "The box has no usable GPU" in done.output and "With 2048 MiB of memory" in done.output
    assert re.search(r"\nprepare took \d+\.\d s\b", done.output)
    assert "activate took" not in done.output
    asked = on.inside("cat /root/watch/asked.txt").splitlines()
    assert {line.split("/")[2] for line in asked} == {"mirror.test"}
    assert {"debian", "debian-security"} <= {line.split("/")[3] for line in asked}
    assert not [line for line in asked if line.startswith("refused") and line != asked[0]]
    assert PASSWORD not in done.output
    assert on.inside("cat /root/watch/seen.txt 2>/dev/null || true") == "", "the login stood in an argument list"
    found = (
        f"journalctl | grep {PASSWORD}; grep -rl {PASSWORD} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=watch"
    )
    assert sorted(on.inside(f"({found}) 2>/dev/null || true").split()) == [
        "/etc/glmbox/apt.conf",
        "/etc/glmbox/proxies.json",
    ]
    assert on.inside("stat -c %a /etc/glmbox/apt.conf /etc/glmbox/proxies.json").split() == ["600", "600"]


def test_it_is_activated_without_any_network(on):
    box.podman("update", "--cpus", "2", on.name)
    on.inside(
        "ip route del default; kill $(pgrep -f [w]ay_out.py); ! ip route get 192.0.2.1 2>/dev/null", "--privileged"
    )
    done = site(
        on.inventory, "--tags box,activate,verify", demos_web2=False, box_http_proxy=PROXY, box_apt_mirror=MIRROR
    )
    assert done.failure == ""
    # A second look at what was set up before finds it so, and asks nobody.
    assert [task for task in done.changed if task.startswith("network |")] == []
    assert re.search(r"\nprepare took \d+\.\d s, activate took \d+\.\d s\b", done.output)
    assert on.inside("cat /root/conda-was-run 2>/dev/null || true") == ""


def test_it_is_left_as_it_was_found(on):
    assert on.inside("grep -c mirror.test /etc/apt/sources.list").strip() == "3"
    left = run_ansible(on.inventory, playbook=REMOVE, extravars={"box_remove_data": True})
    assert left.failure == ""
    removed = left.result("leave | Remove the packages that glmbox brought")["removed"]
    assert {"aria2", "nginx", "zstd", "python3-apt"} <= set(removed)
    assert differences(on.before, listed(on)) == {}
    again = run_ansible(on.inventory, playbook=REMOVE, extravars={"box_remove_data": True})
    assert (again.failure, again.changed) == ("", [])
