"""The gateway's inputs: names, tokens and certificates, every wrong thing its sentence."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from ansible_collections.glmbox.box.plugins.module_utils.certificates import fingerprint_of, is_for, read_certificate
from ansible_collections.glmbox.box.plugins.module_utils.gateway import gateway_problems
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def make_pair(folder, name="good", first=NOW - DAY, last=NOW + DAY, passphrase=b""):
    """Write a certificate for box.example, *.boxes.example and 203.0.113.7 with its key; return both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    title = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "box.example")])
    names = [
        x509.DNSName("box.example"),
        x509.DNSName("*.boxes.example"),
        x509.IPAddress(ipaddress.ip_address("203.0.113.7")),
    ]
    certificate = (
        x509.CertificateBuilder(title, title, key.public_key(), 7, first, last)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def wish(pair, url="https://box.example:3389", **values):
    names = ("gateway_certificate", "gateway_certificate_key")
    return {"gateway_tls": "files", "gateway_public_url": url, **dict(zip(names, pair, strict=True)), **values}


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"gateway_users": ["glmbox", "alice", "bob_2", "7-up"]}, ""),
        ({"gateway_users": ["alice"], "gateway_renew": ["alice"]}, ""),
        ({"gateway_users": ["Alice"]}, "has the name Alice"),
        ({"gateway_users": ["a/../b"]}, "has the name a/../b"),
        ({"gateway_users": ["-"]}, "begins with a letter or digit"),
        ({"gateway_users": ["a", "b", "a"]}, "has a twice"),
        ({"gateway_users": []}, "nobody could ask"),
        ({"gateway_users": "alice,bob"}, "gateway_users has to be a list"),
        ({"gateway_renew": ["bob"]}, "gateway_renew has bob, who is not in gateway_users"),
    ],
)
def test_names(values, part):
    problems = gateway_problems(values)
    assert len(problems) == (1 if part else 0)
    assert part in "".join(problems)


@pytest.mark.parametrize(
    ("more", "refused"),
    [({}, True), ({"gateway_new_token": "true"}, False), ({"gateway_renew": ["alice"]}, False)],
)
def test_a_token_that_could_be_guessed_is_refused_unless_it_is_renewed(tmp_path, more, refused):
    (tmp_path / "token").write_text("a" * 48 + "\n")
    (tmp_path / "token.alice").write_text("secret\n")
    values = {"gateway_users": ["glmbox", "alice"], "gateway_token_file": str(tmp_path / "token")}
    problems = gateway_problems(values | more)
    assert len(problems) == int(refused)
    assert all(f"{tmp_path}/token.alice holds no token" in problem for problem in problems)


def test_a_certificate_with_its_key_is_taken(tmp_path):
    pair = make_pair(tmp_path)
    for host in ("box.example", "BOX.example", "one.boxes.example", "203.0.113.7"):
        assert gateway_problems(wish(pair, f"https://{host}:3389")) == []
    certificate = read_certificate(pair[0])
    for host in ("boxes.example", "a.one.boxes.example", "203.0.113.8", "example"):
        assert not is_for(certificate, host)
    assert fingerprint_of(pair[0]).count(":") == 31


def test_each_thing_that_is_wrong_with_a_pair_is_a_sentence(tmp_path):
    good, other = make_pair(tmp_path), make_pair(tmp_path, "other")
    old = make_pair(tmp_path, "old", NOW - 2 * DAY, NOW - DAY)
    early = make_pair(tmp_path, "early", NOW + DAY, NOW + 2 * DAY)
    locked = make_pair(tmp_path, "locked", passphrase=b"x")
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for values, part in (
        (wish(("", "")), "gateway_certificate names none"),
        (wish((good[0], "")), "gateway_certificate_key names none"),
        (wish((str(tmp_path / "none"), good[1])), "none cannot be read (No such file or directory)"),
        (wish((good[0], str(tmp_path / "none"))), "none cannot be read (No such file or directory)"),
        (wish((str(junk), good[1])), "junk holds no certificate"),
        (wish((good[0], str(junk))), "junk holds no private key"),
        (wish((good[0], other[1])), f"other.key is not the key of {good[0]}"),
        (wish(old), "old.pem expired on"),
        (wish(early), "early.pem is not valid before"),
        (wish(locked), "locked.key is locked with a passphrase"),
        (wish(good, "https://203.0.113.9:3389"), "is not for 203.0.113.9"),
        (wish(good, "http://box.example:3389"), "has to begin with https://"),
    ):
        problems = gateway_problems(values)
        assert any(part in problem for problem in problems), part
        assert len(problems) == (2 if values["gateway_certificate"] == "" else 1), part


def test_without_tls_a_providers_https_is_fine():
    assert gateway_problems({"gateway_tls": "none", "gateway_public_url": "https://u1.provider.example:8443"}) == []
