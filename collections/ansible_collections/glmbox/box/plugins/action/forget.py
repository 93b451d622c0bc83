"""Take a box out of an inventory; the way back of `enroll`."""

from __future__ import annotations

import os

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.action.enroll import folder_of
from ansible_collections.glmbox.box.plugins.module_utils import inventory_file, known_hosts
from ansible_collections.glmbox.box.plugins.module_utils.inventory_file import InventoryFileError


class ActionModule(ActionBase):
    """Forget a box; plugins/modules/forget.py documents the options."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("name", "inventory", "inventories"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        name, folder = str(self._task.args.get("name") or ""), folder_of(self._task.args)
        path = os.path.join(folder, "hosts.yml")
        try:
            with open(path, encoding="utf-8", newline="") as file:
                hosts = inventory_file.hosts_of(file.read())
            if name not in hosts:
                there = ", ".join(sorted(hosts)) or "no box"
                return dict(result, failed=True, msg=f"{path} names no {name or 'box without a name'}; it has {there}.")
            if self._task.check_mode:
                return dict(result, changed=True)
            with inventory_file.turn(folder):
                inventory_file.rewrite(path, lambda text: inventory_file.without_host(text, name), "")
                self._forget_host_key(folder, hosts[name], [hosts[one] for one in hosts if one != name])
        except InventoryFileError as error:
            return dict(result, failed=True, msg=f"{path} was not changed: {error}")
        except OSError as error:
            return dict(result, failed=True, msg=f"{error.filename} cannot be used: {error.strerror}")
        return dict(result, changed=True)

    def _forget_host_key(self, folder: str, gone: dict, others: list[dict]) -> None:
        token = known_hosts.token_of(gone)
        if token not in map(known_hosts.token_of, others):
            path = os.path.join(folder, ".state", "known_hosts")
            inventory_file.rewrite(path, lambda text: known_hosts.without(text, token), "", 0o600)
