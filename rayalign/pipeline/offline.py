"""Training on given rows: pretraining, and every algorithm that does not need the live policy."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayalign.algorithms.base import load
from rayalign.cluster.placement import Claim, claims, free_cpus, process_environment
from rayalign.config import RoleConfig, TrainStage
from rayalign.coordinator.offline import OfflineSpec, launch
from rayalign.data.chat import load_tokenizer
from rayalign.data.collate import EncodedRow, encode_examples
from rayalign.data.readers import load_examples
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.feedback import ranked
from rayalign.pipeline.train import TrainKind
from rayalign.statistics.intervals import share_interval
from rayalign.storage.metrics import ConsoleSink, last_row, read_metrics
from rayalign.storage.records import decode, read_jsonl
from rayalign.types import Comparison, Example

logger = logging.getLogger(__name__)


def train_offline(context: RunContext, name: str, stage: TrainStage) -> dict[str, Any]:
    """Train one role on the rows of a data set or of an earlier stage."""
    tokenizer = load_tokenizer(context.model(stage.model))
    rows = encode_examples(tokenizer, read_examples(context, stage), context=context.job.rollout.context)
    fit(context, name, stage, rows)
    return {"results": heldout_results(name, read_metrics(context.stage_folder(name) / "metrics.jsonl"))}


def heldout_results(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every accuracy among a stage's last held-out figures, as rows of the summary; `eval/a/b` becomes `a_b`."""
    measured = [row["metrics"] for row in rows if "heldout/count" in row["metrics"]]
    last: Mapping[str, float] = measured[-1] if measured else {}
    found = []
    for metric in sorted(m for m in last if m.startswith("eval/") and m.endswith("accuracy")):
        share = share_interval(last[metric], int(last["heldout/count"]))
        found.append({"name": name, "metric": metric.removeprefix("eval/").replace("/", "_"), **share._asdict()})
    return found


def read_examples(context: RunContext, stage: TrainStage) -> list[Example]:
    """The rows of an offline stage: those of an earlier stage where it names one, else those of its data."""
    if stage.examples is None:
        use = TrainKind(stage).data_use
        assert use is not None
        return load_examples(stage.data, seed=context.job.seed, use=use)
    rows = list(read_jsonl(context.output(stage.examples)))
    if rows and "preference" in rows[0]:
        return ranked(decode(Comparison, row) for row in rows)
    return [decode(Example, row) for row in rows]


def fit(context: RunContext, name: str, stage: TrainStage, rows: Sequence[EncodedRow]) -> None:
    """Launch the loop, with its progress on the console."""
    context.session()
    role = load(stage.algorithm).trains[0]
    hosting = stage.roles.get(role, RoleConfig())
    claim: Claim = claims({role: hosting}, free_cpus=free_cpus())[role]
    folder, job = context.stage_folder(name), context.job
    model, events = context.model(stage.model), str(context.events_path)
    spec = OfflineSpec(stage, role, model, job.tracking, job.seed, str(folder), events)
    start = time.perf_counter()
    total = stage.steps or stage.epochs * math.ceil(len(rows) * (1 - stage.holdout) / stage.learner.minibatch)
    with _following(folder, total):
        computing = launch(
            spec, rows, ranks=hosting.actors, resources=claim.bundle, environment=process_environment(claim)
        )
    context.fixed_seconds += time.perf_counter() - start - computing


@contextmanager
def _following(folder: Path, total: int) -> Iterator[None]:
    """Shows a stage's metrics.jsonl on the console while the loop writes it."""
    sink, ended = ConsoleSink(folder.name, total), threading.Event()

    def watch() -> None:
        shown = -1
        while not ended.wait(1.0):
            row = last_row(folder / "metrics.jsonl")
            if row and row["step"] != shown:
                shown = row["step"]
                sink.write(shown, row["metrics"])

    thread = threading.Thread(target=watch, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5.0)
        sink.close()
