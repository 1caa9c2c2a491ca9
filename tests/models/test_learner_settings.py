"""Settings of a learner that change what its user gets, where another value would train without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoTokenizer

from tests.models.conftest import make_learner, settings, train, weights


def test_adamw_has_the_settings_of_the_learner(folder: str) -> None:
    adam = {"learning_rate": 0.03, "betas": (0.5, 0.6), "eps": 1e-3, "weight_decay": 0.25}
    (group,) = make_learner(folder, settings(**adam))._engine.optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.03, (0.5, 0.6), 1e-3, 0.25)


@pytest.mark.parametrize("chosen", [True, False])
def test_activations_are_computed_again_where_that_is_asked_for(folder: str, chosen: bool) -> None:
    learner = make_learner(folder, settings(gradient_checkpointing=chosen))
    assert learner._head.model.is_gradient_checkpointing is chosen


def test_an_average_has_the_decay_of_the_learner(folder: str, tmp_path: Path) -> None:
    learner = make_learner(folder, settings(minibatch=12, ema=0.75))
    before = weights(learner)
    train(learner)
    learner.save(tmp_path, AutoTokenizer.from_pretrained(folder))
    after, average = weights(learner), load_file(tmp_path / "ema" / "model.safetensors")
    expected = {name: 0.75 * before[name] + 0.25 * after[name] for name in average}
    assert_close(average, expected, atol=1e-6, rtol=0)
