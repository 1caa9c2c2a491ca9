"""What an offline stage hands to its loop, and what it says of its figures once that has ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayalign.config import LoadedJob, RoleConfig, TrainStage
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.data.collate import EncodedRow
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.reward_tokens import reward_token_ids, with_reward_tokens
from rayalign.pipeline import offline
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.offline import fit, train_offline

Study = Callable[..., LoadedJob]
ROWS = [EncodedRow((5, 6), (False, True), group) for group in range(4)]
Launched = list[tuple[OfflineSpec, RoleConfig]]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    """Loops that would have been launched, each with the host of its ranks; there is no Ray session."""
    loops: Launched = []

    def launch(context: RunContext, spec: OfflineSpec, host: RoleConfig) -> None:
        loops.append((spec, host))
        context.events.write("computed", folder=spec.folder, seconds=0.0)

    monkeypatch.setattr(offline, "_launch", launch)
    monkeypatch.setattr(RunContext, "session", lambda context: None)
    yield loops


def spec_of(launched: Launched, loaded: LoadedJob, name: str) -> tuple[OfflineSpec, RoleConfig]:
    stage: Any = loaded.job.stages[name]
    with RunContext(loaded, Inputs(loaded)) as context:
        assert fit(context, name, stage, ROWS) == len(ROWS)
    return launched[0]


DPO = "stages.rm.algorithm=null", "stages.rm.algorithm={name: dpo}"


def test_a_loop_has_the_seed_the_deadline_and_the_ranks_of_the_job(launched: Launched, study: Study) -> None:
    loaded = study("seed=9", "cluster.call_timeout=77", "stages.rm.roles.reward.actors=3")
    spec, host = spec_of(launched, loaded, "rm")
    assert (spec.role, spec.seed, spec.timeout, spec.reference) == ("reward", 9, 77.0, None)
    assert spec.stage == loaded.job.stages["rm"] and Path(spec.model).parts[-2:] == ("sft", "model")
    assert host.actors == 3


@pytest.mark.parametrize(
    ("reference", "place"), [("someone/reference", "someone/reference"), ("null", "stages/sft/model")]
)
def test_a_reference_is_the_named_model_or_where_the_policy_starts(
    launched: Launched, study: Study, reference: str, place: str
) -> None:
    spec, _ = spec_of(launched, study(*DPO, f"stages.rm.reference={reference}"), "rm")
    assert spec.role == "policy" and spec.reference is not None
    assert spec.reference.endswith(place)


def test_ray_train_is_told_the_fewest_ranks(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[dict[str, Any]] = []
    monkeypatch.setattr(offline, "launch", lambda spec, **settings: launches.append(settings))
    monkeypatch.setattr(offline, "machines", lambda: 1)
    monkeypatch.setattr(offline, "free_cpus", lambda: 4.0)
    host = RoleConfig(actors=3, min_actors=2, cpus=1.0)
    with RunContext(loaded := study("cluster.launcher=ray_train"), Inputs(loaded)) as context:
        workers = SimpleNamespace(keep=lambda hosting: None, threads=lambda hosting: dict.fromkeys(hosting, 2))
        monkeypatch.setattr(context, "workers", workers)
        stage: Any = loaded.job.stages["rm"]
        spec = OfflineSpec(stage, "reward", "m", loaded.job.tracking, 0, "", "", 9.0)
        offline._launch(context, spec, host)
    (settings,) = launches
    assert (settings["ranks"], settings["fewest"]) == (3, 2)
    assert settings["environment"]["OMP_NUM_THREADS"] == "2"


def trained(
    monkeypatch: pytest.MonkeyPatch,
    loaded: LoadedJob,
    name: str,
    rows: Iterable[EncodedRow] = ROWS,
    accuracy: float = 1.0,
) -> tuple[dict[str, Any], list[EncodedRow]]:
    """The outcome of a stage whose loop ended with this held-out accuracy, and the rows that it trained on."""
    fitted: list[EncodedRow] = []

    def fit(context: RunContext, name: str, stage: TrainStage, rows: Iterable[EncodedRow]) -> int:
        fitted.extend(rows)
        figures = {"heldout/count": 100.0, "eval/reward/accuracy": accuracy, "eval/reward/longer_accuracy": 0.6}
        folder = context.stage_folder(name)
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "metrics": figures}) + "\n")
        return len(fitted)

    monkeypatch.setattr(offline, "fit", fit)
    monkeypatch.setattr(offline, "training_rows", lambda *arguments: rows)
    stage: Any = loaded.job.stages[name]
    with RunContext(loaded, Inputs(loaded)) as context:
        return train_offline(context, name, stage), fitted


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.52, "rm orders 52% of the held-out pairs as annotated (42% to 62%), which may be chance. rm orders 52% of"),
        (0.6, "rm orders 60% of the held-out pairs correctly; always preferring the longer answer orders 60%."),
        (0.9, None),
    ],
)
def test_a_reward_model_that_may_know_nothing_is_reported_in_words(
    study: Study,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    accuracy: float,
    words: str | None,
) -> None:
    caplog.set_level(logging.WARNING)
    outcome, _ = trained(monkeypatch, study(f"stages.rm.model={model}"), "rm", accuracy=accuracy)
    assert outcome["rows"] == len(ROWS)
    assert [row["mean"] for row in outcome["results"] if row["metric"] == "reward_accuracy"] == [accuracy]
    sentences = [record.message for record in caplog.records if "rm orders" in record.message]
    assert bool(sentences) == (words is not None)
    if words is not None:
        assert words in sentences[0] and "The results of rl depend on it" in sentences[0]


def test_reward_conditioning_puts_the_token_of_its_quality_before_each_answer(
    study: Study, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = with_reward_tokens(build_tokenizer(), 2)
    best, worst = reward_token_ids(tokenizer)
    monkeypatch.setattr(offline, "load_tokenizer", lambda model: tokenizer)
    rows = [EncodedRow((best, 5, 6), (False, False, True), 0, score) for score in (1.0, 0.0)]
    algorithm = "stages.rm.algorithm=null", "stages.rm.algorithm={name: sft}"
    loaded = study(*algorithm, "stages.rm.answers=conditioned", f"stages.rm.model={model}")
    _, fitted = trained(monkeypatch, loaded, "rm", rows)
    assert [row.token_ids for row in fitted] == [(best, 5, 6), (worst, 5, 6)]
