"""Judging a benchmark: matches that the judgment file lacks are judged, and each row is written as it comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rayalign.annotator.endpoints.language_model import CompletionError
from rayalign.data.files import Row
from rayalign.errors import InputError, RayalignError
from rayalign.evaluation.bench_judge import BenchJudge
from rayalign.storage.records import Appender, read_jsonl


class Match(Protocol):
    """One row of a judgment file that is to be made."""

    @property
    def key(self) -> Hashable:
        """Equal to that of the row which it makes: the same question, models, judge and prompts word for word."""

    async def judged(self, judge: BenchJudge) -> Row:
        """The row; raises the errors of `BenchJudge.reply`."""


KeyOf = Callable[[Row], Hashable]
"""the key of a row in the file; None for a row that has to be judged again"""


@dataclass(slots=True)
class Judged:
    """The rows of the matches, and how they came about."""

    rows: list[Row] = field(default_factory=list)
    """in the order of the matches"""
    earlier: int = 0
    """rows that the file had already"""
    failures: Counter[str] = field(default_factory=Counter)
    """reason -> matches that no reply came for; the next run tries them again"""

    def add(self, more: Judged) -> None:
        """Count another file's rows too."""
        self.rows += more.rows
        self.earlier += more.earlier
        self.failures += more.failures

    @property
    def price(self) -> float:
        """US dollars, of all rows."""
        return sum(row.get("price") or 0.0 for row in self.rows)

    @property
    def seconds(self) -> float:
        """The judge's time for all rows."""
        return sum(row.get("seconds") or 0.0 for row in self.rows)


async def judge_matches(path: Path, matches: Sequence[Match], judge: BenchJudge, key_of: KeyOf) -> Judged:
    """Judge what the file lacks, and return the rows of all matches.

    Raises:
        InputError: the file cannot be written, or holds something else.
        RayalignError: the judge cannot go on; the rows so far are in the file.
    """
    try:
        log = Appender(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        rows = _earlier(path, key_of)
        missing = [match for match in matches if match.key not in rows]
        judged = Judged(earlier=len(matches) - len(missing))

        def write(match: Match, row: Row) -> None:
            log.append(row)
            rows[match.key] = row

        judged.failures = await _play(missing, judge, write)
    finally:
        log.close()
    judged.rows = [rows[match.key] for match in matches if match.key in rows]
    return judged


def _earlier(path: Path, key_of: KeyOf) -> dict[Hashable, Row]:
    """The rows that the file has already, by their keys."""
    rows: dict[Hashable, Row] = {}
    for row in read_jsonl(path):
        try:
            rows[key_of(row)] = row
        except (KeyError, TypeError):
            raise InputError(
                f"{path}: holds a row that is no judgment of this benchmark; choose another folder"
            ) from None
    return rows


async def _play(matches: Iterable[Match], judge: BenchJudge, write: Callable[[Match, Row], None]) -> Counter[str]:
    """Judge the matches, `at_once` of them at a time; the reasons of those that failed.

    After an error that ends the judging, games in progress are finished and written, since they are paid for.
    """
    queue = iter(matches)
    failures: Counter[str] = Counter()
    fatal: list[RayalignError] = []

    async def work() -> None:
        for match in queue:
            try:
                row = await match.judged(judge)
            except CompletionError as error:
                failures[str(error)] += 1
            except RayalignError as error:
                fatal.append(error)
            else:
                write(match, row)
            if fatal:
                return

    await asyncio.gather(*(work() for _ in range(judge.at_once)))
    if fatal:
        raise fatal[0]
    return failures


def file_name(name: str) -> str:
    """A model's or judge's name as the name of a file."""
    return name.replace("/", "_")


def run_with(judge: BenchJudge, work: Callable[[], Any]) -> Any:
    """Run the coroutine that `work` makes, and close the judge."""

    async def whole() -> Any:
        try:
            return await work()
        finally:
            await judge.close()

    return asyncio.run(whole())
