"""Hosts in an inventory's YAML file, written and taken away without harming what else stands there."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from ansible_collections.glmbox.box.plugins.module_utils.files import write_bytes
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

# The group of the hosts that are reached by the inventory's own key and host keys.
GROUP = "enrolled"
EMPTY = f"---\nall:\n  children:\n    {GROUP}:\n      hosts:\n"
NAME = r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
# What a jump host is written as; another value of the same variable is the operator's own.
JUMP = re.compile(r"-o ProxyJump=\S+")
GONE = object()
Path = tuple[str, ...]
Edit = tuple[Path, Any]
ADDRESS = ("ansible_host", "ansible_port", "ansible_user")


class InventoryFileError(Exception):
    """The file cannot be changed without harm, in a sentence with the next step."""


@contextmanager
def turn(folder: str) -> Iterator[None]:
    """Wait until no other run changes the inventory in this folder, and keep others waiting meanwhile."""
    state = os.path.join(folder, ".state")
    os.makedirs(state, mode=0o700, exist_ok=True)
    with open(os.path.join(state, ".lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def rewrite(path: str, change: Callable[[str], str], otherwise: str, mode: int = 0o644) -> bool:
    """Replace a file's text at once, so that readers find the old or the new; tell whether it changed.

    change: old text to new. otherwise: the old text where there is no file. mode: of a new one.
    """
    path = os.path.realpath(path)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            old = file.read()
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        old = otherwise
    new = change(old)
    if new == old:
        return False
    write_bytes(path, new.encode(), mode)
    return True


def name_problem(name: str, text: str) -> str:
    """Return why a host cannot be named so, or nothing. text: of the inventory's file."""
    # Before Ansible reads it, YAML does, for which `on` is no name.
    if not re.fullmatch(NAME, name) or len(name) > 63 or yaml.safe_load(name) != name:
        return f"{name!r} cannot be a box's name. Take letters, digits, dashes and underscores, such as box1."
    if name in ("all", "localhost", "ungrouped", *(path[-1] for path, _ in groups_of(read(text)))):
        return f"{name} cannot be a box's name: Ansible means something else by it. Take another, such as box1."
    return ""


def hosts_of(text: str) -> dict[str, dict]:
    """Return the variables of each host that a file names, from all groups that it is in."""
    found: dict[str, dict] = {}
    for _, group in groups_of(read(text)):
        for name, variables in (group.get("hosts") or {}).items():
            found.setdefault(str(name), {}).update(variables or {})
    return found


def with_host(text: str, name: str, variables: dict[str, Any], wanted: tuple[str, ...] = ()) -> str:
    """Return the text with a host in it. One that it names already gets the address alone, wherever it stands.

    variables: ansible_host, ansible_port and ansible_user, and whatever a new host should have besides.
    wanted: names of those that a known host gets as well.
    """
    data = read(text)
    known = hosts_of(text).get(name)
    ours = next((path for path, _ in groups_of(data) if path[-1] == GROUP), ("all", "children", GROUP))
    home = (*ours, "hosts", name)
    if known is None:
        return edited(text, [(home, variables)])
    places = [(*path, "hosts", name) for path, group in groups_of(data) if name in (group.get("hosts") or {})]
    edits: list[Edit] = [] if home in places else [(home, None)]
    # Where its address stands now, if it does.
    entry = next((place for place in places if set(ADDRESS) & set(node_at(data, place) or {})), home)
    for key, value in address_only(known, variables, wanted).items():
        if value is GONE:
            edits += [((*place, key), GONE) for place in places if key in (node_at(data, place) or {})]
        elif known.get(key) != value:
            edits.append(((*entry, key), value))
    return edited(text, edits)


def without_host(text: str, name: str) -> str:
    """Return the text without a host, in whatever groups it stands."""
    groups = groups_of(read(text))
    return edited(
        text, [((*path, "hosts", name), GONE) for path, group in groups if name in (group.get("hosts") or {})]
    )


def address_only(known: dict, variables: dict[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return what a re-enrolment changes of a known host; GONE for what goes."""
    changes = {key: variables[key] for key in (*ADDRESS, *wanted)}
    if known.get("ansible_user") != variables["ansible_user"] and "ansible_become" in variables:
        changes["ansible_become"] = variables["ansible_become"]
    jump = variables.get("ansible_ssh_extra_args")
    if jump or JUMP.fullmatch(str(known.get("ansible_ssh_extra_args", ""))):
        changes["ansible_ssh_extra_args"] = jump or GONE
    return changes


def read(text: str) -> CommentedMap:
    """Return the file's content, with its comments; raise InventoryFileError where it is no inventory."""
    try:
        data = round_trip(text).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise InventoryFileError(
            f"it is no YAML ({where}{getattr(error, 'problem', error)}). Mend it first."
        ) from error
    if data is None:
        data = CommentedMap()
    if not isinstance(data, CommentedMap) or any(not isinstance(group, dict | None) for group in data.values()):
        raise InventoryFileError("it is not laid out as Ansible's YAML inventories are. Mend it first.")
    for _, group in groups_of(data):
        hosts = group.get("hosts") or {}
        parts = [hosts, group.get("children"), *(hosts.values() if isinstance(hosts, dict) else ())]
        if any(not isinstance(part, dict | None) for part in parts):
            raise InventoryFileError("it is not laid out as Ansible's YAML inventories are. Mend it first.")
    return data


def groups_of(data: Any, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each group that has something in it, outer ones first, as its path of keys and its content."""
    for name, group in (data or {}).items():
        if isinstance(group, dict):
            yield (*above, str(name)), group
            yield from groups_of(group.get("children"), (*above, str(name), "children"))


def node_at(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def edited(text: str, edits: list[Edit]) -> str:
    """Return the text after the edits: values to set at paths of keys, or GONE.

    Only the lines in question are touched, where the file is written in lines; else ruamel.yaml writes it anew. Either
    way it is proven that the content is what it should be, and that no comment is lost.
    """
    if not edits:
        return text
    data = read(text)
    for path, value in edits:
        node = data
        for key in path[:-1]:
            if node.get(key) is None:
                node[key] = CommentedMap()
            node = node[key]
        if value is GONE:
            del node[path[-1]]
        else:
            node[path[-1]] = quoted(value)
    try:
        new = by_lines(text, edits)
        if bare(read(new)) == bare(data):
            return new
    except (InventoryFileError, LookupError, TypeError, AttributeError):
        pass  # it is not written in lines, as JSON is not
    new = write(data, text)
    if bare(read(new)) == bare(data) and comments_of(new) == comments_of(text):
        return new
    raise InventoryFileError("it is written in a way that a change would harm. Make the change by hand.")


def by_lines(text: str, edits: list[Edit]) -> str:
    """Return the text after the edits, each made in its lines alone; what cannot be is found out by who calls."""
    for path, value in edits:
        data = read(text)
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        depth = next((at for at in range(len(path)) if path[at] not in (node_at(data, path[:at]) or {})), len(path))
        if value is GONE:
            first, column = node_at(data, path[:-1]).lc.key(path[-1])
            del lines[first : end_of(lines, first, column)]
        elif depth == len(path):
            first, column = node_at(data, path[:-1]).lc.value(path[-1])
            old = re.match(r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s#'"](?:[^#\n]*[^\s#])?)?""", lines[first][column:])
            lines[first] = lines[first][:column] + scalar(value) + lines[first][column + (old.end() if old else 0) :]
        else:
            step = step_of(text)
            above = node_at(data, path[:depth])
            if above:  # after its last entry
                first, column = above.lc.key(list(above)[-1])
                at = end_of(lines, first, column)
            elif depth:  # below its key
                first, column = node_at(data, path[: depth - 1]).lc.key(path[depth - 1])
                at, column = first + 1, column + step
            else:
                at, column = len(lines), 0
            lines[at:at] = block(nested(path[depth:], value), column, step)
        text = "".join(lines)
    return text


def end_of(lines: list[str], first: int, column: int) -> int:
    """Return the line after an entry that begins at a line (from 0) and column.

    A comment after it that is not indented deeper belongs to the next one.
    """
    end = first + 1
    for at in range(first + 1, len(lines)):
        stripped = lines[at].strip()
        indent = len(lines[at]) - len(lines[at].lstrip(" "))
        if stripped and indent > column:
            end = at + 1
        elif stripped and not stripped.startswith("#"):
            break
    return end


def nested(path: Path, value: Any) -> dict:
    for key in reversed(path):
        value = {key: value}
    return value


def block(entries: dict, column: int, step: int) -> list[str]:
    """Return the lines of a mapping in YAML."""
    lines = []
    for key, value in entries.items():
        begins = " " * column + scalar(key) + ":"
        if isinstance(value, dict):
            lines += [begins + "\n", *block(value, column + step, step)]
        else:
            lines.append(f"{begins} {scalar(value)}".rstrip() + "\n")
    return lines


def scalar(value: Any) -> str:
    """Return a value so that YAML reads it back as it is: `no` is a name, too."""
    if value is None:
        return ""
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    plain = re.fullmatch(r"[\w./@][\w./@:=-]*( [\w./@=-][\w./@:=-]*)*|-o [\w=@:.,\[\]-]+", text)
    return text if plain and not text.endswith(":") and yaml.safe_load(text) == value else json.dumps(text)


def quoted(value: Any) -> Any:
    """Return the value, or a copy of it, as ruamel.yaml has to write it."""
    if isinstance(value, dict):
        return CommentedMap({key: quoted(one) for key, one in value.items()})
    if isinstance(value, str) and scalar(value) != value:
        return DoubleQuotedScalarString(value)
    return value


def bare(data: Any) -> Any:
    """Return the content without its manner; an empty mapping is nothing."""
    if isinstance(data, dict):
        return {str(key): bare(value) for key, value in data.items()} or None
    if isinstance(data, list):
        return [bare(value) for value in data]
    return (str(data.tag), data.value) if hasattr(data, "tag") and hasattr(data, "value") else data


def step_of(text: str) -> int:
    """Return by how many spaces the file indents."""
    found = re.search(r"^[^\s#-].*:\s*(?:#.*)?\n(?:\s*(?:#.*)?\n)*( +)[^\s#]", text, re.MULTILINE)
    return len(found.group(1)) if found else 2


def round_trip(text: str) -> YAML:
    """Return a reader and writer that keeps to the text's own manner."""
    loader = YAML(typ="rt")
    loader.preserve_quotes = True
    loader.width = 4096
    loader.explicit_start = bool(re.search(r"^---", text, re.MULTILINE))  # type: ignore[assignment]
    loader.indent(mapping=step_of(text), sequence=4, offset=2)
    return loader


def write(data: CommentedMap, text: str) -> str:
    stream = io.StringIO()
    round_trip(text).dump(data, stream)
    return stream.getvalue()


def comments_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
