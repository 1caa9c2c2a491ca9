"""The service as a Ray Serve application.

    proxy (Serve's, or HAProxy) -> Front (FastAPI, pool, cache; N replicas) -> one deployment for each judge's own model

The front counts rows itself and refuses with 429 long before Serve's own limit, whose 503 carries no time for the next
attempt.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from rayalign.annotator.capacity import refuse_what_does_not_fit
from rayalign.annotator.endpoints.hosted_models import RemoteModel, RemoteScoring
from rayalign.annotator.pool.build import build_pool
from rayalign.annotator.store import label_figures
from rayalign.annotator.store.labels import LabelStore
from rayalign.annotator.web.access import LOOPBACK, Access, known_tokens, refuse_open
from rayalign.annotator.web.app import create_app
from rayalign.cluster.applications import CHECK, DRAIN, called, refuse_a_taken_port, start_application
from rayalign.cluster.ray_2_60 import bind_replica_to_node
from rayalign.config import HostedJudgeConfig, RewardJudgeConfig, RolloutConfig, ServiceConfig
from rayalign.models.catalogue import model_path
from rayalign.rollout.chat import Answer, ChatPrompt
from rayalign.rollout.vllm_chat import VllmChat
from rayalign.types import Prompt, Score

logger = logging.getLogger(__name__)
APPLICATION = "annotator"
HEAD_NODE: Mapping[str, float] = MappingProxyType({"node:__internal_head__": 0.001})
"""Ray's resource of the head node"""
_HEADROOM = 1024
"""requests above the queue's rows that Serve lets through, so that the front can refuse them itself"""
_SCALING: dict[str, Any] = {
    "target_ongoing_requests": 16,  # of a replica; above it another one starts
    "upscale_delay_s": 5.0,
    "downscale_delay_s": 60.0,  # Serve's ten minutes would keep machines that nobody needs
}
"""of the front, where it may have more replicas than it starts with"""


class RewardReplica:
    """One reward model; it reads the answers of simultaneous requests together."""

    def __init__(self, section: RewardJudgeConfig) -> None:
        from rayalign.models.classifier import Classifier

        bind_replica_to_node()
        self._model = Classifier(section.model, context=section.context)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.002)
    async def scores(self, requests: list[Sequence[tuple[Prompt, str]]]) -> list[list[Score]]:
        """One list of scores for each list of answers."""
        answers: list[tuple[Prompt, str]] = []
        for request in requests:
            answers.extend(request)
        scores = await asyncio.to_thread(self._model.scores, answers)
        replies: list[list[Score]] = []
        start = 0
        for request in requests:
            replies.append(scores[start : start + len(request)])
            start += len(request)
        return replies


class ModelReplica:
    """One language model on vLLM, which a judge prompts."""

    def __init__(self, section: HostedJudgeConfig, timeout: float) -> None:
        bind_replica_to_node()
        self._chat = VllmChat(section.model, _rollout_config(section), timeout)

    async def complete(self, prompt: ChatPrompt, settings: Mapping[str, Any]) -> Answer:
        """As `VllmChat.complete`."""
        return await self._chat.complete(prompt, settings)


class Handles:
    """The judges' models behind handles; implements `build.Models`."""

    def __init__(self, handles: Mapping[str, DeploymentHandle], timeout: float) -> None:
        self._handles = handles
        self._timeout = timeout

    def scoring(self, name: str, section: RewardJudgeConfig) -> RemoteScoring:
        """The reward model of the annotator of that name."""
        return RemoteScoring(partial(called, self._handles[name].scores, timeout=self._timeout), section, self._timeout)

    def language_model(self, name: str, section: HostedJudgeConfig) -> RemoteModel:
        """The language model of the annotator of that name."""
        return RemoteModel(partial(called, self._handles[name].complete, timeout=self._timeout), section, self._timeout)


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
        """The application that Serve puts behind its proxy; Serve calls this in the replica."""
        config = self._config
        app = create_app(
            build_pool(config, self._models),
            config,
            Access(config.access, self._tokens, host=config.host),
            LabelStore(config.cache),
            label_figures,
        )
        gc.freeze()  # what imports made is never garbage, and a full collection of it stops every request for 0.2 s
        return app


def application(
    config: ServiceConfig, environment: Mapping[str, str] = os.environ, node: Mapping[str, float] = MappingProxyType({})
) -> Application:
    """All deployments bound together, for `serve.run` or for the file that `serve deploy` reads.

    Args:
        environment: holds the tokens.
        node: Ray's resource of the machine where the front's replicas must run; empty: on any.
    """
    handles = {
        name: _model(name, annotator.judge, config.request_timeout)
        for name, annotator in config.annotators.items()
        if isinstance(annotator.judge, RewardJudgeConfig | HostedJudgeConfig)
    }
    scale: dict[str, Any] = {"num_replicas": config.replicas}
    if config.max_replicas is not None:
        limits = {"min_replicas": config.replicas, "max_replicas": config.max_replicas}
        scale = {"autoscaling_config": {**limits, **_SCALING}}
    front = serve.deployment(
        serve.ingress()(Front),
        name="front",
        ray_actor_options={"num_cpus": config.cpus, "resources": dict(node)},
        max_ongoing_requests=config.queue + _HEADROOM,
        graceful_shutdown_timeout_s=DRAIN,
        health_check_period_s=CHECK,
        health_check_timeout_s=5 * CHECK,
        **scale,
    )
    tokens = known_tokens(config.access, environment)  # of this process: replicas need not have its environment
    return front.bind(config.model_dump(), tokens, handles)


def start(
    config: ServiceConfig,
    name: str = APPLICATION,
    *,
    replace: bool = False,
    may_grow: bool = False,
    report: Callable[[str], object] = logger.info,
    environment: Mapping[str, str] = os.environ,
    head_only: bool = False,
) -> str:
    """Start the application in the Ray session of this process; returns its URL once it answers.

    Args:
        name: of the application.
        replace: whether to end an application of that name first, which an interrupted run left.
        may_grow: whether the cluster may add machines for what does not fit on it now.
        report: takes a line while the deployments do not start at once.
        environment: holds the tokens.
        head_only: whether its HTTP side runs on the head node alone, where its cache is.

    Raises:
        InputError: other machines could connect without a token, the judges do not fit on this machine; or as
            `start_application`.
        ActorError: a deployment does not start for another reason.
    """
    if config.haproxy:  # behind HAProxy Serve's replicas listen on every address
        refuse_open(config.access, environment, "haproxy: true")
    elif config.host not in LOOPBACK:
        refuse_open(config.access, environment, f"host {config.host}")
    refuse_a_taken_port(config.host, config.port)
    if not may_grow:
        refuse_what_does_not_fit(config, ray.cluster_resources())
    return start_application(
        application(config, environment, HEAD_NODE if head_only else {}),
        name=name,
        address=(config.host, config.port),
        timeout=config.request_timeout,
        replace=replace,
        remedy="a job takes a service that is there as `annotator.url`, and ",
        report=report,
        location="HeadOnly" if head_only else "EveryNode",
    )


def build(arguments: Mapping[str, Any]) -> Application:
    """The application that an `import_path` of `serve deploy` or of a RayService names.

    Args:
        arguments: the settings of a service file.

    Raises:
        InputError: there is no token, nor `access: {open: true}`; Serve's addresses are not known here.
    """
    config = ServiceConfig.model_validate(arguments)
    refuse_open(config.access, os.environ, "`serve deploy`")
    return application(config)


def _model(name: str, section: RewardJudgeConfig | HostedJudgeConfig, timeout: float) -> Application:
    """The deployment of a judge's own model; its replicas may run in another folder than this process."""
    section = section.model_copy(update={"model": model_path(section.model)})
    actor: dict[str, Any] = {"num_cpus": section.cpus, "num_gpus": section.gpus}
    common: dict[str, Any] = {"name": name, "num_replicas": section.replicas, "ray_actor_options": actor}
    if isinstance(section, RewardJudgeConfig):
        return serve.deployment(RewardReplica, max_ongoing_requests=64, **common).bind(section)
    from rayalign.rollout.vllm import environment

    actor["runtime_env"] = {"env_vars": environment(_rollout_config(section))}
    return serve.deployment(ModelReplica, max_ongoing_requests=256, **common).bind(section, timeout)


def _rollout_config(section: HostedJudgeConfig) -> RolloutConfig:
    """The engine's settings for a judge's language model."""
    return RolloutConfig(context=section.context, dtype=section.dtype, max_sequences=64, gpus=section.gpus)
