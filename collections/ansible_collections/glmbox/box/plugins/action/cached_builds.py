"""The controller's half of `cached_builds`: brings what it does not have yet."""

from __future__ import annotations

import os

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.building.packs import PACK
from ansible_collections.glmbox.box.plugins.module_utils.packs_cache import LIMIT_MIB, MIB, Cache
from ansible_collections.glmbox.box.plugins.module_utils.progress import plain, report
from ansible_collections.glmbox.box.plugins.module_utils.pushing import pull_file


class ActionModule(ActionBase):
    """Bring packs of finished builds; plugins/modules/cached_builds.py documents the options."""

    _VALID_ARGS = frozenset(("dir", "box_dir", "install_dir", "jobs_dir", "limit_mib", "pack_limit_mib"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self._vars, self._host, args = task_vars, task_vars["inventory_hostname"], self._task.args
        cache = Cache(args["dir"])
        listed = self._listed()
        if listed.get("failed"):
            return dict(result, **listed)
        told = {"brought": [], "pruned": [], "notes": list(listed["notes"])}
        done = []
        try:
            done = self._keep(cache, listed, told)
        except (AnsibleError, OSError) as error:
            # The box answers already; that the next one has to build is no failure of this run.
            told["notes"].append(f"Finished builds were not brought to {cache.folder}: {error}")
        for note in told["notes"]:
            self._display.display(f"{self._host}  cache  {plain(note)}")
        return dict(result, changed=bool(told["brought"] or done), **told)

    def _keep(self, cache, listed, told):
        """Bring what the controller lacks, noting in `told` what came of it; return the packs that left the box."""
        refused = [refusal for refusal in map(cache.refusal, listed["packs"]) if refusal]
        told["notes"] += refused
        limit = int(self._task.args.get("pack_limit_mib", 1024)) * MIB
        small = [one for one in listed["packs"] if not cache.refusal(one) and one["size"] <= limit]
        lacking = [one for one in small if not cache.has(one["stem"])]
        if self._task.check_mode:
            told["brought"] = [one["stem"] for one in lacking]
            return []
        for one in lacking:
            problem = self._bring(cache, one)
            told["notes" if problem else "brought"].append(problem or one["stem"])
        # Beside the build itself a pack only takes room; on a disk of its own it outlives the build.
        done = [] if listed["apart"] else [one["stem"] for one in small if cache.has(one["stem"])]
        if done:
            self._on_box("drop", stems=done)
        if lacking:
            told["pruned"] = cache.prune(int(self._task.args.get("limit_mib", LIMIT_MIB)))
        return done

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
