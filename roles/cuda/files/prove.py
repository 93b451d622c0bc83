"""Prove that a folder holds a CUDA toolkit that compiles; argv: the folder, and the version that its nvcc must tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

# A kernel that needs libdevice, which nvcc links on its own.
KERNEL = """
__global__ void raise_all(float *values, float power, int count) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) values[at] = powf(values[at], power);
}
"""
# Every card that CUDA 11.8 knows compiles; 8.0 is the A100's.
ARCHITECTURE = "sm_80"
EM_CUDA = 190  # elf.h: the machine of a cubin
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAST_LINES = 8


def run(*command: str) -> str:
    """Return what a command prints; leave with its last words where it fails."""
    try:
        # nvcc takes flags from the environment, and a conda's compiler from PATH.
        ended = subprocess.run(command, capture_output=True, text=True, env={"PATH": PATH, "HOME": "/"}, check=False)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be run: {error}.")
    if ended.returncode:
        words = (ended.stdout + ended.stderr).strip().splitlines()[-LAST_LINES:] or ["-"]
        sys.exit("\n  ".join([f"`{' '.join(command)}` failed with exit code {ended.returncode}:", *words]))
    return ended.stdout


def main() -> None:
    folder, version = sys.argv[1:]
    nvcc = os.path.join(folder, "bin", "nvcc")
    told = run(nvcc, "--version")
    if not re.search(rf"\bV{re.escape(version)}\b", told):
        sys.exit(f"{nvcc} says {' '.join(told.split()[-6:])!r}, and V{version} was expected.")
    with tempfile.TemporaryDirectory(prefix="glmbox-cuda-") as work:
        source, ptx, cubin = (os.path.join(work, "kernel." + ending) for ending in ("cu", "ptx", "cubin"))
        with open(source, "w", encoding="ascii") as file:
            file.write(KERNEL)
        run(nvcc, "-ptx", "-arch=" + ARCHITECTURE, source, "-o", ptx)
        run(nvcc, "-cubin", "-arch=" + ARCHITECTURE, source, "-o", cubin)
        with open(ptx, encoding="utf-8") as file:
            text = file.read()
        if ".target " + ARCHITECTURE not in text or not re.search(r"\.entry \w*raise_all", text):
            sys.exit(f"{nvcc} compiled a kernel to PTX that lacks it.")
        with open(cubin, "rb") as file:
            head = file.read(20)
        if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != EM_CUDA:
            sys.exit(f"{nvcc} compiled a kernel to something that is no cubin.")
    print(f"nvcc V{version} in {folder} compiles a kernel to PTX and to a cubin for {ARCHITECTURE}.")


if __name__ == "__main__":
    main()
