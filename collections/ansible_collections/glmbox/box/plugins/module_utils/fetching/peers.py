"""Files that a neighbour of the same inventory has proven already, taken from it over SSH."""

from __future__ import annotations


def take(shelf, file, peers, keep_bad, progress, say):
    return None
