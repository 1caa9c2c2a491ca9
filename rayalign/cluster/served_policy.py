"""The served policy as a Ray Serve application.

proxy (Serve's) -> Front (FastAPI, profiles) -> PolicyReplica (vLLM with the base, merged adapters)
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from rayalign.annotator.web.access import LOOPBACK, Access, known_tokens, refuse_open
from rayalign.cluster.applications import CHECK, DRAIN, called, start_application, streamed
from rayalign.cluster.ray_2_60 import bind_replica_to_node
from rayalign.config import Profile, ServedPolicyConfig
from rayalign.errors import ActorError
from rayalign.rollout.chat import Answer
from rayalign.serving.inputs import PolicyInputs
from rayalign.serving.merged import CacheState, MergedAdapters
from rayalign.serving.policy import EnginePolicy, Merge, Turns
from rayalign.serving.profiles import Profiles
from rayalign.serving.web import create_app

logger = logging.getLogger(__name__)
APPLICATION = "policy"
_HEADROOM = 256
"""requests above the queue that Serve lets through, so that the front can refuse them itself"""


class PolicyReplica:
    """The engine's process."""

    def __init__(self, inputs: PolicyInputs, config: ServedPolicyConfig) -> None:
        from rayalign.rollout.vllm_chat import VllmChat

        bind_replica_to_node()
        timeout = config.request_timeout
        self._engine = VllmChat(inputs.base, inputs.engine, timeout, inputs.room)
        merged = MergedAdapters(
            Path(config.cache),
            config.merged,
            (inputs.base_digest, inputs.digests),
            Merge(inputs.adapters),
            self._engine.forget,
            timeout,
        )
        self._policy = EnginePolicy(self._engine, merged, inputs.stop_ids)

    async def complete(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> Answer:
        """As `Policy.complete`."""
        return await self._policy.complete(turns, settings, profile)

    async def stream(
        self, turns: Turns, settings: Mapping[str, Any], profile: Profile
    ) -> AsyncGenerator[str | Answer, None]:
        """As `Policy.stream`."""
        async with aclosing(self._policy.stream(turns, settings, profile)) as pieces:
            async for piece in pieces:
                yield piece

    async def state(self) -> CacheState:
        """As `Policy.state`."""
        return await self._policy.state()

    def check_health(self) -> None:
        """Serve calls this, and replaces a replica where it raises."""
        if not self._engine.alive:
            raise ActorError("the engine's thread has ended")


class RemotePolicy:
    """The policy behind its handle; implements `Policy`."""

    def __init__(self, handle: DeploymentHandle, timeout: float) -> None:
        """
        Args:
            timeout: of a reply, and between two pieces of a stream [seconds].
        """
        self._handle = handle
        self._timeout = timeout

    async def complete(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> Answer:
        """As `Policy.complete`."""
        answer: Answer = await called(self._handle.complete, turns, settings, profile, timeout=self._timeout)
        return answer

    def stream(self, turns: Turns, settings: Mapping[str, Any], profile: Profile) -> AsyncGenerator[str | Answer, None]:
        """As `Policy.stream`."""
        return streamed(self._handle.stream, turns, settings, profile, timeout=self._timeout)

    async def state(self) -> CacheState:
        """As `Policy.state`."""
        state: CacheState = await called(self._handle.state, timeout=self._timeout)
        return state


class Front:
    """The HTTP side."""

    def __init__(
        self, config: ServedPolicyConfig, tokens: Mapping[str, str], profiles: Profiles, policy: DeploymentHandle
    ) -> None:
        bind_replica_to_node()
        self._config = config
        self._tokens = tokens
        self._profiles = profiles
        self._policy = RemotePolicy(policy, config.request_timeout)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application that Serve puts behind its proxy; Serve calls this in the replica."""
        config = self._config
        access = Access(config.access, self._tokens, host=config.host)
        app = create_app(self._policy, self._profiles, access, queue=config.queue, max_body=config.access.max_body)
        gc.freeze()  # what imports made is never garbage, and a full collection of it stops every request for 0.2 s
        return app


def start(
    config: ServedPolicyConfig,
    inputs: PolicyInputs,
    name: str = APPLICATION,
    *,
    report: Callable[[str], object] = logger.warning,
) -> str:
    """Start the application in the Ray session of this process; returns its URL once it answers.

    Raises:
        InputError: other machines could connect without a token; the cache is in use; or as `start_application`.
        ActorError: the engine does not start.
    """
    if config.host not in LOOPBACK:
        refuse_open(config.access, os.environ, f"host {config.host}")
    return start_application(
        application(config, inputs),
        name=name,
        address=(config.host, config.port),
        timeout=config.request_timeout,
        report=report,
    )


def application(config: ServedPolicyConfig, inputs: PolicyInputs) -> Application:
    """The front and the engine bound together."""
    # Replicas may run in another folder than this process.
    config = config.model_copy(update={"cache": str(Path(config.cache).resolve())})
    front = serve.deployment(
        serve.ingress()(Front),
        name="front",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=config.queue + _HEADROOM,
        graceful_shutdown_timeout_s=DRAIN,
        health_check_period_s=CHECK,
        health_check_timeout_s=5 * CHECK,
    )
    tokens = known_tokens(config.access, os.environ)  # of this process: replicas need not have its environment
    profiles = Profiles(inputs.registry, tuple(inputs.adapters))
    return front.bind(config, tokens, profiles, _engine(config, inputs))


def _engine(config: ServedPolicyConfig, inputs: PolicyInputs) -> Application:
    from rayalign.rollout.vllm import environment

    variables = {"env_vars": environment(inputs.engine)}
    actor = {"num_cpus": config.threads, "num_gpus": config.gpus, "runtime_env": variables}
    engine = serve.deployment(
        PolicyReplica,
        name="engine",
        ray_actor_options=actor,
        max_ongoing_requests=config.queue + 2 * _HEADROOM,
        graceful_shutdown_timeout_s=DRAIN,
    )
    return engine.bind(inputs, config)
