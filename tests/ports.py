"""Ports: a free one for a test's own server, and those that are open to other machines."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import psutil


@contextmanager
def held_port() -> Iterator[int]:
    """A free port of this machine that nobody is given in the meantime; a server that sets SO_REUSEADDR may have it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def open_addresses() -> set[str]:
    """Where other machines can connect to this process and its descendants: addresses and ports."""
    this = psutil.Process()
    listening: set[tuple[str, int]] = set()
    for process in [this, *this.children(recursive=True)]:
        listening |= {c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening, "no process listens at all"
    return {f"{host}:{port}" for host, port in listening if not _is_loopback(host)}


def _is_loopback(host: str) -> bool:
    address = ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)  # such as ::ffff:127.0.0.1
    return bool((mapped or address).is_loopback)
