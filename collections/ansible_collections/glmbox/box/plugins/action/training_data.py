"""The controller's half of `training_data`: checks the operator's own files here, and others on the box."""

from __future__ import annotations

import os

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.training_data import look


class ActionModule(ActionBase):
    """Check data for fine-tuning; plugins/modules/training_data.py documents the options."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset(("train", "validation", "prompt", "response", "history", "on_box"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.pop("on_box", False):
            found = self._execute_module("glmbox.box.training_data", args, task_vars=task_vars)
        else:
            paths = {
                name: os.path.abspath(os.path.expanduser(args[name]))
                for name in ("train", "validation")
                if args.get(name)
            }
            found = look(paths, args["prompt"], args["response"], args.get("history") or "")
        for note in found.get("notes") or []:
            self._display.display(f"{task_vars['inventory_hostname']}  note: {note}")
        return dict(result, **found)
