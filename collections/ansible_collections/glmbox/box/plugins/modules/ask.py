#!/usr/bin/python
"""The documentation of the action `ask`, which runs on the controller."""

DOCUMENTATION = r"""
module: ask
short_description: Ask a finished box through its exposed port, in every way that a user would
description:
  - Asks from the controller, with the token and without, streaming and not, and fails with all that is wrong.
  - The token is read from its file here, so it stands in no argument and no log.
options:
  url:
    description: The box's address as the outside sees it.
    type: str
    required: true
  token_file:
    description: The token's file on the controller.
    type: path
    required: true
  user:
    description: Whose token it is.
    type: str
    default: glmbox
  certificate:
    description: The PEM file on the controller that the box's certificate is held against; empty for the system's.
    type: path
    default: ""
  prompt:
    description: What to ask.
    type: str
    required: true
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Ask
  glmbox.box.ask:
    url: http://203.0.113.7:3389
    token_file: inventory/rented_gpu/.state/gateway_token
    prompt: 你好
"""

RETURN = r"""
answer:
  description: What api.py answered.
  returned: success
  type: str
first_word_seconds:
  description: Seconds until the stream's first word.
  returned: success
  type: float
seconds:
  description: Seconds until the plain answer was whole.
  returned: success
  type: float
fingerprint:
  description: SHA-256 of the named certificate, as programs show it; empty where none is named.
  returned: success
  type: str
"""
