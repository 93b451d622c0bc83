"""What the bundle has, as a filter."""

from __future__ import annotations

import os

from ansible_collections.glmbox.box.plugins.module_utils.wheels import are_gathered, artifact_of


def gathered_wheels(bundle: str, lock: str) -> list[str]:
    """Return the name of the artifact with all of a lock's wheels, in a list, or nothing where it is not whole.

    bundle: the folder. lock: the lock's path on the controller.
    """
    return [artifact_of(lock)] if are_gathered(lock, os.path.expanduser(bundle)) else []


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict:
        return {"gathered_wheels": gathered_wheels}
