from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from rayalign.cluster.applications import refuse_a_taken_port
from rayalign.config import ServiceConfig
from rayalign.pipeline import serving

CONFIG = ServiceConfig.model_validate({"annotators": {"gold": {"judge": {"kind": "rubric"}}}})


def test_the_port_of_a_runs_service_is_given_to_nobody_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(config: ServiceConfig, name: str, **_: Any) -> str:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((config.host, config.port))
        refuse_a_taken_port(config.host, config.port)  # which binds as Serve does
        return f"http://{config.host}:{config.port}"

    monkeypatch.setattr(serving, "start", start)
    assert serving.serve_for_run(CONFIG, tmp_path / "annotator").startswith("http://127.0.0.1:")


def test_on_a_cluster_it_listens_at_the_heads_address_with_a_token_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: dict[str, Any] = {}

    def start(config: ServiceConfig, name: str, **how: Any) -> str:
        started.update(how, host=config.host)
        return f"http://{config.host}:{config.port}"

    monkeypatch.setattr(serving, "start", start)
    url = serving.serve_for_run(CONFIG, tmp_path / "annotator", "127.0.0.2", "a-secret-of-the-run")
    assert url.startswith("http://127.0.0.2:")
    assert started["host"] == "127.0.0.2" and started["head_only"]
    assert started["environment"] == {"RAYALIGN_TOKENS": "run:a-secret-of-the-run"}
