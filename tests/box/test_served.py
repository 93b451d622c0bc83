"""A Debian 12 machine with systemd: deployed, and as testinfra wants it. molecule has Debian 11, and containers."""

from __future__ import annotations

import subprocess
import sys

import box
from support import ROOT, site


def test_testinfra_finds_what_it_should(served_box):
    command = [sys.executable, "-m", "pytest", "tests/verify", "--inventory", str(served_box), "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(ran.stdout[-4000:])
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout


def test_a_second_run_finds_nothing_to_do(served_box):
    again = site(served_box)
    assert (again.failure, again.changed) == ("", [])


def test_a_second_copy_that_a_killed_run_has_left_is_taken_away(served_box):
    units = "/etc/systemd/system/glmbox-demos"
    box.podman("exec", box.container("served"), "cp", f"{units}.service", f"{units}-next.service")
    healed = site(served_box, "--tags", "demos")
    assert healed.failure == "" and "Remove the unit glmbox-demos-next" in healed.changed
    assert site(served_box, "--tags", "demos").changed == []
