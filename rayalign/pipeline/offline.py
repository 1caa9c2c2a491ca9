"""Training on given rows: pretraining, and every algorithm that does not need the live policy."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayalign.algorithms.base import load
from rayalign.cluster.placement import claims, free_cpus, process_environment
from rayalign.cluster.session import machines
from rayalign.config import RoleConfig, TrainStage
from rayalign.coordinator.launcher import choose_launcher
from rayalign.coordinator.offline import launch
from rayalign.coordinator.offline_actors import train_on_workers
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.data.chat import load_tokenizer
from rayalign.data.collate import EncodedRow, encode_examples
from rayalign.data.pairs import pairs_of_comparisons, pairs_of_examples
from rayalign.data.readers import stream_examples
from rayalign.data.reward_tokens import chosen_answers, conditioned, labelled_answers, reward_token_ids
from rayalign.data.rows import write_rows
from rayalign.data.two_answers import encode_comparisons
from rayalign.data.unpaired import answers_of_pairs, single_answers, with_mismatched
from rayalign.errors import ActorError, InputError, RollbackError
from rayalign.models.configuration import positions, read_config
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.feedback import ranked
from rayalign.pipeline.needs import host_alone
from rayalign.pipeline.restarting import Restarts
from rayalign.pipeline.row_checks import distinct_rows, report_leaks
from rayalign.pipeline.time_left import later_stages
from rayalign.pipeline.train import TrainKind
from rayalign.statistics.intervals import share_interval
from rayalign.storage.console import ConsoleSink, Later
from rayalign.storage.metrics import last_row, read_metrics
from rayalign.storage.records import decode, read_jsonl
from rayalign.storage.report_warnings import run_warnings
from rayalign.types import Comparison, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def train_offline(context: RunContext, name: str, stage: TrainStage) -> dict[str, Any]:
    """Train one role on the rows of a data set or of an earlier stage."""
    tokenizer = load_tokenizer(context.model(stage.model))
    figures: dict[str, Any] = {}
    rows = training_rows(context, name, stage, tokenizer, figures)
    if stage.answers == "conditioned":
        rows = conditioned(rows, reward_token_ids(tokenizer))
    figures["rows"] = fit(context, name, stage, rows)
    results = heldout_results(name, read_metrics(context.stage_folder(name) / "metrics.jsonl"))
    for sentence in run_warnings(context.job.model_dump(mode="json"), results):
        logger.warning("%s", sentence)
    return {"results": results, **figures}


def training_rows(
    context: RunContext, name: str, stage: TrainStage, tokenizer: PreTrainedTokenizerBase, figures: dict[str, Any]
) -> Iterable[EncodedRow]:
    """The rows of a stage; with `near_duplicates` they are distinct, and the figures count what was removed.

    Raises:
        InputError: the stage has `near_duplicates`, and its held-out rows leak.
    """
    examples = read_examples(context, stage)
    if stage.near_duplicates is None:
        return _encoded(context, stage, tokenizer, taken_answers(stage, examples))
    distinct = distinct_rows(name, examples, stage.near_duplicates, figures)
    examples_taken = list(taken_answers(stage, distinct))
    rows = list(_encoded(context, stage, tokenizer, examples_taken))
    report_leaks(stage, examples_taken, rows, stage.near_duplicates, context.job.seed, figures)
    return rows


def taken_answers(stage: TrainStage, examples: Iterable[Example]) -> Iterable[Example]:
    """The answers that the stage takes of its pairs; all of them where it does not choose."""
    if stage.answers is None:
        return examples
    return chosen_answers(examples) if stage.answers == "chosen" else labelled_answers(examples)


def _encoded(
    context: RunContext, stage: TrainStage, tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]
) -> Iterator[EncodedRow]:
    """The rows of examples as the algorithm's model reads them."""
    longest = context.job.rollout.context
    if load(stage.algorithm).reads_pairs:
        return encode_comparisons(tokenizer, examples, context=pair_context(context.model(stage.model), longest))
    return encode_examples(tokenizer, examples, context=longest)


def pair_context(model: str, context: int) -> int:
    """Room for a prompt with two answers, of which either fits into `context` tokens with the prompt alone."""
    limit = positions(read_config(model))
    return 2 * context if limit is None else min(2 * context, limit)


def heldout_results(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every accuracy among a stage's last held-out figures, as rows of the summary; `eval/a/b` becomes `a_b`.

    The interval counts prompts: rows of one prompt, such as the pairs of its candidates, are not independent.
    """
    measured = [row["metrics"] for row in rows if "heldout/count" in row["metrics"]]
    last: Mapping[str, float] = measured[-1] if measured else {}
    results = []
    for metric in sorted(m for m in last if m.startswith("eval/") and m.endswith("accuracy")):
        share = share_interval(last[metric], int(last.get("heldout/prompts", last["heldout/count"])))
        results.append({"name": name, "metric": metric.removeprefix("eval/").replace("/", "_"), **share._asdict()})
    return results


def read_examples(context: RunContext, stage: TrainStage) -> Iterator[Example]:
    """The rows of an offline stage: those of an earlier stage where it names one, else those of its data.

    An algorithm of pairs gets pairs, the preferred answer first, and so does a stage that says which of their `answers`
    it takes; one of single answers gets these, each perhaps with an answer to another prompt; any other all answers to
    a prompt with their scores.
    """
    algorithm = load(stage.algorithm)
    if "desirability" in algorithm.needs:
        answers = _read(context, stage, single_answers, lambda rows: answers_of_pairs(pairs_of_comparisons(rows)))
        return with_mismatched(answers) if "mismatched" in algorithm.needs else answers
    if algorithm.unit == "pair" or stage.answers is not None:
        return _read(context, stage, pairs_of_examples, pairs_of_comparisons)
    if "scores" in algorithm.needs:
        return _read(context, stage, _scored, lambda rows: _scored(ranked(rows)))
    return _read(context, stage, iter, ranked)


def _read(
    context: RunContext,
    stage: TrainStage,
    of_examples: Callable[[Iterable[Example]], Iterator[Example]],
    of_comparisons: Callable[[Iterable[Comparison]], Iterable[Example]],
) -> Iterator[Example]:
    """What the algorithm trains on, made of a data set's rows, or of the candidates or comparisons of a stage."""
    if stage.examples is None:
        use = TrainKind(stage).data_use
        assert use is not None
        report = context.inputs.report_left_out
        return of_examples(stream_examples(stage.data, seed=context.job.seed, use=use, report=report))
    path = context.output(stage.examples)
    if "first" in next(read_jsonl(path), {}):
        return iter(of_comparisons(decode(Comparison, row) for row in read_jsonl(path)))
    return of_examples(decode(Example, row) for row in read_jsonl(path))


def _scored(examples: Iterable[Example]) -> Iterator[Example]:
    """Examples without the candidates that lack a score; those with nothing to compare are counted in a warning."""
    total = absent = single = tied = 0
    for example in examples:
        total += 1
        scored = tuple(candidate for candidate in example.candidates if candidate.score is not None)
        absent += not scored
        single += len(scored) == 1
        tied += len(scored) > 1 and len({candidate.score for candidate in scored}) == 1
        if scored:
            yield replace(example, candidates=scored)
    if absent or single or tied:
        logger.warning(
            "%d prompts: %d without a score are left out; %d with one scored answer and %d with equal scores only "
            "have nothing to compare",
            total,
            absent,
            single,
            tied,
        )


def fit(context: RunContext, name: str, stage: TrainStage, rows: Iterable[EncodedRow]) -> int:
    """Launch the loop, with its progress on the console; how many rows there were."""
    context.session()
    algorithm = load(stage.algorithm)
    role = algorithm.trains[0]
    job = context.job
    reference = context.model(stage.reference or stage.model) if "reference" in algorithm.roles else None
    spec = OfflineSpec(
        stage,
        role,
        context.model(stage.model),
        job.tracking,
        job.seed,
        str(context.stage_folder(name)),
        str(context.events_path),
        job.cluster.call_timeout,
        reference,
    )
    count = write_rows(spec.rows_folder, rows)
    if not count:
        raise InputError(
            "no rows are left to train on; raise rollout.context if all were too long for it, or give other data"
        )
    start = time.perf_counter()
    total = stage.steps or stage.epochs * math.ceil(count * (1 - stage.holdout) / stage.learner.minibatch)
    with _following(context.stage_folder(name), total, later_stages(job, context.later)):
        _launch_until_done(context, name, spec, host_alone(job.cluster, stage.roles.get(role, RoleConfig())))
    shutil.rmtree(spec.rows_folder)
    context.fixed_seconds += time.perf_counter() - start - _computing_seconds(spec)
    return count


def _launch_until_done(context: RunContext, name: str, spec: OfflineSpec, host: RoleConfig) -> None:
    """Run the loop, again after each loss and each time that a guard sends it back, and once after another failure.

    A rank may fail by itself because another one was lost, and Ray may notice that later, or never.
    """
    restarts = Restarts(context, name)
    while True:
        try:
            _launch(context, spec, host)
            return
        except RollbackError as error:  # the guards count these
            logger.warning("%s", error)
        except ActorError as error:
            restarts.count(error)
        restarts.await_machines(whole=host.min_actors is None)


def _launch(context: RunContext, spec: OfflineSpec, host: RoleConfig) -> None:
    """Run the loop by the launcher of the job, and wait for it."""
    cluster = context.job.cluster
    launcher, reason = choose_launcher(cluster.launcher, host, machines())
    context.choices.log("offline training runs by", launcher, reason)
    if launcher == "actors":
        asyncio.run(train_on_workers(spec, host, context.workers, cluster, context.events, context.prepare_next))
        return
    context.workers.keep({})
    hosting: dict[str, RoleConfig] = {spec.role: host}
    threads = context.workers.threads(hosting)[spec.role]
    shares = claims(hosting, free_cpus=free_cpus(), logical=cluster.logical_devices is not None)
    claim = replace(shares[spec.role], threads=threads)
    launch(
        spec,
        ranks=host.actors,
        fewest=host.min_actors,
        resources=claim.bundle,
        environment=process_environment(claim),
        cluster=cluster,
    )


def _computing_seconds(spec: OfflineSpec) -> float:
    """What the epochs took; the rest of the stage went into starting and saving."""
    events = read_jsonl(Path(spec.events), growing=True)
    return float([e["seconds"] for e in events if e["event"] == "computed" and e["folder"] == spec.folder][-1])


@contextmanager
def _following(folder: Path, total: int, later: Later) -> Iterator[None]:
    """Shows a stage's metrics.jsonl on the console while the loop writes it."""
    sink, ended = ConsoleSink(folder.name, total, later=later), threading.Event()

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
