"""A run that deals blows to its own actors: `python -m tests.faults.driver JOB RESULTS [BLOWS]`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rayalign
from rayalign.coordinator.iteration import PhaseClock
from rayalign.errors import RayalignError
from rayalign.storage.events import EventLog
from tests.faults.blows import Blow, Striker, matrix

FAILED = 1
"""exit code of a run that an error of rayalign ended"""


def watched(striker: Striker) -> None:
    """Have a striker see each phase and each event of this process."""
    write, phase = EventLog.write, PhaseClock.phase

    def write_and_see(self: EventLog, event: str, **fields: Any) -> None:
        striker.event(event, fields)
        write(self, event, **fields)

    @contextmanager
    def phase_and_see(self: PhaseClock, name: str) -> Iterator[None]:
        with striker.phase(name, self._iteration), phase(self, name):
            yield

    EventLog.write = write_and_see  # type: ignore[method-assign]
    PhaseClock.phase = phase_and_see  # type: ignore[method-assign]


def main(job: str, results: str, *cells: str) -> int:
    """Run the job to its end; the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    blows = [Blow(*cell.split("/")) for cell in cells] if cells else matrix()  # type: ignore[arg-type]
    striker = Striker(blows, Path(results), Path(rayalign.load_job(job).job.output))
    watched(striker)
    try:
        rayalign.run(job)
    except RayalignError as error:
        print(f"rayalign: {error}", file=sys.stderr)
        striker.ended(str(error).splitlines()[0])
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
