"""A proxy that asks for a login, and a mirror of the distribution behind it, on a box's loopback.

    python3 way_out.py PORT LOGIN FOLDER SOURCES

The mirror's addresses lead to those of SOURCES (a sources.list of Debian's). FOLDER/asked.txt lists what the proxy was
asked for, with `refused` before what came without the login; FOLDER/seen.txt the argument lists in which the login's
password was seen. Runs on Python 3.8.
"""

from __future__ import annotations

import base64
import glob
import http.server
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

PORT, LOGIN, FOLDER, SOURCES = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
MIRROR = "mirror.test"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def origins():
    """Return archive (debian, debian-security) to its address."""
    with open(SOURCES) as file:
        addresses = re.findall(r"^deb (\S+)", file.read(), re.MULTILINE)
    return {urlsplit(address).path.strip("/"): address.rstrip("/") for address in addresses}


ORIGINS = origins()


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        wanted = "Basic " + base64.b64encode(LOGIN.encode()).decode()
        right = self.headers.get("Proxy-Authorization") == wanted
        with open(FOLDER + "/asked.txt", "a") as file:
            file.write(("" if right else "refused ") + self.path + "\n")
        if not right:
            return self.answer(407, b"", {"Proxy-Authenticate": "Basic"})
        parts = urlsplit(self.path)
        archive = parts.path.strip("/").split("/")[0]
        if parts.hostname != MIRROR or archive not in ORIGINS:
            return self.answer(404, b"this proxy reaches the mirror alone")
        address = ORIGINS[archive] + parts.path[len(archive) + 1 :]
        try:
            with DIRECT.open(address, timeout=60) as answer:
                kept = {key: answer.headers[key] for key in ("Last-Modified",) if answer.headers[key]}
                self.answer(200, answer.read(), kept)
        except urllib.error.HTTPError as error:
            self.answer(error.code, b"")

    def answer(self, code, content, headers=None):
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def watch():
    """Look at the argument lists of all processes but this one."""
    password = LOGIN.partition(":")[2].encode()
    mine = f"/proc/{os.getpid()}/"
    while True:
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    words = file.read()
            except OSError:
                continue
            if password in words and not path.startswith(mine):
                with open(FOLDER + "/seen.txt", "ab") as file:
                    file.write(words.replace(b"\0", b" ") + b"\n")
        time.sleep(0.5)


threading.Thread(target=watch, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Proxy).serve_forever()
