"""Does a long PPO run over-optimise its reward model, with noisy preferences and with noiseless ones?

AlpacaFarm's claim (Dubois et al. 2023, arXiv 2305.14387): with a noisy pool of annotators the proxy keeps
rising while the truth turns down; a single noiseless judge hides that. The job makes both sides; here the policy of
each checkpoint answers the same test prompts, and the side's reward model (proxy) and gold utility score the answers.

python -m benchmarks.overoptimisation [FOLDER]: stages that the folder already has are kept.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

from benchmarks.record import record
from rayalign.evaluation.frontier import overoptimisation
from rayalign.models.engine_state import stored_tensors
from rayalign.pipeline.offline import heldout_results
from rayalign.statistics.intervals import paired_difference
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl

JOB = Path("jobs/small/overoptimisation.yaml").resolve()
SIDES = ("pool", "gold")
HOTTER = ("stages.answers.sampling.temperature=1.6",)
RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    **{f"seed{seed}": (seed, ()) for seed in range(3)},
    **{f"seed{seed}-hotter": (seed, HOTTER) for seed in range(3)},
}
"""name -> seed and overrides"""
WEIGHTS = "model.safetensors"
FORMAT = {"format": "pt"}
Values = dict[str, dict[str, float]]
"""model -> prompt -> value"""


def run(job: Path, *overrides: str) -> None:
    """A job through the command line."""
    command = [str(Path(sys.executable).with_name("rayalign")), "run", str(job), *overrides]
    subprocess.run(command, check=True, timeout=7200)


def policies(stage: Path) -> dict[str, str]:
    """The policy of every checkpoint of a stage as a model folder, by its iteration."""
    found = {}
    for checkpoint in sorted((stage / "checkpoints").glob("iteration-*")):
        target = stage / "along" / checkpoint.name
        shutil.copytree(
            stage / "model", target, ignore=shutil.ignore_patterns("probe.json", WEIGHTS), dirs_exist_ok=True
        )
        save_file(weights_of(checkpoint / "policy", load_file(stage / "model" / WEIGHTS)), target / WEIGHTS, FORMAT)
        found[str(int(checkpoint.name.removeprefix("iteration-")))] = str(target)
    last, final = load_file(target / WEIGHTS), load_file(stage / "model" / WEIGHTS)
    assert all(torch.equal(last[name], final[name]) for name in final), "the last checkpoint is not the stage's model"
    return found


def weights_of(state: Path, final: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a learner's saved state, in the shapes and the precision of the stage's model."""
    stored = stored_tensors(state)
    weights = {}
    for name, tensor in final.items():
        weights[name] = stored[f"weight/model.{name}"].view_as(tensor).to(tensor.dtype)
    return weights


def measure(folder: Path, *overrides: str) -> None:
    """Evaluate stages, added to the finished job: proxy and gold of each checkpoint."""
    stages: dict[str, Any] = {}
    for side in SIDES:
        models = {"0": "stage:sft", **policies(folder / "stages" / f"ppo_{side}")}
        stages[f"gold_{side}"] = {"kind": "evaluate", "models": models}
        stages[f"proxy_{side}"] = {
            "kind": "evaluate", "models": models, "metric": "reward", "reward": f"stage:rm_{side}",
        }  # fmt: skip
    job = folder / "measure.yaml"
    job.write_text(yaml.safe_dump({"extends": str(JOB), "stages": stages}, sort_keys=False), encoding="utf-8")
    run(job, *overrides)


def values(folder: Path, stage: str) -> Values:
    """What an evaluate stage found."""
    found: Values = {}
    for row in read_jsonl(folder / "stages" / stage / "records.jsonl"):
        if row["value"] is not None:
            found.setdefault(row["model"], {})[row["prompt_id"]] = row["value"]
    return found


def kl_to_sft(stage: Path, iteration: int) -> float:
    """KL per answer [nats], mean of the ten iterations before a checkpoint."""
    rows = read_metrics(stage / "metrics.jsonl")[max(0, iteration - 10) : iteration]
    return mean(row["metrics"]["kl/reference"] for row in rows) if rows else 0.0


def curve(folder: Path, side: str, seed: int) -> dict[str, Any]:
    """Proxy and gold along one run, and whether gold turned."""
    proxy, gold = values(folder, f"proxy_{side}"), values(folder, f"gold_{side}")
    steps = sorted(map(int, gold))
    prompts = sorted(set.intersection(*(set(v) for table in (proxy, gold) for v in table.values())))
    tables = [np.array([[table[str(step)][p] for p in prompts] for step in steps]) for table in (proxy, gold)]
    found = overoptimisation(steps, *tables, seed=seed)
    turn = found.gold_turn
    points = [
        {"iteration": step, "kl": kl_to_sft(folder / "stages" / f"ppo_{side}", step), "proxy": p._asdict(),
         "gold": g._asdict()}
        for step, p, g in zip(steps, found.proxy, found.gold, strict=True)
    ]  # fmt: skip
    labels = json.loads((folder / "stages" / f"labels_{side}" / "done.json").read_text())
    heldout = heldout_results(f"rm_{side}", read_metrics(folder / "stages" / f"rm_{side}" / "metrics.jsonl"))
    return {
        "side": side,
        "pairs": labels["rows"],
        "without_verdict": labels["without_verdict"],
        "reward_model": heldout,
        "peak_iteration": steps[turn.peak],
        "turn": {**turn._asdict(), "proxy_rise": turn.proxy_rise._asdict()},
        "points": points,
    }


def study(output: Path, name: str) -> dict[str, Any]:
    """Both sides of one run, and how their last policies differ in gold on the same prompts."""
    seed, changed = RUNS[name]
    overrides = (f"output={output}", f"name={name}", f"seed={seed}", *changed)
    run(JOB, *overrides)
    folder = (output / name).resolve()
    measure(folder, *overrides)
    ends = []
    for side in SIDES:
        table = values(folder, f"gold_{side}")
        ends.append(table[max(table, key=int)])
    common = sorted(ends[0].keys() & ends[1].keys())
    gap = paired_difference([ends[1][p] for p in common], [ends[0][p] for p in common], seed=seed)
    return {
        "seed": seed,
        "overrides": changed,
        "sides": [curve(folder, side, seed) for side in SIDES],
        "last_gold_less_pool": gap._asdict(),
    }


def main() -> None:
    """Run all settings and keep their curves."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).resolve()
        record("overoptimisation", {"job": JOB.name, "runs": [study(output, name) for name in RUNS]})


if __name__ == "__main__":
    main()
