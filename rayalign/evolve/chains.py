"""Several evolutions of each selected prompt, step by step, with a file of what was made.

    selected prompts -> operators drawn -> evolver -> attempts.jsonl -> gates -> new prompts
          ^                                                                          |
          +------------------- the next step starts from the new one ----------------+

A refused prompt leaves its chain where it was. Which operator is drawn, and all that the gates say, follows from the
seed and from the attempts alone: a stage that is started again asks the evolver for nothing twice.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayalign.evolve.creator import Rated
from rayalign.evolve.evolvers import Evolver, Request
from rayalign.evolve.gates import Gates
from rayalign.evolve.lineage import BREADTH, Lineage, ancestor, descended, generation
from rayalign.storage.records import Appender, decode, encode, read_jsonl
from rayalign.types import Prompt

logger = logging.getLogger(__name__)
AT_ONCE = 64
"""requests after which their results are on disk"""


@dataclass(frozen=True, slots=True)
class Evolved:
    """A new prompt that passed the gates."""

    prompt: Prompt
    start: Rated
    """where its chain began"""

    def lineage(self, metric: str) -> Lineage:
        """Where it comes from."""
        meta, start = self.prompt.meta, self.start
        return Lineage(
            self.prompt.id,
            meta["parent"],
            meta["operator"],
            generation(self.prompt),
            start.prompt.id,
            metric,
            start.value,
            start.weight,
            start.rewards,
        )


@dataclass(slots=True)
class Outcome:
    """All that a stage evolved, and why the rest was refused."""

    evolved: list[Evolved] = field(default_factory=list)
    attempts: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Attempts:
    """What the evolver gave for each step of each chain, appended as it comes."""

    def __init__(self, path: Path) -> None:
        rows = read_jsonl(path, growing=True) if path.exists() else ()
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        for row in rows:
            self._rows[row["start"], row["step"]] = row
        self._file = Appender(path)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._rows

    def __getitem__(self, key: tuple[str, int]) -> Prompt | None:
        row = self._rows[key]
        return None if row["prompt"] is None else decode(Prompt, row["prompt"], str(self._file.path))

    def add(self, key: tuple[str, int], operator: str, prompt: Prompt | None) -> None:
        """Remember what a step gave."""
        start, step = key
        row = {"start": start, "step": step, "operator": operator, "prompt": encode(prompt) if prompt else None}
        self._file.append(row)
        self._rows[key] = row

    def close(self) -> None:
        """Close the file."""
        self._file.close()


async def evolve_chains(
    starts: Sequence[Rated], evolver: Evolver, gates: Gates, attempts: Attempts, *, steps: int, seed: int
) -> Outcome:
    """`steps` evolutions of each prompt."""
    outcome = Outcome()
    ends = {start.prompt.id: start.prompt for start in starts}
    for step in range(steps):
        requests: dict[tuple[str, int], Request] = {}
        for start in starts:
            key = (start.prompt.id, step)
            request = _request(ends[start.prompt.id], key, evolver, seed)
            if request is None:
                outcome.refused["no operator fits"] += 1
            else:
                requests[key] = request
        await _make(requests, evolver, attempts)
        outcome.attempts += len(requests)
        for start in starts:
            request = requests.get((start.prompt.id, step))
            if request is not None:
                ends[start.prompt.id] = _settle(request, attempts[start.prompt.id, step], start, gates, outcome)
        logger.info(
            "step %d of %d: %d new prompts, %d refused", step + 1, steps, len(outcome.evolved), outcome.refused.total()
        )
    return outcome


def _request(prompt: Prompt, key: tuple[str, int], evolver: Evolver, seed: int) -> Request | None:
    options = evolver.applicable(prompt)
    rng = random.Random(f"{seed}/{key[0]}/{key[1]}")
    return Request(prompt, rng.choice(list(options)), rng.getrandbits(31)) if options else None


async def _make(requests: dict[tuple[str, int], Request], evolver: Evolver, attempts: Attempts) -> None:
    """Ask the evolver for what is not there yet."""
    missing = [key for key in requests if key not in attempts]
    for first in range(0, len(missing), AT_ONCE):
        keys = missing[first : first + AT_ONCE]
        prompts = await evolver.evolve([requests[key] for key in keys])
        for key, prompt in zip(keys, prompts, strict=True):
            attempts.add(key, requests[key].operator, prompt)


def _settle(request: Request, prompt: Prompt | None, start: Rated, gates: Gates, outcome: Outcome) -> Prompt:
    """Put a new prompt before the gates; returns where its chain goes on."""
    begins = request.operator == BREADTH
    reason = gates.admit(prompt, request.parent, "" if begins else ancestor(request.parent))
    if reason is not None or prompt is None:
        outcome.refused[reason or "absent"] += 1
        return request.parent
    child = descended(prompt, request.parent, request.operator)
    outcome.evolved.append(Evolved(child, start))
    return child
