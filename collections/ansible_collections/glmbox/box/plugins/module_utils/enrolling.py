"""The first login on a box: by password or key, once; afterwards ssh comes with the inventory's own key."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess

import paramiko
from ansible_collections.glmbox.box.plugins.module_utils.host import unreachable
from ansible_collections.glmbox.box.plugins.module_utils.ssh_line import Login, bracketed

# A login shell of AutoDL's was seen to take three minutes.
CONNECT_SECONDS, ANSWER_SECONDS = 15, 240
_LINE = "Compare it with the console's SSH line"
# What paramiko and the network say, and what it means here; the first that fits counts.
SAYS = {
    "connection refused": f"nothing listens there. {_LINE}, and see that the box is running",
    "timed out": f"no answer in time. {_LINE}, and see that the box is running",
    "no route to host": f"the network knows no way there. {_LINE}",
    "network is unreachable": "this machine has no network that leads there",
    "name or service not known": f"the name does not resolve. {_LINE}",
    "no address associated": f"the name does not resolve. {_LINE}",
    "temporary failure in name resolution": "names do not resolve on this machine. See to its network",
    "error reading ssh protocol banner": f"what listens there speaks no SSH, or still boots. {_LINE}, or wait",
    "connection reset": "the connection was cut. If the box is still booting, run again in a minute",
    "eof": "the connection was cut. If the box is still booting, run again in a minute",
    "proxy command": "the jump host does not let through. Log in on it once by hand, with a key",
    "broken pipe": "the jump host does not let through. Log in on it once by hand, with a key",
}
# Run on the box by its login shell, whatever that prints before: the key comes by stdin, a line of ours tells the end.
INSTALL = r"""
umask 077
key=$(cat)
cd && mkdir -p .ssh && chmod 700 .ssh && touch .ssh/authorized_keys && chmod 600 .ssh/authorized_keys || exit 1
if grep -qF "$(echo "$key" | cut -d " " -f 2)" .ssh/authorized_keys; then echo "glmbox key there"; exit; fi
test -z "$(tail -c 1 .ssh/authorized_keys)" || echo >> .ssh/authorized_keys
echo "$key" >> .ssh/authorized_keys && echo "glmbox key added"
"""
# Names alone: values may be secrets. Where the environment is another user's, nothing is printed.
SIGNS = r"""
for path in PATHS; do test ! -e "$path" || echo "glmbox path $path"; done
tr "\0" "\n" < /proc/1/environ 2>/dev/null | cut -d = -f 1 | sed -n "s/^[A-Za-z0-9_]*$/glmbox variable &/p"
"""
# paramiko logs what it also raises.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class EnrolError(Exception):
    """The box cannot be enrolled, in a sentence with the next step."""


def address_of(login: Login) -> str:
    return f"{bracketed(login.host)}:{login.port}"


def connect(login: Login, known: list[tuple[str, str]]) -> paramiko.Transport:
    """Return an encrypted connection to a box, over its jump hosts, on which nobody has logged in yet.

    known: host keys as type and base64, whose types are asked for first. Raises EnrolError.
    """
    try:
        transport = paramiko.Transport(way_to(login))
        options = transport.get_security_options()
        kinds = {
            name for kind, _ in known for name in ([kind, "rsa-sha2-512", "rsa-sha2-256"] if "rsa" in kind else [kind])
        }
        options.key_types = sorted(options.key_types, key=lambda name: name not in kinds)
        transport.banner_timeout = CONNECT_SECONDS
        transport.start_client(timeout=CONNECT_SECONDS)
    except (OSError, EOFError, paramiko.SSHException) as error:
        said = str(error) or type(error).__name__.removesuffix("Error")
        raise EnrolError(unreachable(said, address_of(login), SAYS)) from error
    return transport


def way_to(login: Login) -> socket.socket | paramiko.ProxyCommand:
    """Return what carries the connection: a socket, or ssh on the operator's own keys where there are jump hosts."""
    if not login.jumps:
        return socket.create_connection((login.host, login.port), timeout=CONNECT_SECONDS)
    *before, last = login.jumps
    command = ["ssh", "-o", "BatchMode=yes", "-W", address_of(login), "-p", str(last.port)]
    if before:
        command += ["-J", ",".join(map(str, before))]
    return paramiko.ProxyCommand(shlex.join([*command, "--", f"{last.user}@{last.host}"]))


def host_key_of(transport: paramiko.Transport) -> tuple[str, str]:
    """Return the box's host key, as type and base64."""
    key = transport.get_remote_server_key()
    return key.get_name(), key.get_base64()


def opens(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> bool:
    """Tell whether a key opens the box; if it does, the user is logged in."""
    try:
        transport.auth_publickey(user, key)
    except paramiko.BadAuthenticationType:
        return False
    except paramiko.AuthenticationException:
        return False
    except (paramiko.SSHException, EOFError) as error:
        raise EnrolError(f"The box cut the login short ({error}). Run again in a minute.") from error
    return transport.is_authenticated()


def ways_in(transport: paramiko.Transport, user: str) -> list[str]:
    """Return the kinds of login that the box takes, such as password; none where no login is needed."""
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    except (paramiko.SSHException, EOFError) as error:
        raise EnrolError(f"The box cut the login short ({error}). Run again in a minute.") from error
    return []


def log_in_by_password(transport: paramiko.Transport, user: str, password: str, address: str) -> None:
    """Log in by password, asked for plainly or in a dialogue. Raises EnrolError."""
    try:
        transport.auth_password(user, password)
    except paramiko.AuthenticationException as error:
        raise EnrolError(
            f"{address} refuses the password for {user}. Copy it from the console once more: nothing was changed."
        ) from error
    except (paramiko.SSHException, EOFError) as error:
        raise EnrolError(f"The box cut the login short ({error}). Run again in a minute.") from error
    if not transport.is_authenticated():
        raise EnrolError(f"{address} asks for more than the password. Give a key that it takes alone: -e key=KEY")


def load_key(path: str) -> paramiko.PKey:
    """Return a key of the controller; one that is locked is taken from the agent. Raises EnrolError."""
    full = os.path.expanduser(path)
    try:
        return paramiko.PKey.from_path(full)
    except FileNotFoundError as error:
        raise EnrolError(f"The key {path} does not exist. Give the private key that opens the box.") from error
    except (paramiko.PasswordRequiredException, TypeError) as error:  # cryptography's word for a missing passphrase
        return key_of_agent(full, path, error)
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise EnrolError(f"{path} cannot be read as a private key ({error}). Give the one without .pub.") from error


def key_of_agent(full: str, path: str, error: Exception) -> paramiko.PKey:
    """Return the agent's key whose public part stands beside a locked private one."""
    try:
        with open(full + ".pub", encoding="utf-8") as file:
            public = file.read().split()[1]
    except (OSError, IndexError):
        public = ""
    for key in paramiko.Agent().get_keys():
        if key.get_base64() == public:
            return key
    raise EnrolError(
        f"The key {path} is locked by a passphrase. Unlock it with `ssh-add {path}`, then run again."
    ) from error


def said_by(transport: paramiko.Transport, script: str, stdin: str = "") -> list[str]:
    """Return the lines of ours that a script prints on the box. Raises EnrolError where it does not run at all."""
    said = ""
    try:
        channel = transport.open_session(timeout=ANSWER_SECONDS)
        channel.settimeout(ANSWER_SECONDS)
        channel.exec_command(shlex.join(["sh", "-c", script + "\necho glmbox end"]))
        channel.sendall(stdin.encode())
        channel.shutdown_write()
        with channel.makefile("rb") as output:
            said = output.read(2**20).decode("utf-8", "replace")
    except (OSError, EOFError, paramiko.SSHException):
        pass  # what was said until then tells it
    lines = [line.strip() for line in said.splitlines()]
    if "glmbox end" not in lines:
        words = " ".join("".join(filter(str.isprintable, line)) for line in lines if line)[:200] or "nothing"
        raise EnrolError(
            f"The box lets you in and runs no commands (it says: {words}). If this is a provider's SSH proxy, take the "
            "address of direct TCP from the console."
        )
    return [line.removeprefix("glmbox ") for line in lines if line.startswith("glmbox ")]


def install_key(transport: paramiko.Transport, public: str) -> bool:
    """Append a public key to the user's authorized_keys, once; tell whether it was missing. Raises EnrolError."""
    said = said_by(transport, f"( {INSTALL} )", public)
    if not {"key added", "key there"} & set(said):
        raise EnrolError(
            "The key cannot be written to ~/.ssh/authorized_keys on the box. Is its disk full, or read-only?"
        )
    return "key added" in said


def signs_of(transport: paramiko.Transport, paths: list[str]) -> tuple[list[str], list[str]]:
    """Return which paths stand on the box, and the names in its first process's environment."""
    said = said_by(transport, SIGNS.replace("PATHS", shlex.join(paths) or "''"))
    return (
        [line.removeprefix("path ") for line in said if line.startswith("path ")],
        [line.removeprefix("variable ") for line in said if line.startswith("variable ")],
    )


def make_key(path: str, comment: str) -> str:
    """Make the inventory's key, once, and return its public part."""
    if not os.path.exists(path):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path]
        made = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if made.returncode:
            raise EnrolError(f"ssh-keygen cannot make {path}: {made.stderr.strip()}")
    os.chmod(path, 0o600)
    asked = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise EnrolError(f"{path} is no private key any more: {asked.stderr.strip()}. Move it away and run again.")
    return " ".join(asked.stdout.split()[:2]) + f" {comment}"


def try_key(login: Login, key: str, known_hosts: str) -> None:
    """Log in with the real ssh, as Ansible will. Raises EnrolError with the reason."""
    command = ["ssh", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", key]
    command += [
        "-o",
        f'UserKnownHostsFile="{known_hosts}"',
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "ControlPath=none",
    ]
    command += ["-o", "PreferredAuthentications=publickey", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    command += ["-p", str(login.port)]
    if login.jumps:
        command += ["-J", ",".join(map(str, login.jumps))]
    command += ["--", f"{login.user}@{login.host}", "echo glmbox end"]
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise EnrolError(f"ssh does not get through to {address_of(login)} with the new key in time.") from error
    if "glmbox end" not in asked.stdout:
        why = " ".join(asked.stderr.split())[-300:] or "it says nothing"
        raise EnrolError(
            f"The key is on the box, and ssh does not get in with it ({why}). See that logins by key are allowed "
            "there (PubkeyAuthentication, PermitRootLogin), and that the home folder is the user's alone to write."
        )
