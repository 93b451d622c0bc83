#!/usr/bin/python
"""The documentation of the action `enroll`, which runs on the controller."""

DOCUMENTATION = r"""
module: enroll
short_description: Make a rented box one of an inventory
description:
  - Logs in once, by the inventory's key, another key, or a password that is asked for without echo and kept nowhere.
  - Pins the host key in C(.state/known_hosts) of the inventory, puts the inventory's own key on the box, tries it with
    ssh, and writes the host's entry into C(hosts.yml), whose comments and order stay.
options:
  line:
    description: What the provider's console shows, such as C(ssh -p 16116 root@host.example), or an address.
    type: str
    required: true
  name:
    description: The box's name in the inventory; one that is there already gets the new address.
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
  providers:
    description: Folder of what is known of rental companies.
    type: path
    required: true
  provider:
    description: The company; without it, it is told by the host's name and by the box.
    type: str
    default: ""
  key:
    description: A private key that opens the box.
    type: path
    default: ""
  password_file:
    description: A file, or a file descriptor's path, with the password; without it, the terminal is asked.
    type: path
    default: ""
  accept_new_host_key:
    description: Whether a host key may have changed since it was pinned, as that of a re-rented box has.
    type: bool
    default: false
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Enrol a box
  glmbox.box.enroll:
    line: ssh -p 16116 root@host.example
    name: box1
    inventory: rented_gpu
    inventories: inventory
    providers: providers
"""

RETURN = r"""
inventory:
  description: The inventory's folder.
  returned: success
  type: str
address:
  description: The box's address as known_hosts names it.
  returned: success
  type: str
provider:
  description: The company that the box is rented from.
  returned: success
  type: str
host_key:
  description: The host key's fingerprint.
  returned: success
  type: str
host_key_was_known:
  description: Whether a host key was pinned for the address before.
  returned: success
  type: bool
key_added:
  description: Whether the inventory's key was missing on the box.
  returned: success
  type: bool
"""
