"""What tests share: playbooks run through ansible-runner, and read by their events."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Outcome:
    """What a run of Ansible did."""

    status: str
    exit_code: int
    events: list[dict[str, Any]] = field(repr=False)

    @property
    def changed(self) -> list[str]:
        """Return the names of the tasks that changed something."""
        return [
            event["event_data"]["task"]
            for event in self.events
            if event["event"] == "runner_on_ok" and event["event_data"]["res"].get("changed")
        ]

    @property
    def failure(self) -> str:
        """Return the messages of the tasks that failed."""
        return "\n".join(
            str(event["event_data"]["res"].get("msg"))
            for event in self.events
            if event["event"] in ("runner_on_failed", "runner_on_unreachable")
            and not event["event_data"].get("ignore_errors")
        )

    @property
    def tasks(self) -> list[str]:
        """Return the names of the tasks that ran, in order."""
        return [event["event_data"]["task"] for event in self.events if event["event"] == "runner_on_ok"]

    @property
    def output(self) -> str:
        """Return all that an operator would have seen."""
        return "\n".join(event.get("stdout") or "" for event in self.events)

    def result(self, task: str) -> dict[str, Any]:
        """Return the result of a task that succeeded."""
        for event in self.events:
            if event["event"] == "runner_on_ok" and event["event_data"]["task"] == task:
                return event["event_data"]["res"]
        raise KeyError(f"{task} did not succeed; failed: {self.failure}")


def run_ansible(inventory: Path, **how: Any) -> Outcome:
    """Run Ansible in the project's root, with its ansible.cfg. how: what ansible_runner.run takes."""
    with tempfile.TemporaryDirectory(prefix="glmbox-runner-") as folder:
        ended = ansible_runner.run(
            private_data_dir=folder,
            project_dir=str(ROOT),
            inventory=str(inventory),
            envvars={
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                # The runner switches it off unless told, and would hide what a wrong host key does.
                "ANSIBLE_HOST_KEY_CHECKING": "True",
            },
            quiet=not os.environ.get("GLMBOX_TEST_OUTPUT"),
            **how,
        )
        return Outcome(ended.status, ended.rc, list(ended.events))


def site(inventory: Path, *options: str, **variables: Any) -> Outcome:
    """Run site.yml. options: of ansible-playbook. variables: as -e would set them."""
    return run_ansible(
        inventory, playbook=str(ROOT / "site.yml"), cmdline=" ".join(options) or None, extravars=variables or None
    )
