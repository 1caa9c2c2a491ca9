"""Offline training: one loop function around the Learner; Ray Train launches it, places its ranks and restarts it.

Ray Data is not in between: the rows are token ids of one data set, handed over once through the object store.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
import torch

from rayalign.algorithms.base import Algorithm, load
from rayalign.config import TrackingConfig, TrainStage
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.errors import ActorError, InputError, RayalignError
from rayalign.storage.checkpoints import CheckpointStore
from rayalign.storage.events import EventLog
from rayalign.storage.metrics import open_sinks, reduce
from rayalign.storage.records import read_jsonl
from rayalign.types import Batch, Metrics, Role

if TYPE_CHECKING:
    from rayalign.models.learner import Learner


@dataclass(frozen=True, slots=True)
class OfflineSpec:
    """Everything that the loop needs besides its rows."""

    stage: TrainStage
    role: Role
    model: str
    """folder or hub name to start from"""
    tracking: TrackingConfig
    seed: int
    folder: str
    """of the stage: model/, metrics.jsonl and checkpoints/ go here"""
    events: str


def launch(
    spec: OfflineSpec,
    rows: Sequence[EncodedRow],
    *,
    ranks: int,
    resources: Mapping[str, float],
    environment: Mapping[str, str],
) -> float:
    """Run the loop on Ray Train and wait for it; its results are what it left in the stage's folder.

    Returns:
        The seconds that the epochs took; the rest went into starting and saving.

    Raises:
        InputError: there are no rows.
        ActorError: the loop failed, and again after a restart.
    """
    if not rows:
        raise InputError(
            "no rows are left to train on; raise rollout.context if all were too long for it, or give other data"
        )
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        train_offline,
        train_loop_config={"spec": spec, "rows": [ray.put(list(rows))]},
        scaling_config=ScalingConfig(
            num_workers=ranks, use_gpu=bool(resources.get("GPU")), resources_per_worker=dict(resources)
        ),
        run_config=RunConfig(
            name="launch",
            storage_path=str(Path(spec.folder).resolve()),
            failure_config=FailureConfig(max_failures=1, controller_failure_limit=0),
            worker_runtime_env={"env_vars": dict(environment)},
        ),
    )
    _fit(trainer, spec.role)
    events = read_jsonl(Path(spec.events), growing=True)
    return float([e["seconds"] for e in events if e["event"] == "computed" and e["folder"] == spec.folder][-1])


def _fit(trainer: Any, role: Role) -> None:
    """Ray Train, without its own ways of failing."""
    from ray.train import ControllerError, WorkerGroupError

    try:
        with _interruptible():
            trainer.fit()
    except WorkerGroupError as error:
        causes = [getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()]
        for cause in causes:
            if isinstance(cause, RayalignError):
                raise cause from error
        lines = str(error).strip().splitlines()
        tail = "\n".join(lines[-15:-1])
        raise ActorError(f"train:{role} failed, and again after a restart: {lines[-1]}\n{tail}") from error
    except ControllerError as error:
        raise ActorError(f"train:{role} could not be run: {str(error).strip()}") from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes Ctrl-C a KeyboardInterrupt: Ray Train exits at it, forgets one that comes late, and keeps its handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    arrived, arriving = socket.socketpair()  # every signal's number goes through it, whoever handles it
    with arrived, arriving:
        arrived.setblocking(False)
        arriving.setblocking(False)
        outer = signal.set_wakeup_fd(arriving.fileno())
        try:
            yield
        except SystemExit as stopped:
            raise KeyboardInterrupt from stopped
        finally:
            signal.set_wakeup_fd(outer)
            signal.signal(signal.SIGINT, handler)
        with suppress(BlockingIOError):
            if signal.SIGINT in arrived.recv(4096):
                raise KeyboardInterrupt


def train_offline(config: Mapping[str, Any]) -> None:
    """The loop of one rank: epochs over a prepared batch, until they are done or the held-out loss stops falling."""
    spec: OfflineSpec = config["spec"]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    algorithm = load(spec.stage.algorithm)
    batch, heldout = _batches(ray.get(config["rows"][0], timeout=600), algorithm, spec)
    if not len(batch):
        raise InputError("of the rows none can be trained on; give scored answers to an algorithm that ranks them")
    run = _OfflineRun(spec, algorithm, batch, heldout)
    run.resume()
    start = time.perf_counter()
    while not run.finished:
        run.epoch()
        run.checkpoint()
    run.save(time.perf_counter() - start)
    run.close()


class _OfflineRun:
    """The state of the loop between epochs."""

    def __init__(self, spec: OfflineSpec, algorithm: Algorithm[Any], batch: Batch, heldout: Batch | None) -> None:
        from rayalign.models.learner import Learner, pass_over

        self._spec = spec
        self._stage = stage = spec.stage
        self._algorithm = algorithm
        self._batch = batch
        self._heldout = heldout
        # groups leave gaps in minibatches, and which ones is a matter of the shuffle: this is the first epoch's count
        total = stage.steps or stage.epochs * len(pass_over(batch, stage.learner, spec.seed, 0))
        head: Literal["causal", "scalar"] = "causal" if spec.role == "policy" else "scalar"
        self._learner: Learner = Learner(
            spec.model, head, stage.learner, role=spec.role, total_steps=total, seed=spec.seed
        )
        self._rank = torch.distributed.get_rank()
        self._folder = Path(spec.folder)
        self._events = EventLog(Path(spec.events))
        self._events.write("actor_started", role=f"train:{spec.role}", rank=self._rank, actor_pid=os.getpid())
        self._checkpoints = CheckpointStore(self._folder / "checkpoints", stage.keep)
        self._sink = open_sinks(spec.tracking, self._folder, self._folder.name, {}) if self._rank == 0 else None
        self._epoch = self._step = 0
        self._losses: list[float] = []

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
        found = self._checkpoints.latest()
        if found is None:
            self._losses.append(self._evaluate())
            return
        path, manifest = found
        self._learner.load_state(path / "state")
        self._epoch, self._step, self._losses = manifest["epoch"], manifest["step"], manifest["losses"]

    def epoch(self) -> None:
        """One pass, or what is left of the steps."""
        start = time.perf_counter()
        left = None if self._stage.steps is None else self._stage.steps - self._step
        updates = self._learner.update(
            self._batch, self._algorithm, pass_index=self._epoch, seed=self._spec.seed, limit=left
        )
        seconds = time.perf_counter() - start
        for metrics in updates:
            self._step += 1
            self._write({**reduce([metrics]), "phase/update": seconds / len(updates)})
        self._epoch += 1
        self._losses.append(self._evaluate())

    def checkpoint(self) -> None:
        """State of all ranks under one manifest, written by rank 0."""
        folder = self._folder / "checkpoints" / f".iteration-{self._epoch:06d}.tmp"
        if self._rank == 0:
            self._checkpoints.begin(self._epoch)
        torch.distributed.barrier()
        self._learner.save_state(folder / "state")
        if self._rank == 0:
            self._checkpoints.commit(
                folder, {"epoch": self._epoch, "step": self._step, "losses": self._losses, "score": -self._losses[-1]}
            )

    def save(self, computing: float) -> None:
        """The model folder, whole or not at all; and how long the epochs took, which the launcher sets apart."""
        from rayalign.data.chat import load_tokenizer
        from rayalign.weights import probe

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
        """Close what the metrics went to."""
        if self._sink is not None:
            self._sink.close()

    def _evaluate(self) -> float:
        """The held-out loss, written with its metrics; 0 without held-out rows."""
        if self._heldout is None:
            return 0.0
        metrics = self._measure(self._heldout)
        loss = metrics.pop("eval/loss")
        self._write({"eval/loss": loss, **metrics, "eval/epoch": self._epoch})
        return loss

    @torch.no_grad()
    def _measure(self, batch: Batch) -> dict[str, float]:
        outputs = self._learner.evaluate(batch)
        total = self._algorithm.loss(self._spec.role, outputs, batch)
        found: Metrics = total.metrics
        loss = float(total.numerator) / total.normaliser
        heldout = {f"eval/{name}": value for name, value in reduce([found]).items()}
        return {"eval/loss": loss, "heldout/count": total.normaliser, **heldout}

    def _write(self, metrics: Mapping[str, float]) -> None:
        if self._sink is not None:
            self._sink.write(self._step, metrics)


def _batches(rows: Sequence[EncodedRow], algorithm: Algorithm[Any], spec: OfflineSpec) -> tuple[Batch, Batch | None]:
    """The training batch and the held-out one; whole groups go to either."""
    groups = sorted({row.group for row in rows})
    count = int(len(groups) * spec.stage.holdout)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(spec.seed)).tolist()
    held = {groups[i] for i in order[:count]}
    pad_id = 0  # masked everywhere, so any token does
    kept = [row for row in rows if row.group not in held]
    batch = algorithm.prepare(collate_examples(kept, pad_id))
    if not held:
        return batch, None
    return batch, algorithm.prepare(collate_examples([row for row in rows if row.group in held], pad_id))
