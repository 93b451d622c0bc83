"""`artifact` on a real box: what an operator sets, what he is told, and the files that mirrors have none of."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from datetime import datetime

import box
import pytest
import yaml
from fetch_box import DEAD, DEST, MIB, content, fetch_box, told, until
from misbehaving.client import behave, counts

CONTENT = content(4 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PROXY_PORT = 8899
# A proxy for http alone: asks what stands on a port, whatever address it was asked for, at a rate in bytes a second.
PROXY = r"""
import http.client, http.server, sys, time
from urllib.parse import urlsplit
PORT, BEHIND, RATE = (int(word) for word in sys.argv[1:])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        link = http.client.HTTPConnection("127.0.0.1", BEHIND)
        asked = {"Range": self.headers["Range"]} if self.headers["Range"] else {}
        link.request("GET", urlsplit(self.path).path, headers=asked)
        answer = link.getresponse()
        self.send_response(answer.status)
        for name in ("Content-Length", "Content-Range", "Accept-Ranges"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.end_headers()
        while piece := answer.read(RATE // 10):
            self.wfile.write(piece)
            time.sleep(0.1 * (RATE < 2**24))
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def on(tmp_path_factory):
    with fetch_box("fetch-settings", tmp_path_factory.mktemp("settings"), 2) as made:
        made.publish({"file.bin": CONTENT})
        yield made


@pytest.fixture(autouse=True)
def afresh(on):
    on.behave_all()
    on.table("thing", {"file.bin": CONTENT}, [on.ports[0]])


@pytest.fixture
def bundle(on):
    """The bundle with the file, for one test."""
    folder = on.folder / "bundle" / "thing"
    folder.mkdir(parents=True)
    (folder / "file.bin").write_bytes(CONTENT)
    yield
    (folder / "file.bin").unlink()
    folder.rmdir()


def test_a_file_is_told_of_in_a_table_and_found_again(on):
    got = on.fetch("thing")
    assert got.failure == ""
    (fetched,) = told(got)["fetched"]
    source = f"127.0.0.1:{on.ports[0]}"
    assert (fetched["bytes"], fetched["source"], fetched["verified"]) == (len(CONTENT), source, "sha256")
    row = next(line.split() for line in got.output.splitlines() if line.startswith("test_box  thing/file.bin"))
    assert row[:5] == ["test_box", "thing/file.bin", "4.0", "MiB", source]
    assert (row[-2].endswith("iB/s"), row[-1]) == (True, "sha256")
    behave(on.ports[0], down=True)
    assert on.fetch("thing").changed == []


def test_names_that_need_quoting_and_an_empty_file(on):
    files = {"你 好.bin": CONTENT, "deep er/100% #1?.bin": CONTENT[::-1], "empty.bin": b""}
    on.publish(files)
    on.table("names", files, [on.ports[0]])
    assert on.fetch("names").failure == ""
    for path, data in files.items():
        assert on.sha256(f"names/{path}") == hashlib.sha256(data).hexdigest()
    assert on.fetch("names").changed == []


def test_five_hundred_small_files_come_soon_and_their_stamps_hold(on):
    files = {f"{number % 10}/{number}.json": b"%d" % number * 500 for number in range(500)}
    on.publish(files)
    on.table("many", files, on.ports)
    got = on.fetch("many")
    assert got.failure == ""
    played = [datetime.fromisoformat(event["created"]) for event in got.events]
    assert (max(played) - min(played)).total_seconds() < 25
    assert len(told(got)["fetched"]) == 500
    assert "many/ (500 small files)" in got.output
    joined = "".join(sorted(f"{hashlib.sha256(data).hexdigest()}  ./{path}\n" for path, data in files.items()))
    found = on.inside(f"cd {DEST}/many && find . -type f -exec sha256sum {{}} + | sort | sha256sum")
    assert found.split()[0] == hashlib.sha256(joined.encode()).hexdigest()
    sent = sum(on.sent(path) for path in files)
    assert sent <= 1.05 * sum(len(data) for data in files.values())
    assert on.fetch("many").changed == []
    assert sum(on.sent(path) for path in files) == sent


def test_progress_is_told_every_five_seconds_while_one_waits(on):
    behave(on.ports[0], rate=MIB // 3)
    got = on.fetch("thing")
    assert got.failure == ""
    lines = [event for event in got.events if "test_box  fetch-thing  thing  " in (event.get("stdout") or "")]
    times = [datetime.fromisoformat(event["created"]) for event in lines]
    assert 1 <= len(times) <= 3
    assert all(later.timestamp() - sooner.timestamp() > 4.5 for sooner, later in zip(times, times[1:], strict=False))
    told_of = re.fullmatch(
        r"test_box  fetch-thing  thing  (\d+)%  (\S+) MiB of 4.0 MiB  (\S+) KiB/s  \d+ s left",
        lines[-1]["stdout"].strip(),
    )
    assert told_of, lines[-1]["stdout"]
    percent, have, rate = map(float, told_of.groups())
    assert abs(percent - 25 * have) < 3
    assert 200 < rate < 450


def test_nothing_waits_where_nobody_asks_to(on):
    behave(on.ports[0], rate=MIB)
    got = on.fetch("thing", wait=False)
    assert told(got)["begun"] == ["thing"]
    assert on.standing("thing") == []
    waited = on.fetch("thing")
    assert (waited.failure, on.sha256("thing/file.bin")) == ("", SHA256)
    assert on.sent("file.bin") < 1.1 * len(CONTENT)
    assert told(waited)["fetched"][0]["path"] == "file.bin"


def test_check_mode_tells_what_is_missing_and_fetches_nothing(on):
    got = on.fetch("thing", cmdline="--check")
    assert [file["path"] for file in told(got)["missing"]] == ["file.bin"]
    assert on.sent("file.bin") == 0


def test_the_bundle_comes_before_every_mirror(on, bundle):
    got = on.fetch("thing")
    assert told(got)["fetched"][0]["source"] == "the bundle"
    assert on.sent("file.bin") == 0


def test_a_login_that_becomes_root_can_push(on, bundle):
    """The files arrive as the login user and end as root's, who gives them their names."""
    user = "useradd --create-home renter; cp -r /root/.ssh /home/renter; chown -R renter /home/renter/.ssh"
    on.inside(
        f"apt-get -qq install -y sudo >/dev/null; {user}; echo 'renter ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/renter"
    )
    got = on.fetch("thing", play={"vars": {"ansible_user": "renter", "ansible_become": True}})
    assert got.failure == ""
    assert told(got)["fetched"][0]["source"] == "the bundle"
    assert on.inside(f"stat -c '%U %a' {DEST}/thing/file.bin") == "root 644"


def test_a_file_that_was_damaged_is_found_and_mended(on):
    on.fetch("thing")
    on.inside(f"printf X | dd of={DEST}/thing/file.bin conv=notrunc status=none")
    assert on.fetch("thing").changed == ["Fetch"]
    assert on.sha256("thing/file.bin") == SHA256


def test_recheck_finds_a_flipped_byte_that_no_stamp_can_show(on):
    on.fetch("thing")
    path = f"{DEST}/thing/file.bin"
    flip = f"touch -r {path} /root/times; printf X | dd of={path} bs=1 seek=99 conv=notrunc status=none"
    on.inside(f"{flip}; touch -r /root/times {path}")
    assert on.sha256("thing/file.bin") != SHA256
    assert on.fetch("thing").changed == []
    assert on.fetch("thing", recheck=True).changed == ["Fetch"]
    assert on.sha256("thing/file.bin") == SHA256


def test_a_wrong_file_is_kept_only_when_asked(on):
    behave(on.ports[0], wrong_bytes=True)
    assert on.fetch("thing").status == "failed"
    assert on.standing("thing") == []
    assert on.fetch("thing", keep_bad=True).status == "failed"
    assert on.standing("thing") == ["file.bin.bad"]
    inverted = bytes(255 - byte for byte in range(256))
    assert on.sha256("thing/file.bin.bad") == hashlib.sha256(CONTENT.translate(inverted)).hexdigest()


def test_a_file_without_a_hash_is_refused_then_trusted_once_then_held_to_it(on):
    first, other = content(MIB, 5), content(MIB, 6)
    on.publish({"first.bin": first})
    on.table("unknown", {"first.bin": first}, [on.ports[0]], sha256=None)
    trusted = on.folder / "state" / "trusted.yml"
    named = {"trust_on_first_use": ["unknown"], "trusted_hashes": str(trusted)}
    refused = on.fetch("unknown", trusted_hashes=str(trusted))
    assert "first.bin of unknown has no sha256: nobody has published one" in refused.failure
    assert f"add unknown to fetch_trust_on_first_use; its hash is then written to {trusted}" in refused.failure
    assert on.sent("first.bin") == 0
    behave(on.ports[0], html=True)
    assert "it sends an HTML page" in on.fetch("unknown", **named).failure
    assert not trusted.exists()
    behave(on.ports[0])
    got = on.fetch("unknown", **named)
    assert got.failure == ""
    sha256 = hashlib.sha256(first).hexdigest()
    assert f"first use: first.bin of unknown has sha256 {sha256}, now recorded in {trusted}" in got.output
    assert told(got)["fetched"][0]["verified"] == "first use, sha256 recorded"
    assert yaml.safe_load(trusted.read_text()) == {"unknown": {"first.bin": sha256}}
    assert on.fetch("unknown", **named).changed == []
    on.publish({"first.bin": other})
    # Another folder stands for another box.
    elsewhere = on.fetch("unknown", **named, dest=f"{DEST}/elsewhere")
    assert f"it has sha256 {hashlib.sha256(other).hexdigest()} where {sha256} was expected" in elsewhere.failure
    assert on.standing("elsewhere/unknown") == []
    on.inside(f"rm {DEST}/unknown/first.bin")
    assert f"where {sha256} was expected" in on.fetch("unknown", **named).failure
    on.publish({"first.bin": first})
    again = on.fetch("unknown", **named)
    assert told(again)["fetched"][0]["verified"] == "sha256"


def test_mirrors_are_added_preferred_and_forbidden(on):
    slow, fast = on.ports
    behave(slow, rate=2 * MIB)
    by_name = f"http://127.0.0.2:{slow}/{{path}}"
    on.table("thing", {"file.bin": CONTENT}, [by_name, fast])
    assert told(on.fetch("thing"))["fetched"][0]["source"] == f"127.0.0.1:{fast}"
    on.behave_all()
    behave(slow, rate=2 * MIB)
    preferred = on.fetch("thing", preferred_hosts=["127.0.0.2"])
    assert f"127.0.0.2:{slow}" in told(preferred)["fetched"][0]["source"]
    on.behave_all()
    forbidden = on.fetch("thing", forbidden_hosts=["127.0.0.1"])
    assert told(forbidden)["fetched"][0]["source"] == f"127.0.0.2:{slow}"
    assert counts(fast)["requests"] == {}
    on.behave_all()
    none = on.fetch("thing", forbidden_hosts=["127.0.0.1", "127.0.0.2"])
    assert "file.bin of thing has no mirror and is not in the bundle" in none.failure
    assert [counts(port)["requests"] for port in on.ports] == [{}, {}]
    on.table("thing", {"file.bin": CONTENT}, [DEAD])
    added = on.fetch("thing", extra_mirrors={"thing": [f"http://127.0.0.1:{fast}/{{path}}"]})
    assert told(added)["fetched"][0]["source"] == f"127.0.0.1:{fast}"


def test_a_proxy_is_used_where_it_helps_and_only_there(on):
    direct, behind = on.ports
    address = f"http://127.0.0.1:{PROXY_PORT}"
    on.inside(f"cat > /root/proxy.py <<'END'\n{PROXY}\nEND")

    def source(rate: int, **how) -> str:
        on.behave_all()
        behave(direct, rate=2 * MIB)
        command = f"python3 /root/proxy.py {PROXY_PORT} {behind} {rate}"
        box.podman("exec", "--detach", box.container(on.name), *command.split())
        until(lambda: on.inside(f"ss -Hlt sport = {PROXY_PORT}"))
        got = on.fetch("thing", **how)
        on.inside(f"kill $(pgrep -f '^{command}')")
        until(lambda: not on.inside(f"ss -Hlt sport = {PROXY_PORT}"))
        assert got.failure == ""
        assert on.sha256("thing/file.bin") == SHA256
        return told(got)["fetched"][0]["source"]

    through = f"127.0.0.1:{direct} through 127.0.0.1:{PROXY_PORT}"
    assert source(64 * MIB, proxy=address) == through
    assert source(MIB // 4, proxy=address) == f"127.0.0.1:{direct}"
    environment = {"environment": {"https_proxy": address}}
    assert source(64 * MIB, play=environment) == through
    assert source(64 * MIB, play=environment, proxy="none") == f"127.0.0.1:{direct}"
    on.behave_all()
    assert told(on.fetch("thing", proxy=f"http://127.0.0.1:{DEAD}"))["fetched"][0]["source"] == f"127.0.0.1:{direct}"


def test_a_box_without_aria2c_gets_the_bundles(on):
    """The archive has the box's own aria2c, which is not static: that it runs from where it was pushed is what counts
    here, and that box has its libraries."""
    name, folder = "aria2-x86_64-linux-musl_static.zip", on.folder / "bundle" / "aria2-static"
    box.podman("cp", f"{box.container(on.name)}:/usr/bin/aria2c", str(on.folder / "aria2c"))
    on.inside("mv /usr/bin/aria2c /root/aria2c")
    try:
        lacking = on.fetch("thing")
        assert "The box has no aria2c, and the bundle has no artifact aria2-static." in lacking.failure
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.write(on.folder / "aria2c", "aria2c")
        on.table("aria2-static", {name: (folder / name).read_bytes()}, [])
        got = on.fetch("thing")
        assert got.failure == ""
        assert {file["source"] for file in told(got)["fetched"]} == {"the bundle", f"127.0.0.1:{on.ports[0]}"}
        assert on.sha256("thing/file.bin") == SHA256
        on.inside(f"rm -r {DEST}/thing")
        again = on.fetch("thing")
        assert [file["path"] for file in told(again)["fetched"]] == ["file.bin"]
    finally:
        on.inside("mv /root/aria2c /usr/bin/aria2c")


def test_a_job_leaves_nothing_but_files_stamps_and_itself(on):
    on.fetch("thing")
    assert on.inside(f"ls -A {DEST}/.partial {DEST}/.arriving 2>/dev/null | grep -v : || true") == ""
    (stamp,) = json.loads(on.inside(f"cat {DEST}/.stamps/thing.json")).values()
    assert (stamp["sha256"], stamp["size"]) == (SHA256, len(CONTENT))
    assert on.inside("pgrep aria2c || true") == ""
