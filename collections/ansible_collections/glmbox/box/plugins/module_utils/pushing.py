"""Large files between controller and box: piece by piece, from where an earlier try ended, told every few seconds."""

from __future__ import annotations

import os
import time
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.glmbox.box.plugins.module_utils.progress import line

CHUNK_BYTES = 32 * 2**20
LINE_SECONDS = 5.0


class _Teller:
    """Says every few seconds how far a transfer is."""

    def __init__(self, display: Any, host: str, verb: str, label: str, first: int, total: int) -> None:
        self._display, self._before, self._label = display, f"{host}  {verb}", label
        self._first, self._total = first, total
        self._begun = self._told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now > self._told + LINE_SECONDS and done < self._total:
            rate = (done - self._first) / (now - self._begun)
            item = {"label": self._label, "done": done, "total": self._total, "unit": "bytes", "rate": rate}
            self._display.display(f"{self._before}  {line(item)}")
            self._told = now


def push_file(connection: Any, display: Any, host: str, path: str, target: str, label: str) -> None:
    """Push a file to the box, going on where an earlier push ended. Raises AnsibleError.

    connection, display: Ansible's. host: its name in the inventory. path, target: here and there. label: for the lines.
    """
    quoted = connection._shell.quote(target)
    size = os.path.getsize(path)
    # Whatever the login shell prints stands before the number, and may have no line end.
    said = connection.exec_command(f'echo " $(stat -c %s {quoted} 2>/dev/null || echo 0)"', sudoable=False)[1].split()
    done = int(said[-1]) if said and int(said[-1]) <= size else 0
    teller = _Teller(display, host, "push", label, done, size)
    with open(path, "rb") as file:
        file.seek(done)
        while done < size:
            piece = file.read(CHUNK_BYTES)
            # At its place, not at the end: two pushes of the same file side by side do each other no harm.
            command = f"dd of={quoted} bs=1M oflag=seek_bytes seek={done} conv=notrunc status=none"
            code, _, errors = connection.exec_command(command, in_data=piece, sudoable=False)
            if code:
                words = errors.decode(errors="replace").strip()
                raise AnsibleError(f"Pushing {label} stopped after {done} bytes: {words}. Run again: it goes on there.")
            done += len(piece)
            teller.tell(done)


def pull_file(connection: Any, display: Any, host: str, source: str, size: int, target: str) -> None:
    """Bring a file of known size from the box, going on where an earlier pull ended. Raises AnsibleError.

    source, target: there and here; size in bytes. The rest as for push_file.
    """
    quoted = connection._shell.quote(source)
    label = os.path.basename(source)
    with open(target, "ab") as file:
        done = file.tell() if file.tell() <= size else file.truncate(0)
        teller = _Teller(display, host, "bring", label, done, size)
        while done < size:
            wanted = min(CHUNK_BYTES, size - done)
            command = f"dd if={quoted} bs=1M iflag=skip_bytes,count_bytes skip={done} count={wanted} status=none"
            code, said, errors = connection.exec_command(command, sudoable=False)
            piece = said[-wanted:]  # before it stands what the login shell prints
            if code or len(piece) < wanted:
                words = errors.decode(errors="replace").strip() or "it has become shorter"
                raise AnsibleError(
                    f"Bringing {label} stopped after {done} bytes: {words}. Run again: it goes on there."
                )
            file.write(piece)
            done += len(piece)
            teller.tell(done)
