"""Boxes for accidents: real ones, started fresh, removed afterwards."""

from __future__ import annotations

import box
import pytest


@pytest.fixture(scope="module")
def bare_box():
    """The inventory of a bare box, which has a tiny disk at /small and a user `renter` as well."""
    inventory = box.start_test_box("accidents", options=("--mount", "type=tmpfs,destination=/small,tmpfs-size=64m"))
    user = "useradd --create-home renter; cp -r /root/.ssh /home/renter; chown -R renter /home/renter/.ssh"
    box.podman("exec", box.container("accidents"), "sh", "-c", user)
    yield inventory
    box.stop_test_box("accidents")
