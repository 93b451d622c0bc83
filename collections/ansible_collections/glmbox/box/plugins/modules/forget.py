#!/usr/bin/python
"""The documentation of the action `forget`, which runs on the controller."""

DOCUMENTATION = r"""
module: forget
short_description: Take a box out of an inventory
description:
  - Removes the host's entry from C(hosts.yml) and its host key from C(.state/known_hosts). The box is not touched.
options:
  name:
    description: The box's name in the inventory.
    type: str
    required: true
  inventory:
    description: Name of a folder in C(inventories), or a path, which has a slash.
    type: str
    required: true
  inventories:
    description: Folder of the inventories.
    type: path
    required: true
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Forget a box
  glmbox.box.forget:
    name: box1
    inventory: rented_gpu
    inventories: inventory
"""

RETURN = r""""""
