#!/usr/bin/python
"""The documentation of the action `nested`, which runs on the controller."""

DOCUMENTATION = r"""
module: nested
short_description: Run a playbook on an inventory that was changed since this run began
description:
  - A run reads its inventory once. What was written into one meanwhile is seen by a run of its own.
options:
  playbook:
    description: The playbook, from C(chdir).
    type: path
    required: true
  inventory:
    description: The inventory.
    type: path
    required: true
  limit:
    description: The host.
    type: str
    required: true
  chdir:
    description: The project's folder.
    type: path
    required: true
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Check the new box
  glmbox.box.nested:
    playbook: playbooks/check_box.yml
    inventory: inventory/rented_gpu
    limit: box1
    chdir: .
"""

RETURN = r""""""
