"""Whether a named test fails when one line of a point of the arithmetic is broken, in a copy of the package.

The points and their breaks are in `mutants.yaml`. Without arguments all of them run; with numbers of points only those
run, and the others keep their results. It writes `results/mutants.json` and `docs/mutants.md`. The exit status is 1
where a mutant survives.
"""

from __future__ import annotations

import compileall
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import cache_from_source
from pathlib import Path

import pytest
import yaml

from benchmarks.record import RESULTS, record
from rayalign.errors import InputError

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("mutants.yaml")
PAGE = ROOT / "docs" / "mutants.md"
COPIED = ("rayalign", "tests", "jobs", "benchmarks")
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout")
"""of pytest, that the tests need; each further one that is installed would be loaded for every mutant"""
LIBRARIES = ("torch", "transformers", "deepspeed", *PLUGINS)
"""imported once, before the forks"""
TIMEOUT = 600
"""seconds that the tests of one mutant may take"""
HEADING = """# Mutants

Each point of the arithmetic is broken by one line, and a test named for it has to fail. A point with two halves has two
mutants. {killed} of {points} points are killed with all their mutants, {mutants} in all. `make mutants` writes this
page from `benchmarks/mutants.yaml`.

| point | what has to hold | file | break | test | result |
|---|---|---|---|---|---|
"""
NAME = "mutants"
FAILED = 1
"""pytest's exit status where a test failed; with the others it did not run"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One point, and one way to break it."""

    point: int
    title: str
    """what has to hold"""
    file: str
    """inside the package"""
    old: str
    """text that occurs once in the file"""
    new: str
    tests: tuple[str, ...]
    """pytest's names of the tests of which one has to fail"""
    note: str = ""
    """where our design differs from the point"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests said of a mutant."""

    point: int
    title: str
    result: str
    """killed, survived, or why there is neither"""
    seconds: float


def load_mutants() -> list[Mutant]:
    """All mutants of the table, in its order."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def broken(mutant: Mutant, source: str) -> str:
    """The source with the mutant's line.

    Raises:
        InputError: the old text does not occur exactly once.
    """
    count = source.count(mutant.old)
    if count != 1:
        raise InputError(
            f"mutant of point {mutant.point}: its old text occurs {count} times in rayalign/{mutant.file}, not once; "
            f"correct it in benchmarks/{TABLE.name}"
        )
    return source.replace(mutant.old, mutant.new)


@contextmanager
def tree() -> Iterator[Path]:
    """A copy of what tests need, with byte code that is never written again."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        for name in ("rayalign", "tests"):
            compileall.compile_dir(copy / name, quiet=1)
        yield copy


def run_tests(copy: Path, tests: Sequence[str]) -> int:
    """pytest's exit status in the copy; its output goes to this process's where no test failed and none passed.

    The process is a fork of this one, which has the large libraries: to import them takes longer than most tests.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as output:
        process = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, tests, output.name))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
            raise InputError(f"the tests {', '.join(tests)} took more than {TIMEOUT} s; name smaller ones")
        status = process.exitcode or 0
        if status not in (0, FAILED):
            print(output.read()[-4000:])
    return status


def _pytest(copy: Path, tests: Sequence[str], output: str) -> None:
    """Run tests of the copy in this process, which ends with pytest's exit status."""
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(copy), *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in list(sys.modules):
        if name.partition(".")[0] in COPIED:
            del sys.modules[name]
    plugins = [argument for name in PLUGINS for argument in ("-p", name)]
    sys.exit(int(pytest.main([*plugins, "-p", "no:cacheprovider", "-x", "-q", *tests])))


def judge(copy: Path, mutant: Mutant) -> Outcome:
    """Break one line of the copy, run the mutant's tests, and mend it."""
    path = copy / "rayalign" / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(broken(mutant, source), encoding="utf-8")
    Path(cache_from_source(str(path))).unlink(missing_ok=True)
    start = time.perf_counter()
    status = run_tests(copy, mutant.tests)
    seconds = time.perf_counter() - start
    path.write_text(source, encoding="utf-8")
    result = {0: "survived", FAILED: "killed"}.get(status, f"pytest ended with status {status}")
    return Outcome(mutant.point, mutant.title, result, round(seconds, 1))


def prove_whole(copy: Path, mutants: Sequence[Mutant]) -> None:
    """All named tests pass while nothing is broken; else their failures would prove nothing."""
    names: dict[str, None] = {}
    for mutant in mutants:
        names |= dict.fromkeys(mutant.tests)
    if run_tests(copy, list(names)):
        raise InputError("a test of the table fails while nothing is broken; mend it before any mutant is judged")


def recorded() -> list[Outcome]:
    """The outcomes of earlier runs."""
    path = RESULTS / f"{NAME}.json"
    if not path.is_file():
        return []
    return [Outcome(**row) for row in json.loads(path.read_text(encoding="utf-8"))["mutants"]]


def page(mutants: Sequence[Mutant], outcomes: Sequence[Outcome]) -> str:
    """The table as Markdown; a mutant without an outcome was not run."""
    by_title = {(outcome.point, outcome.title): outcome for outcome in outcomes}
    rows, points, alive = [], set(), set()
    for mutant in mutants:
        outcome = by_title.get((mutant.point, mutant.title), Outcome(mutant.point, mutant.title, "not run", 0.0))
        points.add(mutant.point)
        if outcome.result != "killed":
            alive.add(mutant.point)
        rows.append(_row(mutant, outcome))
    return HEADING.format(killed=len(points - alive), points=len(points), mutants=len(mutants)) + "".join(rows)


def _row(mutant: Mutant, outcome: Outcome) -> str:
    title = f"{mutant.title}. {mutant.note}." if mutant.note else f"{mutant.title}."
    change = f"{_code(mutant.old)} → {_code(mutant.new)}"
    tests = "<br>".join(_code(test.removeprefix("tests/")) for test in mutant.tests)
    cells = (
        mutant.point,
        _escaped(title),
        _code(mutant.file),
        change,
        tests,
        f"{outcome.result}, {outcome.seconds:.0f} s",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def _code(text: str) -> str:
    return f"`{_escaped(text)}`"


def _escaped(text: str) -> str:
    """Text for one cell of a table."""
    return text.replace("|", "\\|")


def main(points: Sequence[int]) -> int:
    """Judge the mutants of these points, all without any; the number of mutants recorded as not killed."""
    mutants = load_mutants()
    chosen = [mutant for mutant in mutants if not points or mutant.point in points]
    outcomes = []
    for library in LIBRARIES:
        importlib.import_module(library)
    with tree() as copy:
        prove_whole(copy, chosen)
        for mutant in chosen:
            outcomes.append(judge(copy, mutant))
            print(f"{mutant.point} {outcomes[-1].result} {outcomes[-1].seconds} {mutant.title}", flush=True)
    if points:
        outcomes += [outcome for outcome in recorded() if outcome.point not in points]
    outcomes.sort(key=lambda outcome: outcome.point)
    record(NAME, {"mutants": [asdict(outcome) for outcome in outcomes]})
    PAGE.write_text(page(mutants, outcomes), encoding="utf-8")
    return sum(outcome.result != "killed" for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(bool(main([int(argument) for argument in sys.argv[1:]])))
