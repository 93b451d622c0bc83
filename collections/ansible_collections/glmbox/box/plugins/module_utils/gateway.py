"""What an operator set for the gateway, where one value has to fit another."""

from __future__ import annotations

import datetime
import os
import re
from urllib.parse import urlsplit

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.glmbox.box.plugins.module_utils.certificates import pair_problems

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
TOKEN = re.compile(r"[0-9A-Za-z_-]{32,}")
FIRST = "glmbox"


def token_file_of(token_file: str, name: str) -> str:
    """Return the file of a name's token. token_file: that of glmbox itself."""
    return token_file if name == FIRST else f"{token_file}.{name}"


def user_problems(values: dict) -> list[str]:
    """Return a sentence for each name and each token that cannot be used. values: name of an input to its value."""
    for name in ("gateway_users", "gateway_renew"):
        if isinstance(values.get(name), str):
            return [f"""{name} has to be a list, as in -e '{{"{name}": ["alice"]}}'."""]
    users = [str(name) for name in values.get("gateway_users", [FIRST])]
    renewed = [str(name) for name in values.get("gateway_renew") or []]
    problems = [
        f"gateway_users has the name {name}; a name is made of small letters, digits, _ and -, and begins with a "
        "letter or digit."
        for name in users
        if not NAME.fullmatch(name)
    ]
    problems += [f"gateway_users has {name} twice." for name in sorted(set(users)) if users.count(name) > 1]
    problems += [f"gateway_renew has {name}, who is not in gateway_users." for name in renewed if name not in users]
    if not users:
        problems.append(f"gateway_users is empty, so nobody could ask. Put {FIRST} into it.")
    if problems or boolean(values.get("gateway_new_token", False), strict=False):
        return problems
    for name in users:
        path = token_file_of(str(values.get("gateway_token_file", "")), name)
        if name not in renewed and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                if not TOKEN.fullmatch(file.read().strip()):
                    problems.append(
                        f"{path} holds no token of at least 32 letters and digits. Delete it and run again with "
                        "-e gateway_new_token=true."
                    )
    return problems


def tls_problems(values: dict) -> list[str]:
    """Return a sentence for each thing that is wrong with the wished TLS. values: as `user_problems`."""
    tls, url = values.get("gateway_tls", "none"), urlsplit(str(values.get("gateway_public_url", "")))
    if tls == "none":
        return []
    problems = []
    if url.scheme == "http":
        problems.append(f"gateway_tls is {tls}, so gateway_public_url {url.geturl()} has to begin with https://.")
    if tls != "files":
        return problems
    given = {name: str(values.get(name) or "") for name in ("gateway_certificate", "gateway_certificate_key")}
    missing = [f"gateway_tls is files, and {name} names none." for name, path in given.items() if not path]
    if missing:
        return problems + missing
    certificate, key = (os.path.expanduser(path) for path in given.values())
    now = datetime.datetime.now(datetime.timezone.utc)
    return problems + pair_problems(certificate, key, url.hostname or "", now)


def gateway_problems(values: dict) -> list[str]:
    """Return everything that is wrong with the gateway's inputs. values: name of an input to its value."""
    return user_problems(values) + tls_problems(values)
