from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from ray.train import WorkerGroupError

from rayalign.algorithms.base import load
from rayalign.config import TrackingConfig, TrainStage
from rayalign.coordinator.offline import OfflineSpec, _batches, _fit, launch
from rayalign.data.collate import EncodedRow
from rayalign.errors import ActorError, InputError
from rayalign.types import Batch

SPEC = OfflineSpec(
    stage=TrainStage(kind="train", algorithm={"name": "reward"}, model="m", holdout=0.25),
    role="reward",
    model="m",
    tracking=TrackingConfig(),
    seed=0,
    folder="",
    events="",
)
ALGORITHM = load(SPEC.stage.algorithm)
# pairs: the first token tells the group
ROWS = [EncodedRow((10 + g, 5, 6 + k), (False, True, True), g, float(k)) for g in range(8) for k in range(2)]


def groups(batch: Batch) -> list[int]:
    return (batch["input_ids_BT"][:, 0] - 10).tolist()


def test_whole_groups_are_held_out() -> None:
    batch, heldout = _batches(ROWS, ALGORITHM, SPEC)
    assert heldout is not None
    assert (len(batch), len(heldout)) == (12, 4)
    assert sorted(groups(batch) + groups(heldout)) == sorted(2 * list(range(8)))
    assert not set(groups(batch)) & set(groups(heldout))


def test_the_seed_decides_what_is_held_out() -> None:
    held = [_batches(ROWS, ALGORITHM, replace(SPEC, seed=seed))[1] for seed in (0, 0, 1)]
    one, same, other = (set(groups(batch)) for batch in held if batch is not None)
    assert one == same != other


def test_without_a_holdout_all_rows_are_trained_on() -> None:
    whole = replace(SPEC, stage=SPEC.stage.model_copy(update={"holdout": 0.0}))
    batch, heldout = _batches(ROWS, ALGORITHM, whole)
    assert heldout is None
    assert len(batch) == len(ROWS)


def test_no_rows_to_train_on_are_refused() -> None:
    with pytest.raises(InputError, match="no rows are left to train on"):
        launch(SPEC, [], ranks=1, resources={"CPU": 1.0}, environment={})


class Trainer:
    """Ray Train as far as it fails."""

    def __init__(self, error: BaseException | None, *signals: signal.Signals) -> None:
        self._error = error
        self._signals = signals

    def fit(self) -> None:
        for number in self._signals:
            signal.signal(number, lambda *_: None)  # Ray Train leaves a handler of its own behind
            signal.raise_signal(number)
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [SystemExit(0), ValueError("a defect")])
def test_ctrl_c_stays_what_it_was(error: BaseException) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt if isinstance(error, SystemExit) else type(error)):
        _fit(Trainer(error, signal.SIGINT), "reward")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_ray_train_forgets_is_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        _fit(Trainer(None, signal.SIGINT), "reward")
    _fit(Trainer(None, signal.SIGWINCH), "reward")  # any other signal ends nothing
    _fit(Trainer(None), "reward")


def test_a_failure_names_the_role_and_the_cause_first() -> None:
    snippet = "Traceback (most recent call last):\n  File x\nValueError: no such column"
    with pytest.raises(ActorError) as caught:
        _fit(Trainer(WorkerGroupError(snippet, {})), "reward")
    first, *rest = str(caught.value).splitlines()
    assert first == "train:reward failed, and again after a restart: ValueError: no such column"
    assert "  File x" in rest
