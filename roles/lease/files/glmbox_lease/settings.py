"""What the role wrote down for the watcher and the command."""

import json
from dataclasses import dataclass, field, fields
from typing import Any, Dict, List


class SettingsError(Exception):
    """Settings that cannot be used, in a sentence."""


@dataclass
class Settings:
    """hours, idle_minutes: 0 is none. stop: how the box is stopped, see stops.py. tick_seconds: between two looks."""

    state: str
    jobs_dir: str
    health_ports: List[int]
    hours: float = 0.0
    idle_minutes: float = 0.0
    warn_minutes: float = 10.0
    grace_minutes: float = 30.0
    stop: Dict[str, Any] = field(default_factory=dict)
    tick_seconds: float = 10.0


def read_settings(path: str) -> Settings:
    """Return the settings in a file; raise SettingsError."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return Settings(**{one.name: found[one.name] for one in fields(Settings) if one.name in found})
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError("%s cannot be used (%s). Run site.yml again, which writes it." % (path, error)) from error
