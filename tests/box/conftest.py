"""Boxes for accidents: real ones, started fresh, removed afterwards."""

from __future__ import annotations

import box
import pytest
from support import site


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let pytest-xdist keep tests of one box together, in their order: those of a file, and all of the served box."""
    for item in items:
        served = "served_box" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("served" if served else item.path.stem))


@pytest.fixture(scope="module")
def bare_box():
    """The inventory of a bare box, which has a tiny disk at /small and a user `renter` as well."""
    inventory = box.start_test_box("accidents", options=("--mount", "type=tmpfs,destination=/small,tmpfs-size=64m"))
    user = "useradd --create-home renter; cp -r /root/.ssh /home/renter; chown -R renter /home/renter/.ssh"
    box.podman("exec", box.container("accidents"), "sh", "-c", user)
    yield inventory
    box.stop_test_box("accidents")


@pytest.fixture(scope="session")
def served_box():
    """The inventory of a deployed box that answers; tests leave it as they found it, or deployed anew."""
    inventory = box.start_test_box("served", suite="bookworm")
    deployed = site(inventory)
    assert deployed.failure == ""
    yield inventory
    box.stop_test_box("served")
