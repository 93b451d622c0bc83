"""Filters for fine-tuning."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError
from ansible_collections.glmbox.box.plugins.module_utils.plan import PlanError
from ansible_collections.glmbox.box.plugins.module_utils.training import settings_of, training_plan


def plan_training(box: dict, model: str, device: str, wish: dict, demos: dict) -> dict:
    """Return the plan of a training on a box's cards; see module_utils/training.py. box: the fact `box`."""
    try:
        return training_plan(box, model, device, wish, demos)
    except PlanError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict:
        return {"training_plan": plan_training, "training_settings": settings_of}
