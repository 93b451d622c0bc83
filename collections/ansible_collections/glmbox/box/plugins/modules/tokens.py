#!/usr/bin/python
"""The documentation of the action `tokens`, which runs on the controller."""

DOCUMENTATION = r"""
module: tokens
short_description: Make the tokens of those who may ask
description:
  - Makes a token of 48 hexadecimal digits for each name that has none, in a file that its owner alone reads, and
    removes the files of names that are gone. No token is in its result.
options:
  path:
    description: The file of the first token. The others lie beside it, named after it, with a dot and more.
    type: path
    required: true
  files:
    description: Names, and the file of each.
    type: dict
    required: true
  renew:
    description: Names that get a new token even where they have one.
    type: list
    elements: str
    default: []
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Make the tokens
  glmbox.box.tokens:
    path: .state/gateway_token
    files: {glmbox: .state/gateway_token, alice: .state/gateway_token.alice}
"""

RETURN = r"""
made:
  description: Names with a new token.
  returned: always
  type: list
  elements: str
removed:
  description: Files that are gone.
  returned: always
  type: list
  elements: str
closed:
  description: Files and folders whose rights were not what they have to be.
  returned: always
  type: list
  elements: str
"""
