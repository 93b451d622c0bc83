"""Reads and checks the configuration file. Every problem is found before anything is loaded."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRECISIONS = {"cuda": ("fp16", "int8", "int4"), "cpu": ("fp32",)}
OPTIONAL = ("queue_limit", "max_body_bytes", "log_text", "parallel_generations", "stuck_seconds", "gpus", "checkpoint")
MODEL_FILES = ("config.json", "tokenizer_config.json")
SCRIPT_KEYS = ("name", "file", "port")
CHECKPOINT_FILES = ("config.json", "pytorch_model.bin")


@dataclass(frozen=True)
class Script:
    """One upstream program: its name, its file in ``code_dir``, its loopback port, a path that answers 200.

    ``arguments`` are those of its command line, ``root_path`` the path under which the gateway serves a gradio page.
    """

    name: str
    file: str
    port: int
    ready_path: str = "/"
    arguments: tuple[str, ...] = ()
    root_path: str = ""


@dataclass(frozen=True)
class Config:
    """The whole configuration.

    ``max_body_bytes`` in bytes, ``queue_limit`` in waiting generations, ``stuck_seconds`` without a token
    until the host ends itself to be started again, ``gpus`` over which the one copy is spread, ``checkpoint`` the
    folder of a trained prefix that the model answers with, "" for the model as it is.
    """

    model_dir: str
    code_dir: str
    device: str
    precision: str
    health_port: int
    scripts: tuple[Script, ...]
    queue_limit: int = 8
    max_body_bytes: int = 1048576
    log_text: bool = False
    parallel_generations: int = 1
    stuck_seconds: int = 300
    gpus: int = 1
    checkpoint: str = ""


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` holds one sentence for each reason."""

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__(f"{path} cannot be used:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


def read_config(path: str) -> Config:
    """Read the JSON file at ``path``.

    Raises:
        ConfigError: with all problems of the file, not only the first.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(path, [f"it is not a readable JSON file: {error}"]) from error
    problems = find_problems(data)
    if problems:
        raise ConfigError(path, problems)
    return Config(**{**data, "scripts": tuple(map(_script, data["scripts"]))})


def _script(data: dict[str, Any]) -> Script:
    return Script(**{**data, "arguments": tuple(data.get("arguments", ()))})


def find_problems(data: Any) -> list[str]:
    """Return one sentence for each thing that is wrong with the parsed configuration, none if it is good."""
    if not isinstance(data, dict):
        return ["it must be a JSON object"]
    required = ("model_dir", "code_dir", "device", "precision", "health_port", "scripts")
    problems = _key_problems("", data, required, OPTIONAL)
    problems += _folder_problems(data, "model_dir", MODEL_FILES) + _folder_problems(data, "code_dir", ())
    if data.get("checkpoint", "") != "":
        problems += _folder_problems(data, "checkpoint", CHECKPOINT_FILES)
        if data.get("gpus", 1) != 1:
            problems.append("checkpoint needs a copy on one card, and gpus spreads it over several")
    problems += _plan_problems(data)
    problems += _number_problems("", data, "health_port", 1024, 65535)
    problems += _number_problems("", data, "queue_limit", 0, 1000)
    problems += _number_problems("", data, "max_body_bytes", 1024, 2**30)
    problems += _number_problems("", data, "parallel_generations", 1, 64)
    problems += _number_problems("", data, "stuck_seconds", 10, 86400)
    problems += _number_problems("", data, "gpus", 1, 64)
    if not isinstance(data.get("log_text", False), bool):
        problems.append("log_text must be true or false")
    if "scripts" in data:
        problems += _scripts_problems(data)
    return problems


def _key_problems(where: str, data: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...]) -> list[str]:
    missing = [f"{where}{key} is missing" for key in required if key not in data]
    return missing + [f"{where}{key} is not a known key" for key in sorted(set(data) - set(required) - set(optional))]


def _number_problems(where: str, data: dict[str, Any], key: str, low: int, high: int) -> list[str]:
    if key not in data:
        return []
    value = data[key]
    # bool is a subclass of int: true would pass as 1.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return [f"{where}{key} must be a whole number from {low} to {high}"]
    return []


def _folder_problems(data: dict[str, Any], key: str, files: tuple[str, ...]) -> list[str]:
    if key not in data:
        return []
    folder = data[key]
    if not isinstance(folder, str) or not os.path.isabs(folder):
        return [f"{key} must be an absolute path"]
    if not os.path.isdir(folder):
        return [f"{key}: there is no folder {folder}"]
    paths = [os.path.join(folder, name) for name in files]
    return [f"{key}: there is no file {path}" for path in paths if not os.path.isfile(path)]


def _plan_problems(data: dict[str, Any]) -> list[str]:
    device, precision = data.get("device"), data.get("precision")
    problems = []
    if "device" in data and device not in ("cuda", "cpu"):
        problems.append("device must be cuda or cpu")
    if "precision" in data and precision not in ("fp16", "int8", "int4", "fp32"):
        problems.append("precision must be fp16, int8, int4 or fp32")
    if not problems and device is not None and precision is not None and precision not in PRECISIONS[device]:
        problems.append(f"precision must be {' or '.join(PRECISIONS[device])} on device {device}")
    return problems


def _scripts_problems(data: dict[str, Any]) -> list[str]:
    scripts = data["scripts"]
    if not isinstance(scripts, list) or not scripts:
        return ["scripts must be a list with at least one script"]
    problems: list[str] = []
    for number, script in enumerate(scripts):
        problems += _script_problems(f"scripts[{number}].", script, data.get("code_dir"))
    entries = [script for script in scripts if isinstance(script, dict)]
    ports = [data.get("health_port"), *(script.get("port") for script in entries)]
    problems += [f"port {port} is given more than once" for port in _repeated(ports)]
    names = [script.get("name") for script in entries]
    return problems + [f"script name {name} is given more than once" for name in _repeated(names)]


def _script_problems(where: str, script: Any, code_dir: Any) -> list[str]:
    if not isinstance(script, dict):
        return [f"{where[:-1]} must be an object"]
    problems = _key_problems(where, script, SCRIPT_KEYS, ("ready_path", "arguments", "root_path"))
    problems += _number_problems(where, script, "port", 1024, 65535)
    # The name becomes a label of the metrics.
    if "name" in script and not _matches(r"[a-z][a-z0-9_]*", script["name"]):
        problems.append(f"{where}name must be small letters, digits and underscores")
    if "ready_path" in script and not _matches(r"/[!-~]*", script["ready_path"]):
        problems.append(f"{where}ready_path must be a path that begins with /")
    if "root_path" in script and not _matches(r"(/[a-z0-9_]+)?", script["root_path"]):
        problems.append(f"{where}root_path must be a slash and small letters, digits and underscores")
    arguments = script.get("arguments", [])
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        problems.append(f"{where}arguments must be a list of texts")
    if "file" in script and not _matches(r"([A-Za-z0-9_]+/)?[A-Za-z0-9_]+\.py", script["file"]):
        problems.append(f"{where}file must be the name of a .py file in code_dir")
    elif "file" in script and isinstance(code_dir, str) and os.path.isdir(code_dir):
        path = os.path.join(code_dir, script["file"])
        if not os.path.isfile(path):
            problems.append(f"{where}file: there is no file {path}")
    return problems


def _matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _repeated(values: list[Any]) -> list[Any]:
    plain = [value for value in values if isinstance(value, (int, str))]
    return sorted({value for value in plain if plain.count(value) > 1}, key=str)
