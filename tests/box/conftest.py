"""Boxes for accidents: real ones, started fresh, removed afterwards."""

from __future__ import annotations

import box
import pytest
from support import site
from xdist.scheduler import LoadScopeScheduling


class OneWorkerABox(LoadScopeScheduling):
    """Lets one worker have all tests of a box, in their order: those of a file, and all of the served box."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        # pytest-xdist's own groups are lost where pytest is 9.2.
        return "served_box" if "served_box" in (box.ROOT / file).read_text(encoding="utf-8") else file


def pytest_collection_modifyitems(items):
    """Begin with the file that takes longest, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_killed.py")


def pytest_xdist_make_scheduler(config, log):
    return OneWorkerABox(config, log)


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
