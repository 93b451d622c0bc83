"""Make the tokens of those who may ask, on the controller, and take away those of names that are gone."""

from __future__ import annotations

import os
import secrets
import stat

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.files import write_bytes

# 192 bits: what nobody guesses, at any rate that the gateway lets through.
TOKEN_BYTES = 24


def has_mode(path: str, mode: int) -> bool:
    """Tell whether a file or folder has exactly these rights."""
    return stat.S_IMODE(os.stat(path).st_mode) == mode


def settle(path: str, files: dict[str, str], renew: list[str], act: bool) -> dict[str, list[str]]:
    """Make what is missing, renew what is asked for, remove what is nobody's; raises OSError.

    path: of the first token; the others' are beside it, with a dot and more. files: name to path. renew: names. act:
    False only tells. Returns which names have a new token, which files are removed, and which rights are mended.
    """
    folder = os.path.dirname(path)
    there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    ours = [os.path.join(folder, one) for one in there if one == os.path.basename(path)]
    ours += [os.path.join(folder, one) for one in there if one.startswith(os.path.basename(path) + ".")]
    made = [name for name, file in files.items() if name in renew or not os.path.exists(file)]
    # Else a name that comes back would bring its old token back.
    gone = [file for file in ours if file not in files.values() and os.path.isfile(file)]
    kept = [file for name, file in files.items() if name not in made]
    open_ones = [file for file in kept if not has_mode(file, 0o600)]
    open_ones += [folder] if not os.path.isdir(folder) or not has_mode(folder, 0o700) else []
    if act:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for one in open_ones:
            os.chmod(one, 0o700 if one == folder else 0o600)
        for name in made:
            write_bytes(files[name], secrets.token_hex(TOKEN_BYTES).encode() + b"\n", 0o600)
        for file in gone:
            os.unlink(file)
    return {"made": made, "removed": gone, "closed": open_ones}


class ActionModule(ActionBase):
    """Settle the tokens; plugins/modules/tokens.py documents the options."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("path", "files", "renew"))

    def run(self, tmp=None, task_vars=None):
        result, args = super().run(tmp, task_vars), self._task.args
        files = {name: os.path.abspath(os.path.expanduser(path)) for name, path in args["files"].items()}
        path = os.path.abspath(os.path.expanduser(args["path"]))
        try:
            done = settle(path, files, list(args.get("renew") or []), not self._task.check_mode)
        except OSError as error:
            return dict(result, failed=True, msg=f"{error.filename} cannot be used: {error.strerror}")
        return dict(result, changed=any(done.values()), **done)
