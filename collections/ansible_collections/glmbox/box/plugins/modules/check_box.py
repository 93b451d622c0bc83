#!/usr/bin/python
"""The documentation of the action `check_box`, which runs on the controller."""

DOCUMENTATION = r"""
module: check_box
short_description: Say everything that is wrong with the inputs, the box and the bundle, and change nothing
description:
  - Validates what the operator set against the argument specs of all roles, then the way to the box, then the box and
    the bundle, and fails with one message that lists all problems.
  - Returns the fact C(box), see M(glmbox.box.box_facts).
options:
  roles_dir:
    description: Folder of the roles, on the controller.
    type: path
    required: true
  roles:
    description: Roles whose inputs are validated.
    type: list
    elements: str
    required: true
  names:
    description: Artifacts that the box will need.
    type: list
    elements: str
    required: true
  catalogue:
    description: Folder of the artifact tables, on the controller.
    type: path
    required: true
  bundle:
    description: The bundle's folder, on the controller.
    type: path
    required: true
  dest:
    description: Folder of the artifacts, on the box.
    type: path
    required: true
  disk_needs:
    description: What will be written, as C(path), C(mib), C(what), and C(unless), each of which means that it stands.
    type: list
    elements: dict
    required: true
  folders:
    description: Variables that name glmbox's folders on the box, with their values.
    type: dict
    required: true
  ports:
    description:
      - Ports that must be free or glmbox's own, as C(name) (the variable), C(port) and C(unit) (files, the presence of
        one of which means that the port is its own).
    type: list
    elements: dict
    required: true
  prepared:
    description: Paths on the box, which have to be there for C(--tags activate) alone.
    type: list
    elements: path
    required: true
  lock:
    description: The locked set of packages, whose name begins with the Python that it is for.
    type: str
    required: true
  python:
    description: The version of Python to be built.
    type: str
    required: true
  torch:
    description: The release of torch+cu118.
    type: str
    required: true
  spared:
    description: Artifacts that are not needed where a path stands on the box, as name and path.
    type: dict
    default: {}
  ca_bundle:
    description: A PEM file on the controller, or nothing.
    type: path
    default: ""
  extra_mirrors:
    description: Artifact to further addresses of it.
    type: dict
    default: {}
  forbidden_hosts:
    description: Hosts that are never asked.
    type: list
    elements: str
    default: []
  trust_on_first_use:
    description: Artifacts without a published hash that may come.
    type: list
    elements: str
    default: []
  trusted_hashes:
    description: The file on the controller with the hashes that such artifacts came with.
    type: path
    required: true
  gateway_unit:
    description: Files, the presence of one of which means that the box has a token.
    type: list
    elements: path
    required: true
  token_file:
    description: The token's file on the controller.
    type: path
    required: true
  model:
    description: Name of the model.
    type: str
    required: true
  device:
    description: C(cuda) or C(cpu).
    type: str
    required: true
  precision:
    description: C(auto), or the wished precision.
    type: str
    required: true
  provider:
    description: The company that the box is rented from.
    type: str
    required: true
  providers:
    description: Folder of what is known of such companies, on the controller.
    type: path
    required: true
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Check every input and the box
  glmbox.box.check_box:
    roles_dir: roles
    roles: [box, python]
    names: [python-3.10.20]
    catalogue: artifacts
    bundle: bundle
    dest: /var/lib/glmbox/data/artifacts
    disk_needs: [{path: /opt/glmbox, mib: 700, what: Python, unless: [/opt/glmbox/python]}]
    folders: {box_install_dir: /opt/glmbox}
    ports: [{name: gateway_port, port: 3389, unit: [/etc/systemd/system/glmbox-gateway.service]}]
    prepared: [/opt/glmbox/venv, /opt/glmbox/model, /usr/sbin/nginx]
    lock: py310-cu118
    python: 3.10.20
    torch: 2.0.1
    trusted_hashes: inventory/rented_gpu/.state/trusted_hashes.yml
    gateway_unit: [/etc/systemd/system/glmbox-gateway.service]
    token_file: inventory/rented_gpu/.state/gateway_token
    model: chatglm2-6b
    device: cuda
    precision: auto
    provider: autodl
    providers: providers
"""

RETURN = r"""
problems:
  description: Each problem, a sentence.
  returned: on failure
  type: list
  elements: str
"""
