"""Ask a finished box from the controller."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible_collections.glmbox.box.plugins.module_utils.certificates import fingerprint_of
from ansible_collections.glmbox.box.plugins.module_utils.questions import all_answers


class ActionModule(ActionBase):
    """Put every question a user would; plugins/modules/ask.py documents the options."""

    _requires_connection = False
    _VALID_ARGS = frozenset(("url", "user", "token_file", "certificate", "prompt"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        try:
            with open(args["token_file"], encoding="ascii") as file:
                token = file.read().strip()
        except OSError as error:
            return dict(result, failed=True, msg=f"The token cannot be read: {error}. Run site.yml, which makes one.")
        certificate = args.get("certificate") or ""
        try:
            fingerprint = fingerprint_of(certificate) if certificate else ""
        except (OSError, ValueError) as error:
            return dict(
                result, failed=True, msg=f"The certificate {certificate} cannot be read: {error}. Run site.yml again."
            )
        found, problems = all_answers(
            args["url"].rstrip("/"), token, args["prompt"], args.get("user", "glmbox"), certificate
        )
        if problems:
            return dict(result, failed=True, msg="\n".join(problems))
        return dict(result, changed=False, fingerprint=fingerprint, **found)
