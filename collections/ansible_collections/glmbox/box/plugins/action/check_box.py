"""Everything that can be known to be wrong before a run changes anything, in one message."""

from __future__ import annotations

import glob
import json
import os
import shlex
import time

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible_collections.glmbox.box.plugins.module_utils import login_shell
from ansible_collections.glmbox.box.plugins.module_utils.catalogue import (
    Bundle,
    CatalogueError,
    Mirrors,
    Trust,
    files_of,
    load,
)
from ansible_collections.glmbox.box.plugins.module_utils.fetching.fetcher import size_of
from ansible_collections.glmbox.box.plugins.module_utils.gateway import FIRST, gateway_problems
from ansible_collections.glmbox.box.plugins.module_utils.host import (
    SLOW_SECONDS,
    folder_problems,
    hidden_problems,
    host_notes,
    host_problems,
    interpreter_problem,
    python_problem,
    shell_note,
    unprepared_problems,
    unreachable,
)
from ansible_collections.glmbox.box.plugins.module_utils.inputs import (
    load_specs,
    range_problems,
    unknown_names,
    value_problems,
    without_echoes,
)
from ansible_collections.glmbox.box.plugins.module_utils.providers import (
    address_note,
    asked_of_box,
    load_profiles,
    port_problem,
    provider_notes,
)
from ansible_collections.glmbox.box.plugins.module_utils.training import training_problems

# Printed on a line of its own, unless a login shell has printed something without a line end before.
PROBE = (
    "import os, sys; "
    "conda = ['conda'] * os.path.isdir(os.path.join(sys.base_prefix, 'conda-meta')); "
    "print('glmbox', *sys.version_info[:2], *conda)"
)


class ActionModule(ActionBase):
    """Check inputs, the way to the box, the box and the bundle; plugins/modules/check_box.py documents the options."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset(
        (
            "roles_dir", "roles", "names", "catalogue", "bundle", "dest",
            "folders", "disk_needs", "ports", "prepared", "gateway_unit", "token_file", "model", "device", "precision",
            "lock", "torch", "python", "spared", "ca_bundle", "extra_mirrors", "forbidden_hosts", "trust_on_first_use",
            "trusted_hashes", "provider", "providers",
        )
    )  # fmt: skip

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self._vars = task_vars
        problems = self._inputs() + self._key()
        # A bad input can make every later answer misleading, and a box that does not answer has no more to tell.
        if problems:
            return self._failed(result, problems)
        problems = self._reach()
        if problems:
            return self._failed(result, problems)
        facts, problems = self._box()
        if problems:
            return self._failed(result, problems)
        for note in filter(None, [self._shell_note(), *facts.pop("notes")]):
            self._display.display(f"{task_vars['inventory_hostname']}  note: {note}")
        return dict(result, changed=False, ansible_facts={"box": facts})

    def _failed(self, result, problems):
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"- {problem}" for problem in problems)
        host = self._vars["inventory_hostname"]
        return dict(result, failed=True, problems=problems, msg=f"{host} has {count}; nothing was changed.\n{lines}")

    def _inputs(self):
        specs = load_specs(self._task.args["roles_dir"], self._task.args["roles"])
        problems = unknown_names(specs, [name for name in self._vars if not name.startswith("__")])
        every_value, wrong = {}, {}
        for options in specs.values():
            values = {}
            for name in options:
                if name in self._vars:
                    try:
                        values[name] = self._templar.template(self._vars[name])
                    except AnsibleError as error:
                        problems.append(f"The value of {name} cannot be worked out: {error.message}")
            wrong |= value_problems(options, values)
            every_value |= values
        self._values = every_value
        problems += without_echoes(wrong, self._vars)
        return problems + range_problems(every_value) + self._fitting()

    def _fitting(self):
        return gateway_problems(self._values) + training_problems(self._values) + self._wishes()

    def _wishes(self):
        """Return what is wrong with inputs that have to fit each other, or a file of the controller."""
        args = self._task.args
        problems = folder_problems(args["folders"])
        short = "py" + "".join(str(args["python"]).split(".")[:2])
        if not str(args["lock"]).startswith(short + "-"):
            problems.append(
                f"torch_lock {args['lock']} is not made for python_version {args['python']}. "
                "py310-cu118 goes with 3.10, py311-cpu with 3.11."
            )
        if args["ca_bundle"] and not os.path.isfile(os.path.expanduser(args["ca_bundle"])):
            problems.append(f"box_ca_bundle is {args['ca_bundle']}, and there is no such file on this controller.")
        return problems

    def _key(self):
        key = self._templar.template(self._vars.get("ansible_ssh_private_key_file") or "")
        if not key or os.path.exists(os.path.expanduser(key)):
            return []
        return [f"The SSH key {key} does not exist. Set ansible_ssh_private_key_file to the key that opens the box."]

    def _reach(self):
        address = "{}:{}".format(
            self._templar.template(self._vars.get("ansible_host", self._vars["inventory_hostname"])),
            self._templar.template(self._vars.get("ansible_port") or 22),
        )
        interpreter = self._interpreter()
        problem = interpreter_problem(interpreter)
        if problem:
            return [problem]
        try:
            said = self._low_level_execute_command(f"{interpreter} -c {shlex.quote(PROBE)}", sudoable=False)
        except AnsibleConnectionFailure as error:
            return [unreachable(error.message, address)]
        problem = python_problem(said["stdout"], interpreter, ansible_version)
        return [problem] if problem else []

    def _interpreter(self):
        return self._templar.template(self._vars.get("ansible_python_interpreter") or "/usr/bin/python3")

    def _shell_note(self):
        """Measure what everything costs that is run over the connection, and find out why where it is much."""
        begun = time.monotonic()
        self._low_level_execute_command("/bin/true", sudoable=False)
        seconds = time.monotonic() - begun
        slowest = {"seconds": 0.0, "file": "", "line": 0}
        if seconds >= SLOW_SECONDS:
            with open(login_shell.__file__, encoding="utf-8") as file:
                program = file.read().encode()
            said = self._low_level_execute_command(f"{self._interpreter()} -I -", in_data=program, sudoable=False)
            for line in said["stdout"].splitlines():
                if line.startswith(login_shell.MARK):
                    slowest = json.loads(line[len(login_shell.MARK) :])
        return shell_note(seconds, slowest)

    def _box(self):
        """Ask the box what it is and what it lacks; return its facts and everything that is in the way."""
        args = self._task.args
        paths = [need["path"] for need in args["disk_needs"]] + [
            path for need in args["disk_needs"] for path in need["unless"]
        ]
        profiles = load_profiles(args["providers"])
        signs, variables = asked_of_box(profiles)
        units = {path for port in args["ports"] for path in port["unit"]} | set(args["gateway_unit"])
        asked = self._execute_module(
            "glmbox.box.box_facts",
            {
                "paths": [*paths, args["dest"], *units, *args["spared"].values(), *args["prepared"], *signs],
                "variables": variables,
            },
            task_vars=self._vars,
        )
        if asked.get("failed"):
            return None, [f"The box could not tell what it is: {asked.get('msg')} {asked.get('module_stderr', '')}"]
        facts = asked["ansible_facts"]["box"]
        missing_mib, problems = self._artifacts(facts["present"])
        needs = [need for need in args["disk_needs"] if not set(need["unless"]) & set(facts["present"])]
        needs.append({"path": args["dest"], "mib": missing_mib, "what": "artifacts"})
        tags = set(self._vars.get("ansible_run_tags", ["all"]))
        wish = {
            "disk_needs": needs,
            "ports": args["ports"],
            "other_ports": profiles[args["provider"]]["other_ports"],
            "needs_gpu": bool(tags & {"all", "activate", "preflight"}),
            "model": args["model"],
            "device": args["device"],
            "precision": args["precision"],
            "torch": args["torch"],
        }
        skipped = set(self._vars.get("ansible_skip_tags", []))
        problems += unprepared_problems(tags, skipped, args["prepared"], facts["present"])
        problems += host_problems(facts, wish) + hidden_problems(args["folders"], facts["init"])
        ports = [int(self._values.get(name, 0)) for name in ("gateway_port", "gateway_public_port")]
        problems += filter(None, [port_problem(profiles[args["provider"]], facts["variables"], *ports)])
        facts["notes"] = host_notes(facts, wish)
        host = self._templar.template(self._vars.get("ansible_host", self._vars["inventory_hostname"]))
        url = str(self._values.get("gateway_public_url", ""))
        facts["notes"] += filter(None, [address_note(profiles[args["provider"]], ports[0], url, host)])
        facts["notes"] += provider_notes(profiles, args["provider"], facts["present"], facts["variables"])
        kept = set(self._values.get("gateway_users", [FIRST])) - set(self._values.get("gateway_renew") or [])
        # Where another name's token stands, this one may have been off the list, which removed it.
        gone = FIRST in kept and not glob.glob(glob.escape(args["token_file"]) + "*")
        if gone and not set(args["gateway_unit"]).isdisjoint(facts["present"]):
            problems.append(
                f"The box was deployed with a token, but {args['token_file']} is gone from this controller. "
                "Put it back, or make a new token with -e gateway_new_token=true; clients then need the new one."
            )
        return facts, problems

    def _artifacts(self, present):
        """Return the MiB that the box lacks, and what is wrong with the tables or with the bundle.

        present: paths that stand; what is spared where one of them does is not counted.
        """
        args = self._task.args
        names = [name for name in args["names"] if args["spared"].get(name) not in present]
        bundle = Bundle(os.path.expanduser(args["bundle"]))
        try:
            mirrors = Mirrors(args["extra_mirrors"], args["forbidden_hosts"])
            trust = Trust(args["trust_on_first_use"], args["trusted_hashes"])
            files = files_of(load(args["catalogue"], bundle.folder), names, mirrors, trust)
        except CatalogueError as error:
            return 0, str(error).splitlines()
        looked = self._execute_module(
            "glmbox.box.artifact", {"files": files, "dest": args["dest"], "step": "look"}, task_vars=self._vars
        )
        if looked.get("failed"):
            return 0, [f"The box could not tell which artifacts it has: {looked.get('msg')}"]
        problems = bundle.problems([file for file in looked["missing"] if bundle.has(file)])
        for file in looked["missing"]:
            if not bundle.has(file) and not file["urls"]:
                problems.append(
                    f"{file['path']} of {file['artifact']} has no mirror and is not in the bundle {bundle.folder}. "
                    "Fill the bundle first."
                )
        missing_bytes = sum(max(0, size_of(file) - file["here"]) for file in looked["missing"])
        return missing_bytes // 2**20, problems
