"""The quickstart for three seeds: does it learn, in what time and memory? An argument names a folder for the runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record

SEEDS = (0, 1, 2)
JOB = "jobs/quickstart.yaml"


def run(seed: int, output: Path) -> dict[str, Any]:
    """One seed, with nothing taken from a cache."""
    start = time.time()
    command = ["rayalign", "run", JOB, f"seed={seed}", f"output={output}", f"name=seed{seed}"]
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True, timeout=1800)
    folder = output / f"seed{seed}"
    summary = json.loads((folder / "summary.json").read_text())
    fixed = sum(stage["fixed_seconds"] for stage in summary["stages"])
    return {
        "seed": seed,
        "seconds": time.time() - start,
        "fixed_seconds": fixed,
        "first_improvement_s": _first_better(folder, start),
    } | summary


def _first_better(folder: Path, start: float) -> dict[str, float] | None:
    """When PPO's mean reward first stood above its first iteration's for three iterations running."""
    rows = [json.loads(line) for line in (folder / "stages" / "ppo" / "metrics.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    begin = next(e["time"] for e in events if e["event"] == "stage_started" and e["stage"] == "ppo")
    rewards = [row["metrics"]["reward/mean"] for row in rows]
    for i in range(1, len(rows) - 2):
        if min(rewards[i : i + 3]) > rewards[0]:
            return {"since_command": rows[i]["time"] - start, "since_stage": rows[i]["time"] - begin}
    return None


def main() -> None:
    """Run all seeds and keep their summaries."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        record("quickstart_seeds", {"job": JOB, "runs": [run(seed, output) for seed in SEEDS]})


if __name__ == "__main__":
    main()
