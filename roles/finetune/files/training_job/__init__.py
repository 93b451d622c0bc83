"""Runs the unmodified ptuning/main.py as a job of the box: from the last checkpoint, with progress, and a report.

It is not called `trainer`: a module of that name lies beside main.py, which imports it.
"""
