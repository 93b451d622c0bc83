"""Tells systemd that the service is ready: one datagram, no dependency."""

import os
import socket


def notify(message: str) -> bool:
    """Send ``message`` ("READY=1") to the socket that NOTIFY_SOCKET names; return whether there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(message.encode(), address)
    return True
