"""The quickstart for three seeds: does it learn, in what time and memory? An argument names a folder for the runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import record

SEEDS = (0, 1, 2)
JOB = "jobs/quickstart.yaml"


def run(seed: int, output: Path) -> dict[str, Any]:
    """One seed; stages that the folder already has are kept, with the seconds that they took."""
    command = ["rayalign", "run", JOB, f"seed={seed}", f"output={output}", f"name=seed{seed}"]
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True, timeout=1800)
    folder = output / f"seed{seed}"
    summary = json.loads((folder / "summary.json").read_text())
    seconds = {key: sum(stage[key] for stage in summary["stages"]) for key in ("seconds", "fixed_seconds")}
    return {"seed": seed, **seconds, "first_improvement_seconds": _first_better(folder), **summary}


def _first_better(folder: Path) -> float | None:
    """Seconds since PPO's start when its mean reward first stood above its first for three iterations running."""
    rows = [json.loads(line) for line in (folder / "stages" / "ppo" / "metrics.jsonl").read_text().splitlines()]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    begin = [e["time"] for e in events if e["event"] == "stage_started" and e["stage"] == "ppo"][-1]
    rewards = [row["metrics"]["reward/mean"] for row in rows]
    for i in range(1, len(rows) - 2):
        if min(rewards[i : i + 3]) > rewards[0]:
            return float(rows[i]["time"] - begin)
    return None


def main() -> None:
    """Run all seeds and keep their summaries."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        record("quickstart_seeds", {"job": JOB, "runs": [run(seed, output) for seed in SEEDS]})


if __name__ == "__main__":
    main()
