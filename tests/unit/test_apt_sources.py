"""apt's sources: the distribution's own entries go to the mirror, all others stay, and everything comes back."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.apt_sources import RECORD, Sources, moved

MIRROR = "http://mirror.example"
# Each is (what stands there, whether it is the distribution's own, what it becomes).
LINES = [
    ("deb http://ftp.example.org/debian bullseye main", f"deb {MIRROR}/debian bullseye main"),
    ("deb http://ftp.example.org/debian/ bullseye-updates main", f"deb {MIRROR}/debian bullseye-updates main"),
    (
        "deb  [signed-by=/usr/share/keyrings/x.gpg arch=amd64]  https://a.example/debian  bookworm  main contrib # x",
        f"deb  [signed-by=/usr/share/keyrings/x.gpg arch=amd64]  {MIRROR}/debian  bookworm  main contrib # x",
    ),
    (
        "deb http://security.example.org/debian-security bullseye-security main",
        f"deb {MIRROR}/debian-security bullseye-security main",
    ),
    ("deb http://security.example.org bookworm-security main", f"deb {MIRROR}/debian-security bookworm-security main"),
    ("deb-src http://a.example/ubuntu/ focal main restricted", f"deb-src {MIRROR}/ubuntu focal main restricted"),
    ("deb http://security.example.com/ubuntu jammy-security universe", f"deb {MIRROR}/ubuntu jammy-security universe"),
    # Others' repositories, whatever they look like.
    ("deb [arch=amd64] https://download.example.com/linux/ubuntu jammy stable", None),
    ("deb https://docker.example.com/ubuntu jammy stable", None),
    ("deb https://ppa.example.net/deadsnakes/ppa/ubuntu jammy main", None),
    ("deb https://nvidia.example.com/compute/cuda/repos/ubuntu2204/x86_64/ /", None),
    ("deb https://esm.example.com/apps/ubuntu jammy-apps-security main", None),
    ("deb file:/srv/debian bullseye main", None),
    ("deb cdrom:[Debian]/ bullseye main", None),
    ("# deb http://ftp.example.org/debian bullseye main", None),
    ("", None),
    ("nonsense", None),
]
DEB822 = """# the distribution's
Types: deb deb-src
URIs: http://ftp.example.org/debian
  http://second.example.org/debian
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: mirror+file:///etc/apt/mirrors/debian-security.list
Suites: bookworm-security
Components: main

Types: deb
Suites: bookworm
Components: stable
URIs: https://download.example.com/debian
"""


@pytest.mark.parametrize(("line", "becomes"), LINES)
def test_a_line_goes_to_the_mirror_or_stays(line, becomes):
    text, found = moved("/etc/apt/sources.list", line + "\n", MIRROR + "/")
    assert (text, bool(found)) == ((becomes or line) + "\n", becomes is not None)


def test_stanzas_go_to_the_mirror_field_by_field():
    text, found = moved("/etc/apt/sources.list.d/debian.sources", DEB822, MIRROR)
    expected = DEB822.replace("http://ftp.example.org/debian", f"{MIRROR}/debian")
    expected = expected.replace("http://second.example.org/debian", f"{MIRROR}/debian")
    expected = expected.replace("mirror+file:///etc/apt/mirrors/debian-security.list", f"{MIRROR}/debian-security")
    assert text == expected
    assert len(found) == 3


def test_what_has_no_line_end_keeps_none():
    line = "deb http://ftp.example.org/debian bullseye main"
    assert moved("/etc/apt/sources.list", line, MIRROR)[0] == f"deb {MIRROR}/debian bullseye main"
    assert moved("/etc/apt/sources.list", line + "\r\n", MIRROR)[0] == f"deb {MIRROR}/debian bullseye main\r\n"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    (folder / "sources.list").write_text(f"{LINES[0][0]}\n{LINES[7][0]}\n")
    (folder / "sources.list.d" / "debian.sources").write_text(DEB822)
    (folder / "sources.list.d" / "other.list").write_bytes(b"# \xff\ndeb https://x.example/repo any main\n")
    os.chmod(folder / "sources.list", 0o640)
    for path in folder.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    return folder


def state(root):
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime) for path in paths}


def go(root, tmp_path, mirror):
    """Return what one run writes, and whether it reads the lists anew."""
    sources = Sources(str(root), str(tmp_path / "keep"), mirror)
    written, stale = sorted(os.path.basename(path) for path in sources.writes), sources.stale
    if stale:
        sources.write(pending=True)
        sources.updated()
    return written, stale, sources.notes


def test_everything_goes_and_comes_back_as_it_was(root, tmp_path):
    before = state(root)
    both = ["debian.sources", "sources.list"]
    assert go(root, tmp_path, MIRROR) == (both, True, [])
    assert go(root, tmp_path, MIRROR) == ([], False, [])
    assert (root / "sources.list").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "keep" / RECORD).stat().st_mode & 0o777 == 0o600
    # Another mirror is reached from what stood there first.
    assert go(root, tmp_path, "https://other.example/pub") == (both, True, [])
    assert "https://other.example/pub/debian bullseye" in (root / "sources.list").read_text()
    assert go(root, tmp_path, "") == (both, True, [])
    assert state(root) == before
    assert not (tmp_path / "keep").exists()
    assert go(root, tmp_path, "") == ([], False, [])


def test_what_somebody_changed_meanwhile_stays(root, tmp_path):
    go(root, tmp_path, MIRROR)
    (root / "sources.list").write_text("deb http://mine.example/debian bullseye main\n")
    written, _, notes = go(root, tmp_path, "")
    assert written == ["debian.sources"]
    assert (root / "sources.list").read_text() == "deb http://mine.example/debian bullseye main\n"
    assert len(notes) == 1 and "sources.list was changed since" in notes[0]
    assert (root / "sources.list.d" / "debian.sources").read_text() == DEB822


def test_what_stood_there_first_stays_on_record_whatever_is_added(root, tmp_path):
    go(root, tmp_path, MIRROR)
    with open(root / "sources.list", "a") as file:
        file.write("deb https://docker.example/linux/debian bullseye stable\n")
    added = (root / "sources.list").read_text()
    assert go(root, tmp_path, MIRROR)[0] == []
    written, _, notes = go(root, tmp_path, "")
    assert written == ["debian.sources"]
    assert (root / "sources.list").read_text() == added
    assert len(notes) == 1 and "sources.list was changed since" in notes[0]


@pytest.mark.parametrize("point", range(3))
@pytest.mark.parametrize("mirror", [MIRROR, ""])
def test_a_run_that_is_killed_between_any_two_files_is_healed(root, tmp_path, monkeypatch, point, mirror):
    before = state(root)
    if not mirror:
        go(root, tmp_path, MIRROR)

    class Killed(Exception):
        pass

    calls = []

    def replace(self, path, text, real=Sources._replace):
        if len(calls) == point:
            raise Killed
        calls.append(path)
        real(self, path, text)

    sources = Sources(str(root), str(tmp_path / "keep"), mirror)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Sources, "_replace", replace)
        patch.setattr(Sources, "updated", lambda self, pending=False: replace(self, "", ""))
        sources.write(pending=True)
    # Whatever it left, the next one finds that the lists are not read yet.
    assert go(root, tmp_path, mirror)[1]
    assert go(root, tmp_path, mirror)[:2] == ([], False)
    assert (MIRROR in (root / "sources.list").read_text()) == bool(mirror)
    go(root, tmp_path, "")
    assert state(root) == before


def test_the_record_names_no_file_that_is_not_apts(root, tmp_path):
    go(root, tmp_path, MIRROR)
    kept = json.loads((tmp_path / "keep" / RECORD).read_text())
    assert sorted(map(os.path.basename, kept["files"])) == ["debian.sources", "sources.list"]
