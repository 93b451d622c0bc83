#!/usr/bin/python
"""See that files, folders and links are as they have to be, several in one go."""

from __future__ import annotations

import glob
import os
import shlex
import stat
from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.files import ids_of, write_bytes, write_link

DOCUMENTATION = r"""
module: files
short_description: See that files, folders and links are as they have to be, several in one go
description:
  - Does what C(copy) with C(content), C(template) and C(file) do, with one command over SSH where they take up to
    five for each file. Files are replaced whole, on disk before they get their name.
  - What cannot be done is said of all entries in one message, before the first is touched.
  - Nothing of it is logged on the box, and texts are shown in a diff alone; those of C(secret) files nowhere.
options:
  files:
    description: What has to be, in this order; a file may lie in a folder that comes before it.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      state:
        description:
          - What is there. A folder is made with those above it. A link may lead nowhere yet.
          - Where something else is, it is left, and the task fails; a link to a file is replaced by the file.
        type: str
        choices: [file, directory, link]
        default: file
      content:
        description: The whole text of a file.
        type: str
      target:
        description: Where a link leads.
        type: str
      owner:
        description: The user of a file or folder.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
      mode:
        description: Its rights, in octal digits.
        type: str
      validate:
        description: A command that must succeed before a file gets its name; C(%s) stands for the file.
        type: str
      secret:
        description: Whether no diff may show the text.
        type: bool
        default: false
  look:
    description: Paths, or patterns of paths, of which is only told, after all that, whether they are there.
    type: list
    elements: path
    default: []
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Write the settings
  glmbox.box.files:
    files:
      - {path: /etc/glmbox, state: directory, mode: "0755"}
      - {path: /etc/glmbox/settings.json, content: "{{ settings | to_nice_json }}\n", mode: "0644"}
      - {path: /usr/local/bin/glmboxctl, state: link, target: /opt/glmbox/ctl/glmboxctl}
"""

RETURN = r"""
changed_paths:
  description: What was changed, or would be.
  returned: always
  type: list
  elements: str
there:
  description:
    - The paths that are there of those in C(look), each with C(since), its own time of change as seconds since 1970,
      and with C(leads_to), the path that a link leads to, or an empty text.
  returned: always
  type: dict
"""

KINDS = ((stat.S_ISLNK, "link"), (stat.S_ISDIR, "directory"), (stat.S_ISREG, "file"))
WORDS = {"link": "a link", "directory": "a folder", "file": "a file", "other": "neither a file, a folder nor a link"}


def kind_of(path: str) -> Optional[str]:
    """Return what is at a path: file, directory, link, other; None where nothing is."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return next((kind for test, kind in KINDS if test(mode)), "other")


def paths_of(asked: str) -> List[str]:
    """Return what there is of a path, or of a pattern of paths."""
    return [asked] if os.path.lexists(asked) else glob.glob(asked)


def seen(path: str) -> Dict[str, Any]:
    """Return what is told of a path that is only looked at."""
    leads_to = os.path.join(os.path.dirname(path), os.readlink(path)) if os.path.islink(path) else ""
    return {"since": os.lstat(path).st_mtime, "leads_to": leads_to}


def problem_of(entry: Dict[str, Any], made: List[str], check_mode: bool) -> str:
    """Return why an entry cannot be made true, or nothing; `made` are the folders that come before it."""
    path, state, found = entry["path"], entry["state"], kind_of(entry["path"])
    if state == "directory" and found == "link" and os.path.isdir(path):
        return ""
    if found not in (None, state) and (state, found) != ("file", "link"):
        return "%s is %s, and glmbox needs %s there. Move it away." % (path, WORDS[found or "other"], WORDS[state])
    if check_mode:
        return ""
    folder = os.path.dirname(path)
    if state != "directory" and folder not in made and not os.path.isdir(folder):
        return "%s cannot be made: there is no folder %s." % (path, folder)
    try:
        if state != "link":
            ids_of(entry["owner"], entry["group"])
    except KeyError as error:
        return "%s: %s" % (path, error.args[0])
    return ""


def attributes(path: str) -> Tuple[int, int, int]:
    """Return a file's user, group and rights, as numbers."""
    status = os.stat(path)
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def told(ids: Tuple[int, int, int]) -> str:
    """Return attributes as a diff shows them."""
    return "owner: %d\ngroup: %d\nmode: 0%o\n" % ids


def wanted_ids(entry: Dict[str, Any]) -> Optional[Tuple[int, int, int]]:
    """Return the attributes that an entry asks for; None where its user is not there yet, as in check mode."""
    try:
        return (*ids_of(entry["owner"], entry["group"]), int(entry["mode"], 8))
    except KeyError:
        return None


def give(path: str, ids: Optional[Tuple[int, int, int]]) -> None:
    """Give what is at a path its user, group and rights; None leaves it as it is."""
    if ids:
        os.chown(path, *ids[:2])
        os.chmod(path, ids[2])  # after the owner, which would clear some of them


class Refused(Exception):
    """A file did not pass its validation."""


class Files:
    """Makes entries true, or in check mode says what it would do; collects the diff.

    Args:
        module: The AnsibleModule, for its commands and its check mode.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.act = module, not module.check_mode
        self.changed: List[str] = []
        self.diff: List[Dict[str, str]] = []

    def note(self, path: str, before: str, after: str) -> None:
        """Take down a change."""
        if path not in self.changed:
            self.changed.append(path)
        self.diff.append({"before": before, "after": after, "before_header": path, "after_header": path})

    def attribute(self, entry: Dict[str, Any], path: str) -> None:
        """Give what is there its owner, group and rights."""
        wanted, found = wanted_ids(entry), attributes(path)
        if wanted is None or found == wanted:
            return
        self.note(path, told(found), told(wanted))
        if self.act:
            give(path, wanted)

    def directory(self, entry: Dict[str, Any]) -> None:
        """Make a folder, with those above it."""
        missing, path = [], entry["path"]
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            self.note(path, "", "a folder\n")
            if self.act:
                os.mkdir(path, 0o700)
                give(path, wanted_ids(entry))
        if not missing:
            self.attribute(entry, entry["path"])

    def file(self, entry: Dict[str, Any]) -> None:
        """Write a file where its text differs, else see to its attributes."""
        path, content, found = entry["path"], entry["content"].encode(), kind_of(entry["path"])
        before = b""
        if found == "file":
            with open(path, "rb") as file:
                before = file.read()
            if before == content:
                return self.attribute(entry, path)
        told, becomes = before.decode(errors="replace"), entry["content"]
        if entry["secret"]:
            told, becomes = told and "a secret text\n", "another secret text\n"
        self.note(path, told, becomes)
        if self.act:
            write_bytes(path, content, 0o600, lambda draft: self.finish(entry, draft))
        return None

    def finish(self, entry: Dict[str, Any], draft: str) -> None:
        """Give a file its attributes, and let its own program judge it, before it gets its name."""
        give(draft, wanted_ids(entry))
        if not entry["validate"]:
            return
        command = [draft if word == "%s" else word for word in shlex.split(entry["validate"])]
        code, output, errors = self.module.run_command(command)
        if code:
            raise Refused(
                "%s was left as it was, since %s refuses the new one:\n%s"
                % (entry["path"], command[0], (output + errors).strip())
            )

    def link(self, entry: Dict[str, Any]) -> None:
        """Let a link lead where it has to, by a rename, so that it is never missing."""
        path, before = entry["path"], os.readlink(entry["path"]) if os.path.islink(entry["path"]) else ""
        if before == entry["target"]:
            return
        self.note(path, before and before + "\n", entry["target"] + "\n")
        if self.act:
            write_link(path, entry["target"])


class QuietModule(AnsibleModule):
    """A module that does not log its arguments: the texts are no matter for the box's journal."""

    def _log_invocation(self) -> None:
        """Log nothing; the option no_log of a module's own is overwritten by the task's."""

    def fail_json(self, msg: str, **more: Any) -> None:
        """Fail without the texts, which stand among the arguments still where these are refused."""
        self.hide()
        super().fail_json(msg, **more)

    def hide(self) -> None:
        """Take the texts out of what is shown of the arguments: that is the diff's to do."""
        given = self.params.get("files")
        given = given if isinstance(given, list) else []
        self.params["files"] = [dict(one, content="(not shown)") for one in given if isinstance(one, dict)]


def main() -> None:
    entry = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["file", "directory", "link"], "default": "file"},
        "content": {"type": "str"},
        "target": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str"},
        "validate": {"type": "str"},
        "secret": {"type": "bool", "default": False},
    }
    needs = [("state", "file", ["content", "mode"]), ("state", "directory", ["mode"]), ("state", "link", ["target"])]
    module = QuietModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": [], "options": entry, "required_if": needs},
            "look": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    entries: List[Dict[str, Any]] = module.params["files"]
    module.hide()
    for one in entries:
        one["path"] = os.path.normpath(one["path"])
    made: List[str] = []
    problems: List[str] = []
    for one in entries:
        problems.append(problem_of(one, made, module.check_mode))
        made += [one["path"]] if one["state"] == "directory" else []
    if any(problems):
        module.fail_json(msg="\n".join(filter(None, problems)))
    files = Files(module)
    try:
        for one in entries:
            getattr(files, one["state"])(one)
    except Refused as refused:
        module.fail_json(msg=str(refused), changed=bool(files.changed))
    except OSError as error:
        module.fail_json(msg="%s: %s" % (one["path"], error.strerror), changed=bool(files.changed))
    module.exit_json(
        changed=bool(files.changed),
        changed_paths=files.changed,
        there={path: seen(path) for asked in module.params["look"] for path in paths_of(asked)},
        diff=files.diff if module._diff else [],
    )


if __name__ == "__main__":
    main()
