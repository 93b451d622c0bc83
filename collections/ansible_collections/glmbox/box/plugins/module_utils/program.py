"""The program that a job on the box runs, packed on the controller out of this collection's own files."""

from __future__ import annotations

import io
import os
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "ansible_collections/glmbox/box/plugins/module_utils"
PARTS = [
    "files.py",
    *(f"fetching/{name}.py" for name in ("aria2", "fetcher", "follow", "peers", "probe", "shelf", "transfer")),
]
MAIN = "from ansible_collections.glmbox.box.plugins.module_utils.fetching.fetcher import main\nmain()\n"


def fetcher() -> bytes:
    """Return the fetcher as a zip archive that Python runs; the same bytes for the same files."""
    contents = {"__main__.py": MAIN.encode()}
    for part in PARTS:
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
