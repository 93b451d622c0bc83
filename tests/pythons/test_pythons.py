"""Real CPythons, old and new, on Debian 11 and 12, by the roles openssl and python; `make test` leaves them out.

Their sources are the upstream tarballs in Debian's source packages; 3.10, which users get, is in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import box
import fill_bundle
import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import Bundle, load
from support import ROOT, Outcome, run_ansible

SCRATCH = ROOT / ".boxes" / "pythons-files"
VERSIONS = ("3.9.2", "3.11.2", "3.13.5")


@pytest.fixture(scope="module", params=["bullseye", "bookworm"])
def on(request) -> Iterator[Path]:
    """The inventory of a box of each Debian."""
    fill_bundle.fill()
    bundle = Bundle(str(fill_bundle.BUNDLE))
    names = tuple(f"python-{version}" for version in VERSIONS)
    fill_bundle.add_sources(load(str(ROOT / "artifacts"), str(fill_bundle.BUNDLE)), bundle, names)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    yield box.start_test_box("pythons", suite=request.param)
    box.stop_test_box("pythons")


def play(inventory: Path, version: str) -> Outcome:
    """Run what prepare_box.yml runs for OpenSSL and Python; check_box knows only versions with a lock of packages."""
    (play,) = yaml.safe_load((ROOT / "playbooks" / "prepare_box.yml").read_text())
    wanted = [task for task in play["tasks"] if {"box", "fetch", "openssl", "python"} & set(task["tags"])]
    play["tasks"] = [task for task in wanted if "weights" not in task["tags"]]
    # Beside the project's playbooks, whose group_vars it takes; ignored by git.
    path = SCRATCH / "play.yml"
    path.write_text(yaml.safe_dump([play]))
    link = SCRATCH / "group_vars"
    if not link.is_symlink():
        link.symlink_to(ROOT / "playbooks" / "group_vars")
    sources = ["openssl-1.1.1w", f"python-{version}"]
    given = {"python_version": version, "fetch_artifacts": sources, "fetch_first": sources}
    places = {"fetch_catalogue": str(ROOT / "artifacts"), "fetch_bundle": str(fill_bundle.BUNDLE)}
    cache = {"cache_dir": str(ROOT / ".cache" / "pythons")}
    return run_ansible(inventory, playbook=str(path), extravars={**given, **places, **cache})


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_built_proven_and_linked(on, version):
    built = play(on, version)
    assert built.failure == ""
    short = ".".join(version.split(".")[:2])
    script = "import ssl, sys; print(sys.version.split()[0], ssl.OPENSSL_VERSION)"
    said = box.podman("exec", box.container("pythons"), f"/usr/local/bin/python{short}", "-c", script)
    assert said.startswith(f"{version} OpenSSL 1.1.1w ")
    assert play(on, version).changed == []
