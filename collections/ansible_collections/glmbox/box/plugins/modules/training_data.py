#!/usr/bin/python
"""Check data for fine-tuning on the box; the controller's half is plugins/action/training_data.py."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils.training_data import look

DOCUMENTATION = r"""
module: training_data
short_description: Check JSON lines for fine-tuning, and say everything that is wrong with them
description:
  - Reads every line; names each bad one by its number, and fails with one message that lists all problems. Changes
    nothing.
options:
  train:
    description: The file to train with.
    type: path
    required: true
  validation:
    description: The file to evaluate with, or nothing.
    type: path
    default: ""
  prompt:
    description: Name of the column with the prompts.
    type: str
    required: true
  response:
    description: Name of the column with the responses.
    type: str
    required: true
  history:
    description: Name of the column with what was said before, as a list of pairs; or nothing.
    type: str
    default: ""
  on_box:
    description: Whether the files are the box's and not the controller's.
    type: bool
    default: false
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Check the data
  glmbox.box.training_data:
    train: data/train.json
    prompt: content
    response: summary
"""

RETURN = r"""
data:
  description: C(train) and C(validation), each with C(path), C(sha256) and C(lines).
  returned: success
  type: dict
notes:
  description: What is no error and worth a look.
  returned: success
  type: list
  elements: str
problems:
  description: Each problem, a sentence.
  returned: failure
  type: list
  elements: str
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "train": {"type": "path", "required": True},
            "validation": {"type": "path", "default": ""},
            "prompt": {"type": "str", "required": True},
            "response": {"type": "str", "required": True},
            "history": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    paths = {name: params[name] for name in ("train", "validation") if params[name]}
    found = look(paths, params["prompt"], params["response"], params["history"])
    if found.pop("failed", False):
        module.fail_json(**found)
    module.exit_json(**found)


if __name__ == "__main__":
    main()
