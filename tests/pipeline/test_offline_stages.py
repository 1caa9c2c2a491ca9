"""What an offline stage hands to its loop: rows, seed, reference and role."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
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
from rayalign.storage.records import write_jsonl
from rayalign.types import Candidate, Comparison, Message, Prompt

Study = Callable[..., LoadedJob]


@pytest.fixture
def conditioned(tmp_path: Path) -> str:
    """The folder of a tokenizer with two reward tokens."""
    folder = tmp_path / "conditioned"
    with_reward_tokens(build_tokenizer(), 2).save_pretrained(folder)
    return str(folder)


def verdicts() -> list[Comparison]:
    prompts = [Prompt(name, (Message("user", "who are you ?"),)) for name in "pq"]
    worse, better = Candidate("grey ."), Candidate("winter .")
    return [Comparison(prompt, worse, better, 2.0, "j") for prompt in prompts]


@pytest.mark.parametrize(("answers", "tokens"), [("conditioned", [0, 1, 0, 1]), ("chosen", [0, 0])])
def test_a_conditioned_stage_trains_each_answer_after_the_token_of_its_quality(
    study: Study, conditioned: str, monkeypatch: pytest.MonkeyPatch, answers: str, tokens: list[int]
) -> None:
    trained: list[EncodedRow] = []

    def keep(context: RunContext, name: str, stage: TrainStage, rows: Iterable[EncodedRow]) -> int:
        trained.extend(rows)
        return len(trained)

    monkeypatch.setattr(offline, "fit", keep)
    source = {"model": conditioned, "examples": "stage:verdicts", "answers": answers}
    stage = TrainStage.model_validate({"kind": "train", "algorithm": {"name": "sft"}, **source})
    loaded, tokenizer = study(), with_reward_tokens(build_tokenizer(), 2)
    with RunContext(loaded, Inputs(loaded)) as context:
        write_jsonl(context.output("stage:verdicts"), verdicts())
        write_jsonl(context.stage_folder("sft") / "metrics.jsonl", [])
        figures = train_offline(context, "sft", stage)
    ids = reward_token_ids(tokenizer)
    assert [ids.index(next(token for token in row.token_ids if token in ids)) for row in trained] == tokens
    words = ["winter" if "winter" in tokenizer.decode(row.token_ids) else "grey" for row in trained]
    assert words == ["grey" if token else "winter" for token in tokens]
    assert figures["rows"] == len(tokens)


class LaunchedError(Exception):
    """The loop would begin now."""


def launched(study: Study, monkeypatch: pytest.MonkeyPatch, *overrides: str, **settings: Any) -> OfflineSpec:
    """What the loop of a stage begins with."""

    def launch(context: RunContext, name: str, spec: OfflineSpec, host: RoleConfig) -> None:
        raise LaunchedError(spec)

    monkeypatch.setattr(offline, "_launch_until_done", launch)
    monkeypatch.setattr(RunContext, "session", lambda context: None)
    stage = TrainStage.model_validate({"kind": "train", **settings})
    loaded = study(*overrides)
    with RunContext(loaded, Inputs(loaded)) as context, pytest.raises(LaunchedError) as caught:
        fit(context, "sft", stage, [EncodedRow((1, 2), (False, True), group=0)])
    spec: OfflineSpec = caught.value.args[0]
    return spec


def test_the_loop_has_the_seed_of_the_run_the_deadline_and_the_named_reference(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"model": "someone/model", "reference": "someone/other"}
    seeded = ("seed=5", "cluster.call_timeout=77")
    spec = launched(study, monkeypatch, *seeded, algorithm={"name": "dpo"}, **named)
    assert (spec.model, spec.reference, spec.role) == ("someone/model", "someone/other", "policy")
    assert (spec.seed, spec.timeout) == (5, 77.0)


def test_without_a_name_the_reference_is_the_model_and_none_where_nothing_reads_it(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launched(study, monkeypatch, algorithm={"name": "dpo"}, model="someone/model").reference == "someone/model"
    assert launched(study, monkeypatch, algorithm={"name": "rrhf"}, model="someone/model").reference is None
    assert launched(study, monkeypatch, algorithm={"name": "reward"}, model="someone/model").role == "reward"
