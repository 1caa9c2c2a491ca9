from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from rayalign.config import LearnerConfig
from rayalign.models.frozen import Frozen
from tests.models.conftest import make_batch


def test_reading_changes_no_weight_and_no_answer(folder: str) -> None:
    model = Frozen(folder, "causal", LearnerConfig(micro_tokens=30), temperature=0.8)
    before = model.checksum()
    first, second = model.evaluate(make_batch()), model.evaluate(make_batch())
    assert torch.equal(first.logprobs_BT, second.logprobs_BT)
    assert model.checksum() == before


def test_checksum_sees_one_changed_weight(folder: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[0, 0] += 1e-3
    model.save_pretrained(tmp_path)
    sums = {Frozen(path, "causal", LearnerConfig()).checksum() for path in (folder, folder, str(tmp_path))}
    assert len(sums) == 2


def test_a_scalar_model_gives_values_and_scores(folder: str) -> None:
    batch = make_batch()
    outputs = Frozen(folder, "scalar", LearnerConfig()).evaluate(batch)
    assert outputs.logprobs_BT is None
    assert outputs.scores_B.shape == (len(batch),)
    assert outputs.values_BT.shape == batch["input_ids_BT"].shape
