"""What kind of machine a box is, as far as building on it goes.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import Dict, Tuple

# Never the login shell's, where a conda may bring a compiler of its own.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What build-essential brings, by the distributions' own package lists.
COMPILERS = {
    ("debian", "11"): "gcc 10",
    ("debian", "12"): "gcc 12",
    ("ubuntu", "20.04"): "gcc 9",
    ("ubuntu", "22.04"): "gcc 11",
    ("ubuntu", "24.04"): "gcc 13",
}


def os_release(path: str = "/etc/os-release") -> Dict[str, str]:
    """Return the pairs of an os-release file."""
    pairs = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                key, _, value = line.strip().partition("=")
                pairs[key] = value.strip("\"'")
    except OSError:
        pass
    return pairs


def distribution() -> Tuple[str, str]:
    """Return the distribution's name and version, such as ("debian", "11")."""
    release = os_release()
    return release.get("ID", "unknown"), release.get("VERSION_ID", "")


def glibc() -> str:
    """Return glibc's version, such as 2.31."""
    return platform.libc_ver()[1]


def has_compiler() -> bool:
    """Tell whether a C compiler is on the system's PATH."""
    return bool(shutil.which("cc", path=SYSTEM_PATH))


def compiler() -> str:
    """Return the C compiler's kind and major version, such as "gcc 10"; "" where it does not run.

    Where there is none, the one that the distribution brings; "" where that is not known.
    """
    program = shutil.which("cc", path=SYSTEM_PATH)
    if not program:
        return COMPILERS.get(distribution(), "")
    try:
        asked = subprocess.run([program, "-dumpversion"], capture_output=True, text=True, timeout=60, check=False)
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if asked.returncode or not asked.stdout.strip():
        return ""
    kind = "clang" if "clang" in told.stdout.lower() else "gcc"
    return "%s %s" % (kind, asked.stdout.strip().split(".")[0])


def first_number(path: str) -> int:
    """Return the number that a one-line kernel file holds, or 0 for none, 'max' and unreadable."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def memory_mib() -> int:
    """Return the MiB of memory that processes here may use: the machine's, or its cgroup's limit if lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        found = first_number(limit)
        if 0 < found < total:
            total = found
    return total // 2**20


def cpus() -> int:
    """Return the number of cores that processes here may use, at least 1: affinity, cut by a cgroup's quota."""
    count = len(os.sched_getaffinity(0))
    quota = first_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = first_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            words = file.read().split()
        quota, period = (0 if words[0] == "max" else int(words[0])), int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    if quota > 0 and period > 0:
        count = min(count, -(-quota // period))
    return max(1, count)
