"""Filters of the collection."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.glmbox.box.plugins.module_utils.plan import PlanError, plan


def plan_for(box: dict, model: str, device: str, precision: str) -> dict:
    """Return the plan of a model on a box's cards; see module_utils/plan.py. box: the fact `box`."""
    try:
        return plan(model, device, precision, [card["memory_mib"] for card in box["gpus"]], box["memory_mib"])
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict:
        return {"plan": plan_for}
