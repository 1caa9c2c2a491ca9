"""Memory of an offline stage against the number of its rows: 1,000, 10,000 and 100,000, each in a process of its own.

Each process reads a file of pairs row by row, encodes it into the stage's rows, and trains SimPO for a few steps, as
the loop of one rank does. SimPO needs no reference; stored log-probs of one would lie in files, 4 bytes a token. Peak
memory is the process's own (VmHWM), since the start of the reading and since the start of the loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record

SIZES = (1_000, 10_000, 100_000)
"""pairs are half of the rows"""
STEPS = 16
CONTEXT = 96


def peak() -> int:
    """Highest resident size of this process since the mark was last cleared [bytes]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not report VmHWM")


def clear() -> int:
    """Clear the mark; what is resident now [bytes]."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def write_pairs(path: Path, pairs: int) -> None:
    """A data set of preferences with prompts and answers of different lengths."""
    words = "the cat sat on a mat and then it ran to the barn with one red hat".split()  # noqa: SIM905
    with path.open("w", encoding="utf-8") as file:
        for pair in range(pairs):
            answers = [" ".join(words[: 4 + (pair * k) % 12]) for k in (3, 5)]
            row = {"prompt": f"{pair} what did the cat do", "chosen": answers[0], "rejected": answers[1]}
            file.write(json.dumps(row) + "\n")


def measure(rows: int, model: str, folder: Path) -> dict[str, Any]:
    """One stage, as the pipeline and one rank run it."""
    from rayalign.config import DataConfig, LearnerConfig, TrackingConfig, TrainStage
    from rayalign.coordinator.offline_data import OfflineSpec
    from rayalign.coordinator.offline_loop import train_offline
    from rayalign.data.chat import load_tokenizer
    from rayalign.data.collate import encode_examples
    from rayalign.data.pairs import pairs_of_examples
    from rayalign.data.readers import stream_examples
    from rayalign.data.rows import write_rows
    from rayalign.models.process_group import meet

    path = folder / "pairs.jsonl"
    write_pairs(path, rows // 2)
    learner = LearnerConfig(minibatch=32, micro_tokens=1024)
    stage = TrainStage(
        kind="train", algorithm={"name": "simpo"}, model=model, learner=learner, steps=STEPS, holdout=0.001
    )
    spec = OfflineSpec(
        stage, "policy", model, TrackingConfig(), 0, str(folder), str(folder / "events.jsonl"), timeout=600.0
    )
    tokenizer = load_tokenizer(model)
    meet()
    examples = stream_examples(DataConfig(format="comparisons", path=str(path)), seed=0, use="comparisons")
    before_reading = clear()
    start = time.perf_counter()
    count = write_rows(spec.rows_folder, encode_examples(tokenizer, pairs_of_examples(examples), context=CONTEXT))
    reading = peak() - before_reading
    seconds = time.perf_counter() - start
    before_loop = clear()
    train_offline(spec)
    return {
        "rows": count,
        "reading_bytes": reading,
        "reading_seconds": seconds,
        "loop_bytes": peak() - before_loop,
        "peak_bytes": peak(),
    }


def main() -> None:
    """Measure each size in a fresh process."""
    if len(sys.argv) > 1:
        rows, model, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
        print(json.dumps(measure(rows, model, folder)))
        return
    from rayalign.data.paddock.tokenizer import build_tokenizer
    from rayalign.models.load import make_preset

    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        make_preset("nano", build_tokenizer(), 0, model)
        for rows in SIZES:
            folder = Path(scratch) / str(rows)
            folder.mkdir()
            command = [sys.executable, "-m", "benchmarks.offline_memory", str(rows), str(model), str(folder)]
            environment = {**os.environ, "OMP_NUM_THREADS": "2"}
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            figures.append(json.loads(output.splitlines()[-1]))
    first, last = figures[0], figures[-1]
    growth = last["peak_bytes"] - first["peak_bytes"]
    record("offline_memory", {"algorithm": "simpo", "steps": STEPS, "sizes": figures, "growth_bytes": growth})


if __name__ == "__main__":
    main()
