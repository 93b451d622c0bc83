"""What is known of rental companies (providers/*.yml), held against what a box shows of itself."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml

PORT = "{port}"
GENERIC = "generic"


def load_profiles(folder: str) -> dict[str, dict]:
    """Return all profiles, by name. folder: of their files, on the controller."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.yml"))}


def by_host(profiles: dict[str, dict], host: str) -> str:
    """Return the provider whose SSH hosts are named like this one, or nothing."""
    for name, profile in profiles.items():
        if any(re.fullmatch(pattern, host, re.IGNORECASE) for pattern in profile["ssh_hosts"]):
            return name
    return ""


def by_signs(profiles: dict[str, dict], present: list[str], variables: dict[str, str]) -> str:
    """Return the provider whose signs a box shows, or nothing.

    present: paths that stand on the box. variables: those of PID 1's environment that were asked for.
    """
    for name, profile in profiles.items():
        signs = profile["signs"]
        if any(path in present for path in signs["files"]) or any(sign in variables for sign in signs["variables"]):
            return name
    return ""


def asked_of_box(profiles: dict[str, dict]) -> tuple[list[str], list[str]]:
    """Return the paths and the names of PID 1's variables that tell providers apart and ports' outside."""
    paths = [path for profile in profiles.values() for path in profile["signs"]["files"]]
    names = [name for profile in profiles.values() for name in profile["signs"]["variables"]]
    for profile in profiles.values():
        names += [name for name in (profile["public_port_variable"], profile["public_host_variable"]) if name]
    return sorted(set(paths)), sorted(set(names))


def mapped_ports(profile: dict, variables: dict[str, str]) -> dict[int, int]:
    """Return the ports that the box's environment calls mapped: port on the box to port outside."""
    if not profile["public_port_variable"]:
        return {}
    pattern = re.escape(profile["public_port_variable"]).replace(re.escape(PORT), r"(\d+)")
    found = {}
    for name, value in variables.items():
        match = re.fullmatch(pattern, name)
        if match and value.isdigit():
            found[int(match.group(1))] = int(value)
    return found


def port_problem(profile: dict, variables: dict[str, str], port: int, public_port: int) -> str:
    """Return what is wrong with the gateway's port as the provider maps it, or nothing.

    port: on the box. public_port: what the operator says of the outside; the same as port where nothing was said.
    """
    if not profile["public_port_variable"] or public_port != port:
        return ""
    mapped = mapped_ports(profile, variables)
    # A port may be mapped to itself, by whatever name the provider gives it.
    if port in mapped or port in mapped.values():
        return ""
    name = profile["public_port_variable"].replace(PORT, str(port))
    others = ", ".join(str(each) for each in sorted(mapped) if each != 22)
    way_out = f"Set gateway_port to one that is ({others}), or rent it anew: " if others else ""
    return (
        f"Port {port} is not mapped to the outside: {profile['title']} has set no {name} on the box. "
        f"{way_out}{profile['public_address']} If you know better, set gateway_public_port."
    )


def address_note(profile: dict, port: int, public_url: str, host: str) -> str:
    """Return where the outside address stands, if the operator has to say it and has not; else nothing.

    port: of the gateway, on the box. public_url: of the gateway. host: how the controller reaches the box.
    """
    url = urlsplit(public_url)
    if profile["public_port_variable"] or not profile["ssh_hosts"] or (url.hostname, url.port) != (host.lower(), port):
        return ""
    return f"Port {port} is taken to be the same outside, as {public_url}. {profile['public_address']}"


def provider_notes(profiles: dict[str, dict], name: str, present: list[str], variables: dict[str, str]) -> list[str]:
    """Return what does not fit between the named provider and the box's own signs, a sentence each."""
    shown = by_signs(profiles, present, variables)
    if shown and shown != name:
        return [f"The box shows signs of {profiles[shown]['title']}, and box_provider is {name}. Set it to {shown}."]
    signs = profiles[name]["signs"]
    if not shown and (signs["files"] or signs["variables"]):
        missing = ", ".join([*signs["files"], *signs["variables"]])
        return [f"box_provider is {name}, and the box shows none of its signs ({missing}). Check box_provider."]
    return []
