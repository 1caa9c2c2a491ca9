from __future__ import annotations

import os
import socket

import pytest
from torch.distributed import TCPStore

from rayalign.actors.hosted import HostedActor, Rendezvous


def test_where_the_ranks_are_to_meet_nobody_else_listens_meanwhile() -> None:
    actor = HostedActor()
    port = actor.where().port
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    store = TCPStore("127.0.0.1", port, 1, is_master=True)
    store.set("rank", "0")
    assert store.get("rank") == b"0"


def test_a_rank_enters_its_world_where_torch_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"LOCAL_RANK": "5", "PATH": "/bin"}
    monkeypatch.setattr(os, "environ", environment)
    Rendezvous(1, 2, "10.0.0.7", 29500).enter()
    names = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    assert environment == names | {"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "PATH": "/bin"}
