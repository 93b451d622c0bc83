"""Gather a lock's wheels on the controller."""

from __future__ import annotations

import os
import time

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import CatalogueError, load
from ansible_collections.glmbox.box.plugins.module_utils.progress import line
from ansible_collections.glmbox.box.plugins.module_utils.wheels import Wheels, WheelsError


class ActionModule(ActionBase):
    """Let pip fill a folder of the bundle; plugins/modules/wheels.py documents the options."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("lock", "bundle", "catalogue", "elsewhere", "index_url"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args, begun = self._task.args, time.monotonic()

        def tell(done, total):
            item = {"label": wheels.artifact, "done": done, "total": total, "unit": "wheels", "rate": None}
            self._display.display(f"{task_vars['inventory_hostname']}  {line(item)}")

        try:
            bundle = os.path.abspath(os.path.expanduser(args["bundle"]))
            wheels = Wheels(os.path.expanduser(args["lock"]), bundle, self._elsewhere())
            if self._task.check_mode:
                lacking = [one.name for one in wheels.lacking()]
                return dict(result, changed=bool(lacking), wheels=lacking, bytes=0, seconds=0.0)
            if args.get("index_url"):  # it may hold a login, which an argument list would show; this process is a fork
                os.environ["PIP_INDEX_URL"] = args["index_url"]
            changed, new = wheels.gather(tell)
        except (CatalogueError, OSError, WheelsError) as error:
            return dict(result, failed=True, msg=str(error))
        size = sum(os.path.getsize(os.path.join(wheels.folder, name)) for name in new)
        return dict(result, changed=changed, wheels=new, bytes=size, seconds=round(time.monotonic() - begun, 1))

    def _elsewhere(self):
        """Return the hashes of what the named artifacts hold; the bundle's own manifests are no tables here."""
        tables = load(self._task.args["catalogue"], os.devnull)
        named = [tables[name] for name in self._task.args.get("elsewhere", []) if name in tables]
        return {file.get("sha256") for table in named for file in table["files"]}
