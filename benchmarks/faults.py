"""The matrix of faults: what `make test-faults` measured, kept for each cell, and the table of docs/faults.md.

A run may test only some cells (RAYALIGN_FAULTS). Its cells replace those of earlier runs, and the other cells stay.
`python -m benchmarks.faults` writes the table anew; with the `results.jsonl` of runs that were interrupted, it
merges their cells first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import replace_section
from benchmarks.record import RESULTS, machine, now
from benchmarks.study_page import table
from rayalign.storage.records import read_jsonl
from tests.faults.blows import DISK, KINDS, PHASES, ROLES

Row = Mapping[str, Any]
PATH = RESULTS / "faults.json"
PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
_FIELDS = ("outcome", "reason", "noticed", "seconds")
_UNTRIED = "-"


def merge(content: Row, rows: Iterable[Row], run: Row) -> dict[str, Any]:
    """The results with the cells of one more run.

    Args:
        content: `runs` by the time of their end, and `cells` by `role/phase/kind`.
        rows: a result for each cell.
        run: what holds for all of these cells; its `time` names it.
    """
    cells = dict(content["cells"])
    for row in rows:
        cell = {name: row[name] for name in _FIELDS}
        cells[f"{row['role']}/{row['phase']}/{row['kind']}"] = cell | {"run": run["time"]}
    cited = {cell["run"] for cell in cells.values()}
    runs = content["runs"] | {run["time"]: run}
    kept = {time: one for time, one in sorted(runs.items()) if time in cited}
    return {"benchmark": "faults", "runs": kept, "cells": dict(sorted(cells.items()))}


def keep(rows: Iterable[Row], path: Path = PATH, **facts: Any) -> None:
    """Merge the cells of a run that has just ended into the file.

    Args:
        facts: of the whole run: starts of the command, and the largest difference of a weight to an undisturbed run.
    """
    run = {"time": now(), "machine": machine(), **facts}
    text = json.dumps(merge(load(path), rows, run), indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def load(path: Path = PATH) -> dict[str, Any]:
    """The results so far."""
    if not path.exists():
        return {"runs": {}, "cells": {}}
    return json.loads(path.read_text())


def section(content: Row) -> str:
    """The table and a line for each run."""
    lines = []
    for role in ROLES:
        for phase in PHASES:
            cells = [content["cells"].get(f"{role}/{phase}/{kind}") for kind in KINDS]
            lines.append([role, phase, *(_entry(cell) for cell in cells)])
    disk = [[phase, _entry(content["cells"].get(f"{DISK}/{phase}/full"))] for phase in PHASES]
    runs = [_run_line(run, content["cells"]) for run in content["runs"].values()]
    tables = [table(["role", "phase", *KINDS], lines), table(["phase", "the disk is full"], disk)]
    return "\n\n".join([*tables, "\n".join(runs)])


def _entry(cell: Row | None) -> str:
    if cell is None:
        return _UNTRIED
    noticed = f", named after {cell['noticed']:.0f} s" if cell["reason"] else ""
    return f"{cell['outcome']}{noticed}, {cell['seconds']:.0f} s"


def _run_line(run: Row, cells: Mapping[str, Row]) -> str:
    count = sum(cell["run"] == run["time"] for cell in cells.values())
    parts = [f"- {run['time']}: {count} cells"]
    if "load_at_end" in run["machine"]:
        parts.append(f"load {run['machine']['load_at_end']:.0f} at the end")
    if "starts" in run:
        parts.append("one start" if run["starts"] == 1 else f"{run['starts']} starts")
    if "difference" in run:
        parts.append(_weights(run["difference"]))
    if "note" in run:
        parts.append(run["note"])
    return ", ".join(parts)


def _weights(difference: float) -> str:
    """What the blows did to the weights."""
    if difference == 0.0:
        return "weights bit-equal to an undisturbed run"
    return f"weights within {difference:.0e} of an undisturbed run's"


def main() -> None:
    for path in sys.argv[1:]:
        keep(read_jsonl(Path(path), growing=True), note="interrupted by hand")
    replace_section(PAGE, "faults", section(load()))


if __name__ == "__main__":
    main()
