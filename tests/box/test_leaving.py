"""A rented box from arriving to leaving: 2 GB and half a core, conda first on PATH, a login shell that talks, no way out
but a proxy with a login; prepared, cut off, activated, and left as it was found.

The tests build on each other, in their order.
"""

from __future__ import annotations

import time

import box
import pytest
from support import ROOT, site

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
cd / && find . -xdev \( -path ./tmp -o -path ./root/watch \) -prune -o -printf '%p %y %m %U:%G %l\n' | sort
find . -xdev \( -path ./tmp -o -path ./root/watch \) -prune -o -type f -print0 | xargs -0 sha256sum | sort -k 2
"""
# The books that apt, dpkg, useradd, ldconfig and systemd keep of their own work: nobody's installation.
BOOKS = (
    "var/cache/apt/",
    "var/lib/apt/",
    "var/lib/dpkg/",
    "var/log/",
)


class Box:
    """The box, past SSH."""

    def __init__(self, inventory):
        self.inventory, self.name = inventory, box.container(NAME)

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
    yield one
    box.stop_test_box(NAME)


def listed(on):
    """Return what a box is: its files by name, its packages with their state and holds, its users."""
    files = {}
    for line in on.inside(LIST).splitlines():
        words = line.split(" ")
        name = words[0] if words[0].startswith(".") else line.partition("  ")[2]
        if not name[2:].startswith(BOOKS):
            files[name] = files.get(name, "") + line.replace(name, "")
    packages = on.inside("dpkg-query -W -f '${binary:Package} ${Status}\n'")
    return {"files": files, "packages": packages, "users": on.inside("getent passwd; getent group")}


def test_what_a_login_shell_costs_is_told_with_its_line(on):
    on.write("/root/slow.sh", "true\nsleep 1.5\n")
    said = site(on.inventory, "--tags preflight")
    on.write("/root/slow.sh", "")
    assert said.failure == ""
    assert "it takes" in said.output


def test_all(on):
    on.before = listed(on)
    on.write("/root/watch/way_out.py", (ROOT / "tests" / "way_out.py").read_text())
    on.inside("cp /etc/apt/sources.list /root/watch/")
    on.start("/root/watch/way_out.py", "3128", f"renter:{PASSWORD}", "/root/watch", "/root/watch/sources.list")
    on.start("/root/watch/locks.py")
    begun = time.monotonic()
    done = site(on.inventory, "--tags prepare", demos_device="cuda", box_http_proxy=PROXY, box_apt_mirror=MIRROR)
    print(time.monotonic() - begun)
    print(done.output[-3000:])
    assert done.failure == ""
