"""Prove that this Python has what the demos need, and that its ssl verifies certificates; argv: OpenSSL's version."""

import importlib
import os
import ssl
import subprocess
import sys
import tempfile

PACKAGES = {
    "_uuid": "uuid-dev",
    "bz2": "libbz2-dev",
    "ctypes": "libffi-dev",
    "curses": "libncurses-dev",
    "dbm.gnu": "libgdbm-dev",
    "lzma": "liblzma-dev",
    "readline": "libreadline-dev",
    "sqlite3": "libsqlite3-dev",
    "ssl": "openssl (the role)",
    "zlib": "zlib1g-dev",
}


def missing_modules():
    """Return a sentence for each module that was dropped for want of a header."""
    problems = []
    for module, package in PACKAGES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems.append("The module %s is missing (%s); %s brings what it needs." % (module, error, package))
    return problems


def handshake(server, client):
    """Shake hands in memory, without a network; raise ssl.SSLError where one side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        ready = 0
        for side in (one, other):
            try:
                side.do_handshake()
                ready += 1
            except ssl.SSLWantReadError:
                pass
        if ready == 2:
            return
    raise ssl.SSLError("the handshake did not end")


def certificate_problems(openssl):
    """Return what is wrong with verifying: a stranger's certificate is refused, and accepted once trusted."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "certificate.pem")
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
            + ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        client = ssl.create_default_context()
        if len(client.get_ca_certs()) < 50:
            return ["ssl finds %d of the system's certificates, where more than 50 stand." % len(client.get_ca_certs())]
        try:
            handshake(server, client)
            return ["ssl accepted a certificate that nobody vouches for."]
        except ssl.SSLCertVerificationError:
            pass
        client.load_verify_locations(certificate)
        handshake(server, client)
    return []


def main():
    version, openssl = sys.argv[1:]
    problems = missing_modules()
    if "OpenSSL %s " % version not in ssl.OPENSSL_VERSION:
        problems.append("ssl is linked to %s and not to OpenSSL %s." % (ssl.OPENSSL_VERSION, version))
    problems += certificate_problems(openssl)
    if problems:
        sys.exit("\n".join(problems))
    print(
        "Python %s with %s: all modules there, certificates verified." % (sys.version.split()[0], ssl.OPENSSL_VERSION)
    )


if __name__ == "__main__":
    main()
