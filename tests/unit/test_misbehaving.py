"""tests/misbehaving/server.py: each misbehaviour is seen from outside, as a download tool would."""

from __future__ import annotations

import hashlib
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import pytest
from misbehaving.client import behave, counts, reset_counts, start, stop

SIZE = 1 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)
OTHER = "你 好/other.bin"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / OTHER).parent.mkdir()
    for name in ("file.bin", OTHER):
        (folder / name).write_bytes(CONTENT)
    process, port = start(folder)
    yield port
    stop(process)


@pytest.fixture
def port(server):
    behave(server)
    reset_counts(server)
    return server


class Get:
    """One GET: its status, headers, body, the way it ended and its seconds."""

    def __init__(self, port, path="/file.bin", asked=None, method="GET", connection=None, timeout=10.0):
        began = time.monotonic()
        self.connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.body, self.end, self.status = b"", "whole", 0
        try:
            self.connection.request(method, quote(path), headers={"Range": f"bytes={asked}"} if asked else {})
            answer = self.connection.getresponse()
            self.status, self.headers = answer.status, answer.headers
            while piece := answer.read1(1 << 16):
                self.body += piece
            answer.close()
            if method == "GET" and len(self.body) < int(self.headers["Content-Length"]):
                self.end = "closed early"
        except ConnectionResetError:
            self.end = "reset"
        except TimeoutError:
            self.end = "stalled"
        self.seconds = time.monotonic() - began
        if connection is None and self.end != "stalled":
            self.connection.close()


def test_it_serves_files_and_counts(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    whole, again = (Get(port, path, connection=connection) for path in ("/file.bin", f"/{OTHER}"))
    assert (whole.status, whole.body, again.body) == (200, CONTENT, CONTENT)
    assert whole.headers["Accept-Ranges"] == "bytes"
    head = Get(port, method="HEAD", connection=connection)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(SIZE), b"")
    assert [Get(port, path).status for path in ("/nothing", "/", "/../server.py")] == [404, 404, 404]
    seen = counts(port)
    assert seen["sent"] == {"file.bin": SIZE, OTHER: SIZE}
    assert seen["requests"]["file.bin"] == 2
    assert seen["statuses"] == {"200": 3, "404": 3}
    assert (seen["most_connections"], seen["range_requests"]) == (1, 0)
    reset_counts(port)
    assert counts(port)["sent"] == {}


@pytest.mark.parametrize(
    ("asked", "first", "last"), [("0-0", 0, 1), ("5-9", 5, 10), ("1000-", 1000, SIZE), ("-7", SIZE - 7, SIZE)]
)
def test_a_range(port, asked, first, last):
    got = Get(port, asked=asked)
    assert (got.status, got.body) == (206, CONTENT[first:last])
    assert got.headers["Content-Range"] == f"bytes {first}-{last - 1}/{SIZE}"
    assert counts(port)["range_requests"] == 1


def test_a_range_that_cannot_be_had(port):
    got = Get(port, asked=f"{SIZE}-")
    assert (got.status, got.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert Get(port, asked="9-5").status == 200


def test_no_ranges(port):
    behave(port, no_ranges=True)
    got = Get(port, asked="5-9")
    assert (got.status, got.headers["Accept-Ranges"], got.body) == (200, "none", CONTENT)


def at_once(port, paths):
    """GET the paths at the same time, begun one after the other; return their statuses."""
    with ThreadPoolExecutor() as pool:
        going = []
        for path in paths:
            going.append(pool.submit(Get, port, path, "0-99999"))
            time.sleep(0.1)
        return [one.result().status for one in going]


def test_one_connection_a_path(port):
    behave(port, one_connection=True, rate=200_000)
    assert at_once(port, ["/file.bin", "/file.bin", f"/{OTHER}"]) == [206, 403, 206]
    assert counts(port)["most_connections"] == 2
    behave(port, one_connection=True)
    assert {Get(port).status for _ in range(50)} == {200}


def test_a_most_of_connections(port):
    behave(port, max_connections=2, refuse_status=429, rate=200_000)
    assert at_once(port, ["/file.bin", f"/{OTHER}", "/file.bin"]) == [206, 206, 429]


def test_a_status(port):
    behave(port, status=429, only=["file.bin"])
    got = Get(port)
    assert (got.status, got.headers["Retry-After"], Get(port, f"/{OTHER}").status) == (429, "1", 200)


def test_a_rate_holds_for_each_connection(port):
    behave(port, rate=200_000)
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: Get(port, asked="0-99999"), range(2)))
    assert all(0.45 < got.seconds < 1.5 and len(got.body) == 100_000 for got in both)


def test_without_a_rate_it_is_fast(port):
    assert min(Get(port).seconds for _ in range(5)) < 0.2


@pytest.mark.parametrize("place", [300_000, 300_000 / SIZE])
def test_a_stall_holds_every_request_beyond(port, place):
    behave(port, stall_at=place)
    for asked, length in (("100-", 299_900), ("300000-", 0)):
        got = Get(port, asked=asked, timeout=0.5)
        assert (got.status, got.end, len(got.body)) == (206, "stalled", length)
        behave(port, stall_at=place, one_connection=True)
        assert Get(port).status == 403, "it still holds the connection"
        got.connection.close()
        behave(port, stall_at=place)
    assert Get(port, asked="100-299999").end == "whole"


def test_a_stall_that_ends(port):
    behave(port, stall_at=0.5, stall_seconds=0.4)
    got = Get(port)
    assert got.body == CONTENT
    assert 0.4 <= got.seconds < 2


def test_a_reset(port):
    behave(port, reset_at=300_000, reset_times=2)
    assert [(got.end, got.body) for got in (Get(port), Get(port))] == [("reset", CONTENT[:300_000])] * 2
    assert Get(port).body == CONTENT


def test_wrong_bytes(port):
    behave(port, wrong_bytes=True)
    assert Get(port, asked="0-999").body == bytes(255 - byte for byte in CONTENT[:1000])


def test_pages_instead_of_files(port):
    behave(port, html=True)
    got = Get(port, "/nothing", asked="5-9")
    assert (got.status, got.headers.get_content_type(), got.body[:15]) == (200, "text/html", b"<!DOCTYPE html>")
    behave(port, lfs_pointer=True)
    digest = hashlib.sha256(CONTENT).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {SIZE}\n"
    assert Get(port).body.decode() == pointer


def test_signed_links_expire(port):
    behave(port, redirect_to=f"http://127.0.0.1:{port}", signed_lives=2)
    first, second = (Get(port, f"/{OTHER}") for _ in range(2))
    assert {first.status, second.status} == {302}
    links = [urlsplit(got.headers["Location"]).path for got in (first, second)]
    assert links[0] != links[1]
    for link in links:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        got = []
        for _ in range(3):
            connection.request("GET", link)
            answer = connection.getresponse()
            got.append((answer.status, len(answer.read())))
        assert got == [(200, SIZE), (200, SIZE), (403, len("refused\n"))]
        connection.close()
    assert counts(port)["sent"] == {OTHER: 4 * SIZE}


@pytest.mark.parametrize(
    ("lie", "claimed", "sent", "end"),
    [("longer", SIZE + 1000, SIZE, "closed early"), ("shorter", SIZE - 1000, SIZE - 1000, "whole")],
)
def test_lies_about_the_length(port, lie, claimed, sent, end):
    behave(port, lie_length=lie)
    whole, part = Get(port), Get(port, asked="10-")
    assert (whole.headers["Content-Length"], len(whole.body), whole.end) == (str(claimed), sent, end)
    assert (part.headers["Content-Range"], part.end) == (f"bytes 10-{claimed - 1}/{claimed}", end)


def test_truncated(port):
    behave(port, truncate=True)
    got = Get(port, asked="0-999")
    assert (got.headers["Content-Length"], got.body, got.end) == ("1000", CONTENT[:500], "closed early")


def test_down_until_told_otherwise(port):
    behave(port, rate=500_000)
    with ThreadPoolExecutor() as pool:
        going = pool.submit(Get, port)
        time.sleep(0.3)
        behave(port, down=True)
        assert going.result().end == "reset"
    assert (Get(port).status, Get(port).end) == (0, "reset")
    behave(port)
    assert Get(port).body == CONTENT


def test_down_for_a_while(port):
    behave(port, down_after_bytes=400_000, down_seconds=0.5)
    assert [(got.end, len(got.body)) for got in (Get(port), Get(port))] == [("reset", 400_000), ("reset", 0)]
    time.sleep(0.5)
    assert Get(port).body == CONTENT


def test_slow_headers(port):
    behave(port, slow_headers=0.3)
    assert Get(port, asked="0-9").seconds > 0.3


def test_a_misspelled_behaviour_is_refused(port):
    with pytest.raises(ValueError, match="stal_at"):
        behave(port, stal_at=5)
