"""The host keys that were seen, in OpenSSH's known_hosts format, by address and port."""

from __future__ import annotations

import base64
import hashlib
from typing import Any


def token(host: str, port: int | str) -> str:
    """Return how known_hosts names an address: two boxes behind one address are two."""
    return host if str(port) == "22" else f"[{host}]:{port}"


def token_of(values: dict[str, Any]) -> str:
    """Return the same of a host's variables, as an inventory has them."""
    return token(str(values.get("ansible_host")), str(values.get("ansible_port") or 22))


def keys_of(text: str, name: str) -> list[tuple[str, str]]:
    """Return the keys that are known of a name, as type and base64."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and name in words[0].split(","):
            found.append((words[1], words[2]))
    return found


def with_key(text: str, name: str, key: tuple[str, str]) -> str:
    """Return the text with one key for a name, in the place of all that were known of it."""
    if keys_of(text, name) == [key]:
        return text
    rest = without(text, name)
    return rest + ("" if not rest or rest.endswith("\n") else "\n") + f"{name} {key[0]} {key[1]}\n"


def without(text: str, name: str) -> str:
    """Return the text without a name; a line that has others keeps them."""
    lines = []
    for line in text.splitlines(keepends=True):
        names, _, rest = line.partition(" ")
        left = [each for each in names.split(",") if each != name]
        if left:
            lines.append(line if len(left) == len(names.split(",")) else f"{','.join(left)} {rest}")
    return "".join(lines)


def fingerprint(key: tuple[str, str]) -> str:
    """Return a key's fingerprint as ssh shows it."""
    digest = hashlib.sha256(base64.b64decode(key[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
