"""The events of a rehearsal: what is interrupted, what proves each event, and what ends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import Job, load_job
from rayalign.pipeline.outputs import output_path, stage_folder
from rayalign.rehearsal import events
from rayalign.rehearsal.events import Event, Outcome, rehearse_events
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.running import Ending, SmallRun

JOB = """\
name: small
stages:
  base: {kind: pretrain}
  sft:
    kind: train
    algorithm: {name: sft}
    model: stage:base
    holdout: 0.25
    learner: {minibatch: 4}
  rm: {kind: train, algorithm: {name: reward}, model: stage:sft, learner: {minibatch: 4}}
  ppo:
    kind: train
    algorithm: {name: ppo}
    model: stage:sft
    reward: stage:rm
    candidates: [{source: live, count: 2}]
    prompts: 2
    learner: {minibatch: 4}
  test: {kind: evaluate, models: {ppo: stage:ppo}}
"""
KILLED = Ending(-9, "", struck=True, seconds=1.0)
WELL = Ending(0, "report", struck=False, seconds=1.0)
LOST = Ending(1, "rayalign: reward (pid 3) died. A paragraph.", struck=True, seconds=1.0)
WRONG = Ending(1, "rayalign: no such column", struck=False, seconds=1.0)


class Run:
    """A run whose starts end as they are given."""

    def __init__(self, job: Job, *endings: Ending) -> None:
        self.job = job
        self.folder = Path(job.output) / job.name
        self.strikes: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self._endings = list(endings)

    def start(self, strike: str = "nothing") -> Ending:
        self.strikes.append(strike)
        return self._endings.pop(0)

    def strike_driver(self, stage: str) -> str:
        return f"driver of {stage}"

    def strike_reward(self, stage: str) -> str:
        return f"reward of {stage}"

    def events(self) -> list[dict[str, Any]]:
        return self.rows


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return load_job(path, [f"output={tmp_path / 'runs'}"]).job


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were opened as exports; transformers reads them, vLLM does not."""
    folders: list[Path] = []

    def open_export(folder: Path, rollout: object) -> dict[str, str | None]:
        folders.append(folder)
        return {"transformers": None, "vllm": "unknown architecture"}

    monkeypatch.setattr(events, "open_export", open_export)
    return folders


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that all readers can open."""
    monkeypatch.setattr(events, "open_export", lambda folder, rollout: {"transformers": None})


def finish(job: Job) -> list[dict[str, Any]]:
    """Leave what a whole run leaves; its rows of events."""
    for name in job.stages:
        folder = stage_folder(job, name)
        (folder / "model").mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"rows": 14}))
        row = {"step": 1, "time": 0.0, "metrics": {"heldout/prompts": 3.0 if name == "sft" else 1.0}}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    for stage, iterations in (("sft", 1), ("ppo", 2)):
        for number in range(iterations):
            checkpoint = stage_folder(job, stage) / "checkpoints" / f"iteration-{number:06d}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "manifest.json").write_text("{}")
    (stage_folder(job, "test") / "records.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    published = {"event": "published", "stage": "ppo"}
    return [published | {"probe_gap": 0.001}, published | {"probe_gap": 0.02}]


def outcome_of(job: Job, *endings: Ending) -> tuple[Outcome, Run]:
    run = Run(job, *endings)
    run.rows = finish(job)
    small: Any = run
    return rehearse_events(small), run


def by_name(outcome: Outcome) -> dict[str, Event]:
    return {event.name: event for event in outcome.events}


def test_the_driver_of_the_live_policy_and_the_reward_are_killed_once_each(job: Job, opened: list[Path]) -> None:
    outcome, run = outcome_of(job, KILLED, LOST, WELL)
    assert run.strikes == ["driver of ppo", "reward of ppo", "nothing"]
    kills = by_name(outcome)
    assert kills["kill and resume"].happened and kills["reward outage"].happened
    assert kills["reward outage"].proof.endswith("rayalign: reward (pid 3) died; the same command went on")


def test_each_event_is_proven_by_what_the_run_left(job: Job, opened: list[Path]) -> None:
    outcome, _ = outcome_of(job, KILLED, Ending(0, "report", struck=True, seconds=1.0))
    proofs = {event.name: event.proof for event in outcome.events}
    assert proofs["weight transfer with probe"] == "2 versions in ppo, largest gap 0.02 nats"
    assert proofs["evaluation"] == "2 answers in test; held-out rows of sft"
    assert proofs["checkpoint"] == "3 committed with their checksums"
    # 14 rows less 3 prompts of one row; the pairs of the reward: 14 less one prompt of two
    assert proofs["last partial batch"] == "sft (11 rows, minibatch 4)"
    assert proofs["end of the schedule"] == "ppo, sft, rm"
    assert proofs["stage hand-off"] == "4 outputs were read by later stages"
    assert proofs["reward outage"].endswith("while it scored: the run went on")


def test_the_last_policy_is_opened_and_one_that_cannot_be_is_a_finding(job: Job, opened: list[Path]) -> None:
    outcome, _ = outcome_of(job, KILLED, LOST, WELL)
    assert opened == [output_path(job, "stage:ppo")]
    events = by_name(outcome)
    assert events["final export: transformers"].happened and not events["final export: vllm"].happened
    (finding,) = outcome.findings
    assert finding.level == "error"
    assert finding.text.startswith("final export: vllm: the model of ppo cannot be used: unknown architecture; look at")


@pytest.mark.parametrize("endings", [(WRONG,), (KILLED, WRONG), (KILLED, LOST, WRONG)])
def test_a_start_that_fails_by_itself_ends_the_rehearsal(
    job: Job, opened: list[Path], endings: tuple[Ending, ...]
) -> None:
    outcome, run = outcome_of(job, *endings, WELL, WELL)
    assert len(run.strikes) == len(endings)
    assert outcome.findings == [Finding("rehearsal", "rayalign: no such column")]
    assert not opened and not outcome.events


@pytest.mark.parametrize("before", [(), (KILLED,), (KILLED, LOST)])
@pytest.mark.parametrize("struck", [True, False])
def test_a_start_without_end_is_a_finding(
    job: Job, opened: list[Path], before: tuple[Ending, ...], struck: bool
) -> None:
    late = Ending(-9, "ppo ...", struck=struck, seconds=3600.0, exceeded=True)
    outcome, run = outcome_of(job, *before, late, WELL, WELL)
    assert len(run.strikes) == len(before) + 1
    assert outcome.findings == [Finding("rehearsal", late.message)]


DUE = ("weight transfer with probe", "checkpoint", "end of the schedule", "stage hand-off")


def test_what_was_due_and_did_not_happen_is_a_finding(job: Job, opened: list[Path]) -> None:
    run = Run(job, KILLED, LOST, WELL)
    for name in job.stages:
        stage_folder(job, name).mkdir(parents=True)
    (stage_folder(job, "test") / "records.jsonl").write_text("")
    small: Any = run
    outcome = rehearse_events(small)
    events = by_name(outcome)
    texts = [finding.text for finding in outcome.findings]
    for name in DUE:
        assert events[name].state == "no", name
        assert any(text.startswith(f"{name}: ") for text in texts), name
    assert events["checkpoint"].proof == "none was committed by ppo, sft, rm"
    assert events["last partial batch"].state == "not covered"
    assert not any("last partial batch" in text for text in texts)


def test_one_stage_that_did_not_end_is_a_finding(job: Job, opened: list[Path]) -> None:
    run = Run(job, KILLED, LOST, WELL)
    run.rows = finish(job)
    (stage_folder(job, "rm") / "done.json").unlink()
    small: Any = run
    texts = [finding.text for finding in rehearse_events(small).findings]
    assert any(text.startswith("end of the schedule: rm did not end; look at") for text in texts)


@pytest.mark.parametrize("first", [WELL, Ending(0, "report", struck=True, seconds=1.0)])
def test_a_run_that_ends_before_its_kills_is_not_covered_by_them(job: Job, readable: None, first: Ending) -> None:
    outcome, run = outcome_of(job, first)
    assert run.strikes == ["driver of ppo"]
    events = by_name(outcome)
    for name in ("kill and resume", "reward outage"):
        assert events[name].state == "not covered", name
        assert events[name].proof.startswith("the run ended before"), name
    assert outcome.findings == []


def test_a_reward_that_was_not_killed_in_time_is_not_covered(job: Job, readable: None) -> None:
    outcome, run = outcome_of(job, KILLED, WELL)
    assert len(run.strikes) == 2
    assert by_name(outcome)["reward outage"].state == "not covered"
    assert outcome.findings == []


def test_events_that_a_job_has_no_place_for_are_not_covered(tmp_path: Path) -> None:
    stages = {"base": {"kind": "pretrain"}}
    run = Run(Job.model_validate({"name": "small", "output": str(tmp_path), "stages": stages}), WELL)
    run.folder.mkdir()
    small: Any = run
    outcome = rehearse_events(small)
    assert {event.state for event in outcome.events} == {"not covered"}
    assert outcome.findings == []


LOOK = '{{"event": "stage_started", "stage": "{stage}"}}\n'


@pytest.fixture
def small(job: Job, tmp_path: Path) -> Callable[[str], SmallRun]:
    """The run of the job with these events so far."""

    def run_with(lines: str) -> SmallRun:
        run = SmallRun(job, tmp_path / "small.yaml")
        run.folder.mkdir(parents=True, exist_ok=True)
        with (run.folder / "events.jsonl").open("a") as file:
            file.write(lines)
        return run

    return run_with


class Running:
    """The command."""

    pid = 4711


def test_the_driver_is_killed_after_the_first_checkpoint_of_its_own_stage(small: Callable[[str], SmallRun]) -> None:
    run = small("")
    look = run.strike_driver("ppo")
    command: Any = Running()
    for stage, pid in (("sft", None), ("ppo", 4711)):
        checkpoint = stage_folder(run.job, stage) / "checkpoints" / "iteration-000001"
        checkpoint.mkdir(parents=True)
        assert look(command) is None, "no manifest yet"
        (checkpoint / "manifest.json").write_text("{}")
        assert look(command) == pid


def test_the_reward_is_killed_once_it_scores_in_its_own_stage(small: Callable[[str], SmallRun]) -> None:
    scores = '{"event": "score_started", "groups": []}\n'
    started = '{{"event": "actor_started", "role": "{role}", "actor_pid": {pid}}}\n'
    small(LOOK.format(stage="ppo") + started.format(role="reward", pid=1) + scores)
    command: Any = Running()
    look = small("").strike_reward("ppo")
    assert look(command) is None, "those of an earlier start do not count"
    small(LOOK.format(stage="other") + started.format(role="reward", pid=2) + scores)
    assert look(command) is None
    small(LOOK.format(stage="ppo") + started.format(role="policy", pid=3) + started.format(role="reward", pid=4))
    assert look(command) is None, "it has nothing to score yet"
    small(scores)
    assert look(command) == 4
