"""What must happen at least once in a rehearsal, and the proof that it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rayalign.algorithms.base import load
from rayalign.config import Job
from rayalign.pipeline.kind import FIGURES, kinds_of, trainings_of
from rayalign.pipeline.outputs import output_path, stage_folder
from rayalign.rehearsal.exports import open_export
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.running import Ending, SmallRun, scored_stages, trained_stages
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl
from rayalign.storage.summary import read_done

STARTS = 4
"""most starts of the command: the first, one after each of two kills, and one to spare"""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, and how it is known."""

    name: str
    happened: bool
    proof: str
    """or why it did not happen"""
    due: bool = True
    """whether it has to happen; False where the job has no place for it, or the run ended before it could"""

    @property
    def state(self) -> str:
        """For people."""
        if self.happened:
            return "yes"
        return "no" if self.due else "not covered"

    def row(self) -> dict[str, Any]:
        """As it stands in rehearsal.json."""
        return asdict(self)


@dataclass(slots=True)
class Outcome:
    """Everything that a miniature's run showed."""

    events: list[Event] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)


def rehearse_events(run: SmallRun) -> Outcome:
    """Run the miniature to its end through a kill of its driver and one of its reward; look at what it left."""
    outcome = Outcome()
    kills = _run(run, outcome)
    if outcome.findings:
        return outcome
    job = run.job
    rows = run.events()
    for events in (
        _transfers(job, rows),
        _evaluations(job),
        _checkpoints(job, run),
        kills,
        _partial_batches(job),
        _schedules(job),
        _hand_offs(job),
        _exports(job),
    ):
        outcome.events += events
    for event in outcome.events:
        if event.due and not event.happened:
            text = f"{event.name}: {event.proof}; look at events.jsonl and the folders of the stages in {run.folder}"
            outcome.findings.append(Finding("rehearsal", text))
    return outcome


def _run(run: SmallRun, outcome: Outcome) -> list[Event]:
    """Start the command until it ends by itself; the events of the kills."""
    events = [_kill_driver(run, outcome)]
    if not outcome.findings:
        events.append(_kill_reward(run, outcome))
    while not (outcome.findings or _has_ended(outcome)) and len(outcome.endings) < STARTS:
        ending = run.start()
        outcome.endings.append(ending)
        if ending.code:
            outcome.findings.append(Finding("rehearsal", ending.message))
    return events


def _kill_driver(run: SmallRun, outcome: Outcome) -> Event:
    name, trained = "kill and resume", trained_stages(run.job)
    if not trained:
        return Event(name, False, "the job trains nothing", due=False)
    ending = run.start(run.strike_driver(trained[0]))
    outcome.endings.append(ending)
    if ending.code == 0:
        return Event(name, False, "the run ended before its driver was killed", due=False)
    if ending.exceeded or not ending.struck:
        outcome.findings.append(Finding("rehearsal", ending.message))
        return Event(name, False, ending.message)
    text = f"SIGKILL to the driver after the first checkpoint of {trained[0]}; the same command went on"
    return Event(name, True, text)


def _kill_reward(run: SmallRun, outcome: Outcome) -> Event:
    name, scored = "reward outage", list(scored_stages(run.job))
    too_late = Event(name, False, "the run ended before its reward was killed", due=False)
    if not scored:
        return Event(name, False, "no stage scores what the live policy writes", due=False)
    if _has_ended(outcome):
        return too_late
    ending = run.start(run.strike_reward(scored[-1]))
    outcome.endings.append(ending)
    if ending.exceeded or (ending.code and not ending.struck):
        outcome.findings.append(Finding("rehearsal", ending.message))
        return Event(name, False, ending.message)
    if not ending.struck:
        return too_late
    went_on = "the run went on"
    if ending.code:
        went_on = f"{_first_sentence(ending.message)}; the same command went on"
    return Event(name, True, f"SIGKILL to the reward of {scored[-1]} while it scored: {went_on}")


def _has_ended(outcome: Outcome) -> bool:
    """Whether the last start went to the end of the run."""
    return bool(outcome.endings) and outcome.endings[-1].code == 0


def _first_sentence(message: str) -> str:
    """What an error says first; Ray adds a paragraph."""
    return message.partition(". ")[0]


def _transfers(job: Job, rows: list[dict[str, Any]]) -> Iterator[Event]:
    online = [name for name in trained_stages(job) if _online(job, name)]
    if not online:
        yield Event("weight transfer with probe", False, "no stage trains a live policy", due=False)
        return
    published = [row for row in rows if row["event"] == "published"]
    missing = [name for name in online if not any(row["stage"] == name for row in published)]
    if missing:
        yield Event("weight transfer with probe", False, f"{', '.join(missing)} published no version")
        return
    gap = max(row["probe_gap"] for row in published)
    text = f"{len(published)} versions in {', '.join(online)}, largest gap {gap:.2g} nats"
    yield Event("weight transfer with probe", True, text)


def _evaluations(job: Job) -> Iterator[Event]:
    stages = [name for name, kind in kinds_of(job).items() if kind.outputs()[""].what == FIGURES]
    heldout = [name for name in trained_stages(job) if not _online(job, name) and _stage(job, name).holdout]
    answers = 0
    for name in stages:
        answers += len(list(read_jsonl(stage_folder(job, name) / "records.jsonl")))
    if not stages and not heldout:
        yield Event("evaluation", False, "the job has no evaluate stage and holds no rows out", due=False)
        return
    parts = [f"{answers} answers in {', '.join(stages)}"] if stages else []
    parts += [f"held-out rows of {', '.join(heldout)}"] if heldout else []
    yield Event("evaluation", True, "; ".join(parts))


def _checkpoints(job: Job, run: SmallRun) -> Iterator[Event]:
    trained = trained_stages(job)
    if not trained:
        yield Event("checkpoint", False, "no stage trains", due=False)
        return
    count = len(list(run.folder.glob("stages/*/checkpoints/iteration-*/manifest.json")))
    text = f"{count} committed with their checksums" if count else f"none was committed by {', '.join(trained)}"
    yield Event("checkpoint", count > 0, text)


def _partial_batches(job: Job) -> Iterator[Event]:
    """Offline stages whose last minibatch of a pass was not full."""
    partial = []
    for name in trained_stages(job):
        trained = _trained_rows(job, name)
        minibatch = _stage(job, name).learner.minibatch
        if trained is not None and trained % minibatch:
            partial.append(f"{name} ({trained} rows, minibatch {minibatch})")
    text = ", ".join(partial) or "every pass had whole minibatches"
    yield Event("last partial batch", bool(partial), text, due=False)


def _trained_rows(job: Job, name: str) -> int | None:
    """Rows of one pass without those held out; None for an online stage, and where groups have several rows."""
    rows = (read_done(stage_folder(job, name)) or {}).get("rows")
    unit = load(_stage(job, name).algorithm).unit
    if _online(job, name) or rows is None or unit == "group":
        return None
    metrics = read_metrics(stage_folder(job, name) / "metrics.jsonl")
    prompts = max((row["metrics"].get("heldout/prompts", 0.0) for row in metrics), default=0.0)
    return int(rows - prompts * (2 if unit == "pair" else 1))


def _schedules(job: Job) -> Iterator[Event]:
    trained = trained_stages(job)
    if not trained:
        yield Event("end of the schedule", False, "no stage trains", due=False)
        return
    unfinished = [name for name in trained if not read_done(stage_folder(job, name))]
    text = f"{', '.join(unfinished)} did not end" if unfinished else ", ".join(trained)
    yield Event("end of the schedule", not unfinished, text)


def _hand_offs(job: Job) -> Iterator[Event]:
    references: dict[str, None] = {}
    for stage in job.stages.values():
        references |= {str(reference): None for _, reference in stage.references()}
    absent = [text for text in references if not output_path(job, text).exists()]
    if not references:
        yield Event("stage hand-off", False, "no stage reads another", due=False)
        return
    text = f"{', '.join(absent)} missing" if absent else f"{len(references)} outputs were read by later stages"
    yield Event("stage hand-off", not absent, text)


def _exports(job: Job) -> Iterator[Event]:
    """The last trained policy, opened by others."""
    policies = [name for name, training in trainings_of(job).items() if training.trained[0] == "policy"]
    if not policies:
        yield Event("final export", False, "the job trains no policy", due=False)
        return
    folder = output_path(job, f"stage:{policies[-1]}")
    for reader, problem in open_export(folder, job.rollout).items():
        able = f"cannot be used: {problem}" if problem else "writes a token"
        yield Event(f"final export: {reader}", problem is None, f"the model of {policies[-1]} {able}")


def _online(job: Job, name: str) -> bool:
    return bool(_stage(job, name).online)


def _stage(job: Job, name: str) -> Any:
    return job.stages[name]
