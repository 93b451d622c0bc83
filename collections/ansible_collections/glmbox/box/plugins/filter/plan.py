"""Filters of the collection."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.glmbox.box.plugins.module_utils.plan import PlanError, plan


def plan_for(box: dict, model: str, device: str, precision: str) -> dict:
    """Return the plan of a model on a box's first card; see module_utils/plan.py. box: the fact `box`."""
    cards = box["gpus"]
    try:
        return plan(model, device, precision, cards[0]["memory_mib"] if cards else 0)
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict:
        return {"plan": plan_for}
