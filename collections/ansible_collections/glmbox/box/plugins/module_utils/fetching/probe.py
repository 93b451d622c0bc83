"""Sources of a file, in the order of what they really deliver.

Runs on the box: standard library alone, Python 3.8.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import unquote, urlsplit, urlunsplit

from ansible_collections.glmbox.box.plugins.module_utils.fetching.aria2 import status_reason
from ansible_collections.glmbox.box.plugins.module_utils.fetching.shelf import looks_wrong
from ansible_collections.glmbox.box.plugins.module_utils.files import read_json

# How long a source may take to send its sample, and how long the others are waited for once one has sent it.
SAMPLE_SECONDS = 10.0
GRACE_SECONDS = 1.0
TURBO = "/etc/network_turbo"
EXPORTED = re.compile(r"^\s*export\s+https?_proxy=[\"']?(\S+?)[\"']?\s*(?:&&.*)?$", re.MULTILINE)


class Source:
    """An address of a file, by one way (directly, or through a proxy), and what a sample of it showed.

    rate: bytes a second, 0 where no sample arrived. reason: why it is out, or nothing. size: of the file, in bytes.
    """

    def __init__(self, url: str, proxy: str = "") -> None:
        self.url, self.proxy = url, proxy
        self.rate = 0.0
        self.reason = ""
        self.size: Optional[int] = None
        self.delivers = host_of(url)  # who sends the bytes after all redirects

    def __repr__(self) -> str:
        return "%s at %.0f B/s %s" % (self.name(), self.rate, self.reason)

    def name(self) -> str:
        """Return what a report calls it: the host, who really delivers, the way."""
        parts = [host_of(self.url)]
        if self.delivers != parts[0]:
            parts.append("by " + self.delivers)
        if self.proxy:
            parts.append("through " + host_of(self.proxy))
        return " ".join(parts)


def host_of(url: str) -> str:
    """Return the host of an address, with the port where it is given, and never a login."""
    return (urlsplit(url).netloc or url).rpartition("@")[2]


def without_login(url: str) -> Tuple[str, str]:
    """Return an address without its login, and the login (user:password, or nothing)."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), unquote(login)


def proxy_of_box(turbo: str = TURBO) -> str:
    """Return the proxy that the box offers: the operator's, its environment's, its provider's accelerator, or nothing.

    The operator's stands in the file that GLMBOX_PROXIES names.
    """
    told = read_json(os.environ.get("GLMBOX_PROXIES", "")) or {}
    if told.get("https_proxy"):
        return str(told["https_proxy"])
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        with open(turbo, encoding="utf-8", errors="replace") as file:
            found = EXPORTED.search(file.read())
    except OSError:
        return ""
    return found.group(1) if found else ""


def opener_for(proxy: str) -> urllib.request.OpenerDirector:
    """Return what opens addresses by one way, whatever the environment says."""
    ways = {"http": proxy, "https": proxy} if proxy else {}
    return urllib.request.build_opener(urllib.request.ProxyHandler(ways))


def words_for(error: Exception) -> str:
    """Return in words why an address could not be opened."""
    if isinstance(error, urllib.error.HTTPError):
        return status_reason(error.code)
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLError):
        return "its certificate is not trusted (%s)" % cause
    if isinstance(cause, TimeoutError) or "timed out" in str(cause):
        return "no answer in time"
    for kind, words in (
        (ConnectionRefusedError, "nothing listens there"),
        (ConnectionResetError, "the connection broke"),
    ):
        if isinstance(cause, kind):
            return words
    if isinstance(cause, socket.gaierror):
        return "its name does not resolve"
    return str(cause) or type(cause).__name__


def sample(source: Source, size: Optional[int], wanted: int, seconds: float) -> None:
    """Fetch the first bytes of a source and note its rate, or why it is out.

    size: of the file, where it is known. wanted: bytes of the sample. seconds: the most that it may take.
    """
    begun = time.monotonic()
    address, login = without_login(source.url)
    request = urllib.request.Request(
        address,
        headers={"Range": "bytes=0-%d" % (wanted - 1), "User-Agent": "glmbox", "Accept-Encoding": "identity"},
    )
    if login:
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    got = bytearray()
    first = begun
    try:
        with opener_for(source.proxy).open(request, timeout=seconds) as answer:
            source.delivers = host_of(answer.geturl())
            source.size = total_of(answer.status, answer.headers)
            first = time.monotonic()
            while len(got) < wanted and time.monotonic() < begun + seconds:
                piece = answer.read1(min(65536, wanted - len(got)))
                if not piece:
                    break
                got += piece
            kind = answer.headers.get("Content-Type", "")
    except (OSError, ValueError, http.client.HTTPException) as error:
        if not got:
            source.reason = words_for(error)
            return
        kind = ""
    wrong = looks_wrong(bytes(got[:512]), len(got), kind)
    if wrong:
        source.reason = "it sends " + wrong
    elif size is not None and source.size not in (None, size):
        source.reason = "it says that the file has %d bytes, not %d" % (source.size, size)
    elif not got and size != 0 and source.size != 0:
        source.reason = "it sends nothing"
    source.rate = len(got) / max(time.monotonic() - first, 1e-3)


def total_of(status: int, headers: Any) -> Optional[int]:
    """Return the whole file's size in bytes by an answer's headers, or None where they do not say."""
    said = headers.get("Content-Range", "").rpartition("/")[2] if status == 206 else headers.get("Content-Length", "")
    return int(said) if said and said.isdigit() else None


def ranked(sources: List[Source], preferred: List[str]) -> List[Source]:
    """Return the usable sources: preferred hosts in their order, then by rate."""

    def key(source: Source) -> Any:
        host = urlsplit(source.url).hostname
        return (preferred.index(host) if host in preferred else len(preferred), -source.rate)

    return sorted((source for source in sources if not source.reason), key=key)


def survey(
    urls: List[str], proxy: str, size: Optional[int], wanted: int, seconds: float = SAMPLE_SECONDS
) -> List[Source]:
    """Sample all sources of a file at once, by every way; return them all.

    A source that has not sent its sample when another had it long since is kept, at the rate of what it sent.
    """
    sources = [Source(url, way) for url in urls for way in (["", proxy] if proxy else [""])]
    done: Dict[int, float] = {}

    def ask(number: int) -> None:
        sample(sources[number], size, wanted, seconds)
        done[number] = time.monotonic()

    begun = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(sources))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        good = [when for number, when in list(done.items()) if not sources[number].reason]
        if good and time.monotonic() > min(good) + GRACE_SECONDS + (min(good) - begun):
            break
        if time.monotonic() > begun + 2 * seconds:  # who drips his headers never runs into a timeout
            break
        time.sleep(0.01)
    for number, source in enumerate(sources):
        if number not in done:  # a copy, since its thread may still write
            late = Source(source.url, source.proxy)
            late.delivers = source.delivers
            if time.monotonic() > begun + 2 * seconds:
                late.reason = "no answer in time"
            sources[number] = late
    return sources
