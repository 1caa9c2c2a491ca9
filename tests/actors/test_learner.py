"""What a trained role hands to its learner, and what its ranks compute of the reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rayalign.actors import learner as module
from rayalign.actors.hosted import Rendezvous
from rayalign.actors.learner import CriticActor, LearnerActor, LearnerSpec, PolicyActor
from rayalign.config import LearnerConfig
from rayalign.data.collate import EncodedRow
from rayalign.data.rows import write_rows
from rayalign.models.mixture import Mixture, MixtureSpec
from rayalign.types import Rollouts

CONFIG = LearnerConfig(learning_rate=3e-3, minibatch=4)
ALONE = Rendezvous(0, 1, "127.0.0.1", 0)


class Learner:
    """Keeps what it is made from and asked for."""

    def __init__(self, path: str, head: str, config: LearnerConfig, **settings: Any) -> None:
        self.made_from = {"path": path, "head": head, "config": config, **settings}
        self.updates: list[dict[str, Any]] = []
        self.references: list[str | None] = []

    def evaluate(self, rows: Any, *, adapter: bool = True) -> str:
        return "the policy" if adapter else "the policy without its adapter"

    def hold_reference(self, path: str | None) -> None:
        self.references.append(path)

    def update(self, batch: Any, algorithm: Any, **settings: Any) -> list[dict[str, Any]]:
        self.updates.append({"batch": batch, "algorithm": algorithm, **settings})
        return [{}]


@pytest.fixture(autouse=True)
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handles are the objects themselves; no model is loaded."""
    monkeypatch.setattr(module, "fetch", lambda handle, timeout: handle)
    monkeypatch.setattr(module, "keep", lambda value: value)
    monkeypatch.setattr("rayalign.models.learner.Learner", Learner)
    monkeypatch.setattr("rayalign.models.spread.frozen_beside", frozen_beside)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def frozen_beside(path: str, config: LearnerConfig, world: int, temperature: float = 1.0) -> SimpleNamespace:
    made_from = (path, config, world, temperature)
    return SimpleNamespace(made_from=made_from, evaluate=lambda rows: "the reference")


def started(kind: type[LearnerActor], algorithm: dict[str, Any], **changes: Any) -> Any:
    """An actor whose learner only keeps what it is handed."""
    settings: dict[str, Any] = {"temperature": 0.7, "total_steps": 24, "seed": 5, "timeout": 9.0, **changes}
    actor = kind(LearnerSpec("m", CONFIG, algorithm, **settings))
    actor.setup(ALONE)
    return actor


def rollouts() -> Rollouts:
    ones_BT = torch.ones(2, 3, dtype=torch.long)
    return Rollouts(ones_BT, ones_BT, ones_BT, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("kind", "role", "head"), [(PolicyActor, "policy", "causal"), (CriticActor, "critic", "scalar")]
)
def test_a_learner_is_made_from_its_spec_and_a_fresh_critic_says_zero(
    kind: type[LearnerActor], role: str, head: str
) -> None:
    made_from = started(kind, {"name": "ppo"})._learner.made_from
    assert made_from["path"] == "m" and made_from["config"] is CONFIG
    assert (made_from["role"], made_from["head"], made_from["initial"]) == (role, head, "zero")
    assert (made_from["temperature"], made_from["total_steps"], made_from["seed"]) == (0.7, 24, 5)
    assert (made_from["inspection"], made_from["timeout"]) == (None, 9.0)


def test_each_pass_has_its_number_the_settings_of_the_algorithm_and_the_mixture(tmp_path: Any) -> None:
    write_rows(tmp_path, [EncodedRow((5, 6), (False, True), group=0)])
    mixture = MixtureSpec({"name": "sft"}, str(tmp_path), weight=27.8, samples=1)
    actor = started(PolicyActor, {"name": "rrhf", "epochs": 3, "rank_weight": 2.0}, mixture=mixture)
    assert len(actor.update("the batch", 11)) == 3
    updates = actor._learner.updates
    assert [update["pass_index"] for update in updates] == [0, 1, 2]
    assert [(update["batch"], update["seed"]) for update in updates] == [("the batch", 11)] * 3
    assert updates[0]["algorithm"].config.rank_weight == 2.0
    drawn: Mixture = updates[0]["mixture"]
    assert drawn.draw(0).weight == 27.8


def test_without_a_second_objective_there_is_none() -> None:
    actor = started(PolicyActor, {"name": "rrhf"})
    actor.update("the batch", 0)
    assert actor._learner.updates[0]["mixture"] is None


def test_a_reference_in_the_ranks_reads_at_the_temperature_of_the_policy() -> None:
    actor = started(PolicyActor, {"name": "ppo"}, reference="r")
    assert actor._reference.made_from == ("r", CONFIG, 1, 0.7)
    assert actor.evaluate_reference(rollouts()) == "the reference"
    assert actor.evaluate(rollouts()) == "the policy"


def test_an_adapted_policy_is_its_own_reference_with_the_adapter_off() -> None:
    actor = started(PolicyActor, {"name": "ppo"})
    assert actor.evaluate_reference(rollouts()) == "the policy without its adapter"


def test_only_the_policy_holds_a_reference() -> None:
    assert started(CriticActor, {"name": "ppo"}, reference="r")._reference is None


@pytest.mark.parametrize("reference", ["r", None])
def test_the_learner_itself_holds_the_reference_of_an_exact_kl(reference: str | None) -> None:
    actor = started(PolicyActor, {"name": "quark"}, reference=reference)
    assert actor._learner.references == [reference] and actor._reference is None


@pytest.mark.parametrize(("rank", "stage", "answers"), [(0, 0, True), (1, 0, False), (1, 2, False), (1, 3, True)])
def test_a_rank_computes_the_probe_where_the_weights_take_it(rank: int, stage: int, answers: bool) -> None:
    config = CONFIG.model_copy(update={"zero_stage": stage})
    actor = PolicyActor(LearnerSpec("m", config, {"name": "ppo"}, temperature=1.0, total_steps=1, seed=0, timeout=9.0))
    actor._meeting = Rendezvous(rank, 2, "127.0.0.1", 0)
    actor._learner = SimpleNamespace(score_probe=lambda token_ids: [[-1.0]])
    assert actor.probe([[1, 2]]) == ([[-1.0]] if answers else [])
