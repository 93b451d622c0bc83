"""The lease of a rented box: when it is over, running work is finished and the box is stopped.

Runs on the box: standard library alone, Python 3.8.
"""
