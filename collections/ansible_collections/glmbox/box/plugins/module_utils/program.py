"""The programs that jobs on the box run, packed on the controller out of this collection's own files."""

from __future__ import annotations

import io
import os
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "ansible_collections/glmbox/box/plugins/module_utils"
FETCHING = ("aria2", "fetcher", "follow", "peers", "probe", "shelf", "transfer")
BUILDING = ("builder", "identity", "packs", "steps")
FETCHER = ["files.py", *(f"fetching/{name}.py" for name in FETCHING)]
BUILDER = [
    *("files.py", "job_processes.py", "job_state.py", "jobs.py", "machine.py"),
    *(f"building/{name}.py" for name in BUILDING),
]


def fetcher() -> bytes:
    """Return the program that fetches, as a zip archive that Python runs; the same bytes for the same files."""
    return _packed(FETCHER, "fetching.fetcher", "main()")


def builder() -> bytes:
    """Return the program that builds, as a zip archive that Python runs; the same bytes for the same files."""
    return _packed(BUILDER, "building.builder", "main(sys.argv[1:])")


def _packed(parts: list[str], module: str, call: str) -> bytes:
    imported = f"from {PACKAGE.replace('/', '.')}.{module} import main"
    contents = {"__main__.py": f"import sys\n{imported}\n{call}\n".encode()}
    for part in parts:
        with open(os.path.join(HERE, part), "rb") as file:
            contents[f"{PACKAGE}/{part}"] = file.read()
        folder = os.path.dirname(f"{PACKAGE}/{part}")
        while folder:
            contents[f"{folder}/__init__.py"] = b""
            folder = os.path.dirname(folder)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(contents):
            archive.writestr(zipfile.ZipInfo(name, (2023, 6, 25, 0, 0, 0)), contents[name], zipfile.ZIP_DEFLATED)
    return packed.getvalue()
