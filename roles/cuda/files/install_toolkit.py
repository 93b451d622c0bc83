"""Install the CUDA toolkit from NVIDIA's runfile, without the driver; the job `cuda` runs this on the box.

    install_toolkit.py --dir DIR --version V --nvcc V --runfile FILE --tmp-dir DIR --log-dir DIR --proof FILE
                       [--compiler N] -- OPTIONS OF THE RUNFILE

A folder that glmbox fills carries a marker from the first moment on, which says at last that the toolkit is whole. What
was broken off is emptied and filled again; a folder without the marker is somebody else's, and only proven.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys

MARKER = ".glmbox-toolkit.json"
DRAFT = MARKER + ".draft"
LINK = "/usr/local/cuda"
LINKER_FOLDER = "/etc/ld.so.conf.d"
# The installer dies of a log there that is not its own user's.
INSTALLER_LOGS = ("/var/log/cuda-installer.log", "/tmp/cuda-installer.log")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAST_LINES = 12


def read_marker(folder: str) -> dict | None:
    """Return what the marker of a folder says, or None where there is none."""
    try:
        with open(os.path.join(folder, MARKER), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def write_marker(folder: str, marker: dict) -> None:
    """Write a folder's marker, whole and on the disk."""
    draft = os.path.join(folder, DRAFT)
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(marker, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, os.path.join(folder, MARKER))


def is_empty(folder: str) -> bool:
    """Tell whether a folder holds nothing, or is not there; a marker that was being written is nothing yet."""
    return not os.path.lexists(folder) or (os.path.isdir(folder) and not set(os.listdir(folder)) - {DRAFT})


def delete(path: str) -> None:
    """Delete a file, a link or a folder."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def prove(given: argparse.Namespace) -> str:
    """Return what is wrong with the toolkit, or nothing; what is right is printed."""
    command = [sys.executable, "-I", given.proof, given.dir, given.nvcc]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ended.stdout, end="", flush=True)
    return ended.stderr.strip() if ended.returncode else ""


def begin(folder: str, marker: dict | None, version: str) -> dict:
    """Make the folder empty but for a marker that says that it is ours and not whole; return the marker."""
    os.makedirs(folder, exist_ok=True)
    if marker is None:
        marker = {
            # What is not the runfile's doing is put back, and left alone when the toolkit is removed.
            "link": os.readlink(LINK) if os.path.islink(LINK) else "",
            "linker_files": sorted(os.listdir(LINKER_FOLDER)) if os.path.isdir(LINKER_FOLDER) else [],
        }
    marker.update(version=version, installed=False)
    write_marker(folder, marker)
    for name in set(os.listdir(folder)) - {MARKER}:
        delete(os.path.join(folder, name))
    return marker


def run_installer(given: argparse.Namespace) -> str:
    """Run the runfile; return why it failed, or nothing."""
    for log in INSTALLER_LOGS:
        delete(log)
    delete(given.tmp_dir)
    os.makedirs(given.tmp_dir, mode=0o700)
    # The installer would give files to SUDO_USER, and a login shell's libraries are none of its business.
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("SUDO_", "LD_", "PYTHON", "CUDA"))
    }
    command = ["/bin/sh", given.runfile, *given.options]
    print("Running " + " ".join(command), flush=True)
    ended = subprocess.run(
        command, cwd=given.tmp_dir, env=dict(environment, PATH=PATH), stdin=subprocess.DEVNULL, check=False
    )
    delete(given.tmp_dir)
    words = keep_log(given.log_dir)
    if ended.returncode < 0:
        return f"The runfile was killed by signal {-ended.returncode}.{words}"
    if ended.returncode:
        return f"The runfile ended with exit code {ended.returncode}.{words}"
    return ""


def keep_log(folder: str) -> str:
    """Move the installer's log to our own logs; return its last lines, for a message."""
    lines: list[str] = []
    for log in INSTALLER_LOGS:
        if os.path.isfile(log):
            os.makedirs(folder, exist_ok=True)
            kept = os.path.join(folder, "cuda-installer.log")
            shutil.move(log, kept)
            with open(kept, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()[-LAST_LINES:]
    return " The last lines of its log:\n  " + "\n  ".join(lines) if lines else ""


def put_link_back(marker: dict) -> None:
    """Make /usr/local/cuda lead again where it led before; where it was none, the runfile's own stays."""
    if marker["link"] and (not os.path.islink(LINK) or os.readlink(LINK) != marker["link"]):
        draft = LINK + ".glmbox"
        delete(draft)
        os.symlink(marker["link"], draft)
        os.replace(draft, LINK)


def choose_compiler(folder: str, version: str) -> None:
    """Let nvcc find a host compiler that it accepts; it looks in its own folder first."""
    for name in ("gcc", "g++"):
        delete(os.path.join(folder, "bin", name))
        if version:
            os.symlink(f"/usr/bin/{name}-{version}", os.path.join(folder, "bin", name))


def install(given: argparse.Namespace, marker: dict | None) -> None:
    """Fill the folder, prove it, and say so in its marker; leave with a sentence where that fails."""
    if not os.path.isfile(given.runfile):
        sys.exit(
            f"The runfile {given.runfile} is not there. Delete {given.dir}, which is glmbox's and not whole, and run "
            "site.yml again, which fetches it."
        )
    marker = begin(given.dir, marker, given.version)
    problem = run_installer(given)
    put_link_back(marker)
    if not problem:
        choose_compiler(given.dir, given.compiler)
        problem = prove(given)
    if problem:
        sys.exit(f"CUDA {given.version} could not be installed. {problem}")
    write_marker(given.dir, dict(marker, installed=True))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("dir", "version", "nvcc", "runfile", "tmp-dir", "log-dir", "proof"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--compiler", default="")
    parser.add_argument("options", nargs="*")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    os.umask(0o022)  # everybody may compile
    marker = read_marker(given.dir)
    if marker is None and not is_empty(given.dir):
        problem = prove(given)
        if problem:
            sys.exit(f"{given.dir} was there before glmbox and is left as it is, but it does not work. {problem}")
        return
    if marker and marker["installed"] and marker["version"] == given.version:
        problem = prove(given)
        if not problem:
            return
        print(f"What stands in {given.dir} is damaged, so it is installed anew. {problem}", flush=True)
    install(given, marker)


if __name__ == "__main__":
    main()
