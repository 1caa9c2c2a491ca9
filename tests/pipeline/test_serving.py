from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rayalign.cluster.applications import refuse_a_taken_port
from rayalign.config import ServiceConfig
from rayalign.pipeline import serving


def test_the_port_of_a_runs_service_is_given_to_nobody_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(config: ServiceConfig, name: str, *, replace: bool) -> str:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((config.host, config.port))
        refuse_a_taken_port(config.host, config.port)  # which binds as Serve does
        return f"http://{config.host}:{config.port}"

    monkeypatch.setattr(serving, "start", start)
    config = ServiceConfig.model_validate({"annotators": {"gold": {"judge": {"kind": "rubric"}}}})
    assert serving.serve_for_run(config, tmp_path / "annotator").startswith("http://127.0.0.1:")
