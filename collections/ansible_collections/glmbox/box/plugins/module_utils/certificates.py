"""Certificates of the gateway, looked at on the controller, where `cryptography` comes with ansible-core."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


def read_certificate(path: str) -> x509.Certificate:
    """Return a PEM file's first certificate, which is the server's; raise OSError or ValueError."""
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


def fingerprint_of(path: str) -> str:
    """Return the SHA-256 of a PEM file's first certificate, as browsers and openssl show it: AB:CD:...

    Raises OSError or ValueError where it cannot be read.
    """
    return read_certificate(path).fingerprint(hashes.SHA256()).hex(":").upper()


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate names a host: an IP address, a name, or a name whose first label is any (*)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        known = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
        return host.lower() in known or "*." + host.lower().partition(".")[2] in known


def pair_problems(certificate_file: str, key_file: str, host: str, now: datetime.datetime) -> list[str]:
    """Return a sentence for each thing that is wrong with a certificate and its key.

    certificate_file, key_file: PEM files on the controller. host: as clients will call the box. now: with a time zone.
    """
    problems = []
    try:
        certificate = read_certificate(certificate_file)
    except OSError as error:
        return [f"gateway_certificate {certificate_file} cannot be read ({error.strerror}) on this controller."]
    except ValueError:
        return [f"gateway_certificate {certificate_file} holds no certificate in PEM form."]
    last, first = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now > last:
        problems.append(f"gateway_certificate {certificate_file} expired on {last:%Y-%m-%d %H:%M} UTC. Renew it.")
    if now < first:
        problems.append(f"gateway_certificate {certificate_file} is not valid before {first:%Y-%m-%d %H:%M} UTC.")
    if not is_for(certificate, host):
        problems.append(
            f"gateway_certificate {certificate_file} is not for {host}, the host of gateway_public_url. Set "
            "gateway_public_url to an address with a name that the certificate has."
        )
    try:
        with open(key_file, "rb") as file:
            key = load_pem_private_key(file.read(), None)
    except OSError as error:
        return [*problems, f"gateway_certificate_key {key_file} cannot be read ({error.strerror}) on this controller."]
    except TypeError:
        return [
            *problems,
            f"gateway_certificate_key {key_file} is locked with a passphrase, which nobody would type when nginx "
            "starts. Unlock it with `openssl pkey`.",
        ]
    except ValueError:
        return [*problems, f"gateway_certificate_key {key_file} holds no private key in PEM form."]
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        problems.append(f"gateway_certificate_key {key_file} is not the key of {certificate_file}.")
    return problems
