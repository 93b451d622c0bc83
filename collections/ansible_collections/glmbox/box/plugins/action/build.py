"""The controller's half of `build`: completes the specification, pushes a pack from its cache, and waits in slices."""

from __future__ import annotations

import base64
import os

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils import packs_cache, program
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import CatalogueError, load
from ansible_collections.glmbox.box.plugins.module_utils.files import sha256_of
from ansible_collections.glmbox.box.plugins.module_utils.progress import plain, report
from ansible_collections.glmbox.box.plugins.module_utils.pushing import push_file

SLICE_SECONDS = 5.0
# What goes into the specification as it is, with what stands for an option that is not given.
PLAIN = {
    "version": "",
    "packages": [],
    "steps": [],
    "proof": "",
    "links": {},
    "environment": {},
    "jobs": 0,
    "job_mib": 512,
    "pack_limit_mib": 1024,
}
PATHS = ("install_dir", "work_dir", "log_dir", "proven_dir")
CONTROLLER = ("catalogue", "bundle", "artifacts_dir", "cache", "cache_dir", "cache_box_dir", "jobs_dir")


class ActionModule(ActionBase):
    """Build something once, as a job; plugins/modules/build.py documents the options."""

    _VALID_ARGS = frozenset(("name", "do", "archive", "artifacts", "files", "needs", *PLAIN, *PATHS, *CONTROLLER))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self._vars, self._host, args = task_vars, task_vars["inventory_hostname"], self._task.args
        self._planned = dict(task_vars.get("ansible_facts", {}).get("builds", {}))
        if args.get("do") == "wait":
            return dict(result, **self._wait())
        try:
            spec = self._spec()
        except (CatalogueError, OSError) as error:
            return dict(result, failed=True, msg=str(error))
        packed = base64.b64encode(program.builder()).decode()
        if self._task.check_mode:
            looked = self._on_box("look", spec=spec)
        else:
            looked = self._on_box("begin", spec=spec, program=packed)
        if looked.get("failed"):
            return dict(result, **looked)
        kept = {
            "prefix": looked["prefix"],
            "stands": looked["stands"],
            # What this run is going to make stand; those who need it wait for it under that name.
            "ansible_facts": {"builds": {**self._planned, looked["link"]: looked["prefix"]}},
        }
        if looked["stands"]:
            return dict(result, changed=False, **kept)
        if self._task.check_mode:  # what is needed may have to be built as well
            return dict(result, changed=True, **kept)
        if looked["problems"]:
            return dict(result, failed=True, msg="\n".join(looked["problems"]))
        if looked["begun"]:
            self._tell(looked["notes"])
            return dict(result, changed=True, **kept)
        manifest = {}
        try:
            manifest = self._push_pack(spec, looked)
        except (AnsibleError, OSError) as error:  # a cache is no more than a help
            self._tell([f"The cached build is not pushed: {str(error).rstrip('.')}. It is built on the box."])
        started = self._on_box("start", spec=spec, program=packed, manifest=manifest)
        if started.get("failed"):
            return dict(result, **started)
        self._tell(started["notes"])
        return dict(result, changed=True, **kept)

    def _on_box(self, step, **more):
        arguments = {"step": step, "jobs_dir": self._task.args["jobs_dir"], **more}
        return self._execute_module("glmbox.box.build", arguments, task_vars=self._vars)

    def _tell(self, notes):
        for note in notes:
            self._display.display(f"{self._host}  build-{self._task.args['name']}  {plain(note)}")

    def _spec(self):
        """Return the specification, with everything that the controller knows: hashes, contents, plans."""
        args = self._task.args
        spec = {key: type(value)(args.get(key) or value) for key, value in PLAIN.items()}
        spec.update({key: args[key].rstrip("/") for key in PATHS}, name=args["name"])
        spec["contents"] = {}
        for path in args.get("files") or []:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                spec["contents"][os.path.basename(path)] = file.read()
        spec["files"] = {
            os.path.basename(path): sha256_of(os.path.expanduser(path)) for path in args.get("files") or []
        }
        spec["needs"] = [{"link": link, "prefix": self._planned.get(link, "")} for link in args.get("needs") or []]
        wanted = [args["archive"]] if args.get("archive") else []
        wanted += args.get("artifacts") or []
        tables = load(args["catalogue"], os.path.expanduser(args["bundle"])) if wanted else {}
        unknown = [name for name in wanted if name not in tables]
        if unknown:
            raise CatalogueError(f"No table in {args['catalogue']} names the artifact {', '.join(unknown)}.")
        where = {
            name: [f"{args['artifacts_dir']}/{name}/{file['path']}" for file in tables[name]["files"]]
            for name in wanted
        }
        spec["artifacts"] = where
        spec["archive"] = None
        if args.get("archive"):
            file = tables[args["archive"]]["files"][0]
            spec["archive"] = {"path": where[args["archive"]][0], "sha256": file["sha256"]}
        spec["cache"] = args["cache_box_dir"] if args.get("cache", True) else ""
        return spec

    def _push_pack(self, spec, looked):
        """Push the controller's pack of this very build, if it has one; return its manifest, or an empty one."""
        cache = packs_cache.Cache(self._task.args["cache_dir"])
        manifest, complaint = cache.get(looked["stem"], looked["inputs"])
        if complaint:
            self._tell([complaint])
        if not manifest:
            return {}
        login = self._low_level_execute_command("id -un", sudoable=False)["stdout"].split()
        ready = self._on_box("receive", spec=spec, login=login[-1] if login else "root")
        if ready.get("failed"):
            self._tell([f"The cached build is not pushed: {ready.get('msg')}"])
            return {}
        name = os.path.basename(cache.path(looked["stem"]))
        push_file(
            self._connection, self._display, self._host, cache.path(looked["stem"]), f"{ready['folder']}/{name}", name
        )
        return manifest

    def _drop_pack(self, stem):
        """Remove a pack that the box could not use from the controller's cache."""
        try:
            packs_cache.Cache(self._task.args["cache_dir"]).drop(stem)
        except OSError as error:
            self._tell([f"The pack of {stem} is no good, and cannot be removed: {error}"])

    def _wait(self):
        args = self._task.args
        link = f"{args['install_dir'].rstrip('/')}/{args['name']}"
        prefix = self._planned.get(link)
        if self._task.check_mode or not prefix:
            return {"changed": False, "stands": False, "notes": []}
        more = {"name": args["name"], "link": link, "prefix": prefix, "stamp": f"{prefix}/.glmbox-stamp.json"}
        while True:
            waited = self._on_box("wait", slice_seconds=SLICE_SECONDS, **more)
            if waited.get("failed"):
                return waited
            if waited["problem"] or waited["stands"]:
                self._tell(waited["notes"])
                if waited.get("rejected"):  # one that the box makes anew is brought at the end of a run
                    self._drop_pack(os.path.basename(prefix))
            if waited["problem"]:
                return {"failed": True, "msg": waited["problem"]}
            if waited["stands"]:
                return {"changed": False, "stands": True, "notes": waited["notes"]}
            report(self._display, self._host, waited["running"])
