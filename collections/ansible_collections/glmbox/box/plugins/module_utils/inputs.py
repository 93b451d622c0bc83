"""What an operator set, held against the roles' argument specs, all roles at once and before anything runs."""

from __future__ import annotations

import difflib
import os
import re

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator


def load_specs(roles_dir: str, roles: list[str]) -> dict[str, dict]:
    """Return each role's options (name to spec), those of all its entry points together."""
    specs = {}
    for role in roles:
        with open(os.path.join(roles_dir, role, "meta", "argument_specs.yml"), encoding="utf-8") as file:
            points = yaml.safe_load(file)["argument_specs"]
        specs[role] = {name: spec for point in points.values() for name, spec in (point.get("options") or {}).items()}
    return specs


def value_problems(options: dict, values: dict) -> dict[str, str]:
    """Return a sentence for each value that a role's options do not allow, and for each required one that is missing.

    options: name to spec, as in argument_specs.yml. values: name to value, for the names that are set. The sentences
    come by name.
    """
    problems = {}
    for name, spec in options.items():
        known = {name: {key: value for key, value in spec.items() if key not in ("description", "version_added")}}
        outcome = ArgumentSpecValidator(known).validate({name: values[name]} if name in values else {})
        if outcome.error_messages:
            message = outcome.error_messages[0]
            problems[name] = message[0].upper() + message[1:].rstrip(".") + "."
    return problems


def without_echoes(problems: dict[str, str], variables: dict) -> list[str]:
    """Return the sentences but those about a value that only hands on another variable's, which has its own.

    problems: name to sentence. variables: name to what was set, before it is worked out.
    """
    found = {name: re.fullmatch(r"\{\{ *(\w+) *\}\}", str(variables.get(name, "")).strip()) for name in problems}
    return [problems[name] for name, source in found.items() if not source or source[1] not in problems]


def unknown_names(specs: dict[str, dict], names: list[str]) -> list[str]:
    """Return a sentence for each variable that carries a role's prefix but is none of its inputs: a typing error."""
    problems = []
    for name in sorted(names):
        role = name.split("_", 1)[0]
        if role not in specs or name == role or name in specs[role]:
            continue
        near = difflib.get_close_matches(name, specs[role], n=1)
        hint = f"Did you mean {near[0]}?" if near else f"The role {role} knows {', '.join(sorted(specs[role]))}."
        problems.append(f"No role reads the variable {name}. {hint}")
    return problems


# What a type cannot say: the least and the greatest of a number.
RANGES = {
    "cache_limit_mib": (0, 2**31),
    "cache_pack_limit_mib": (0, 2**31),
    "demos_api_port": (1024, 65535),
    "demos_health_port": (1024, 65535),
    "demos_max_body_bytes": (1024, 2**30),
    "demos_openai_port": (1024, 65535),
    "demos_next_ports": (6, 1000),
    "demos_parallel_generations": (1, 64),
    "demos_ptuning_port": (1024, 65535),
    "demos_queue_limit": (0, 1000),
    "demos_ready_seconds": (10, 86400),
    "demos_stuck_seconds": (10, 86400),
    "demos_web2_port": (1024, 65535),
    "demos_web_port": (1024, 65535),
    "fetch_connections": (1, 16),  # aria2c takes no more
    "fetch_patience_seconds": (1, 86400),
    "fetch_stall_seconds": (1, 600),
    "finetune_accumulation": (1, 1024),
    "finetune_batch": (1, 64),
    "finetune_evaluate_samples": (-1, 2**31),
    "finetune_gpus": (1, 16),
    "finetune_logging_steps": (1, 1000),
    "finetune_max_source_length": (4, 8192),
    "finetune_max_target_length": (4, 8192),
    "finetune_pre_seq_len": (1, 2048),
    "finetune_save_steps": (0, 2**31),
    "finetune_seed": (0, 2**31),
    "finetune_steps": (0, 2**31),
    "gateway_answer_seconds": (10, 86400),
    "gateway_connections": (8, 8192),
    "gateway_port": (1, 65535),
    "gateway_ptuning_port": (1024, 65535),
    "gateway_public_port": (1, 65535),
    "gateway_requests_per_second": (1, 10000),
    "gateway_status_port": (1024, 65535),
    "gateway_web2_port": (1024, 65535),
    "lease_grace_minutes": (0, 10080),
    "lease_hours": (0, 8784),
    "lease_idle_minutes": (0, 10080),
    "lease_warn_minutes": (0, 1440),
    "lease_watch_minutes": (0, 10080),
    "openssl_jobs": (0, 1024),
    "python_jobs": (0, 1024),
}
# ... and the shape of a text, with words for it.
SHAPES = {
    "box_apt_mirror": (r"(https?://[^\s\"'\\/]+(/[^\s\"'\\]*)?)?", "an address that begins with http:// or https://"),
    "box_http_proxy": (r"(http://[^\s\"'\\/]+/?)?", "an address such as http://user:password@host:port"),
    "box_https_proxy": (r"(http://[^\s\"'\\/]+/?)?", "an address such as http://user:password@host:port"),
    "demos_checkpoint": (
        r"([A-Za-z0-9][\w.-]{0,63}(/checkpoint-\d+)?)?",
        "the name of a training, as adgen, or one of its checkpoints, as adgen/checkpoint-40",
    ),
    "fetch_proxy": (r"auto|none|https?://\S+", "auto, none, or an address that begins with http://"),
    "finetune_name": (r"[A-Za-z0-9][\w.-]{0,63}", "up to 64 letters, digits, _, . and -, a letter or digit first"),
    "gateway_listen": (r"\d{1,3}(\.\d{1,3}){3}", "an IPv4 address of the box, such as 0.0.0.0"),
    "gateway_max_body": (r"\d+[kKmMgG]?", "a size as nginx writes it, such as 1m"),
    "gateway_public_url": (r"https?://\S+", "an address that begins with http:// or https://"),
}


def range_problems(values: dict) -> list[str]:
    """Return a sentence for each number out of its range and each text out of its shape. values: name to value."""
    problems = []
    for name, (least, most) in RANGES.items():
        try:
            number = int(values.get(name, least))
        except (TypeError, ValueError):
            continue  # its type is wrong, which is said already
        if not least <= number <= most:
            problems.append(f"{name} is {number}; it has to be from {least} to {most}.")
    for name, (pattern, words) in SHAPES.items():
        if name in values and not re.fullmatch(pattern, str(values[name])):
            # An address may hold a login.
            shown = "no such thing" if "proxy" in name else values[name]
            problems.append(f"{name} is {shown}; it has to be {words}.")
    return problems
