"""What consoles print, and what nobody should be able to slip in."""

from __future__ import annotations

import ipaddress

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.ssh_line import (
    Hop,
    Login,
    SshLineError,
    format_login,
    parse,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

IP = "203.0.113.7"
JUMP = Hop("jump.example", 2222, "me")
# line: (user, host, port, key)
PLAIN = {
    "ssh -p 16116 root@host.example": ("root", "host.example", 16116, ""),
    "ssh root@host.example -p 16116": ("root", "host.example", 16116, ""),
    "ssh -p16116 root@host.example": ("root", "host.example", 16116, ""),
    "ssh root@host.example -p16116": ("root", "host.example", 16116, ""),
    "ssh root@203.0.113.7": ("root", IP, 22, ""),
    "ssh 203.0.113.7": ("root", IP, 22, ""),
    "ssh -p 22022 203.0.113.7": ("root", IP, 22022, ""),
    "ssh -l ubuntu 203.0.113.7": ("ubuntu", IP, 22, ""),
    "ssh 203.0.113.7 -l ubuntu -p 2200": ("ubuntu", IP, 2200, ""),
    "ssh -lubuntu -p2200 203.0.113.7": ("ubuntu", IP, 2200, ""),
    # 智星云, AutoDL
    "ssh -p 16116 root@js4.blockelite.cn": ("root", "js4.blockelite.cn", 16116, ""),
    "ssh -p 22022 root@connect.westb.seetacloud.com": ("root", "connect.westb.seetacloud.com", 22022, ""),
    "ssh -p 38076 root@region-1.autodl.com": ("root", "region-1.autodl.com", 38076, ""),
    "ssh -CNg -L 6006:127.0.0.1:6006 root@connect.cqa1.seetacloud.com -p 10101": (
        "root", "connect.cqa1.seetacloud.com", 10101, "",
    ),
    "ssh -CNgL 6006:127.0.0.1:6006 root@region-42.seetacloud.com -p 10101": (
        "root", "region-42.seetacloud.com", 10101, "",
    ),
    # vast.ai
    "ssh -p 40022 root@198.51.100.23 -L 8080:localhost:8080": ("root", "198.51.100.23", 40022, ""),
    "ssh -p 14567 root@ssh4.vast.ai -L 8080:localhost:8080": ("root", "ssh4.vast.ai", 14567, ""),
    "ssh -p 14567 root@ssh4.vast.ai -L8080:localhost:8080": ("root", "ssh4.vast.ai", 14567, ""),
    # RunPod
    "ssh root@192.0.2.40 -p 10022 -i ~/.ssh/id_ed25519": ("root", "192.0.2.40", 10022, "~/.ssh/id_ed25519"),
    "ssh abc123def456-64410d5c@ssh.runpod.io -i ~/.ssh/id_ed25519": (
        "abc123def456-64410d5c", "ssh.runpod.io", 22, "~/.ssh/id_ed25519",
    ),
    "ssh 0a1b2c3d-64410d5c@ssh.runpod.io": ("0a1b2c3d-64410d5c", "ssh.runpod.io", 22, ""),
    # Clouds
    "ssh -i key.pem ubuntu@ec2-203-0-113-7.c.example": ("ubuntu", "ec2-203-0-113-7.c.example", 22, "key.pem"),
    'ssh -i "my key.pem" ubuntu@203.0.113.7': ("ubuntu", IP, 22, "my key.pem"),
    "ssh -i 'my key.pem' ubuntu@203.0.113.7": ("ubuntu", IP, 22, "my key.pem"),
    "ssh -ikey.pem ubuntu@203.0.113.7": ("ubuntu", IP, 22, "key.pem"),
    "ssh -o IdentityFile=key.pem ubuntu@203.0.113.7": ("ubuntu", IP, 22, "key.pem"),
    "ssh azureuser@box_1.internal": ("azureuser", "box_1.internal", 22, ""),
    "ssh first.last@203.0.113.7": ("first.last", IP, 22, ""),
    # Settings
    "ssh -o StrictHostKeyChecking=no root@203.0.113.7 -p 2200": ("root", IP, 2200, ""),
    "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -oStrictHostKeyChecking=no -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -o Port=2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -oPort=2200 root@203.0.113.7": ("root", IP, 2200, ""),
    'ssh -o "Port 2200" root@203.0.113.7': ("root", IP, 2200, ""),
    "ssh -o port=2200 -o user=ubuntu 203.0.113.7": ("ubuntu", IP, 2200, ""),
    "ssh -o HostName=203.0.113.7 -p 2200 mybox": ("root", IP, 2200, ""),
    "ssh -o ServerAliveInterval=60 -v -4 -A -t -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -D 1080 -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -R 9000:localhost:9000 -fN -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -F none -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -p 2200 -- root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -p 2200 root@203.0.113.7 nvidia-smi -L": ("root", IP, 2200, ""),
    "ssh -p 2200 -p 2200 root@203.0.113.7": ("root", IP, 2200, ""),
    "ssh -l root root@203.0.113.7": ("root", IP, 22, ""),
    # Addresses without ssh
    "203.0.113.7:16116": ("root", IP, 16116, ""),
    "host.example:16116": ("root", "host.example", 16116, ""),
    "root@host.example:16116": ("root", "host.example", 16116, ""),
    "ubuntu@203.0.113.7:16116": ("ubuntu", IP, 16116, ""),
    "ssh root@203.0.113.7:16116": ("root", IP, 16116, ""),
    "root@203.0.113.7": ("root", IP, 22, ""),
    "203.0.113.7": ("root", IP, 22, ""),
    "203.0.113.7 16116": ("root", IP, 16116, ""),
    "root@203.0.113.7 16116": ("root", IP, 16116, ""),
    "root@203.0.113.7 -p 16116": ("root", IP, 16116, ""),
    "-p 16116 root@203.0.113.7": ("root", IP, 16116, ""),
    "ssh://root@203.0.113.7:16116": ("root", IP, 16116, ""),
    "ssh://203.0.113.7:16116/": ("root", IP, 16116, ""),
    "ssh://203.0.113.7": ("root", IP, 22, ""),
    "SSH://root@203.0.113.7:16116": ("root", IP, 16116, ""),
    "ssh ssh://root@203.0.113.7:16116": ("root", IP, 16116, ""),
    # IPv6
    "ssh -p 16116 root@2001:db8::7": ("root", "2001:db8::7", 16116, ""),
    "ssh root@[2001:db8::7]:16116": ("root", "2001:db8::7", 16116, ""),
    "[2001:0DB8:0::7]:16116": ("root", "2001:db8::7", 16116, ""),
    "ssh://root@[2001:db8::7]:16116": ("root", "2001:db8::7", 16116, ""),
    "ssh://[2001:db8::7]": ("root", "2001:db8::7", 22, ""),
    # As people paste them
    "  ssh   -p  16116   root@host.example  ": ("root", "host.example", 16116, ""),
    "ssh -p 16116 root@host.example\n": ("root", "host.example", 16116, ""),
    "$ ssh -p 16116 root@host.example": ("root", "host.example", 16116, ""),
    "# ssh -p 16116 root@host.example": ("root", "host.example", 16116, ""),
    "ssh\u00a0-p\u00a016116\u3000root@host.example": ("root", "host.example", 16116, ""),
    "host.example：16116": ("root", "host.example", 16116, ""),
    "/usr/bin/ssh -p 16116 root@host.example": ("root", "host.example", 16116, ""),
    "ssh.exe -p 16116 root@host.example": ("root", "host.example", 16116, ""),
    "ssh -p '16116' \"root@host.example\"": ("root", "host.example", 16116, ""),
    "ssh -p 16116 root@host.example.": ("root", "host.example", 16116, ""),
    "ssh -p 16116 root@HOST": ("root", "HOST", 16116, ""),
}  # fmt: skip


def test_there_are_enough_lines():
    assert len(PLAIN) + len(JUMPING) + len(REFUSED) >= 60


@pytest.mark.parametrize("line", PLAIN)
def test_a_line_of_a_console(line):
    found = parse(line)
    assert (found.user, found.host, found.port, found.key) == PLAIN[line]
    assert found.jumps == ()
    assert parse(format_login(found)) == found


JUMPING = {
    "ssh -J me@jump.example:2222 -p 2200 root@203.0.113.7": (JUMP,),
    "ssh -Jme@jump.example:2222 -p 2200 root@203.0.113.7": (JUMP,),
    "ssh -p 2200 root@203.0.113.7 -J me@jump.example:2222": (JUMP,),
    "ssh -J ssh://me@jump.example:2222 -p 2200 root@203.0.113.7": (JUMP,),
    "ssh -o ProxyJump=me@jump.example:2222 -p 2200 root@203.0.113.7": (JUMP,),
    "ssh -J jump.example -p 2200 root@203.0.113.7": (Hop("jump.example"),),
    "ssh -J me@jump.example:2222,[2001:db8::1]:22 -p 2200 root@203.0.113.7": (JUMP, Hop("2001:db8::1")),
    "ssh -J none -p 2200 root@203.0.113.7": (),
}


@pytest.mark.parametrize("line", JUMPING)
def test_a_line_with_jump_hosts(line):
    found = parse(line)
    assert (found.user, found.host, found.port, found.jumps) == ("root", IP, 2200, JUMPING[line])
    assert parse(format_login(found)) == found


@pytest.mark.parametrize(
    ("line", "notes"),
    [
        ("ssh -p 2200 root@203.0.113.7", []),
        ("ssh -CNg -p 2200 root@203.0.113.7", []),
        ("ssh -CNg -L 6006:127.0.0.1:6006 root@203.0.113.7 -p 2200", ["The tunnel -L 6006:127.0.0.1:6006 is left out"]),
        ("ssh -o StrictHostKeyChecking=no root@203.0.113.7", ["-o StrictHostKeyChecking=no is left out"]),
        ("ssh -c aes128-ctr root@203.0.113.7", ["-c aes128-ctr is left out"]),
        ("ssh root@203.0.113.7 nvidia-smi", ["The command after the host is left out"]),
    ],
)
def test_what_is_left_out_is_said(line, notes):
    found = parse(line).notes
    assert len(found) == len(notes)
    assert all(said.startswith(note) and said.endswith(".") for said, note in zip(found, notes, strict=True))


REFUSED = {
    # A shell would run something.
    "ssh root@$(id).example": "The SSH line holds $",
    "ssh root@`id`": "The SSH line holds `",
    "ssh root@203.0.113.7; rm -rf /": "The SSH line holds ;",
    "ssh root@203.0.113.7 && id": "The SSH line holds &",
    "ssh root@203.0.113.7 | tee x": "The SSH line holds |",
    "ssh root@203.0.113.7 > x": "The SSH line holds >",
    "ssh root@203.0.113.7 < x": "The SSH line holds <",
    "ssh -p ${PORT} root@203.0.113.7": "The SSH line holds $",
    "ssh -i $(id) root@203.0.113.7": "The SSH line holds $",
    # ssh would.
    "ssh -o ProxyCommand=id root@203.0.113.7": "sets ProxyCommand, which runs a program",
    "ssh -oProxyCommand=id root@203.0.113.7": "sets ProxyCommand, which runs a program",
    'ssh -o "proxycommand id" root@203.0.113.7': "sets proxycommand, which runs a program",
    'ssh -o " ProxyCommand = id" root@203.0.113.7': "sets ProxyCommand, which runs a program",
    "ssh -o PermitLocalCommand=yes -o LocalCommand=id root@203.0.113.7": "sets PermitLocalCommand",
    "ssh -o KnownHostsCommand=id root@203.0.113.7": "sets KnownHostsCommand",
    "ssh -o Include=/tmp/x root@203.0.113.7": "sets Include",
    # A host, user or key that is an option.
    "ssh -- -oProxyCommand=id": "is no name of a host",
    "ssh root@-oProxyCommand=id": "is no name of a host",
    "ssh -J -oProxyCommand=id root@203.0.113.7": "is no name of a host",
    "ssh -l -oProxyCommand=id 203.0.113.7": "is no name of a user",
    "ssh -- -oProxyCommand=id@203.0.113.7": "is no name of a user",
    "ssh -i -oProxyCommand=id root@203.0.113.7": "begins with a dash",
    "ssh -o HostName=-oProxyCommand=id mybox": "is no name of a host",
    "ssh://-oProxyCommand=id/": "is no name of a host",
    "--help": "no option --help",
    # What cannot be seen.
    "ssh root@203.0.113.7\nid": "(U+000A)",
    "ssh root@203.0.113.7\rid": "(U+000D)",
    "ssh root@203.0.113.7\x00": "(U+0000)",
    "ssh root@203.0.113.7\x1b[2J": "(U+001B)",
    "ssh root@ho\u200bst.example": "(U+200B)",
    "ssh root@\u202eelpmaxe.tsoh": "(U+202E)",
    # What is no address.
    "": "There is no SSH line",
    "   ": "There is no SSH line",
    "ssh": "names no host",
    "ssh -p 16116": "names no host",
    "ssh -p": "ends after -p",
    "ssh root@203.0.113.7 -i": "ends after -i",
    "ssh -p 0 root@203.0.113.7": "is no port",
    "ssh -p 65536 root@203.0.113.7": "is no port",
    "ssh -p sixteen root@203.0.113.7": "is no port",
    "ssh -p １６ root@203.0.113.7": "is no port",
    "ssh -p -1 root@203.0.113.7": "is no port",
    "203.0.113.7:": "without a port",
    "[2001:db8::7": "bracket",
    "[2001:db8::7]x": "bracket",
    "ssh root@203.0.113": "is no IPv4 address",
    "ssh root@999.0.113.7": "is no IPv4 address",
    "ssh root@2001:db8:::7": "is no IPv6 address",
    "ssh root@fe80::1%eth0": "is no IPv6 address",
    "ssh root@": "is no name of a host",
    "ssh @203.0.113.7": "is no name of a user",
    "ssh root@bücher.example": "is no name of a host",
    "ssh root@host..example": "is no name of a host",
    "ssh root@host-.example": "is no name of a host",
    f"ssh root@{'a' * 64}.example": "more than 63",
    'ssh "root@host.example': "quote",
    "ssh -Z root@203.0.113.7": "no option -Z",
    "please log in with ssh": "does not begin with ssh",
    "https://host.example": "https:// is no address of SSH",
    "scp -P 2200 x root@203.0.113.7:": "begins with scp",
    # Two answers.
    "ssh -p 22 -p 23 root@203.0.113.7": "two ports",
    "ssh -p 22 ssh://root@203.0.113.7:23": "two ports",
    "ssh -l one two@203.0.113.7": "two users",
    "ssh -i a -i b root@203.0.113.7": "two keys",
    "203.0.113.7:22 23": "two ports",
    # Passwords have no place in it.
    "sshpass -p hunter2 ssh root@203.0.113.7": "holds a password",
    "ssh root:hunter2@203.0.113.7": "holds a password",
    "ssh://root:hunter2@203.0.113.7:22": "holds a password",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_no_way_to_a_box_is_refused_in_a_sentence(line):
    with pytest.raises(SshLineError) as error:
        parse(line)
    said = str(error.value)
    assert REFUSED[line] in said
    assert said.isprintable()
    assert "hunter2" not in said


labels = st.from_regex(r"\A[a-zA-Z_]([a-zA-Z0-9_-]{0,20}[a-zA-Z0-9_])?\Z")
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=5).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
users = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,30}\Z")
ports = st.integers(1, 65535)
keys = st.one_of(st.just(""), st.from_regex(r"\A[~/A-Za-z0-9_.][A-Za-z0-9_./ é'-]{0,30}\Z"))
hops = st.builds(Hop, hosts, ports, users)
logins = st.builds(Login, hosts, ports, users, keys, st.lists(hops, max_size=3).map(tuple))


@given(logins)
def test_what_was_formatted_is_parsed_as_the_same(login):
    assert parse(format_login(login)) == login


pieces = st.sampled_from(
    [
        "ssh",
        "-p",
        "22",
        "-J",
        "-l",
        "-i",
        "-o",
        "-L",
        "--",
        "-",
        "@",
        ":",
        "root@",
        "host",
        " ",
        "=",
        "'",
        '"',
        "\\",
        "\n",
    ]
    + ["-oProxyCommand=id", "$(id)", "ssh://", "[::1]", "::1", ",", ".", "Port", "User", "HostName", "ProxyJump", "\t"]
)
lines = st.one_of(st.text(max_size=60), st.lists(pieces, max_size=12).map("".join), st.lists(pieces).map(" ".join))


def is_clean(hop: Hop) -> bool:
    texts = (hop.host, hop.user)
    return all(
        text and not text.startswith("-") and text.isascii() and not set(text) & set(" \t\n'\"@$`;") for text in texts
    )


@settings(max_examples=300)
@given(lines)
@example("ssh -l ' -oProxyCommand=id' host")
@example("ssh 'root@host -oProxyCommand=id'")
@example("ssh -J 'a b' host")
def test_whatever_is_given_no_host_and_no_user_is_an_option(line):
    try:
        found = parse(line)
    except SshLineError as error:
        assert str(error)
        return
    assert is_clean(found)
    assert all(map(is_clean, found.jumps))
    assert not found.key.startswith("-")
    assert 0 < found.port < 65536
    if ":" in found.host:
        ipaddress.IPv6Address(found.host)
    assert parse(format_login(found)) == found
