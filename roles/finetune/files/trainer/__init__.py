"""Runs the unmodified ptuning/main.py as a job of the box: from the last checkpoint, with progress, and a report."""
