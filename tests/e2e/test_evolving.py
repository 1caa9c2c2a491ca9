"""Two rounds of evolving prompts over a real pool: drawn, scored, evolved, drawn again; with a solver, and killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from rayalign.storage.records import decode, read_jsonl
from rayalign.storage.summary import read_done
from rayalign.types import Example
from tests.e2e.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]

JOB = """\
name: tiny
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engine: local, engines: 1, context: 96}
stages:
  start:
    kind: generate
    model: MODEL
    data: {limit: 24}
    count: 1
    best_of: &four {n: 4, reward: {rules: {kind: length, high: 3, margin: 20}}}
    sampling: &short {max_tokens: 12}
  rounds:
    rounds: 2
    first: {draws/drawn: stage:start/drawn}
    stages:
      prompts: {kind: evolve, examples: stage:draws@previous/drawn, evolutions: 2, benchmarks: {split: hard, limit: 20}}
      draws:
        kind: generate
        model: MODEL
        data: {path: stage:prompts}
        count: 1
        best_of: *four
        sampling: *short
"""
SOLVED = """\
      solver:
        kind: train
        algorithm: {name: sppo}
        model: stage:solver@previous
        examples: stage:draws/extremes
        learner: {learning_rate: 1e-3, minibatch: 8}
"""
WITH_SOLVER = (
    JOB.replace("first: {", "first: {solver: MODEL, ").replace(
        "        kind: generate\n        model: MODEL", "        kind: generate\n        model: stage:solver@previous"
    )
    + SOLVED
)


def test_a_solver_learns_in_each_round_and_a_killed_round_goes_on(model: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(WITH_SOLVER.replace("MODEL", model))
    run = Run(tmp_path / "runs", path)
    killed = run.strike_at(signal.SIGKILL, "driver", "stages/draws@2/records.jsonl")
    assert killed.code == -signal.SIGKILL
    assert killed.stages == ["start", "prompts@1", "draws@1", "solver@1", "prompts@2", "draws@2"]
    stages = run.folder / "stages"
    first_round = [stages / "draws@1" / "extremes.jsonl", stages / "solver@1" / "model" / "model.safetensors"]
    before = [file.read_bytes() for file in first_round]
    part = stages / "draws@2" / "finished_groups.jsonl"
    groups = part.read_bytes().splitlines(keepends=True)
    assert len(groups) == 24
    part.write_bytes(b"".join(groups[:9]) + groups[9][:40])  # as a kill within the draws leaves it
    last = run.finish()
    assert (last.code, last.stages) == (0, ["draws@2", "solver@2"]), last.text
    assert "9 of 24 groups were drawn before an interruption" in last.text
    assert not part.exists()
    assert [file.read_bytes() for file in first_round] == before
    rows = [decode(Example, row) for row in read_jsonl(stages / "draws@2" / "drawn.jsonl")]
    assert len({row.prompt.id for row in rows}) == len(rows) == 24
    answers = {row.prompt.id: [candidate.text for candidate in row.candidates] for row in rows}
    for group in (json.loads(line)["group"] for line in groups):
        assert answers[group["prompt"]["id"]] == [trajectory["text"] for trajectory in group["trajectories"]]
    models = [Path(model), stages / "solver@1" / "model", stages / "solver@2" / "model"]
    assert len({(folder / "model.safetensors").read_bytes() for folder in models}) == 3


def test_rounds_draw_for_evolved_prompts_and_an_interrupted_stage_goes_on(model: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("MODEL", model))
    run = Run(tmp_path / "runs", path)
    ending = run.finish()
    assert ending.code == 0, ending.text
    stages = run.folder / "stages"
    for number in (1, 2):
        prompts = [decode(Example, row).prompt for row in read_jsonl(stages / f"prompts@{number}" / "records.jsonl")]
        drawn = [decode(Example, row).prompt for row in read_jsonl(stages / f"draws@{number}" / "drawn.jsonl")]
        assert drawn == prompts
        assert len(prompts) == 24
        assert any(prompt.meta.get("generation", "0") == str(number) for prompt in prompts)
    folder = stages / "prompts@2"
    whole = {file: (folder / file).read_bytes() for file in ("records.jsonl", "lineage.jsonl", "attempts.jsonl")}
    before = read_done(folder)
    (folder / "done.json").unlink()
    (folder / "records.jsonl").unlink()
    (folder / "attempts.jsonl").write_bytes(whole["attempts.jsonl"][:-40])
    again = run.finish()
    assert (again.code, again.stages) == (0, ["prompts@2"]), again.text
    assert {file: (folder / file).read_bytes() for file in whole} == whole
    after = read_done(folder)
    assert before is not None and after is not None
    times = ("seconds", "fixed_seconds", "time")
    assert {k: v for k, v in after.items() if k not in times} == {k: v for k, v in before.items() if k not in times}
