"""What all stages of one run share: its folder, one Ray session and one generator pool, each made when first needed."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rayalign.actors.preparer import PreparerSpec
from rayalign.annotator.asking.client import TOKEN, AnnotatorClient
from rayalign.annotator.service_file import load_service
from rayalign.cluster.channel import load_folder
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import Roles, Specs, start_roles
from rayalign.cluster.session import Session, processes_here
from rayalign.cluster.turns import DeviceTurns
from rayalign.cluster.workers import Workers
from rayalign.config import ANNOTATOR, LoadedJob, Reference, RoleConfig
from rayalign.models.catalogue import shape_of
from rayalign.pipeline.adapters import adapter_room
from rayalign.pipeline.choices import Choices
from rayalign.pipeline.early_pool import EarlyPool, next_model
from rayalign.pipeline.engine_models import probe_of, same_shapes
from rayalign.pipeline.environment import environment
from rayalign.pipeline.hashing import unfinished
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.kind import StageKind, kind_of
from rayalign.pipeline.machines import Machines
from rayalign.pipeline.object_store import session_config
from rayalign.pipeline.outputs import output_path, run_folder, stage_folder
from rayalign.pipeline.sharing import DeviceSharing
from rayalign.pipeline.templated import templated
from rayalign.rollout import choose, vllm_runs_on
from rayalign.storage.events import RUN_STARTED, EventLog
from rayalign.storage.records import atomic_write
from rayalign.waiting import reported

logger = logging.getLogger(__name__)


class RunContext:
    """A run while it is going; leaving it stops everything that it started."""

    def __init__(
        self, loaded: LoadedJob, inputs: Inputs, local: Session | None = None, workers: Workers | None = None
    ) -> None:
        """
        Args:
            local: a session of this machine that runs already and outlives the context.
            workers: processes that run already in that session.
        """
        self.job = loaded.job
        self.inputs = inputs
        self.choices = Choices()
        self._source = loaded
        self.folder = run_folder(self.job)
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder / "job.yaml", [loaded.resolved()])
        self.events_path = self.folder / "events.jsonl"
        self.events = EventLog(self.events_path)
        self._open = ExitStack()
        os.environ["DS_ACCELERATOR"] = "cpu"  # of this process, which never trains; actors are told their own
        self._local = local
        self._session: Session | None = None
        self._stage: str | None = None
        """the one that is going on"""
        self.machines: Machines | None = None
        self.workers = workers or Workers(self.job.cluster)
        """processes that take the roles of the stages"""
        self._unfinished = unfinished(self.job)
        if self._unfinished:
            self.events.write(RUN_STARTED, **environment())
        self.later: list[StageKind[Any]] = []
        """what runs after the present stage"""
        self._service: Future[str] | None = None
        self._token = secrets.token_urlsafe(32)
        """of the run's own annotator service, where other machines reach it"""
        self._sharing = DeviceSharing(self.job, self.events)
        self._pool: GeneratorPool | None = None
        self._early_pool: EarlyPool | None = None
        self._loaded: str | None = None
        self.fixed_seconds = 0.0
        """spent on starting things since the stage began"""

    def __enter__(self) -> RunContext:
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def stage_folder(self, name: str) -> Path:
        """Where a stage's outputs go."""
        return stage_folder(self.job, name)

    def journal_path(self, name: str) -> Path:
        """Where an online stage accounts for its groups."""
        return self.folder / "journal" / f"{name}.jsonl"

    def output(self, text: str) -> Path:
        """Where an earlier stage's output is, by its name `stage:NAME`."""
        return output_path(self.job, text)

    def model(self, reference: str) -> str:
        """Folder or hub name of a model as the job names it; folders are absolute, since actors run elsewhere."""
        if Reference.parse(reference) is not None:
            return str(self.output(reference))
        if reference.startswith(ANNOTATOR):
            return f"{self.annotator_url()}#{reference.removeprefix(ANNOTATOR)}"
        return templated(reference, self.job.chat_template, self.folder / "models")

    def begin(self, name: str) -> None:
        """Make room for a stage, and note which one comes after it."""
        job, names = self.job, list(self.job.stages)
        later = names[names.index(name) + 1 :]
        self.later = [kind for stage, kind in self._unfinished.items() if stage in later]
        kind = kind_of(job.stages[name])
        hosting = kind.hosting(job)
        if job.cluster.share_devices and hosting and not kind.uses_pool(job):
            self.stop_pool()
        if self._pool is not None and not kind.uses_pool(job):
            self._pool.shrink()
        self._stage = name
        if self._session is not None:
            self.workers.keep(hosting)
        if self.machines is not None:
            self.machines.await_stage(name)

    def prepare_next(self) -> None:
        """Start the processes that later stages will need, roles and engines; called while this stage works."""
        hosting = next(filter(None, (kind.hosting(self.job) for kind in self.later)), {})
        self.workers.start(hosting)
        rollout, reference = self.job.rollout, next_model(self.job, self.later, self.output)
        claims_nothing = not (rollout.gpus or rollout.cpus) and self.workers.one_machine
        if claims_nothing and reference is not None and self._pool is None and self._early_pool is None:
            model = self.model(reference)
            self._early_pool = EarlyPool(lambda: self._start_pool(model))

    @contextmanager
    def starting(self, what: str) -> Iterator[None]:
        """Count what runs inside as fixed seconds of the stage; what starts beside it counts once."""
        begin = time.perf_counter()
        counted = self.fixed_seconds
        with reported(f"{what} to start", logger.info):
            yield
        seconds = time.perf_counter() - begin
        self.fixed_seconds = max(self.fixed_seconds, counted + seconds)
        self.events.write("started", what=what, seconds=seconds)
        logger.info("%s ready in %.1f s", what, seconds)

    def session(self) -> Session:
        """The Ray session of this run."""
        if self._session is None:
            self._session = self._local or self._open_session()
            self._open.callback(self.workers.stop)
            self._begin_service()
        return self._session

    def _open_session(self) -> Session:
        config = session_config(self.job)
        if self._needs_service:
            config = config.model_copy(update={"environment": {**config.environment, TOKEN: self._token}})
        with self.starting("Ray"):
            session = self._open.enter_context(Session(config))
        if session.attached:
            with self.starting("the cluster's machines"):
                self.machines = self._open.enter_context(Machines(self._source, self.folder, session))
                self.machines.await_stage(self._stage)
        return session

    def processes(self) -> list[int]:
        """Processes of this run on this machine that need not be children of this one."""
        return processes_here() if self._session else []

    def collect(self) -> int:
        """Bring the logs of other machines to the run's folder; the sum of the peaks of memory there [bytes]."""
        return self.machines.collect() if self.machines else 0

    def annotator_url(self) -> str:
        """Where the annotator service is; the run's own has been starting since the session began."""
        if self.job.annotator.url is not None:
            return self.job.annotator.url
        self.session()
        assert self._service is not None, "the session starts the service where a stage asks for it"
        with self.starting("the annotator service"):
            return self._service.result(timeout=self.job.cluster.start_timeout)

    def annotator(self, name: str) -> AnnotatorClient:
        """One annotator of the service."""
        url, deadline = self.annotator_url(), self.job.cluster.call_timeout
        token = self._token if self._needs_service else None
        return AnnotatorClient(url, name, token=token, deadline=deadline)

    @property
    def _needs_service(self) -> bool:
        """Whether the run has to serve annotators itself."""
        asks = any(kind.annotators() for kind in self._unfinished.values())
        return asks and self.job.annotator.url is None

    def _begin_service(self) -> None:
        """Start the run's own annotator service beside the first stages, which do not need it yet."""
        if self._needs_service:
            file = self.job.annotator.file
            config = load_service(Path(file) if file else None)
            # Ray Serve costs a second to import, which a job without an annotator need not pay.
            from rayalign.pipeline.serving import serve_for_run

            starter = ThreadPoolExecutor(1, thread_name_prefix="service")
            address = self._session.address() if self._session else None
            folder = self.folder / "annotator"
            self._service = starter.submit(serve_for_run, config, folder, address, self._token)
            if address is not None:  # a session of its own ends with all in it
                self._open.callback(self._end_service, self._service)

    def _end_service(self, service: Future[str]) -> None:
        wait([service], timeout=self.job.cluster.start_timeout)
        if not service.done() or service.exception() is None:
            from rayalign.cluster.applications import stop_applications

            stop_applications()

    async def engines(self, model: str) -> GeneratorPool:
        """Engines of the model's architecture, holding any weights."""
        self.session()
        if self._pool is not None and same_shapes(self._pool.model, model):
            return self._pool
        self.stop_pool()
        with self.starting("the engines"):
            early, self._early_pool = self._early_pool, None
            self._pool = await early.result() if early else None
            if self._pool is None or not same_shapes(self._pool.model, model):
                self.stop_pool()
                self._pool = await self._start_pool(model)
        self._open.callback(self.stop_pool)
        self._sharing.admit_pool(self._pool)
        self._loaded = self._pool.model
        return self._pool

    async def _start_pool(self, model: str) -> GeneratorPool:
        computing = self._sharing.rollout
        shape = shape_of(model)
        name, reason = choose(computing, vllm_runs_on(), shape.parameters if shape else None)
        self.choices.log(f"engines: {computing.engines} of", name, reason)
        adapter = adapter_room(self.job.model_copy(update={"rollout": computing}), name)
        slots = self._sharing.reserve()
        return await start_pool(name, model, self.job.rollout, self.job.cluster, self.events, adapter, slots)

    async def pool(self, model: str) -> GeneratorPool:
        """The engines with this model's weights, loaded into the running ones where the shapes agree."""
        pool = await self.engines(model)
        await self.turns.enter("rollout")
        load = partial(load_folder, pool, model, probe_of(model), self.job.cluster.transfer_timeout)
        if self._loaded != model:
            await load()
            self._loaded = model
        pool.renew = load
        return pool

    def weights_changed(self) -> None:
        """A stage publishes its own weights into the engines."""
        self._loaded = None
        if self._pool is not None:
            self._pool.renew = None

    @property
    def turns(self) -> DeviceTurns:
        """Of the devices that engines and roles share now."""
        return self._sharing.turns

    async def start_roles(self, name: str, specs: Specs, preparer: PreparerSpec | None = None) -> Roles:
        """Start roles of a stage; engines that share their devices sleep then, and have lost their weights."""
        job = self.job
        shared = self._sharing.roles(name, specs, self.model)
        if shared is not None:
            self.weights_changed()
        kind = kind_of(job.stages[name])
        hosting: dict[Any, RoleConfig] = {need.role: need.host for need in kind.roles(job)}
        engines = kind.engine_threads(job)
        return await start_roles(
            specs, hosting, job.cluster, self.events, self.workers, shared, preparer=preparer, engines=engines
        )

    def stop_broken_pool(self) -> None:
        """End engines that cannot serve another attempt at a stage: all are lost, or a turn of theirs ended midway."""
        if self._pool is not None and (self.job.cluster.share_devices or not self._pool.group.actors):
            self.stop_pool()

    def stop_pool(self) -> None:
        """End the engines, and give back the devices that they share."""
        if self._pool is not None:
            self._pool.stop()
        self._pool = None
        self._sharing.release()
