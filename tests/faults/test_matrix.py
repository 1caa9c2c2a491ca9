"""Every fault in every role and phase, in two runs, which have to end as if nothing had happened.

The blows that take memory away have a run of their own. A library that gets no memory for its buffers may add in
another order: once the critic's loss differed in its last bits, in the iteration in which the critic had no memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.faults import keep, load, section
from rayalign.storage.journal import Accounting, Journal
from rayalign.storage.records import read_jsonl
from tests.faults.blows import matrix

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(7200)]
PROMPTS = 4
STARTS = 12
"""most starts of the command: where a blow ends it, another one goes on"""
LAST_BITS = 1e-4
"""largest difference of a weight that grows within the run from a difference in last bits"""
WITHIN = 60.0
"""seconds in which each loss has to be named"""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Freed tensors go back to the system, so that a process without memory can't live on what it freed before."""
JOB = """\
name: struck
cluster: {cpus: 2, object_store: 134217728, call_timeout: 1800, heartbeat_timeout: 8, restarts: 1000}
rollout: {engine: local, engines: 2, context: 64}
tracking: {samples: 0}
stages:
  ppo:
    kind: train
    algorithm: {name: ppo, kl_coefficient: 0.05}
    model: MODEL
    reward: {rules: {kind: length, high: 6, margin: 20}}
    candidates: [{source: live, count: 2}]
    prompts: PROMPTS
    iterations: ITERATIONS
    checkpoint_every: 1
    deterministic: true
    sampling: {max_tokens: 12}
    learner: {learning_rate: 1e-4, minibatch: 8}
    data: {limit: 64}
"""


@dataclass
class Struck:
    """A run with blows, one without, and what came of the blows."""

    folder: Path
    cells: list[str]
    results: list[dict[str, Any]]
    codes: list[int]
    text: str
    difference: float
    """the largest of any weight to the run without blows"""


def chosen(takes_memory: bool) -> list[str]:
    """The cells of one run: those that RAYALIGN_FAULTS names (`role/phase/kind`, spaces between them), else all."""
    named = os.environ.get("RAYALIGN_FAULTS", "").split()
    cells = named or [f"{blow.role}/{blow.phase}/{blow.kind}" for blow in matrix()]
    return [cell for cell in cells if cell.endswith("/memory") == takes_memory]


def count_iterations(blows: int) -> int:
    """Two for each blow, and some in which the next one waits for a process that starts."""
    return 3 * blows + 3


@pytest.fixture(scope="module", params=[False, True], ids=["processes", "memory"])
def struck(request: pytest.FixtureRequest, model: str, tmp_path_factory: pytest.TempPathFactory) -> Struck:
    folder, cells = tmp_path_factory.mktemp("faults"), chosen(request.param)
    if not cells:
        pytest.skip("RAYALIGN_FAULTS names none of these cells")
    job = folder / "job.yaml"
    iterations = count_iterations(len(cells))
    text = JOB.replace("MODEL", model).replace("PROMPTS", str(PROMPTS)).replace("ITERATIONS", str(iterations))
    results, codes, output = folder / "results.jsonl", list[int](), ""
    job.write_text(f"output: {folder / 'struck'}\n{text}")
    try:
        while not codes or (codes[-1] and len(codes) < STARTS):
            done = start("-m", "tests.faults.driver", str(job), str(results), *cells)
            codes.append(done.returncode)
            output += done.stdout
        (folder / "quiet.yaml").write_text(f"output: {folder / 'quiet'}\n{text}")
        quiet = start("-c", "from rayalign.cli import main; main()", "run", str(folder / "quiet.yaml"))
        assert quiet.returncode == 0, quiet.stdout
        difference = largest_difference(weights(folder / "struck"), weights(folder / "quiet"))
    except BaseException:
        if results.exists():
            keep(read_jsonl(results, growing=True), note="not ended")
        raise
    rows = list(read_jsonl(results))
    keep(rows, starts=len(codes), difference=difference)
    print(f"\n{section(load())}")
    return Struck(folder / "struck" / "struck", cells, rows, codes, output, difference)


def weights(output: Path) -> Path:
    return output / "struck" / "stages" / "ppo" / "model" / "model.safetensors"


def largest_difference(one: Path, other: Path) -> float:
    """Of any weight of two models; 0 where the files are equal to the bit."""
    if one.read_bytes() == other.read_bytes():
        return 0.0
    first, second = load_file(one), load_file(other)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | MALLOC,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=6000,
    )


def test_the_run_ends_well_without_anybody_starting_it_again(struck: Struck) -> None:
    assert struck.codes == [0], struck.text
    assert [f"{row['role']}/{row['phase']}/{row['kind']}" for row in struck.results] == struck.cells


def test_every_group_is_consumed_once_and_none_is_lost(struck: Struck) -> None:
    with closing(Journal(struck.folder / "journal" / "ppo.jsonl")) as journal:
        account = Accounting.of(journal.replay(effective=True))
    account.check(ended=True)
    places = sorted(group.split(".")[0] for group in account.consumed)
    iterations = count_iterations(len(struck.cells))
    assert places == [f"{i:05d}-{slot:04d}" for i in range(iterations) for slot in range(PROMPTS)]
    assert set(account.drops) <= {"lost at an interruption"}


def test_each_loss_is_named_with_role_and_process_within_a_minute(struck: Struck) -> None:
    for row in struck.results:
        if row["kind"] in ("kill", "stop"):
            assert row["reason"], f"nobody noticed {row}"
            assert row["reason"].startswith(row["role"]), row
            assert f"(pid {row['pid']})" in row["reason"], row
            assert row["noticed"] < WITHIN, row


def test_a_process_that_is_slow_is_left_alone(struck: Struck) -> None:
    outcomes = {row["outcome"] for row in struck.results if row["kind"] == "slow"}
    assert outcomes <= {"went on"}


def test_the_weights_are_those_of_a_run_that_nothing_disturbed(struck: Struck) -> None:
    takes_memory = struck.cells[0].endswith("/memory")
    assert struck.difference <= (LAST_BITS if takes_memory else 0.0)
