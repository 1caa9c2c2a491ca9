"""Offline training: the loop of one rank around the Learner. It knows no Ray: `offline.py` launches it.

rows/ (data.rows)    written by the driver before the launch; each rank reads the rows of a minibatch as it comes
reference/           log-probs of the reference, where the algorithm needs them; see offline_reference.py
pass                 minibatch -> collate -> reference -> prepare -> step, all ranks on the same minibatch
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from rayalign.algorithms.base import load
from rayalign.coordinator.guards import Firing, Guards
from rayalign.coordinator.offline_data import OfflineData, OfflineSpec, head_of
from rayalign.coordinator.progress import Heartbeat
from rayalign.coordinator.rollbacks import Rollbacks, read_rollbacks, rollback_error
from rayalign.errors import GuardError
from rayalign.models.batching import pieces
from rayalign.models.metrics import GRAD_NORM
from rayalign.models.process_group import from_first, meet
from rayalign.storage.checkpoints import CheckpointStore, Manifest
from rayalign.storage.events import EventLog
from rayalign.storage.metrics import open_sinks, read_metrics, reduce
from rayalign.types import Batch, Metrics

if TYPE_CHECKING:
    from rayalign.models.learner import Learner

logger = logging.getLogger(__name__)
BLOCK = 16
"""steps whose metrics the ranks exchange at once"""


def train_offline(spec: OfflineSpec, address: str = "", node: str = "") -> None:
    """The loop of one rank: passes over the rows, until they are done or the held-out loss stops falling.

    torch.distributed's environment names rank and world.

    Args:
        address: of this machine, and Ray's id of it, for the watch over the ranks.

    Raises:
        InputError: none of the rows can be trained on.
        RollbackError: a guard has sent the stage back to an earlier checkpoint.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(spec.seed)
    rank = int(os.environ.get("RANK", "0"))
    with Heartbeat(spec.ranks_folder, rank, spec.timeout, address, node) as heartbeat:
        _train(spec, heartbeat)


def _train(spec: OfflineSpec, heartbeat: Heartbeat) -> None:
    heartbeat.report("the other ranks")
    device = meet(spec.timeout)
    data = OfflineData(spec, load(spec.stage.algorithm), device, heartbeat)
    run = _OfflineRun(spec, data, heartbeat)
    heartbeat.ready()
    run.resume()
    start = time.perf_counter()
    while not run.finished:
        run.epoch()
        run.checkpoint()
    run.save(time.perf_counter() - start)
    run.close()


class _OfflineRun:
    """The state of the loop between epochs."""

    def __init__(self, spec: OfflineSpec, data: OfflineData, heartbeat: Heartbeat) -> None:
        from rayalign.models.inspection import FOLDER
        from rayalign.models.learner import Learner

        self._spec, self._data, self._heartbeat = spec, data, heartbeat
        self._stage = stage = spec.stage
        self._rank, self._world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._folder = Path(spec.folder)
        self._rollbacks = Rollbacks(self._folder, from_first(lambda: read_rollbacks(self._folder)))
        # groups leave gaps in minibatches, and which ones is a matter of the shuffle: this is the first epoch's count
        total = stage.steps or stage.epochs * len(self._pass(0, spec.seed))
        heartbeat.report(f"the model {spec.model}")
        self._learner: Learner = Learner(
            spec.model,
            head_of(spec.role, data.algorithm),
            self._rollbacks.slowed(stage.learner),
            role=spec.role,
            total_steps=total,
            seed=spec.seed,
            inspection=Path(spec.folder) / FOLDER,
        )
        self._events = EventLog(Path(spec.events))
        self._events.write("actor_started", role=f"train:{spec.role}", rank=self._rank, actor_pid=os.getpid())
        self._checkpoints = CheckpointStore(self._folder / "checkpoints", stage.keep)
        self._sink = open_sinks(spec.tracking, self._folder, self._folder.name, {}) if self._rank == 0 else None
        # Every rank watches the same numbers, so that all of them stop together. Patience counts reports in a row.
        self._guards = Guards(stage.guards, counted="step")
        self._heldout_guards = Guards(stage.guards, counted="step")
        self._epoch = self._step = 0
        self._losses: list[float] = []
        self._measurable = bool(len(data.heldout))

    @property
    def finished(self) -> bool:
        """True after the last epoch or step, or once an epoch gained too little."""
        if self._stage.steps is not None:
            return self._step >= self._stage.steps
        return self._epoch >= self._stage.epochs or self._stalled

    @property
    def _stalled(self) -> bool:
        # The gain of the first epoch, over the model that came in, says nothing of a further one.
        if not self._stage.stop_gain or len(self._losses) < 3:
            return False
        before, after = self._losses[-2:]
        return (before - after) < self._stage.stop_gain * abs(before)

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        self._heartbeat.report("the last checkpoint")
        checkpoint = from_first(self._latest)
        if checkpoint is None:
            self._losses.append(self._evaluate())
            return
        path, manifest = checkpoint
        self._learner.load_state(path / "state")
        self._epoch, self._step, self._losses = manifest["epoch"], manifest["step"], manifest["losses"]
        if self._stage.guards:
            self._recall()

    def _latest(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint, without what an interruption left."""
        self._checkpoints.tidy()
        return self._checkpoints.latest()

    def _recall(self) -> None:
        """Have the guards count what was reported before the checkpoint."""
        rows = from_first(lambda: read_metrics(self._folder / "metrics.jsonl"))
        reported = [row for row in rows if row["step"] <= self._step]
        self._guards.recall(reported)
        self._heldout_guards.recall(row for row in reported if "heldout/count" in row["metrics"])

    def epoch(self) -> None:
        """One pass, or what is left of the steps."""
        parts = self._pass(self._epoch, self._rollbacks.seed(self._spec.seed))
        if self._stage.steps is not None:
            parts = parts[: self._stage.steps - self._step]
        for first in range(0, len(parts), BLOCK):
            self._steps(parts[first : first + BLOCK])
        self._epoch += 1
        self._losses.append(self._evaluate())

    def _pass(self, index: int, seed: int) -> list[Tensor]:
        """The minibatches of one pass, as places in the training side."""
        from rayalign.models.batching import pass_over

        side = self._data.training
        return pass_over(side.lengths_B, side.unit_B, self._stage.learner, seed, index)

    def _steps(self, parts: list[Tensor]) -> None:
        """Some optimizer steps, and their metrics."""
        start = time.perf_counter()
        steps: list[Metrics] = []
        for number, rows_B in enumerate(parts):
            self._heartbeat.report(f"step {self._step + number + 1}")
            minibatch = self._data.minibatch(self._data.training, rows_B, self._learner)
            steps.append(self._watched_step(minibatch, self._step + number + 1))
        seconds = (time.perf_counter() - start) / len(parts)
        for metrics in self._learner.over_ranks(steps):
            self._step += 1
            self._report({**reduce([metrics]), "phase/update": seconds}, self._guards)

    def _watched_step(self, minibatch: Batch, number: int) -> Metrics:
        """An optimizer step; one that is not finite sends the stage back where a guard on its gradient says so."""
        try:
            return self._learner.step(minibatch, self._data.algorithm)
        except GuardError as error:
            firing = self._guards.undefined(number, [GRAD_NORM], str(error).partition(";")[0])
            if firing is None:
                raise
            self._go_back(firing)

    def checkpoint(self) -> None:
        """State of all ranks under one manifest, written by rank 0."""
        self._heartbeat.report(f"checkpoint {self._epoch}")
        folder = self._folder / "checkpoints" / f".iteration-{self._epoch:06d}.tmp"
        if self._rank == 0:
            self._checkpoints.begin(self._epoch)
        torch.distributed.barrier()
        self._learner.save_state(folder / "state")
        manifest = {"epoch": self._epoch, "step": self._step, "losses": self._losses, "score": -self._losses[-1]}
        if self._rank == 0:
            self._checkpoints.commit(folder, manifest, self._is_good if self._guards.roll_back else None)

    def save(self, computing: float) -> None:
        """The model folder, whole or not at all; and how long the epochs took, which the launcher sets apart."""
        from rayalign.data.chat import load_tokenizer
        from rayalign.weights import probe

        self._heartbeat.report("the model folder")
        target, temporary = self._folder / "model", self._folder / ".model.tmp"
        tokenizer = load_tokenizer(self._spec.model)
        self._learner.save(temporary, tokenizer)
        if self._spec.role == "policy":
            tokens = probe.tokens_of(tokenizer)
            logprobs = tuple(tuple(row) for row in self._learner.score_probe(tokens))
            if self._rank == 0:
                probe.save(probe.Probe(0, tokens, logprobs, probe.tolerance(self._stage.learner.precision)), temporary)
        if self._rank == 0:
            shutil.rmtree(target, ignore_errors=True)  # a kill may have come between this and done.json
            temporary.rename(target)
            self._events.write("computed", folder=self._spec.folder, seconds=computing)

    def close(self) -> None:
        """Close the files of events and metrics, and release the reference and the learner."""
        self._events.close()
        self._data.close()
        self._learner.close()
        if self._sink is not None:
            self._sink.close()

    def _evaluate(self) -> float:
        """The held-out loss, written with its metrics; 0 where there is nothing to measure."""
        if not self._measurable:
            return 0.0
        loss, count, metrics = self._measure()
        if not count:
            self._measurable = False
            logger.warning("the held-out rows have nothing to measure, such as two answers of unlike score")
            return 0.0
        heldout = {f"eval/{name}": value for name, value in reduce(metrics).items()}
        counts = {"heldout/count": count, "heldout/prompts": self._data.heldout_prompts}
        self._report({"eval/loss": loss / count, **counts, **heldout, "eval/epoch": self._epoch}, self._heldout_guards)
        return loss / count

    @torch.no_grad()
    def _measure(self) -> tuple[float, float, list[Metrics]]:
        """The held-out loss sum, its normaliser and the metrics over all ranks, each of which takes its share."""
        side, algorithm, role = self._data.heldout, self._data.algorithm, self._spec.role
        loss = count = 0.0
        metrics: list[Metrics] = []
        for rows_B in pieces(side.unit_B, self._stage.learner.minibatch):
            self._heartbeat.report(f"held-out row {int(rows_B[0]) + 1}")
            share = self._learner.own_rows(self._data.minibatch(side, rows_B, self._learner))
            outputs = self._learner.evaluate(share)
            if not len(share):
                continue
            total = algorithm.loss(role, outputs, share)
            loss += float(total.numerator)
            count += total.normaliser
            metrics.append(total.metrics)
        if self._world == 1:
            return loss, count, metrics
        everyone: list[tuple[float, float, list[Metrics]]] = [(loss, count, metrics)] * self._world
        torch.distributed.all_gather_object(everyone, (loss, count, metrics))
        losses, counts, lists = zip(*everyone, strict=True)
        return sum(losses), sum(counts), list(chain.from_iterable(lists))

    def _report(self, metrics: Mapping[str, float], guards: Guards) -> None:
        if self._sink is not None:
            self._sink.write(self._step, metrics)
        firing = guards.watch(self._step, metrics)
        if firing is not None:
            self._go_back(firing)

    def _is_good(self, checkpoint: Manifest) -> bool:
        """Whether no guard speaks against the last step before a checkpoint."""
        step: int = checkpoint["step"]
        return self._guards.is_good(step) and self._heldout_guards.is_good(step)

    def _go_back(self, firing: Firing) -> NoReturn:
        """Discard the checkpoints since the guarded metric went out of bounds; the stage starts again."""
        self._rollbacks.verify(firing)
        if self._sink is not None:
            self._rollbacks.record(
                firing, self._checkpoints, self._is_good, unit="step", events=self._events, sink=self._sink
            )
        torch.distributed.barrier()  # no rank ends before the file is there
        raise rollback_error(firing)
