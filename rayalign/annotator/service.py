"""The service as a Ray Serve application.

    proxy (Serve's, or HAProxy) -> Front (FastAPI, pool, cache; N replicas) -> one deployment for each judge's own model

The front counts rows itself and refuses with 429 long before Serve's own limit, whose 503 says nothing of when to
come again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from rayalign.annotator import label_figures
from rayalign.annotator.build import build_pool
from rayalign.annotator.completer import Completion, UpstreamError, bound
from rayalign.annotator.labels import LabelStore
from rayalign.annotator.verdicts import Paying, Usage
from rayalign.annotator.web.access import LOOPBACK, Access, known_tokens, refuse_open
from rayalign.annotator.web.app import create_app
from rayalign.annotator.web.hosted import HostedChat, HostedModel, rollout_config
from rayalign.annotator.web.hosted import Prompt as Asked
from rayalign.cluster.ray_2_60 import bind_replica_to_node
from rayalign.config import HostedJudgeConfig, RewardJudgeConfig, ServiceConfig
from rayalign.errors import ActorError, InputError, RayalignError
from rayalign.rollout.vllm_stream import Piece
from rayalign.types import Prompt, Score

APPLICATION = "annotator"
_HEADROOM = 1024
"""requests above the queue's rows that Serve lets through, so that the front can refuse them itself"""
_DRAIN = 30.0
"""seconds in which a replica that is to stop may finish what it has"""
_QUIET: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
"""a line for each request costs a tenth of the requests; /metrics counts them"""
_CHECK = 2.0
"""seconds between two looks at whether a replica lives; a dead one takes no requests for longer than that"""
_TARGET = 16
"""requests in progress at which another replica is started"""


class RewardReplica:
    """One reward model; what several requests ask at the same time is read together."""

    def __init__(self, section: RewardJudgeConfig) -> None:
        from rayalign.models.classifier import Classifier

        bind_replica_to_node()
        self._model = Classifier(section.model, context=section.context)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)
    async def scores(self, asked: list[Sequence[tuple[Prompt, str]]]) -> list[list[Score]]:
        """One list of scores for each list of answers."""
        found = iter(await asyncio.to_thread(self._model.scores, [item for items in asked for item in items]))
        return [[next(found) for _ in items] for items in asked]


class ModelReplica(HostedModel):
    """One vLLM engine behind a deployment's handle."""

    def __init__(self, section: HostedJudgeConfig, timeout: float) -> None:
        bind_replica_to_node()
        super().__init__(section, timeout)


class RemoteScoring:
    """A reward model behind its deployment's handle."""

    def __init__(self, handle: DeploymentHandle, revision: str, timeout: float) -> None:
        self._handle = handle
        self._timeout = timeout
        self.revision = revision
        self.batch = 64

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """As `Scoring.scores`; absent with the reason where the model does not answer."""
        try:
            found: list[Score] = await asyncio.wait_for(self._handle.scores.remote(list(items)), self._timeout)
        except (RayError, TimeoutError) as error:
            found = [Score(None, f"the reward model did not answer: {type(error).__name__}")] * len(items)
        return found


class RemoteModel:
    """The model behind its deployment's handle, as a judge asks it."""

    def __init__(self, handle: DeploymentHandle, model: str, timeout: float) -> None:
        self._handle = handle.options(stream=True)
        self._timeout = timeout
        state = _state_of(Path(model))
        self.origin = {"model": f"{model}/{state}" if state else model}

    async def stream(self, prompt: Asked, arguments: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """As `HostedModel.stream`.

        Raises:
            InputError: the prompt or an argument cannot be honoured.
            ActorError: the model's process failed.
        """
        try:
            async for piece in self._handle.stream.remote(prompt, dict(arguments)):
                yield piece
        except RayTaskError as error:
            if isinstance(error.cause, RayalignError):
                raise error.cause from None
            raise ActorError(f"the hosted model failed: {type(error.cause).__name__}: {error.cause}") from error
        except RayError as error:
            raise ActorError(f"the hosted model's process failed: {type(error).__name__}; ask again") from error

    async def complete(self, prompt: Asked, arguments: Mapping[str, Any], paying: Paying) -> Completion:
        """As `Completer.complete`."""
        start = time.perf_counter()
        given = dict(arguments)
        if given.pop("logprobs", None):
            given["logprobs"] = given.get("top_logprobs", 0)
        try:
            async with paying(Usage(*bound(prompt, arguments)), self._timeout, self._timeout) as bill:
                pieces = [piece async for piece in self.stream(prompt, given)]
                written = sum(piece.completion_tokens for piece in pieces)
                bill.cost = Usage(pieces[-1].prompt_tokens, written, 0.0, time.perf_counter() - start)
        except RayalignError as error:
            raise UpstreamError(str(error)) from error
        text, last = "".join(piece.text for piece in pieces), pieces[-1]
        message = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"message": message, "finish_reason": last.finish_reason}
        if "logprobs" in given:
            choice["logprobs"] = {"content": [_schema(position) for piece in pieces for position in piece.logprobs]}
        return Completion(text, choice, bill.cost)


class Handles:
    """The judges' models behind handles, as `build_pool` wants them."""

    def __init__(self, handles: Mapping[str, DeploymentHandle], timeout: float) -> None:
        self._handles = handles
        self._timeout = timeout

    def scoring(self, name: str, section: RewardJudgeConfig) -> RemoteScoring:
        """The reward model of the annotator of that name."""
        revision = f"{section.model}/{section.context}/{_state_of(Path(section.model))}"
        return RemoteScoring(self._handles[name], revision, self._timeout)

    def completer(self, name: str, section: HostedJudgeConfig) -> RemoteModel:
        """The language model of the annotator of that name."""
        return RemoteModel(self._handles[name], section.model, self._timeout)


class Front:
    """The HTTP side; one pool in each replica, one cache for all."""

    def __init__(
        self, settings: Mapping[str, Any], tokens: Mapping[str, str], handles: Mapping[str, DeploymentHandle]
    ) -> None:
        bind_replica_to_node()
        self._config = ServiceConfig.model_validate(settings)
        self._tokens = tokens
        self._models = Handles(handles, self._config.request_timeout)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve puts behind the proxy, made in the replica."""
        config = self._config
        judges = {name: annotator.judge for name, annotator in config.annotators.items()}
        hosted = {  # under the model's own name, since the annotator's stands for its verdicts
            Path(judge.model).name: HostedChat(self._models.completer(name, judge))
            for name, judge in judges.items()
            if isinstance(judge, HostedJudgeConfig)
        }
        app = create_app(
            build_pool(config, self._models),
            config,
            Access(config.access, self._tokens, host=config.host),
            hosted,
            LabelStore(config.cache),
            label_figures,
        )
        gc.freeze()  # what imports made is never garbage, and a full collection of it stops every request for 0.2 s
        return app


def application(config: ServiceConfig) -> Application:
    """Everything bound together, for `serve.run` or for the file that `serve deploy` reads."""
    handles = {
        name: _model(name, annotator.judge, config.request_timeout)
        for name, annotator in config.annotators.items()
        if isinstance(annotator.judge, RewardJudgeConfig | HostedJudgeConfig)
    }
    scale: dict[str, Any] = {"num_replicas": config.replicas}
    if config.max_replicas is not None:
        limits = {"min_replicas": config.replicas, "max_replicas": config.max_replicas}
        scale = {"autoscaling_config": {**limits, "target_ongoing_requests": _TARGET}}
    front = serve.deployment(
        serve.ingress()(Front),
        name="front",
        ray_actor_options={"num_cpus": config.cpus},
        max_ongoing_requests=config.queue + _HEADROOM,
        graceful_shutdown_timeout_s=_DRAIN,
        health_check_period_s=_CHECK,
        health_check_timeout_s=5 * _CHECK,
        **scale,
    )
    tokens = known_tokens(config.access, os.environ)  # of this process: replicas need not have its environment
    return front.bind(config.model_dump(), tokens, handles)


def start(config: ServiceConfig, name: str = APPLICATION, *, replace: bool = False) -> str:
    """Start the application in the Ray session of this process; its URL, once it answers.

    Args:
        name: of the application.
        replace: whether one of that name that is there was left by an interrupted run, and is ended first.

    Raises:
        InputError: other machines could ask without a token, the port is taken, Serve runs already, a wrong judge.
        ActorError: a deployment does not start for another reason.
    """
    if config.haproxy or config.host not in LOOPBACK:  # behind HAProxy Serve's replicas listen on every address
        refuse_open(config.access, os.environ, "haproxy: true" if config.haproxy else f"host {config.host}")
    _refuse_a_taken_port(config.host, config.port)
    found = serve.status()
    if replace and set(found.applications) == {name}:
        serve.shutdown()
    elif found.proxies or found.applications:
        raise InputError(
            f"Ray Serve runs on this cluster already (applications: {', '.join(found.applications) or 'none'}); a job "
            "takes a service that is there as `annotator.url`, and `serve shutdown` ends them all"
        )
    http = {"host": config.host, "port": config.port, "request_timeout_s": config.request_timeout + _DRAIN}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what it does is said by who asked for it
    with ExitStack() as undo:
        undo.callback(serve.shutdown)
        serve.start(http_options=http, logging_config=_QUIET)
        try:
            serve.run(application(config), name=name, route_prefix="/", logging_config=_QUIET)
        except RuntimeError as error:  # Serve's, which names the deployment alone
            raise _failure(name, error) from error
        undo.pop_all()
    return f"http://{config.host}:{config.port}"


def _failure(name: str, error: RuntimeError) -> RayalignError:
    """Why an application did not start: the end of the traceback that its failed deployments tell."""
    found = serve.status().applications.get(name)
    failed = [d.message.strip() for d in found.deployments.values() if d.status == "DEPLOY_FAILED"] if found else []
    told = "\n".join(failed) or str(error)
    _, ours, reason = told.rpartition(f"{InputError.__module__}.{InputError.__name__}: ")
    return InputError(reason) if ours else ActorError(f"the annotator did not start: {told.rpartition(chr(10))[2]}")


def _state_of(folder: Path) -> str:
    """What changes when the model of a local folder is written anew; empty where there is no such folder."""
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    return ",".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)


def _refuse_a_taken_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port} cannot be served on ({error.strerror}); give another --port") from None


def stop() -> None:
    """End what `start` started, application and Serve; what is in progress is finished first."""
    serve.shutdown()


def build(arguments: Mapping[str, Any]) -> Application:
    """What an `import_path` of `serve deploy` or of a RayService names; the arguments are a service file's settings.

    Raises:
        InputError: there is no token, nor `access: {open: true}`; to which addresses Serve listens is not known here.
    """
    config = ServiceConfig.model_validate(arguments)
    refuse_open(config.access, os.environ, "`serve deploy`")
    return application(config)


def _model(name: str, section: RewardJudgeConfig | HostedJudgeConfig, timeout: float) -> Application:
    actor: dict[str, Any] = {"num_cpus": section.cpus, "num_gpus": section.gpus}
    if isinstance(section, RewardJudgeConfig):
        return serve.deployment(
            RewardReplica, name=name, num_replicas=section.replicas, ray_actor_options=actor, max_ongoing_requests=64
        ).bind(section)
    from rayalign.rollout.vllm import environment

    actor["runtime_env"] = {"env_vars": environment(rollout_config(section))}
    return serve.deployment(
        ModelReplica, name=name, num_replicas=section.replicas, ray_actor_options=actor, max_ongoing_requests=256
    ).bind(section, timeout)


def _schema(position: Mapping[str, float]) -> dict[str, Any]:
    """One token in OpenAI's schema; the token itself comes first."""
    ranked = [{"token": token, "logprob": value} for token, value in position.items()]
    return {**ranked[0], "top_logprobs": ranked}
