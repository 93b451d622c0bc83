"""The pure functions of `make bench-serve`: what they count decides whether a bound is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches"))

from serve import figures_of, missed  # noqa: E402
from serve_clients import content_of, percentile  # noqa: E402

FOUND = {
    "memory_mib": {"api alone": [1000.0], "all three": [1040.0], "as upstream": [3000.0]},
    "overhead_ms": {"model": [9.0, 10.0, 50.0], "demo host": [11.0], "gateway": [12.0, 12.5, 90.0]},
    "answers_per_second": {"one client": [10.0, 20.0, 30.0], "50 clients": [19.0, 19.0, 24.0]},
    "crowd": {"lost": [0.0, 0.0], "told to come back": [3.0, 0.0]},
    "healthz_ms": {"demo host": [3.0] * 99 + [700.0], "gateway": [4.0] * 98 + [60.0, 70.0]},
}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5.0], 99, 5.0),
        (range(1, 101), 99, 99),
        (range(1, 401), 99, 396),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([3.0, 1.0, 2.0], 99, 3.0),
    ],
)
def test_a_percentile_is_one_of_the_values_by_the_nearest_rank(values, percent, expected):
    assert percentile(values, percent) == expected


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'data: {"choices": [{"delta": {"content": "\xe4\xbd\xa0"}}]}\r\n', "你"),
        (b'data: {"choices": [{"delta": {"role": "assistant"}}]}\r\n', ""),
        (b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\r\n', ""),
        (b"data: [DONE]\r\n", ""),
        (b"\r\n", ""),
        (b": ping\r\n", ""),
    ],
)
def test_only_content_counts_as_the_first_piece(line, text):
    assert content_of(line) == text


def test_the_figures_are_of_medians_and_of_the_right_ways():
    assert figures_of(FOUND) == {
        "memory_ratio": 1.04,
        "memory_ratio_upstream": 3.0,
        "overhead_ms": 2.5,
        "healthz_p99_ms": 3.0,
        "healthz_gateway_p99_ms": 60.0,
        "lost": 0,
        "throughput_ratio": 0.95,
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory_ratio", 1.051),
        ("overhead_ms", 5.1),
        ("overhead_ms", -0.1),
        ("healthz_p99_ms", 50.1),
        ("lost", 1),
        ("throughput_ratio", 0.949),
    ],
)
def test_a_missed_bound_is_named_in_its_own_direction(key, value):
    good = figures_of(FOUND)
    assert missed(good) == []
    assert missed({**good, key: value}) == [key]
