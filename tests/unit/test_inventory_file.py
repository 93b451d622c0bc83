"""Hosts in an inventory's file: written and taken away, and nothing else touched."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import yaml
from ansible_collections.glmbox.box.plugins.module_utils import inventory_file as inventory
from hypothesis import assume, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent.parent
RENTED = (ROOT / "inventory" / "rented_gpu" / "hosts.yml").read_text()
BOX = {"ansible_host": "203.0.113.7", "ansible_port": 16116, "ansible_user": "root", "box_provider": "autodl"}
ENTRY = """\
        box1:
          ansible_host: 203.0.113.7
          ansible_port: 16116
          ansible_user: root
          box_provider: autodl
"""
MINE = """\
# My boxes
all:
    vars: {gateway_port: 3389}   # all have it
    hosts:
        # by hand
        old:
            ansible_host: "198.51.100.1"   # the first
            ansible_port: 22
            gateway_public_port: 16114

        # the second
        older: {ansible_host: 198.51.100.2}
    # the last word
"""


def test_a_known_host_gets_what_its_new_login_needs_and_what_is_asked_for():
    known = inventory.with_host(RENTED, "box1", BOX)
    box = BOX | {"ansible_user": "ubuntu", "ansible_become": True, "box_provider": "autodl"}
    assert inventory.hosts_of(inventory.with_host(known, "box1", box))["box1"]["box_provider"] == BOX["box_provider"]
    there = inventory.hosts_of(inventory.with_host(known, "box1", box, ("box_provider",)))["box1"]
    assert (there["ansible_user"], there["ansible_become"], there["box_provider"]) == ("ubuntu", True, "autodl")


def test_the_rented_inventory_gets_a_host_and_is_as_before_without_it():
    text = inventory.with_host(RENTED, "box1", BOX)
    assert text == RENTED + ENTRY
    assert inventory.hosts_of(text) == {"box1": BOX}
    assert inventory.with_host(text, "box1", BOX) == text
    assert inventory.without_host(text, "box1") == RENTED
    two = inventory.with_host(text, "box2", BOX | {"ansible_port": 16117})
    assert two == text + ENTRY.replace("box1", "box2").replace("16116", "16117")
    assert inventory.without_host(two, "box1") == RENTED + ENTRY.replace("box1", "box2").replace("16116", "16117")


def test_the_same_name_again_changes_the_address_alone():
    text = inventory.with_host(RENTED, "box1", BOX) + "          demos_precision: int8   # mine\n"
    moved = BOX | {"ansible_host": "198.51.100.9", "ansible_port": 22022, "box_provider": "vast"}
    assert inventory.with_host(text, "box1", moved) == text.replace("203.0.113.7\n          ansible_port: 16116",
        "198.51.100.9\n          ansible_port: 22022")  # fmt: skip


def test_a_jump_host_comes_and_goes_and_the_operators_own_arguments_stay():
    jump = {"ansible_ssh_extra_args": "-o ProxyJump=me@jump.example:22"}
    text = inventory.with_host(RENTED, "box1", BOX)
    jumping = inventory.with_host(text, "box1", BOX | jump)
    assert inventory.hosts_of(jumping)["box1"] == BOX | jump
    assert inventory.with_host(jumping, "box1", BOX) == text
    own = text + "          ansible_ssh_extra_args: -o Compression=yes\n"
    assert inventory.with_host(own, "box1", BOX) == own


def test_a_file_of_ones_own_manner_keeps_it():
    text = inventory.with_host(MINE, "box1", BOX)
    added = "    children:\n        enrolled:\n            hosts:\n                box1:\n"
    # The last comment is not indented deeper than `hosts`, so it stays behind what was put there.
    assert text.startswith(MINE.removesuffix("    # the last word\n") + added)
    assert text.endswith("    # the last word\n")
    moved = inventory.with_host(MINE, "old", BOX)
    assert "ansible_host: 203.0.113.7   # the first\n            ansible_port: 16116\n" in moved
    assert "gateway_public_port: 16114" in moved
    assert yaml.safe_load(moved)["all"]["children"]["enrolled"]["hosts"] == {"old": None}
    gone = inventory.without_host(MINE, "old")
    assert "        # by hand\n        # the second\n        older: {" in gone.replace("\n\n", "\n")
    flow = inventory.with_host(MINE, "older", BOX)
    assert inventory.hosts_of(flow)["older"]["ansible_port"] == 16116
    assert "# the second" in flow


@pytest.mark.parametrize("text", ["", "---\n", "all:\n", "all: {}\n", "all:\n  hosts: null\n", "# mine\n",
    '{"all": {}}',
    "all:\n  children:\n    enrolled:\n", "all:\n  children:\n    enrolled: {hosts: {}}", inventory.EMPTY,
    "all:\n  hosts:\n    a:\n  # end", "others:\n  hosts:\n    a: {}\n"])  # fmt: skip
def test_whatever_is_there_takes_a_host_and_gives_it_back(text):
    before = inventory.hosts_of(text)
    there = inventory.with_host(text, "box1", BOX)
    assert inventory.hosts_of(there) == before | {"box1": BOX}
    assert yaml.safe_load(there)["all"]["children"]["enrolled"]["hosts"]["box1"] == BOX
    assert inventory.with_host(there, "box1", BOX) == there
    assert inventory.hosts_of(inventory.without_host(there, "box1")) == before


def test_a_test_boxs_json_stays_json():
    text = json.dumps({"all": {"hosts": {"test_box": {"ansible_host": "127.0.0.1"}}}}, indent=1)
    there = inventory.with_host(text, "box1", BOX)
    assert yaml.safe_load(there)["all"]["hosts"] == {"test_box": {"ansible_host": "127.0.0.1"}}
    assert inventory.hosts_of(there)["box1"] == BOX


def test_secrets_under_vault_and_references_stay():
    vault = "    token: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      6162\n"
    text = f"all:\n  vars:\n{vault}  hosts:\n    a: &a {{x: 1}}\n    b: *a\n"
    assert inventory.with_host(text, "box1", BOX).startswith(text)


@pytest.mark.parametrize("text", ["all: [a]\n", "- a\n", "all:\n  hosts: [a]\n", "all:\n\thosts:\n", "a: {\n", "a: 1\n",
    "all:\n  hosts:\n    a: 1\n", "all:\n  hosts:\n    a:\n    a:\n"])  # fmt: skip
def test_what_is_no_inventory_is_refused(text):
    with pytest.raises(inventory.InventoryFileError, match="Mend it first"):
        inventory.with_host(text, "box1", BOX)


@pytest.mark.parametrize("name", ["box1", "a", "gpu-1.example", "Box_2"])
def test_a_name(name):
    assert inventory.name_problem(name, RENTED) == ""


@pytest.mark.parametrize("name", ["", "-x", "box 1", "box:1", "a,b", "all", "localhost", "enrolled", "on", "null", "no",
    "1", "x" * 64, "a\n", "{{ x }}", "box1.", "!box1", "box[1:3]", "~"])  # fmt: skip
def test_what_is_no_name(name):
    assert "cannot be a box's name" in inventory.name_problem(name, RENTED)


def add(path: str, number: int) -> None:
    with inventory.turn(str(Path(path).parent)):
        inventory.rewrite(path, lambda text: inventory.with_host(text, f"box{number}", BOX), inventory.EMPTY)


def test_runs_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "hosts.yml"
    path.write_text(RENTED)
    path.chmod(0o600)
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pool.starmap(add, [(str(path), number) for number in range(24)])
    text = path.read_text()
    assert sorted(inventory.hosts_of(text)) == sorted(f"box{number}" for number in range(24))
    assert text.startswith(RENTED)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == [".state", "hosts.yml"]


comments = st.sampled_from(["", "# a comment\n", "    # another: {\n", "\n", "        # deep\n"])
names = st.from_regex(r"\A[a-z][a-z0-9]{0,6}\Z").filter(lambda name: yaml.safe_load(name) == name)
users = st.one_of(
    names, st.sampled_from(["no", "on", "0123", "1e3", "a b", "x: y", "12:30", "null", "~", "#x", "é", "'"])
)


@st.composite
def files(draw):
    """Return an inventory as people write it, with comments between its lines."""
    step = draw(st.sampled_from([2, 4]))
    lines = [draw(comments), "all:\n", draw(comments), " " * step + "hosts:\n"]
    for name in draw(st.lists(names, max_size=4, unique=True)):
        lines += [draw(comments), f"{' ' * 2 * step}{name}:\n", draw(comments)]
        for key in draw(st.lists(st.sampled_from(["ansible_host", "ansible_port", "x_y"]), unique=True)):
            value = draw(st.sampled_from(["1.2.3.4", "'a # b'", '"q"', "7", "a b   # why", ""]))
            lines += [f"{' ' * 3 * step}{key}: {value}\n", draw(comments)]
    return "".join(lines)


@settings(max_examples=40, deadline=None)
@given(files(), names, users)
def test_no_comment_and_no_other_host_is_ever_harmed(text, name, user):
    before = inventory.hosts_of(text)
    assume(not inventory.name_problem(name, text))
    box = BOX | {"ansible_user": user}
    there = inventory.with_host(text, name, box)
    assert [line for line in text.splitlines() if line.strip().startswith("#")] == [
        line for line in there.splitlines() if line.strip().startswith("#")
    ]
    after = inventory.hosts_of(there)
    assert {host: values for host, values in after.items() if host != name} == {
        host: values for host, values in before.items() if host != name
    }
    assert inventory.hosts_of(there)[name]["ansible_user"] == user
    assert inventory.with_host(there, name, box) == there
    gone = inventory.without_host(there, name)
    assert inventory.hosts_of(gone) == {host: values for host, values in before.items() if host != name}
