from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import TrackingConfig
from rayalign.pipeline.tracking import tracking_problems

WANDB = TrackingConfig(wandb="project")


def test_a_run_that_sends_metrics_needs_a_key(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    nowhere = {"NETRC": str(tmp_path / "netrc")}
    assert not list(tracking_problems(TrackingConfig(), nowhere))
    [(key, text)] = tracking_problems(WANDB, nowhere)
    assert key == "tracking.wandb" and "set WANDB_API_KEY" in text and "WANDB_MODE=offline" in text
    for more in ({"WANDB_API_KEY": "k"}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}):
        assert not list(tracking_problems(WANDB, nowhere | more))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    assert not list(tracking_problems(WANDB, nowhere))
    assert list(tracking_problems(WANDB, nowhere | {"WANDB_BASE_URL": "https://own.example"}))
