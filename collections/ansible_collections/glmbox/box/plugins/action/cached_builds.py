"""The controller's half of `cached_builds`: brings what it does not have yet."""

from __future__ import annotations

import os

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.building.packs import PACK
from ansible_collections.glmbox.box.plugins.module_utils.packs_cache import LIMIT_MIB, MIB, Cache
from ansible_collections.glmbox.box.plugins.module_utils.progress import report
from ansible_collections.glmbox.box.plugins.module_utils.pushing import pull_file


class ActionModule(ActionBase):
    """Bring packs of finished builds; plugins/modules/cached_builds.py documents the options."""

    _VALID_ARGS = frozenset(("dir", "box_dir", "install_dir", "jobs_dir", "limit_mib", "pack_limit_mib"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self._vars, self._host, args = task_vars, task_vars["inventory_hostname"], self._task.args
        cache = Cache(args["dir"])
        try:
            listed = self._listed()
            if listed.get("failed"):
                return dict(result, **listed)
            refused = [refusal for refusal in map(cache.refusal, listed["packs"]) if refusal]
            if refused:
                return dict(result, failed=True, msg="\n".join(refused))
            small = [one for one in listed["packs"] if one["size"] <= int(args.get("pack_limit_mib", 1024)) * MIB]
            lacking = [one for one in small if not cache.has(one["stem"])]
            if self._task.check_mode:
                return dict(result, changed=bool(lacking), brought=[one["stem"] for one in lacking], pruned=[])
            problems = [problem for problem in (self._bring(cache, one) for one in lacking) if problem]
        except (AnsibleError, OSError) as error:
            return dict(result, failed=True, msg=f"The builds were not brought to {cache.folder}: {error}")
        if problems:
            return dict(result, failed=True, msg="\n".join(problems))
        # Beside the build itself a pack only takes room; on a disk of its own it outlives the build.
        done = [] if listed["apart"] else [one["stem"] for one in small]
        if done:
            self._on_box("drop", stems=done)
        pruned = cache.prune(int(args.get("limit_mib", LIMIT_MIB))) if lacking else []
        brought = [one["stem"] for one in lacking]
        return dict(result, changed=bool(brought or done), brought=brought, pruned=pruned)

    def _on_box(self, step, **more):
        given = {key: self._task.args[key] for key in ("box_dir", "install_dir", "jobs_dir")}
        return self._execute_module("glmbox.box.cached_builds", {"step": step, **given, **more}, task_vars=self._vars)

    def _listed(self):
        """Return the box's packs, once nothing is being packed any more."""
        while True:
            listed = self._on_box("list")
            if listed.get("failed") or self._task.check_mode or not listed["running"]:
                return listed
            report(self._display, self._host, listed["running"])

    def _bring(self, cache, manifest):
        """Bring one pack; return what was wrong with it, if something was."""
        with cache.turn(manifest["stem"]):
            if cache.has(manifest["stem"]):  # another run has brought it meanwhile
                return ""
            source = os.path.join(self._task.args["box_dir"], manifest["stem"] + PACK)
            draft = cache.path(manifest["stem"]) + ".draft"
            pull_file(self._connection, self._display, self._host, source, manifest["size"], draft)
            return cache.put(manifest, draft)
