"""The contract of every role: its defaults are what its argument specs say, and nothing reaches into another role."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# What Ansible itself gives every task, and what facts are called.
TASKS_OF_ROLES = sorted((ROOT / "roles").glob("*/tasks/*.yml"))


def options(role: str) -> dict[str, dict]:
    points = yaml.safe_load((ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    return {name: spec for point in points.values() for name, spec in point["options"].items()}


def defaults(role: str) -> dict[str, object]:
    path = ROOT / "roles" / role / "defaults" / "main.yml"
    return yaml.safe_load(path.read_text()) if path.exists() else {}


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_the_specs_defaults(role):
    specified = {name: spec["default"] for name, spec in options(role).items() if "default" in spec}
    assert defaults(role) == specified


@pytest.mark.parametrize("role", ROLES)
def test_an_input_is_required_or_has_a_default(role):
    for name, spec in options(role).items():
        assert spec.get("required", False) != ("default" in spec), name
        assert spec["description"].strip().endswith("."), name
        assert "type" in spec, name


@pytest.mark.parametrize("role", ROLES)
def test_public_names_carry_the_roles_prefix(role):
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_constants_are_private(role):
    path = ROOT / "roles" / role / "vars" / "main.yml"
    constants = yaml.safe_load(path.read_text()) if path.exists() else {}
    assert [name for name in constants if not name.startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reads_anothers_variables(role):
    others = [other for other in ROLES if other != role]
    text = "\n".join(
        re.sub(r"#.*", "", path.read_text())
        for folder in ("tasks", "vars", "templates", "handlers", "defaults")
        for path in (ROOT / "roles" / role / folder).glob("*")
    )
    names = {name for other in others for name in options(other)}
    # What a role gives to the role `service` when it asks for a service is that role's input.
    if "name: service" in text:
        names -= set(options("service"))
    assert sorted(name for name in names if re.search(rf"(?<![\w.])(?<!-e ){name}(?!\w)", text)) == []


def test_every_required_input_is_wired_or_set_in_both_inventories():
    wired: set[str] = set()
    for path in (ROOT / "playbooks" / "group_vars" / "all").glob("*.yml"):
        wired |= set(yaml.safe_load(path.read_text()))
    for inventory in ("rented_gpu", "local_box"):
        given = set(wired)
        for path in (ROOT / "inventory" / inventory / "group_vars" / "all").glob("*.yml"):
            given |= set(yaml.safe_load(path.read_text()) or {})
        required = {
            name for role in ROLES if role != "service" for name, spec in options(role).items() if spec.get("required")
        }
        assert sorted(required - given) == [], inventory


@pytest.mark.parametrize("path", TASKS_OF_ROLES, ids=lambda path: "/".join(path.parts[-3:]))
def test_a_task_file_is_one_concern(path):
    assert len(path.read_text().splitlines()) <= 100


def test_no_injected_facts():
    for path in TASKS_OF_ROLES:
        assert not re.search(r"\bansible_(distribution|os_family|architecture|memtotal_mb)\b", path.read_text()), path
