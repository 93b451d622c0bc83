"""Host keys by address and port."""

from __future__ import annotations

import subprocess

from ansible_collections.glmbox.box.plugins.module_utils import known_hosts

FIRST, SECOND = ("ssh-ed25519", "Zmlyc3Q="), ("ssh-rsa", "c2Vjb25k")


def test_two_ports_of_one_address_are_two_boxes():
    names = [known_hosts.token("203.0.113.7", port) for port in (22, 16116)]
    assert names == ["203.0.113.7", "[203.0.113.7]:16116"]
    text = known_hosts.with_key(known_hosts.with_key("", names[0], FIRST), names[1], SECOND)
    assert text == "203.0.113.7 ssh-ed25519 Zmlyc3Q=\n[203.0.113.7]:16116 ssh-rsa c2Vjb25k\n"
    assert [known_hosts.keys_of(text, name) for name in names] == [[FIRST], [SECOND]]
    assert known_hosts.without(text, names[0]) == "[203.0.113.7]:16116 ssh-rsa c2Vjb25k\n"


def test_an_inventorys_host_is_named_as_its_address():
    assert known_hosts.token_of({"ansible_host": "203.0.113.7", "ansible_port": 16116}) == "[203.0.113.7]:16116"
    assert known_hosts.token_of({"ansible_host": "203.0.113.7", "ansible_port": "22"}) == "203.0.113.7"
    assert known_hosts.token_of({"ansible_port": "{{ mine }}"}) == "[None]:{{ mine }}"


def test_a_new_key_replaces_all_of_its_address_and_nothing_else():
    text = (
        "# mine\n\nbox,203.0.113.7 ssh-ed25519 Zmlyc3Q= by hand\n203.0.113.7 ssh-rsa c2Vjb25k\nother ssh-rsa c2Vjb25k"
    )
    new = known_hosts.with_key(text, "203.0.113.7", SECOND)
    assert new == ("# mine\n\nbox ssh-ed25519 Zmlyc3Q= by hand\nother ssh-rsa c2Vjb25k\n203.0.113.7 ssh-rsa c2Vjb25k\n")
    assert known_hosts.with_key(new, "203.0.113.7", SECOND) == new
    assert known_hosts.with_key("", "a", FIRST) == "a ssh-ed25519 Zmlyc3Q=\n"


def test_ssh_keygen_shows_the_same_fingerprint_and_finds_the_address(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    kind, key = (tmp_path / "key.pub").read_text().split()[:2]
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert known_hosts.fingerprint((kind, key)) == shown.stdout.split()[1]
    (tmp_path / "known_hosts").write_text(known_hosts.with_key("", "[2001:db8::7]:16116", (kind, key)))
    found = ["ssh-keygen", "-F", "[2001:db8::7]:16116", "-f", tmp_path / "known_hosts"]
    assert key in subprocess.run(found, capture_output=True, text=True, check=True).stdout
