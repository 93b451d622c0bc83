#!/usr/bin/python
"""The documentation of the action `wheels`, which runs on the controller."""

DOCUMENTATION = r"""
module: wheels
short_description: Gather a lock's wheels in the bundle
description:
  - Lets pip download, on the controller, the wheels of a lock for the box's Python and glibc 2.31, every one proven by
    the lock's hashes, into C(<bundle>/wheels-<lock>), and writes C(manifest.yml) there last. Wheels that are there and
    right are not downloaded again; what is damaged or another lock's is deleted.
  - Packages without a wheel are an error, nothing is compiled.
options:
  lock:
    description: The lock, a file on the controller whose name begins with its Python, such as C(py310-cu118.txt).
    type: path
    required: true
  bundle:
    description: The bundle's folder on the controller.
    type: path
    required: true
  catalogue:
    description: Folder of the artifacts' tables on the controller.
    type: path
    required: true
  elsewhere:
    description: Names of artifacts that hold wheels already; what they have is left out.
    type: list
    elements: str
    default: []
  index_url:
    description: A package index; empty for the one that pip knows.
    type: str
    default: ""
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Gather the wheels
  glmbox.box.wheels:
    lock: roles/torch/files/py310-cu118.txt
    bundle: bundle
    catalogue: artifacts
    elsewhere: [torch-2.0.1-cu118]
"""

RETURN = r"""
wheels:
  description: Names of the wheels that are new; in check mode, the packages that have none.
  returned: success
  type: list
  elements: str
bytes:
  description: Their size.
  returned: success
  type: int
seconds:
  description: How long it took.
  returned: success
  type: float
"""
