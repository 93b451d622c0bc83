#!/usr/bin/python
"""What glmbox must know of a box, in one look."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.glmbox.box.plugins.module_utils import machine
from ansible_collections.glmbox.box.plugins.module_utils.files import disk_of

DOCUMENTATION = r"""
module: box_facts
short_description: Read what glmbox must know of a box
description:
  - Returns the fact C(box); changes nothing.
options:
  paths:
    description: Folders, existing or not, whose disks and presence are wanted.
    type: list
    elements: path
    default: []
  variables:
    description:
      - Names of variables to read from the environment of process 1, which is how containers are told what is theirs.
        C({port}) in a name stands for any number. No other variable is looked at, since keys stand among them.
    type: list
    elements: str
    default: []
author: glmbox (@glmbox)
"""

EXAMPLES = r"""
- name: Read what the box is
  glmbox.box.box_facts:
    paths: [/opt/glmbox]
    variables: ["VAST_TCP_PORT_{port}"]
"""

RETURN = r"""
ansible_facts:
  description: One key, C(box), with the facts.
  returned: always
  type: dict
"""

LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp, see the kernel's include/net/tcp_states.h


def address_of(packed: str) -> str:
    """Return the dotted or colon form of an address as /proc/net/tcp writes it (32-bit words, host order)."""
    words = [int(packed[at : at + 8], 16) for at in range(0, len(packed), 8)]
    raw = b"".join(struct.pack("=I", word) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def programs_of_sockets() -> Dict[str, str]:
    """Return who holds each socket, as the socket's inode and "name (process 12)", as far as this user may see."""
    found: Dict[str, str] = {}
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
            if not target.startswith("socket:["):
                continue
            pid = link.split("/")[2]
            with open("/proc/%s/comm" % pid, encoding="utf-8", errors="replace") as file:
                found.setdefault(target[8:-1], "%s (process %s)" % (file.read().strip(), pid))
        except OSError:
            continue  # it has ended, or is another user's
    return found


def variables_of_first(wanted: List[str], path: str = "/proc/1/environ") -> Dict[str, str]:
    """Return the wanted variables of process 1's environment. wanted: names, in which {port} stands for a number."""
    patterns = [re.escape(name).replace(re.escape("{port}"), "[0-9]+") for name in wanted]
    try:
        with open(path, "rb") as file:
            pairs = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    split = (pair.partition("=") for pair in pairs)
    return {name: value for name, _, value in split if any(re.fullmatch(pattern, name) for pattern in patterns)}


def listeners() -> List[Dict[str, Any]]:
    """Return what listens on TCP: address, port and program. /proc is read since some images have no `ss`."""
    found = []
    programs: Dict[str, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            address, port = row[1].split(":")
            if row[3] == LISTEN:
                programs = programs or programs_of_sockets()
                program = programs.get(row[9], "")
                found.append({"address": address_of(address), "port": int(port, 16), "program": program})
    return sorted(found, key=lambda one: (one["port"], one["address"]))


def ask_cards(program: str, fields: str) -> List[List[str]]:
    """Return the asked fields of each card, as nvidia-smi writes them; raise OSError with its words where it fails."""
    query = [program, "--query-gpu=" + fields, "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(str(error)) from error
    if asked.returncode:
        words = (asked.stdout + asked.stderr).strip().splitlines() or ["no output"]
        raise OSError("nvidia-smi failed: " + words[-1])
    return [[part.strip() for part in line.split(",")] for line in asked.stdout.splitlines() if line.strip()]


def gpus() -> Dict[str, Any]:
    """Return the GPUs as nvidia-smi tells them, memory in MiB (0: unknown), and why there is none where there is none.

    Drivers before 495 do not know the field compute_cap; it is "" then.
    """
    program = shutil.which("nvidia-smi")
    if not program:
        return {"gpus": [], "gpu_problem": "nvidia-smi is not on PATH"}
    try:
        rows = ask_cards(program, "memory.total,driver_version,name")
    except OSError as error:
        return {"gpus": [], "gpu_problem": str(error)}
    try:
        capabilities = [row[0] for row in ask_cards(program, "compute_cap")]
    except OSError:
        capabilities = []
    cards = []
    for number, row in enumerate(rows):
        if len(row) < 3 or not row[1][:1].isdigit():
            return {"gpus": [], "gpu_problem": "nvidia-smi says: " + ", ".join(row)}
        capability = capabilities[number] if len(capabilities) == len(rows) else ""
        cards.append(
            {
                "name": ", ".join(row[2:]),
                "memory_mib": int(row[0]) if row[0].isdigit() else 0,
                "driver": row[1],
                "compute_capability": capability if capability[:1].isdigit() else "",
            }
        )
    return {"gpus": cards, "gpu_problem": "" if cards else "nvidia-smi lists no card"}


def packages() -> List[str]:
    """Return the names of the Debian packages that are installed whole; none where there is no dpkg."""
    asked = ["dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\\n"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    return sorted({line.split()[1] for line in said.splitlines() if line.startswith("installed ")})


def commands(folder: str = "/usr/local/bin") -> List[str]:
    """Return the names of the commands that glmbox has put on PATH."""
    return sorted(name for name in os.listdir(folder) if name.startswith("glmbox")) if os.path.isdir(folder) else []


def users(path: str = "/etc/passwd") -> Dict[str, List[str]]:
    """Return the machine's own users, each with its home and its shell; a directory server's are not asked for."""
    with open(path, encoding="utf-8", errors="replace") as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    return {row[0]: row[5:7] for row in rows if len(row) == 7}


def enabled_units(folder: str = "/etc/systemd/system") -> List[str]:
    """Return the names of the units that systemd starts at boot, as far as its own folder tells."""
    return sorted({os.path.basename(path) for path in glob.glob(glob.escape(folder) + "/*.wants/*")})


def has_python_apt() -> bool:
    """Tell whether the distribution's Python can import apt, which apt tasks need in check mode."""
    asked = subprocess.run(["/usr/bin/python3", "-c", "import apt"], capture_output=True, check=False)
    return asked.returncode == 0


def facts(paths: List[str], variables: List[str]) -> Dict[str, Any]:
    """Return all facts of this box; `paths` are looked up on their disks, `variables` in process 1's environment."""
    distribution, version = machine.distribution()
    return dict(
        gpus(),
        distribution=distribution,
        distribution_version=version,
        architecture=platform.machine(),
        glibc=machine.glibc(),
        compiler=machine.compiler(),
        has_compiler=machine.has_compiler(),
        python=platform.python_version(),
        python_apt=has_python_apt(),
        packages=packages(),
        commands=commands(),
        users=users(),
        enabled_units=enabled_units(),
        is_root=os.geteuid() == 0,
        init="systemd" if os.path.isdir("/run/systemd/system") else "none",
        cpus=machine.cpus(),
        memory_mib=machine.memory_mib(),
        listeners=listeners(),
        variables=variables_of_first(variables),
        disks={path: disk_of(path) for path in paths},
        present=[path for path in paths if os.path.exists(path)],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "variables": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    found = facts(module.params["paths"], module.params["variables"])
    module.exit_json(changed=False, ansible_facts={"box": found})


if __name__ == "__main__":
    main()
