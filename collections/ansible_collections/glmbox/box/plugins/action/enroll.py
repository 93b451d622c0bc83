"""Make a rented box one of an inventory, from the line that the provider's console shows."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import Any

from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils import enrolling, inventory_file, known_hosts
from ansible_collections.glmbox.box.plugins.module_utils.enrolling import EnrolError
from ansible_collections.glmbox.box.plugins.module_utils.inventory_file import EMPTY, GROUP, InventoryFileError
from ansible_collections.glmbox.box.plugins.module_utils.providers import GENERIC, by_host, by_signs, load_profiles
from ansible_collections.glmbox.box.plugins.module_utils.ssh_line import (
    DEFAULT_USER,
    Login,
    SshLineError,
    format_login,
    parse,
)

WIRING = f"group_vars/{GROUP}/ssh.yml"


class ActionModule(ActionBase):
    """Enrol a box; plugins/modules/enroll.py documents the options."""

    _requires_connection = False
    _supports_check_mode = False
    _VALID_ARGS = frozenset(
        (
            "line",
            "name",
            "inventory",
            "inventories",
            "providers",
            "provider",
            "key",
            "password_file",
            "accept_new_host_key",
        )
    )

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self._args = {key: value for key, value in self._task.args.items() if value not in ("", None)}
        # On a command line, every user of this machine could read it.
        if {"password", "ansible_password", "ansible_ssh_pass"} & set(task_vars):
            msg = (
                "A password does not belong on a command line. Leave it out, and change it if others use this machine."
            )
            return dict(result, failed=True, msg=msg)
        try:
            return dict(result, **self._enrol())
        except (SshLineError, EnrolError) as error:
            return dict(result, failed=True, msg=str(error))
        except InventoryFileError as error:
            return dict(result, failed=True, msg=f"{self._file('hosts.yml')} was not changed: {error}")
        except OSError as error:
            return dict(
                result, failed=True, msg=f"{error.filename or 'A file'} cannot be used: {error.strerror or error}"
            )

    def _enrol(self) -> dict[str, Any]:
        login, self._name = self._login(), str(self._args.get("name", ""))
        self._profiles = load_profiles(self._args["providers"])
        self._refuse_proxies(login)
        self._folder = folder_of(self._args)
        if any(letter.isspace() for letter in self._folder):
            # ssh's options come through programs (testinfra for one) that know no quotes.
            raise EnrolError(f"{self._folder} has a blank in its path, which ssh would take apart. Move it.")
        created = self._have_inventory()
        text = self._text("hosts.yml", EMPTY)
        problem = inventory_file.name_problem(self._name, text)
        if problem:
            raise EnrolError(problem if self._name else "The box needs a name. Give one, such as -e name=box1.")
        hosts = inventory_file.hosts_of(text)
        self._refuse_twins(login, hosts)
        for note in login.notes:
            self._say(note)

        public = self._own_key()
        transport, host_key, pinned = self._connect(login)
        try:
            self._log_in(transport, login)
            added = enrolling.install_key(transport, public)
            provider = self._provider(transport, login, hosts.get(self._name))
        finally:
            transport.close()

        variables = variables_of(login, provider)
        wanted = ("box_provider",) if self._args.get("provider") else ()
        token = known_hosts.token(login.host, login.port)
        with inventory_file.turn(self._folder):
            pinning = inventory_file.rewrite(
                self._file(".state/known_hosts"), lambda text: known_hosts.with_key(text, token, host_key), "", 0o600
            )
        enrolling.try_key(login, self._file(".state/id_ed25519"), self._file(".state/known_hosts"))
        with inventory_file.turn(self._folder):
            written = inventory_file.rewrite(
                self._file("hosts.yml"),
                lambda text: inventory_file.with_host(text, self._name, variables, wanted),
                EMPTY,
            )
            forgotten = self._forget_old_address(hosts.get(self._name, {}), token)
        return {
            "changed": added or pinning or written or forgotten or created,
            "inventory": self._folder,
            "address": token,
            "provider": provider,
            "host_key": known_hosts.fingerprint(host_key),
            "host_key_was_known": bool(pinned),
            "key_added": added,
        }

    def _say(self, sentence: str) -> None:
        self._display.display(f"{self._name}  {sentence}")

    def _file(self, path: str) -> str:
        return os.path.join(getattr(self, "_folder", ""), path)

    def _text(self, path: str, otherwise: str = "") -> str:
        try:
            with open(self._file(path), encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return otherwise

    def _login(self) -> Login:
        login = parse(str(self._args.get("line", "")))
        key = str(self._args.get("key") or login.key)
        return Login(login.host, login.port, login.user, key, login.jumps, login.notes)

    def _refuse_proxies(self, login: Login) -> None:
        """Refuse an SSH proxy of a provider's, which can be told by its name before a password is typed."""
        name = by_host({name: {"ssh_hosts": one["ssh_proxies"]} for name, one in self._profiles.items()}, login.host)
        if name:
            raise EnrolError(
                f"{login.host} is the SSH proxy of {self._profiles[name]['title']}, which neither runs commands nor "
                "copies files. Take the console's line for direct TCP (ssh root@ADDRESS -p PORT)."
            )

    def _have_inventory(self) -> bool:
        """Make the inventory where it does not stand yet; tell whether it was made."""
        if not os.path.exists(self._folder):
            if "/" in self._args["inventory"]:
                raise EnrolError(f"There is no inventory {self._folder}. Correct -e inventory=, or make the folder.")
            model = os.path.join(self._args["inventories"], "rented_gpu")
            shutil.copytree(os.path.join(model, "group_vars"), self._file("group_vars"))
            with open(self._file("hosts.yml"), "w", encoding="utf-8") as file:
                file.write(EMPTY)
            self._say(f"{self._folder} was made, with the settings of {model}.")
            return True
        if not os.path.isfile(self._file(WIRING)):
            raise EnrolError(
                f"{self._folder} has no {WIRING}, which says how enrolled boxes are reached. Copy it from "
                f"{os.path.join(self._args['inventories'], 'rented_gpu')}."
            )
        return False

    def _refuse_twins(self, login: Login, hosts: dict[str, dict]) -> None:
        token = known_hosts.token(login.host, login.port)
        for name, values in hosts.items():
            if name != self._name and known_hosts.token_of(values) == token:
                raise EnrolError(
                    f"{enrolling.address_of(login)} is enrolled as {name} already. Use that name, or forget it first: "
                    f"ansible-playbook playbooks/forget_box.yml {self._options(name=name)}"
                )

    def _options(self, **options: str) -> str:
        if self._args["inventory"] != "rented_gpu":
            options["inventory"] = self._args["inventory"]
        # Ansible takes a value with blanks in it apart unless it is quoted for Ansible too.
        pairs = [f'{key}="{value}"' if " " in value else f"{key}={value}" for key, value in options.items()]
        return " ".join(f"-e {shlex.quote(pair)}" for pair in pairs)

    def _own_key(self) -> str:
        with inventory_file.turn(self._folder):
            name = os.path.basename(os.path.abspath(self._folder))
            return enrolling.make_key(self._file(".state/id_ed25519"), f"glmbox-{name}")

    def _connect(self, login: Login):
        """Return a connection that is not logged in yet, the box's host key, and those that were known before."""
        token = known_hosts.token(login.host, login.port)
        pinned = known_hosts.keys_of(self._text(".state/known_hosts"), token)
        transport = enrolling.connect(login, pinned)
        key = enrolling.host_key_of(transport)
        shown = f"{known_hosts.fingerprint(key)} ({key[0]})"
        if not pinned:
            self._say(f"Its host key is {shown}. If the console shows one, compare: this one counts from now on.")
        elif key in pinned:
            self._say(f"Its host key is {shown}, as it was.")
        elif boolean(self._args.get("accept_new_host_key", False)):
            self._say(f"Its host key is {shown} now; the old one counts no more.")
        else:
            transport.close()
            again = self._options(ssh=format_login(login), name=self._name, accept_new_host_key="true")
            raise EnrolError(
                f"The host key of {enrolling.address_of(login)} is {shown}, and not the one seen before "
                f"({known_hosts.fingerprint(pinned[0])}). Somebody may sit in between; no password was sent. If you "
                f"rented the box anew or reset it, accept the new: ansible-playbook playbooks/enroll_box.yml {again}"
            )
        return transport, key, pinned

    def _log_in(self, transport, login: Login) -> None:
        """Log in by the inventory's key where the box has it already, else by the operator's key or password."""
        if enrolling.opens(transport, login.user, enrolling.load_key(self._file(".state/id_ed25519"))):
            return
        if login.key and not self._args.get("password_file"):
            if not enrolling.opens(transport, login.user, enrolling.load_key(login.key)):
                raise EnrolError(
                    f"{enrolling.address_of(login)} does not let {login.user} in with {login.key}. Give the key whose "
                    "public part the provider has."
                )
            return
        ways = enrolling.ways_in(transport, login.user)
        if transport.is_authenticated():
            return
        if not {"password", "keyboard-interactive"} & set(ways):
            raise EnrolError(
                f"{enrolling.address_of(login)} takes no password, only {', '.join(ways)}. Give the private key whose "
                "public part the provider has: -e key=~/.ssh/id_ed25519"
            )
        enrolling.log_in_by_password(transport, login.user, self._password(login), enrolling.address_of(login))

    def _password(self, login: Login) -> str:
        """Return the password, from the named file or from the terminal; it is kept nowhere."""
        path = self._args.get("password_file")
        if path:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                return file.read().rstrip("\r\n")
        try:
            typed = self._display.prompt_until(f"Password of {login.user}@{login.host} (not shown): ", private=True)
        except AnsiblePromptInterrupt as error:
            raise EnrolError("Nothing was typed, and nothing was changed.") from error
        except AnsiblePromptNoninteractive as error:
            raise EnrolError(
                "There is no terminal to ask for the password on. Give -e password_file=FILE, or -e key=KEY."
            ) from error
        return typed.decode("utf-8", "surrogateescape").rstrip("\r\n")

    def _provider(self, transport, login: Login, known: dict | None) -> str:
        """Return whose box it is: as the operator says, as is known, by the host's name, or by the box's signs."""
        named = self._args.get("provider") or (known or {}).get("box_provider") or by_host(self._profiles, login.host)
        if named and named not in self._profiles:
            raise EnrolError(f"No file in providers/ is named {named}. There are {', '.join(sorted(self._profiles))}.")
        paths = sorted({path for profile in self._profiles.values() for path in profile["signs"]["files"]})
        present, variables = enrolling.signs_of(transport, paths)
        provider = named or by_signs(self._profiles, present, dict.fromkeys(variables, "")) or GENERIC
        profile = self._profiles[provider]
        self._say(f"It is {profile['title'] if provider == GENERIC else 'a box of ' + profile['title']}.")
        if not known:
            for note in [*profile["notes"], profile["public_address"]]:
                self._say(f"note: {note}")
        return provider

    def _forget_old_address(self, old: dict, token: str) -> bool:
        """Forget the host key of the address that the box had before, where no other host has it. It is our turn."""
        if not old.get("ansible_host"):
            return False
        before = known_hosts.token_of(old)
        hosts = inventory_file.hosts_of(self._text("hosts.yml"))
        if before == token or before in map(known_hosts.token_of, hosts.values()):
            return False
        return inventory_file.rewrite(
            self._file(".state/known_hosts"), lambda text: known_hosts.without(text, before), "", 0o600
        )


def folder_of(args: dict[str, Any]) -> str:
    """Return an inventory's folder: a name below `inventories`, or a path, which has a slash."""
    inventory = str(args["inventory"])
    return os.path.abspath(inventory) if "/" in inventory else os.path.join(args["inventories"], inventory)


def variables_of(login: Login, provider: str) -> dict[str, Any]:
    """Return what the inventory says of a new host."""
    variables: dict[str, Any] = {
        "ansible_host": login.host,
        "ansible_port": login.port,
        "ansible_user": login.user,
        "box_provider": provider,
    }
    if login.user != DEFAULT_USER:
        variables["ansible_become"] = True
    if login.jumps:
        variables["ansible_ssh_extra_args"] = "-o ProxyJump=" + ",".join(map(str, login.jumps))
    return variables
