from __future__ import annotations

import socket

import pytest
from torch.distributed import TCPStore

from rayalign.actors.hosted import HostedActor


def test_where_the_ranks_are_to_meet_nobody_else_listens_meanwhile() -> None:
    actor = HostedActor()
    port = actor.where().port
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    store = TCPStore("127.0.0.1", port, 1, is_master=True)
    store.set("rank", "0")
    assert store.get("rank") == b"0"
