"""Going on after an interruption: from the last checkpoint, with the groups that are still valid there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rayalign.coordinator.order import PromptOrder
from rayalign.coordinator.window import Place, place_of
from rayalign.scoring.parts import RewardCombiner
from rayalign.storage.checkpoints import CheckpointStore, Manifest
from rayalign.storage.journal import Accounting, Entry, Journal
from rayalign.storage.metrics import MetricSink
from rayalign.storage.records import decode
from rayalign.types import Group, Score


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where training goes on."""

    iteration: int = 0
    state: Mapping[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    groups: tuple[Group, ...] = ()
    """groups made before the interruption that this iteration or a later one consumes"""
    serials: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """group ids used so far for each (iteration, slot)"""
    consumed: frozenset[Place] = frozenset()
    """places of the groups that were trained on"""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """of the last iteration before it; None: not finite"""


def recover(
    journal: Journal,
    checkpoints: CheckpointStore,
    *,
    scored: bool,
    max_staleness: int,
    deterministic: bool,
    went_back_to: int | None = None,
    carries: bool = False,
) -> Resumption:
    """Rewind the journal to the last checkpoint and return what holds there.

    A group is kept when it is whole and its weights are ones that the checkpoint knows; in deterministic mode none is,
    so that an unfinished iteration is made again in the same way. Groups under way are dropped and counted.

    Args:
        went_back_to: iteration that a guard sent the stage back to, which goes on from there with other groups.
        carries: any iteration may consume a group, while it is not too old.
    """
    checkpoints.tidy()
    fresh: Manifest = {"iteration": 0, "journal": 0, "state": {}}
    path, manifest = checkpoints.latest() or (None, fresh)
    entries = list(journal.replay(effective=True))
    if not entries:
        return Resumption()
    iteration, position = manifest["iteration"], manifest["journal"]
    serials = _serials(journal)
    anew = deterministic or iteration == went_back_to
    whole = [] if anew else _whole(entries, iteration, scored=scored)
    valid = [group for group in whole if _is_valid(group, iteration, max_staleness, carries=carries)]
    journal.append({"kind": "rewound", "to": position, "kept": [group.id for group in valid]})
    account = Accounting.of(journal.replay(effective=True))
    for group_id in sorted(account.open - {group.id for group in valid}):
        journal.append({"kind": "dropped", "group": group_id, "reason": "lost at an interruption"})
    consumed, metrics = _places(account.consumed), manifest.get("metrics", {})
    return Resumption(iteration, manifest["state"], path, tuple(valid), serials, consumed, metrics)


def with_last_iteration(
    reported: Sequence[Mapping[str, Any]], resumption: Resumption, sink: MetricSink
) -> list[Mapping[str, Any]]:
    """The rows {step, metrics} of all iterations so far.

    That of the last one is the checkpoint's, and is written to the sink: the iteration may have been committed and not
    reported, and what was reported may be of an earlier attempt.
    """
    if not resumption.metrics:
        return list(reported)
    last = resumption.iteration - 1
    metrics = {name: math.nan if value is None else value for name, value in resumption.metrics.items()}
    sink.write(last, metrics)
    earlier = [row for row in reported if row["step"] != last]
    return [*earlier, {"step": last, "metrics": metrics}]


def restore(journal: Journal, rewards: RewardCombiner | None, order: PromptOrder) -> None:
    """Show the moments of a reward and an order of prompts all iterations that were consumed, as they saw them."""
    for iteration, groups in consumed_iterations(journal, rewards):
        order.observe(iteration, groups)


def consumed_iterations(journal: Journal, rewards: RewardCombiner | None) -> Iterator[tuple[int, list[Group]]]:
    """Each iteration that was consumed, with its groups as they were trained on.

    Args:
        rewards: of scores with parts, without moments yet: it sees each iteration before it gives the values.
    """
    groups: dict[str, Group] = {}
    for entry in journal.replay(effective=True):
        if entry["kind"] == "finished":
            group = decode(Group, entry["group"])
            groups[group.id] = group
        elif entry["kind"] == "scored":
            groups[entry["group"]] = _with_scores(groups[entry["group"]], entry)
        elif entry["kind"] == "consumed":
            consumed = [groups.pop(group_id) for group_id in entry["groups"]]
            yield entry["iteration"], consumed if rewards is None else rewards.take(consumed)


def _with_scores(group: Group, entry: Entry) -> Group:
    return replace(group, scores=tuple(decode(Score, row) for row in entry["scores"]))


def _places(group_ids: Collection[str]) -> frozenset[Place]:
    return frozenset(place_of(group_id) for group_id in group_ids)


def _is_valid(group: Group, iteration: int, max_staleness: int, *, carries: bool) -> bool:
    """Whether an iteration still to come may consume it, and no weights wrote it that are gone."""
    newest = -1
    for trajectory in group.trajectories:
        newest = max(newest, *(segment.version for segment in trajectory.segments))
    consumer = iteration if carries else group.iteration
    return iteration <= consumer and newest <= iteration and consumer - group.version <= max_staleness


def _whole(entries: list[Entry], iteration: int, *, scored: bool) -> list[Group]:
    """Groups with all that they need, which no iteration before this one has trained on."""
    groups = {e["group"]["id"]: decode(Group, e["group"]) for e in entries if e["kind"] == "finished"}
    for entry in entries:
        if entry["kind"] == "scored":
            groups[entry["group"]] = _with_scores(groups[entry["group"]], entry)
    ended = {e["group"] for e in entries if e["kind"] == "dropped"}
    for entry in entries:
        if entry["kind"] == "consumed" and entry["iteration"] < iteration:
            ended.update(entry["groups"])
    return [g for g in groups.values() if g.id not in ended and (g.scores or not scored)]


def _serials(journal: Journal) -> Mapping[tuple[int, int], int]:
    used: Counter[tuple[int, int]] = Counter()
    for entry in journal.replay():
        if entry["kind"] == "submitted":
            place, serial = entry["group"].split(".")
            iteration, slot = (int(part) for part in place.split("-"))
            used[iteration, slot] = max(used[iteration, slot], int(serial) + 1)
    return used
