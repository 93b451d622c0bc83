"""The controller's half of `artifact`: reads the tables, pushes what the bundle has, lets the box do the rest."""

from __future__ import annotations

import base64
import os
import secrets
import tarfile
import tempfile

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils import program
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import (
    Bundle,
    CatalogueError,
    Mirrors,
    Trust,
    files_of,
    load,
    table_of,
)
from ansible_collections.glmbox.box.plugins.module_utils.progress import report, table
from ansible_collections.glmbox.box.plugins.module_utils.pushing import push_file

MIB = 2**20
# Files below this size travel together in one tar: a round trip costs more than their bytes.
SMALL_BYTES = 8 * MIB
LINE_SECONDS = 5.0
STATIC_ARIA2 = "aria2-static"
# What the fetcher is told, with the defaults of roles/fetch.
SETTINGS = {"connections": 8, "stall_seconds": 15, "patience_seconds": 60, "sample_bytes": 2 * MIB, "proxy": "auto"}
OPTIONS = ("names", "catalogue", "bundle", "folder", "dest", "recheck", "keep_bad", "wait", "jobs_dir", "peers", "push")
MIRRORS = ("extra_mirrors", "preferred_hosts", "forbidden_hosts", "trust_on_first_use", "trusted_hashes")


class ActionModule(ActionBase):
    """Make artifacts stand on the box; plugins/modules/artifact.py documents the options."""

    _VALID_ARGS = frozenset((*OPTIONS, *MIRRORS, *SETTINGS))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        self._vars, self._host = task_vars, task_vars["inventory_hostname"]
        self._options = {key: args[key] for key in ("dest", "recheck", "keep_bad", "jobs_dir") if key in args}
        self._trust = Trust(args.get("trust_on_first_use"), os.path.expanduser(args.get("trusted_hashes") or ""))
        bundle = Bundle(os.path.expanduser(args.get("folder") or args.get("bundle") or os.devnull))
        try:
            files = self._files(bundle)
            looked = self._look(files)
            if looked.get("failed"):
                return dict(result, **looked)
            if not looked["missing"] or self._task.check_mode:
                return self._told(result, looked, looked.get("changed", False))
            if not looked["aria2c"] and any(not file["in_bundle"] for file in looked["missing"]):
                looked = self._bring_aria2(bundle, files) or looked
            if looked.get("failed"):
                return dict(result, **looked)
            left = self._left(looked["missing"])
            files = [file for file in files if file["artifact"] not in left]
            missing = [file for file in looked["missing"] if file["artifact"] not in left]
            if not missing:
                return self._told(result, dict(looked, left=left), looked.get("changed", False))
            brought = dict(self._bring(bundle, files, missing), left=left)
            if brought.get("failed") or brought["problems"] or not brought["jobs"] or not args.get("wait", True):
                return self._told(result, brought, True)
            waited = self._wait([name.partition("-")[2] for name in brought["jobs"]], files)
        except CatalogueError as error:
            return dict(result, failed=True, msg=str(error))
        if not waited.get("failed"):
            waited["fetched"] = brought["fetched"] + waited["fetched"]
        return self._told(result, waited, True)

    def _files(self, bundle):
        args = self._task.args
        names = list(dict.fromkeys(args["names"]))
        if "folder" in args:
            return self._located(
                bundle, files_of({name: table_of(os.path.join(bundle.folder, name)) for name in names}, names)
            )
        self._tables = load(args["catalogue"], bundle.folder)
        mirrors = Mirrors(args.get("extra_mirrors"), args.get("forbidden_hosts"))
        return self._located(bundle, files_of(self._tables, names, mirrors, self._trust))

    def _located(self, bundle, files):
        # Where the bundle itself is filled, on this machine, it is the shelf that lacks files and brings none.
        dest = os.path.expanduser(self._task.args["dest"])
        filling = self._connection.transport == "local" and os.path.realpath(dest) == os.path.realpath(bundle.folder)
        for file in files:
            file["in_bundle"] = not filling and bundle.has(file)
        return files

    def _on_box(self, files, **more):
        return self._execute_module(
            "glmbox.box.artifact", dict(self._options, files=files, **more), task_vars=self._vars
        )

    def _look(self, files):
        # Who pushes is who logs in, not who becomes root; ~/.ssh/config may know his name where Ansible does not.
        login = self._low_level_execute_command("id -un", sudoable=False)["stdout"].split()
        self._artifacts = sorted({file["artifact"] for file in files})
        asked = {"step": "receive", "receive_as": login[-1] if login else "root", "artifacts": self._artifacts}
        looked = self._on_box(files, **asked)
        self._options["recheck"] = False  # once is enough
        return looked

    def _bring_aria2(self, bundle, files):
        """Push a static aria2c where apt had none. Returns what the box then lacks."""
        static = self._located(bundle, files_of(self._tables, [STATIC_ARIA2])) if STATIC_ARIA2 in self._tables else []
        if not static or not all(file["in_bundle"] for file in static):
            return {
                "failed": True,
                "msg": "The box has no aria2c, and the bundle has no artifact aria2-static. Install the package aria2 "
                "on the box, or fill the bundle on a machine that reaches GitHub, and run again.",
            }
        files += static
        return self._look(files)

    def _bring(self, bundle, files, missing):
        """Push what the bundle has and start the jobs for the rest."""
        from_bundle = [file for file in missing if file["in_bundle"]]
        # A folder of the project was hashed a moment ago, and gets no file of stamps.
        problems = [] if "folder" in self._task.args else bundle.problems(from_bundle)
        if problems:
            return {"failed": True, "msg": "\n".join(problems)}
        pushed = self._push(bundle, from_bundle, os.path.join(self._task.args["dest"], ".arriving"))
        packed = base64.b64encode(program.fetcher()).decode() if len(from_bundle) < len(missing) else ""
        return self._on_box(files, step="bring", pushed=pushed, program=packed, settings=self._settings())

    def _left(self, missing):
        """Return the artifacts of which the bundle has something, and whose push is left to a later task."""
        if "push" not in self._task.args:
            return []
        return sorted({file["artifact"] for file in missing if file["in_bundle"]} - set(self._task.args["push"]))

    def _settings(self):
        args = self._task.args
        settings = {key: type(value)(args.get(key, value)) for key, value in SETTINGS.items()}
        settings["preferred_hosts"] = args.get("preferred_hosts") or []
        settings["forbidden_hosts"] = args.get("forbidden_hosts") or []
        settings["keep_bad"] = bool(args.get("keep_bad"))
        settings["peers"] = args.get("peers") or []
        return settings

    def _push(self, bundle, files, folder):
        """Copy files into the box's folder of what is arriving; return the name of the tar with the small ones."""
        small = [file for file in files if os.path.getsize(bundle.path(file)) < SMALL_BYTES]
        for file in files:
            if file not in small:
                target = os.path.join(folder, file["part"])
                push_file(self._connection, self._display, self._host, bundle.path(file), target, file["path"])
        if not small:
            return ""
        name = f"push-{secrets.token_hex(8)}.tar"
        with tempfile.TemporaryDirectory() as draft:
            packed = os.path.join(draft, name)
            with tarfile.open(packed, "w") as tar:
                for file in small:
                    tar.add(bundle.path(file), arcname=file["part"])
            push_file(self._connection, self._display, self._host, packed, os.path.join(folder, name), name)
        return name

    def _wait(self, artifacts, files):
        """Wait until jobs have ended, saying every few seconds how far all of the box's jobs are."""
        while True:
            waited = self._on_box(files, step="wait", artifacts=artifacts, slice_seconds=LINE_SECONDS)
            if waited.get("failed") or not waited["waiting"]:
                return waited
            report(self._display, self._host, waited["running"])

    def _told(self, result, did, changed):
        """Return the result, after saying what was brought and writing down hashes that nobody knew."""
        if did.get("failed"):
            return dict(result, **did)
        problems = list(did["problems"])
        news = [one for one in did.get("first_hashes", []) if not self._trust.hash_of(one["artifact"], one["path"])]
        if news and not self._task.check_mode:
            problems += self._trust.record(news)
            for one in news:
                where = f"{one['path']} of {one['artifact']} has sha256 {one['sha256']}"
                self._display.display(f"{self._host}  first use: {where}, now recorded in {self._trust.path}")
        for row in table(did["fetched"]):
            self._display.display(f"{self._host}  {row}")
        kept = {"fetched": did["fetched"]}
        # Addresses may hold a login.
        kept["missing"] = [{key: file[key] for key in ("artifact", "path", "size")} for file in did.get("missing", [])]
        kept["begun"] = [name.partition("-")[2] for name in did.get("jobs", [])]
        kept["left"] = did.get("left", [])
        if problems:
            return dict(result, failed=True, msg="\n".join(problems), **kept)
        return dict(result, changed=changed, **kept)
