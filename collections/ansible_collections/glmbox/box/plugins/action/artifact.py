"""The controller's half of `artifact`: reads the tables, pushes what the bundle has, lets the box do the rest."""

from __future__ import annotations

import os
import secrets
import tarfile
import tempfile

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import (
    Bundle,
    CatalogueError,
    files_of,
    load,
    table_of,
)

# Files below this size travel together in one tar: a round trip costs more than their bytes.
SMALL_BYTES = 8 * 2**20


class ActionModule(ActionBase):
    """Make artifacts stand on the box; plugins/modules/artifact.py documents the options."""

    _VALID_ARGS = frozenset(("names", "catalogue", "bundle", "folder", "dest", "recheck", "keep_bad", "connections"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        bundle = Bundle(os.path.expanduser(args.get("folder") or args["bundle"]))
        try:
            if "folder" in args:
                tables = {name: table_of(os.path.join(bundle.folder, name)) for name in args["names"]}
            else:
                tables = load(args["catalogue"], bundle.folder)
            wanted = files_of(tables, args["names"])
        except CatalogueError as error:
            return dict(result, failed=True, msg=str(error))
        for file in wanted:
            file["in_bundle"] = bundle.has(file)
        options = {key: args[key] for key in ("dest", "recheck", "keep_bad", "connections") if key in args}

        def on_box(files, **more):
            return self._execute_module("glmbox.box.artifact", dict(options, files=files, **more), task_vars=task_vars)

        # Who pushes is who logs in, not who becomes root; ~/.ssh/config may know his name where Ansible does not.
        login = self._low_level_execute_command("id -un", sudoable=False)["stdout"].split()
        looked = on_box(wanted, step="receive", receive_as=login[-1] if login else "root")
        if looked.get("failed") or not looked["missing"] or self._task.check_mode:
            return dict(result, **looked)
        from_bundle = [file for file in looked["missing"] if file["in_bundle"]]
        # A folder of the project was hashed a moment ago, and gets no file of stamps.
        problems = [] if "folder" in args else [problem for problem in map(bundle.problem, from_bundle) if problem]
        if problems:
            return dict(result, failed=True, msg="\n".join(problems))
        pushed = self._push(bundle, from_bundle, os.path.join(args["dest"], ".arriving"))
        options["recheck"] = False
        return dict(result, **on_box(looked["missing"], pushed=pushed))

    def _push(self, bundle, files, folder):
        """Copy files into the box's folder of what is arriving; return the name of the tar with the small ones."""
        small = []
        for file in files:
            if os.path.getsize(bundle.path(file)) < SMALL_BYTES:
                small.append(file)
            else:
                self._display.vv(f"pushing {file['path']}")
                self._connection.put_file(bundle.path(file), os.path.join(folder, file["part"]))
        if not small:
            return ""
        name = f"push-{secrets.token_hex(8)}.tar"
        with tempfile.TemporaryDirectory() as draft:
            packed = os.path.join(draft, name)
            with tarfile.open(packed, "w") as tar:
                for file in small:
                    tar.add(bundle.path(file), arcname=file["part"])
            self._connection.put_file(packed, os.path.join(folder, name))
        return name
