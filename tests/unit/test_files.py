"""Files, folders and links, several in one go: made, left alone, refused, and in check mode only told."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.glmbox.box.plugins.modules import files

OWN = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def run(
    capsys: pytest.CaptureFixture[str],
    *entries: dict,
    check: bool = False,
    diff: bool = True,
    look: tuple[str, ...] = (),
) -> dict:
    """Run the module on these entries, as this user, and return what it answers."""
    arguments = {
        "files": [{**OWN, **entry, "path": str(entry["path"])} for entry in entries],
        "look": list(look),
        "_ansible_check_mode": check,
        "_ansible_diff": diff,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        files.main()
    return json.loads(capsys.readouterr().out)


def folder(path: Path, mode: str = "0750") -> dict:
    return {"path": path, "state": "directory", "mode": mode}


def test_all_is_made_in_order_and_then_left_alone(tmp_path: Path, capsys):
    entries = (
        folder(tmp_path / "a" / "b"),
        {"path": tmp_path / "a" / "b" / "text", "content": "你好\n", "mode": "0640"},
        {"path": tmp_path / "link", "state": "link", "target": str(tmp_path / "nowhere")},
    )
    did = run(capsys, *entries, look=("/nothing", str(tmp_path), str(tmp_path / "link")))
    assert did["changed"] and len(did["changed_paths"]) == 4
    assert (tmp_path / "a/b/text").read_text() == "你好\n"
    assert (tmp_path / "a/b/text").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "a").stat().st_mode & 0o7777 == (tmp_path / "a/b").stat().st_mode & 0o7777 == 0o750
    assert os.readlink(tmp_path / "link") == str(tmp_path / "nowhere")
    assert {path: seen["leads_to"] for path, seen in did["there"].items()} == {
        str(tmp_path): "",
        str(tmp_path / "link"): str(tmp_path / "nowhere"),
    }
    assert did["there"][str(tmp_path / "link")]["since"] == (tmp_path / "link").lstat().st_mtime
    inode = (tmp_path / "a/b/text").stat().st_ino
    again = run(capsys, *entries)
    assert not again["changed"] and again["diff"] == []
    assert (tmp_path / "a/b/text").stat().st_ino == inode


def test_what_there_is_of_a_pattern_is_told(tmp_path: Path, capsys):
    for name in ("demos-a", "demos-b", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "demos-b" / ".ready").touch()
    told = run(capsys, folder(tmp_path / "demos-c"), look=(f"{tmp_path}/demos-*", f"{tmp_path}/demos-*/.ready"))
    assert sorted(told["there"]) == [
        f"{tmp_path}/{name}" for name in ("demos-a", "demos-b", "demos-b/.ready", "demos-c")
    ]


def test_a_secret_text_is_in_no_diff_and_in_no_answer(tmp_path: Path, capsys):
    entry = {"path": tmp_path / "token", "content": "s3cret-new\n", "mode": "0640", "secret": True}
    (tmp_path / "token").write_text("s3cret-old\n")
    told = run(capsys, entry, {"path": tmp_path / "open", "content": "for all\n", "mode": "0644"})
    assert "s3cret" not in json.dumps(told)
    assert (tmp_path / "token").read_text() == "s3cret-new\n"
    # The next one's diff is whole, and the secret one is told to change.
    assert told["diff"][0]["before"] != told["diff"][0]["after"]
    assert told["diff"][1]["after"] == "for all\n"
    assert run(capsys, entry)["diff"] == []
    refused = run(capsys, {"path": tmp_path / "token", "content": "s3cret-new\n", "secret": True})
    assert "mode" in refused["msg"] and "s3cret" not in json.dumps(refused)


def test_check_mode_tells_the_same_and_does_nothing(tmp_path: Path, capsys):
    (tmp_path / "old").write_text("one\n")
    (tmp_path / "link").symlink_to("somewhere")
    entries = (
        {"path": tmp_path / "old", "content": "two\n", "mode": "0600"},
        {"path": tmp_path / "new" / "text", "content": "two\n", "mode": "0600", "owner": "nobody-yet"},
        {"path": tmp_path / "link", "state": "link", "target": "elsewhere"},
        folder(tmp_path / "folder"),
    )
    told = run(capsys, *entries, check=True)
    assert told["changed_paths"] == [str(tmp_path / name) for name in ("old", "new/text", "link", "folder")]
    assert [(one["before"], one["after"]) for one in told["diff"][:3]] == [
        ("one\n", "two\n"),
        ("", "two\n"),
        ("somewhere\n", "elsewhere\n"),
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "old"]
    assert (tmp_path / "old").read_text() == "one\n" and os.readlink(tmp_path / "link") == "somewhere"


def test_rights_alone_are_mended_without_writing_anew(tmp_path: Path, capsys):
    text = tmp_path / "text"
    text.write_text("same")
    text.chmod(0o666)
    tmp_path.chmod(0o777)
    inode = text.stat().st_ino
    did = run(capsys, folder(tmp_path, "0700"), {"path": text, "content": "same", "mode": "0600"})
    assert did["changed_paths"] == [str(tmp_path), str(text)]
    assert "mode: 0666" in did["diff"][1]["before"] and "mode: 0600" in did["diff"][1]["after"]
    assert text.stat().st_mode & 0o7777 == 0o600 and text.stat().st_ino == inode
    assert tmp_path.stat().st_mode & 0o7777 == 0o700


def test_a_link_becomes_the_file_and_what_it_led_to_stays(tmp_path: Path, capsys):
    (tmp_path / "other").write_text("not ours")
    (tmp_path / "text").symlink_to(tmp_path / "other")
    assert run(capsys, {"path": tmp_path / "text", "content": "ours", "mode": "0600"})["changed"]
    assert not (tmp_path / "text").is_symlink() and (tmp_path / "text").read_text() == "ours"
    assert (tmp_path / "other").read_text() == "not ours"


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path, capsys):
    (tmp_path / "disk").mkdir(mode=0o750)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert not run(capsys, folder(tmp_path / "data"))["changed"]
    assert (tmp_path / "data").is_symlink()


def test_all_that_is_in_the_way_is_said_at_once_and_nothing_is_touched(tmp_path: Path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("somebody's")
    os.mkfifo(tmp_path / "pipe")
    said = run(
        capsys,
        {"path": tmp_path / "first", "content": "x", "mode": "0600"},
        {"path": tmp_path / "folder", "content": "x", "mode": "0600"},
        {"path": tmp_path / "text", "state": "link", "target": "x"},
        {"path": tmp_path / "pipe", "content": "x", "mode": "0600"},
        folder(tmp_path / "text"),
        {"path": tmp_path / "none" / "x", "content": "x", "mode": "0600"},
        {"path": tmp_path / "x", "content": "x", "mode": "0600", "owner": "no-such-user"},
        {"path": tmp_path / "y", "content": "x", "mode": "0600", "group": "no-such-group"},
    )
    assert said["failed"] and said["msg"].splitlines() == [
        f"{tmp_path}/folder is a folder, and glmbox needs a file there. Move it away.",
        f"{tmp_path}/text is a file, and glmbox needs a link there. Move it away.",
        f"{tmp_path}/pipe is neither a file, a folder nor a link, and glmbox needs a file there. Move it away.",
        f"{tmp_path}/text is a file, and glmbox needs a folder there. Move it away.",
        f"{tmp_path}/none/x cannot be made: there is no folder {tmp_path}/none.",
        f"{tmp_path}/x: There is no user no-such-user.",
        f"{tmp_path}/y: There is no group no-such-group.",
    ]
    assert not (tmp_path / "first").exists()


def test_what_its_program_refuses_leaves_the_old_file_and_no_draft(tmp_path: Path, capsys):
    (tmp_path / "text").write_text("good\n")
    judged = {"path": tmp_path / "text", "mode": "0600", "validate": "grep good %s"}
    said = run(capsys, {**judged, "content": "bad\n"})
    assert said["failed"] and f"{tmp_path}/text was left as it was, since grep refuses the new one" in said["msg"]
    assert [one.name for one in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "good\n"
    assert run(capsys, {**judged, "content": "good again\n"})["changed"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "text").write_text("old\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = run(capsys, {"path": tmp_path / "text", "content": "new\n", "mode": "0600"})
    assert said["failed"] and said["msg"] == f"{tmp_path}/text: No space left on device"
    assert [one.name for one in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "old\n"


def test_a_link_that_a_killed_run_left_half_is_no_hindrance(tmp_path: Path, capsys):
    (tmp_path / "link.glmbox-new").symlink_to("x")
    assert run(capsys, {"path": tmp_path / "link", "state": "link", "target": "there"})["changed"]
    assert [one.name for one in tmp_path.iterdir()] == ["link"]


def test_texts_are_not_logged_on_the_box(tmp_path: Path):
    """AnsibleModule logs its arguments by syslog.syslog or systemd.journal: neither may be called."""
    program = (
        "import syslog, sys\n"
        "syslog.syslog = syslog.openlog = lambda *_: sys.exit('logged')\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.glmbox.box.plugins.modules import files\n"
        "import ansible.module_utils.basic as basic\n"
        "basic.has_journal = False\n"
        f"entry = dict(path={str(tmp_path / 'text')!r}, content='quiet', mode='0600', **{OWN!r})\n"
        "with patch_module_args({'files': [entry], '_ansible_no_log': False, '_ansible_verbosity': 3}):\n"
        "    files.main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 and json.loads(ran.stdout)["changed"], ran.stderr
    assert "quiet" not in ran.stdout


def test_without_diff_no_text_is_shown(tmp_path: Path, capsys):
    did = run(capsys, {"path": tmp_path / "text", "content": "quiet", "mode": "0600"}, diff=False)
    assert did["changed"] and did["diff"] == [] and "quiet" not in json.dumps(did)


def test_a_slash_at_the_end_of_a_folder_is_no_other_folder(tmp_path: Path, capsys):
    assert run(capsys, folder(f"{tmp_path}/a/b/"))["changed_paths"] == [f"{tmp_path}/a", f"{tmp_path}/a/b"]
    assert not run(capsys, folder(f"{tmp_path}/a/b/"))["changed"]
