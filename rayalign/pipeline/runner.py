"""A job from its first unfinished stage to its last; what finished and did not change is kept."""

from __future__ import annotations

import json
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayalign.cluster.memory import PeakMemory
from rayalign.config import LoadedJob, StageSection
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.hashing import fields_hash, stage_fields, stage_states, unfinished
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.machine import planned_machine
from rayalign.pipeline.methods import method_rows
from rayalign.pipeline.object_store import session_config
from rayalign.pipeline.time_left import later_stages
from rayalign.pipeline.url_models import fetch_models
from rayalign.pipeline.working_copy import working_copy
from rayalign.storage.console import duration
from rayalign.storage.report import write_report
from rayalign.storage.space import full_disk_named
from rayalign.storage.summary import of_all_stages, read_done, write_done, write_summary

if TYPE_CHECKING:
    from rayalign.cluster.session import Session
    from rayalign.cluster.workers import Workers

logger = logging.getLogger(__name__)


def run(loaded: LoadedJob) -> Path:
    """Run the job; the folder of its outputs, with summary.json and report.html.

    Where the output is a URL, everything is there too, and the folder is a copy.

    Raises:
        RayalignError: a stage failed; the same call goes on from there.
    """
    with working_copy(loaded, keep=True) as local:
        return _run(local)


def _run(loaded: LoadedJob) -> Path:
    job = loaded.job
    fetch_models(loaded)
    fields, states = stage_fields(job), stage_states(job)
    start = time.perf_counter()
    inputs = Inputs(loaded)
    with full_disk_named(Path(job.output).resolve()), ExitStack() as running:
        local, workers = _prove(loaded, inputs, running)
        context = running.enter_context(RunContext(loaded, inputs, local, workers))
        memory = running.enter_context(PeakMemory(context.processes))
        context.fixed_seconds = time.perf_counter() - start
        for name, stage in job.stages.items():
            if states[name] == "finished":
                logger.info("%s: finished before", name)
                continue
            logger.info("%s: %s", name, states[name])
            context.begin(name)
            _run_stage(context, name, stage, fields[name], start)
            start = time.perf_counter()
            _summarise(context, memory, fields)
        _summarise(context, memory, fields)
    write_report(context.folder)
    return context.folder


def _prove(loaded: LoadedJob, inputs: Inputs, running: ExitStack) -> tuple[Session | None, Workers | None]:
    """Prove the inputs while a local Ray session and the first stage's processes start; None where there is none.

    Ray must start in the main thread, so the proof runs in another one. A cluster is joined later, as a whole.
    """
    kinds = list(unfinished(loaded.job).values())
    needs_ray = any(kind.roles(loaded.job) or kind.annotators() for kind in kinds)
    if not needs_ray or planned_machine(loaded.job.cluster) is None:
        inputs.check()
        return None, None
    with ThreadPoolExecutor(1, thread_name_prefix="inputs") as prover:
        proof = prover.submit(inputs.check)
        from rayalign.cluster.session import Session
        from rayalign.cluster.workers import Workers

        session = running.enter_context(Session(session_config(loaded.job)))
        workers = Workers(loaded.job.cluster)
        hosting = next(filter(None, (kind.hosting(loaded.job) for kind in kinds)), {})
        workers.start(hosting)
        first = kinds[0]
        # Roles take all free CPUs, so engines or the annotator service that start after a reservation would find none.
        if not (first.uses_pool(loaded.job) or first.annotators()):
            workers.reserve(first.hosting(loaded.job))
        proof.result()
    return session, workers


def _run_stage(context: RunContext, name: str, stage: StageSection, fields: dict[str, Any], start: float) -> None:
    """Run one stage; its seconds count from `start`, so that the first one's include what was checked before it."""
    folder = context.stage_folder(name)
    _clear_if_changed(folder, context.journal_path(name), fields_hash(fields))
    context.events.write("stage_started", stage=name)
    figures = kind_of(stage).run(context, name)
    spent = {"seconds": time.perf_counter() - start, "fixed_seconds": context.fixed_seconds}
    write_done(folder, fields_hash(fields), fields=fields, **spent, **figures)
    context.events.write("stage_finished", stage=name, **spent)
    left = f", of the run {later_stages(context.job, context.later).total(0.0)} left" if context.later else ""
    logger.info("%s: done in %s%s", name, duration(spent["seconds"]), left)
    context.fixed_seconds = 0.0


def _clear_if_changed(folder: Path, journal: Path, hash: str) -> None:
    """What an earlier, different job left of this stage would be taken for its own when it resumes."""
    mark = folder / "hash"
    if not mark.exists() or mark.read_text() != hash:
        shutil.rmtree(folder, ignore_errors=True)
        journal.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(hash)


def _summarise(context: RunContext, memory: PeakMemory, fields: dict[str, dict[str, Any]]) -> None:
    """The figures so far; those of an earlier, different job are not this one's."""
    stages: list[dict[str, Any]] = []
    outcomes: dict[str, dict[str, Any]] = {}
    for name in context.job.stages:
        outcome = read_done(context.stage_folder(name)) or {}
        if outcome.get("hash") != fields_hash(fields[name]):
            outcome = {}
        if outcome:
            outcomes[name] = outcome
        times = {key: outcome.get(key) for key in ("seconds", "fixed_seconds")}
        stages.append({"name": name, "status": "finished" if outcome else "open", **times})
    path = context.folder / "summary.json"
    before = json.loads(path.read_text(encoding="utf-8"))["peak_memory_bytes"] if path.exists() else None
    results = {name: outcome.get("results", []) for name, outcome in outcomes.items()}
    comparisons = {name: outcome.get("comparisons", []) for name, outcome in outcomes.items()}
    tables = of_all_stages(results, ["name"]), of_all_stages(comparisons, ["a", "b"])
    methods = method_rows(context.job, outcomes)
    memory.look()
    peak = memory.peak + context.collect()
    write_summary(path, *tables, stages, max(peak, before or 0), methods)
