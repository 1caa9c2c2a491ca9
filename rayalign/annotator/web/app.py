"""The routes: preferences, scores, rankings, and the state of the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Response

from rayalign.annotator.api import (
    POOL,
    Annotation,
    AnnotatorInfo,
    Estimate,
    Model,
    PairItem,
    PreferenceRequest,
    Problem,
    RankReply,
    RankRequest,
    ScoreReply,
    ScoreRequest,
)
from rayalign.annotator.estimates import Summary
from rayalign.annotator.estimates import estimate as estimated
from rayalign.annotator.labels import LabelStore
from rayalign.annotator.pool import Pool
from rayalign.annotator.ranking import rank, score, verdicts
from rayalign.annotator.web.access import CLIENT, Access, Admission, refused
from rayalign.annotator.web.errors import answer_errors
from rayalign.annotator.web.gate import Gate, Stream
from rayalign.annotator.web.labelling import Annotate, Figures, labelling_router
from rayalign.annotator.web.openai_api import openai_router
from rayalign.annotator.web.page import page_router
from rayalign.annotator.web.telemetry import Telemetry, Timed
from rayalign.config import ServiceConfig
from rayalign.errors import RayalignError


class ErrorBody(Model):
    """Every error."""

    error: Problem


class PreferenceReply(Model):
    """Annotations in the order of the request."""

    annotations: tuple[Annotation, ...]
    summary: Summary


class ScoresReply(Model):
    """Scores in the order of the request."""

    scores: tuple[ScoreReply, ...]


class RankingsReply(Model):
    """Rankings in the order of the request."""

    rankings: tuple[RankReply, ...]


class AnnotatorsReply(Model):
    """The pool."""

    annotators: tuple[AnnotatorInfo, ...]


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": text}
    for code, text in {
        400: "malformed JSON",
        401: "no known token",
        402: "a budget would be passed",
        403: "asked under a name that is not this machine's",
        404: "no such annotator, queue or pair",
        409: "a labeller with the name of an annotator",
        413: "too large",
        422: "a field is wrong",
        429: "too much at once; see Retry-After",
        503: "unavailable",
    }.items()
}
"""errors of any route"""


def create_app(
    pool: Pool,
    config: ServiceConfig,
    access: Access,
    labels: LabelStore,
    figures: Figures,
) -> FastAPI:
    """The application with all its routes."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await pool.drain()

    app = FastAPI(
        title="rayalign annotator", version="1", lifespan=life, docs_url=None, redoc_url=None, responses=ERRORS
    )
    telemetry = Telemetry(pool.totals)
    admission = Admission(config.queue)
    app.add_middleware(Gate, access=access, max_body=config.access.max_body)
    app.add_middleware(Timed, telemetry=telemetry)
    answer_errors(app)
    _add_judging(app, pool, admission, telemetry)
    _add_state(app, pool, telemetry)
    annotate = _annotator(pool, admission, telemetry)
    app.include_router(openai_router(annotate, [POOL, *pool.names()]))
    app.include_router(labelling_router(labels, annotate, pool.names, figures))
    app.include_router(page_router())
    return app


def _annotator(pool: Pool, admission: Admission, telemetry: Telemetry) -> Annotate:
    """Annotates pairs for the other routers, in their order."""

    async def annotate(pairs: Sequence[PairItem], annotator: str) -> list[Annotation]:
        request = PreferenceRequest(annotator=annotator, pairs=tuple(pairs))
        pool.check(request)
        with admission.room(len(pairs)):
            finished = pool.annotate(request, CLIENT.get())
            annotations = [telemetry.counted(annotation) async for annotation in finished]
        return sorted(annotations, key=lambda annotation: annotation.index)

    return annotate


def _add_judging(app: FastAPI, pool: Pool, admission: Admission, telemetry: Telemetry) -> None:
    async def lines(request: PreferenceRequest, client: str) -> AsyncGenerator[str, None]:
        summary = Summary()
        try:
            async with aclosing(pool.annotate(request, client)) as annotations:
                async for annotation in annotations:
                    yield summary.counted(telemetry.counted(annotation)).model_dump_json() + "\n"
        except (RayalignError, TimeoutError) as error:
            yield ErrorBody(error=refused(error).problem).model_dump_json() + "\n"
            return
        yield f'{{"summary": {summary.model_dump_json()}}}\n'

    async def streamed(request: PreferenceRequest, client: str) -> AsyncGenerator[str, None]:
        with admission.room(request.verdicts):
            yield ""  # the room is reserved, or refused, before the reply's status is sent
            async with aclosing(lines(request, client)) as rest:
                async for line in rest:
                    yield line

    @app.post("/v1/preferences", response_model=PreferenceReply)
    async def preferences(body: PreferenceRequest) -> Response:
        """Compare pairs. With `stream`, one JSON line for each annotation as it finishes, then a summary line."""
        pool.check(body)
        if body.stream:
            rest = streamed(body, CLIENT.get())
            await anext(rest)
            return Stream(rest, media_type="application/x-ndjson")
        summary = Summary()
        with admission.room(body.verdicts):
            finished = pool.annotate(body, CLIENT.get())
            annotations = [summary.counted(telemetry.counted(annotation)) async for annotation in finished]
        annotations.sort(key=lambda annotation: annotation.index)
        reply = PreferenceReply(annotations=tuple(annotations), summary=summary)
        return Response(reply.model_dump_json(), media_type="application/json")

    @app.post("/v1/estimate")
    async def estimate(body: PreferenceRequest) -> Estimate:
        """The estimated cost of the request, as the cache stands now."""
        pool.check(body)
        with admission.room(body.verdicts):
            return await pool.database.aside(partial(estimated, pool, body, CLIENT.get()))

    @app.post("/v1/scores")
    async def scores(body: ScoreRequest) -> ScoresReply:
        """Score each answer, by an annotator that can."""
        with admission.room(len(body.items)):
            return ScoresReply(scores=tuple(await score(pool, body, CLIENT.get())))

    @app.post("/v1/rankings")
    async def rankings(body: RankRequest) -> RankingsReply:
        """Order several answers to one instruction: by scores where the annotator has them, else by preferences."""
        with admission.room(verdicts(pool, body)):
            return RankingsReply(rankings=tuple(await rank(pool, body, CLIENT.get())))


def _add_state(app: FastAPI, pool: Pool, telemetry: Telemetry) -> None:
    @app.get("/v1/annotators")
    async def annotators() -> AnnotatorsReply:
        """The pool's annotators."""
        return AnnotatorsReply(annotators=tuple(pool.infos))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """The cache answers too."""
        await pool.database.aside(pool.ready)
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters of this replica in Prometheus' text format."""
        return Response(await pool.database.aside(telemetry.text), media_type=telemetry.media_type)
