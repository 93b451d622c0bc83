"""aria2c, driven over its JSON-RPC: it moves the bytes; which, from where and for how long is decided elsewhere.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zipfile
from typing import Any, Dict, List, Set

START_SECONDS = 10
STATUS_KEYS = ["gid", "status", "completedLength", "totalLength", "downloadSpeed", "bitfield", "pieceLength"]
STATUS_KEYS += ["errorCode", "errorMessage", "files"]
# What aria2c says of a connection that failed; its manual's "EXIT STATUS" lists the codes.
ADDRESS = re.compile(r"Download aborted\. URI=(\S+)")
CODE = re.compile(r"errorCode=(\d+)")
HTTP_STATUS = re.compile(r"status=(\d{3})")
DISK_FULL = "9"
STALLED = "it stopped sending, or nearly so"
NOT_RESUMED = "it cannot resume"
UNUSABLE = "what is here cannot be gone on with"
UNNAMED = "aria2c's error "
CODES = {
    "2": STALLED,
    "3": "it does not have the file",
    "5": STALLED,
    "6": "the connection broke",
    "8": NOT_RESUMED,
    "19": "its name does not resolve",
    "23": "it redirects in a circle",
    "24": "it asks for a login",
}
SAID = {
    "Connection reset": "the connection broke",
    "Got EOF": "it closed the connection too early",
    "Failed to establish connection": "nothing listens there",
    "Connection refused": "nothing listens there",
    "BtProgressInfoFile": UNUSABLE,  # its control file is damaged, or of a file of another length
}


class Aria2Missing(Exception):
    """There is no aria2c, or it did not start, or it ended; with the next step."""


def reason_of(line: str, code: str) -> str:
    """Return why a connection failed, in words, from aria2c's line about it and its code."""
    status = HTTP_STATUS.search(line)
    if status:
        return status_reason(int(status.group(1)))
    for said, words in SAID.items():
        if said in line:
            return words
    return CODES.get(code, UNNAMED + code)


def status_reason(status: int) -> str:
    """Return in words what an HTTP status means here."""
    words = {401: "a login is wanted", 403: "forbidden, or too many connections", 404: "it does not have the file"}
    words.update({410: "the link has expired", 429: "too many requests", 503: "it is overloaded"})
    return "it answered %d%s" % (status, " (%s)" % words[status] if status in words else "")


def program(tools: str) -> str:
    """Return the path of aria2c: the system's, else the static one, unpacked where its archive was pushed to."""
    static = os.path.join(tools, "aria2c")
    archives = sorted(glob.glob(os.path.join(tools, "*.zip")))
    if not shutil.which("aria2c") and archives and not os.access(static, os.X_OK):
        with zipfile.ZipFile(archives[0]) as archive:
            archive.extract("aria2c", tools)
        os.chmod(static, 0o755)
    for found in (shutil.which("aria2c"), static):
        if found and os.access(found, os.X_OK):
            return found
    raise Aria2Missing(
        "aria2c is not on PATH. Install the package aria2, or put the artifact aria2-static into the bundle."
    )


class Aria2:
    """A running aria2c that listens on loopback with a secret of its own, and ends with this process.

    folder: for its configuration, mode 0600, since the secret must not stand in an argument list. tools: where a
    static aria2c was pushed to, if it was. stall_seconds: how long a connection may send nothing.
    """

    def __init__(self, folder: str, tools: str, stall_seconds: int) -> None:
        self._secret = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        # No proxy of the environment may stand between us and loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._lock = threading.Lock()
        self._complaints: Dict[str, str] = {}
        self._said: List[str] = []
        settings = {
            "enable-rpc": "true",
            "rpc-listen-all": "false",
            "rpc-listen-port": self._port,
            "rpc-secret": self._secret,
            "stop-with-process": os.getpid(),
            "continue": "true",
            "always-resume": "false",
            "allow-overwrite": "true",
            "auto-file-renaming": "false",
            # A kill costs at most what came in since the control file was last written, which fsyncs first.
            "auto-save-interval": 1,
            # What aria2c says is there has to be in the file: it is hashed while the rest arrives.
            "disk-cache": 0,
            "file-allocation": "none",
            "content-disposition-default-utf8": "true",
            "remote-time": "false",
            "connect-timeout": 15,
            "timeout": stall_seconds,
            "max-tries": 1,
            "lowest-speed-limit": "1K",
            "max-concurrent-downloads": 32,
            "max-download-result": 10000,
            "user-agent": "glmbox",
            "summary-interval": 0,
            "console-log-level": "error",
            "enable-color": "false",
            "no-netrc": "true",
        }
        path = os.path.join(folder, "aria2-%s.conf" % self._secret[:8])
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.writelines("%s=%s\n" % pair for pair in settings.items())
        # The environment's proxies are the caller's to choose, download by download.
        bare = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        self._process = subprocess.Popen(
            [program(tools), "--conf-path=" + path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=bare,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._await()
        finally:
            os.unlink(path)

    def _await(self) -> None:
        patience = time.monotonic() + START_SECONDS
        while time.monotonic() < patience and self._process.poll() is None:
            try:
                self._ask("aria2.getVersion")
                return
            except OSError:
                time.sleep(0.02)
        self.close()
        raise Aria2Missing("aria2c did not start: %s. Run again." % " ".join(self._said[-3:]))

    def _listen(self) -> None:
        """Read what aria2c says: an address that failed, as we gave it, and on the next lines why."""
        assert self._process.stdout is not None
        address = ""
        for line in self._process.stdout:
            named, code = ADDRESS.search(line), CODE.search(line)
            with self._lock:
                self._said = [*self._said[-20:], line.strip()]
                if named:
                    address = named.group(1)
                if address and code:
                    reason = reason_of(line, code.group(1))
                    # The general word comes first, the cause below it.
                    if address not in self._complaints or not reason.startswith(UNNAMED):
                        self._complaints[address] = reason

    def complaints(self) -> Dict[str, str]:
        """Return what went wrong since the last call: address to reason."""
        with self._lock:
            complaints, self._complaints = self._complaints, {}
        return complaints

    def call(self, method: str, *parameters: Any) -> Any:
        """Return the result of one call; raises Aria2Missing where it has ended, ValueError where it refuses."""
        try:
            return self._ask(method, *parameters)
        except OSError as error:
            self.close()
            raise Aria2Missing(
                "aria2c was killed, or ended by itself (%s). Run again: it goes on from there."
                % (" ".join(self._said[-3:]).strip() or error)
            ) from error

    def _ask(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": "1", "method": method, "params": ["token:" + self._secret, *parameters]}
        request = urllib.request.Request("http://127.0.0.1:%d/jsonrpc" % self._port, json.dumps(body).encode())
        try:
            with self._opener.open(request, timeout=30) as answer:
                return json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode(errors="replace")) from error

    def add(self, urls: List[str], folder: str, name: str, connections: int, proxy: str) -> str:
        """Begin, or go on with, a download; return its id.

        urls: of the same file, the best first. connections: to each server. proxy: its address, or nothing.
        """
        options = {
            "dir": folder,
            "out": name,
            "split": str(connections * len(urls)),
            "max-connection-per-server": str(connections),
            "min-split-size": "1M",
            "all-proxy": proxy,
        }
        return self.call("aria2.addUri", urls, options)

    def active(self) -> Dict[str, Dict[str, Any]]:
        """Return the state of every download that was added and not yet forgotten, by its id."""
        keys = STATUS_KEYS
        asked = self.call("aria2.tellActive", keys) + self.call("aria2.tellStopped", 0, 10000, keys)
        return {one["gid"]: one for one in asked + self.call("aria2.tellWaiting", 0, 10000, keys)}

    def connected(self, gid: str) -> Set[str]:
        """Return to which of its addresses a running download has connections."""
        try:
            return {server["uri"] for file in self.call("aria2.getServers", gid) for server in file["servers"]}
        except ValueError:  # it ended meanwhile
            return set()

    def forget(self, gid: str) -> None:
        """Stop a download where it runs, keeping what arrived, and forget it."""
        patience = time.monotonic() + 5
        while time.monotonic() < patience:
            for method in ("aria2.removeDownloadResult", "aria2.forceRemove"):
                try:
                    self.call(method, gid)
                except ValueError:  # it still runs, or it ended meanwhile
                    continue
                if method == "aria2.removeDownloadResult":
                    return
            time.sleep(0.02)

    def close(self) -> None:
        """End aria2c at once; what arrived stays, to be gone on with."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Aria2:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
