"""Prometheus metrics: requests, their time, verdicts, and spend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayalign.annotator.asking.api import Annotation
from rayalign.annotator.judges.verdicts import Usage

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Telemetry:
    """Counters of one replica, in a registry of their own."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, spent: Callable[[], Mapping[str, Usage]]) -> None:
        self._spent = spent
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rayalign_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "rayalign_request_seconds", "Until the reply began.", ("route",), buckets=_BUCKETS, registry=self._registry
        )
        self._verdicts = Counter(
            "rayalign_verdicts",
            "Rows by annotator and how they ended.",
            ("annotator", "outcome"),
            registry=self._registry,
        )
        self._price = Gauge("rayalign_dollars", "Spent on each judge.", ("judge",), registry=self._registry)
        self._tokens = Gauge("rayalign_tokens", "Used by each judge.", ("judge",), registry=self._registry)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """One request, under its route's pattern so that labels stay few."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def counted(self, a: Annotation) -> Annotation:
        """Count an annotation and return it."""
        self._verdicts.labels(a.annotator, _outcome(a)).inc()
        return a

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        for judge, usage in self._spent().items():
            self._price.labels(judge).set(usage.price)
            self._tokens.labels(judge).set(usage.prompt_tokens + usage.completion_tokens)
        return generate_latest(self._registry)


def _outcome(a: Annotation) -> str:
    if a.noise:
        return "noise"
    if a.preference is None:
        return "absent"
    return "cached" if a.cached else "judged"


class Timed:
    """The ASGI layer that times each request until its reply begins."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._telemetry.observe(route, message["status"], time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, noted if scope["type"] == "http" else send)
