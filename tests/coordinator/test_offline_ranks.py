"""Two processes that train offline end as one does, though their shares are uneven and one may be empty."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.rows import write_rows
from rayalign.models.load import make_preset
from rayalign.models.metrics import PADDING
from rayalign.storage.metrics import read_metrics
from tests.coordinator.ranks import ALGORITHMS, rows_of, spec_of
from tests.ports import held_port


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model than the policy, so that the KL is above 0 from the first step on."""
    folder = tmp_path_factory.mktemp("reference")
    make_preset("nano", build_tokenizer(), 1, folder)
    return str(folder)


@pytest.fixture(scope="module")
def two_ranks(model: str, reference: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have trained; see ranks.py."""
    folder = tmp_path_factory.mktemp("ranks")
    for name in ALGORITHMS:
        write_rows(spec_of(name, model, reference, folder).rows_folder, rows_of(name))
    path = os.pathsep.join(part for part in sys.path if part)
    command = [sys.executable, "-m", "tests.coordinator.ranks", model, reference, str(folder)]
    with held_port() as port:
        address = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environments = [os.environ | address | {"RANK": str(rank), "PYTHONPATH": path} for rank in (0, 1)]
        processes = [subprocess.Popen(command, env=e, stderr=subprocess.PIPE, text=True) for e in environments]
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
    return folder


def steps(spec: OfflineSpec) -> list[dict[str, float]]:
    rows = [row["metrics"] for row in read_metrics(Path(spec.folder) / "metrics.jsonl")]
    return [{name: row[name] for name in row if not name.startswith("phase/")} for row in rows]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_uneven_shares_change_neither_loss_nor_gradient(
    two_ranks: Path, model: str, reference: str, tmp_path: Path, name: str
) -> None:
    alone, together = (spec_of(name, model, reference, folder) for folder in (tmp_path, two_ranks))
    write_rows(alone.rows_folder, rows_of(name))
    train_offline(alone)
    expected = steps(alone)
    assert len(expected) == 3
    assert "kto/kl" not in expected[0] or expected[0]["kto/kl"] > 0
    for step, step_alone in zip(steps(together), expected, strict=True):
        padding = step.pop(PADDING), step_alone.pop(PADDING)  # ranks divide the rows otherwise
        assert all(0.0 <= share < 1.0 for share in padding)
        assert step == pytest.approx(step_alone, rel=1e-3, abs=1e-5)
    weights = [load_file(Path(spec.folder) / "model" / "model.safetensors") for spec in (together, alone)]
    assert_close(weights[0], weights[1], atol=1e-5, rtol=0)


def test_a_stage_that_has_ended_keeps_no_part_of_its_models(two_ranks: Path) -> None:
    for rank in (0, 1):
        kept = json.loads((two_ranks / f"kept{rank}.json").read_text())
        assert kept == dict.fromkeys(ALGORITHMS, 0)
