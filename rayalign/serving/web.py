"""The routes of a served policy, over any `Policy`; no Ray.

request -> token, size -> fields -> profile -> room in the queue -> policy -> reply, whole or as events
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse

from rayalign.annotator.web.access import Access, Admission
from rayalign.annotator.web.errors import OpenAIRoute, answer_errors
from rayalign.annotator.web.gate import Gate, Stream
from rayalign.annotator.web.openai_bodies import ErrorReply, error_reply, refusal
from rayalign.config import Profile
from rayalign.errors import RayalignError
from rayalign.rollout.chat import Answer
from rayalign.serving.bodies import Json, PolicyRequest, Reply, error_event
from rayalign.serving.policy import Policy
from rayalign.serving.profiles import Profiles, UnknownModel

_STATUSES = (400, 401, 403, 404, 413, 429, 503)


def create_app(policy: Policy, profiles: Profiles, access: Access, *, queue: int, max_body: int) -> FastAPI:
    """The application with all its routes.

    Args:
        queue: requests in progress or waiting; more are refused.
        max_body: bytes of one request.
    """
    app = FastAPI(title="rayalign served policy", version="1", docs_url=None, redoc_url=None)
    app.add_middleware(Gate, access=access, max_body=max_body)
    answer_errors(app)
    app.include_router(_openai_router(policy, profiles, Admission(queue)))
    _add_state(app, policy)
    return app


def _openai_router(policy: Policy, profiles: Profiles, admission: Admission) -> APIRouter:
    responses: dict[int | str, dict[str, Any]] = {status: {"model": ErrorReply} for status in _STATUSES}
    router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=OpenAIRoute, responses=responses)

    @router.post("/chat/completions", response_model=None)
    async def chat(body: PolicyRequest) -> Response:
        """Answer a dialogue under a profile of preferences."""
        body.check()
        profile = _profile(profiles, body)
        if body.stream:
            events = _events(policy, body, profile, admission)
            await anext(events)
            return Stream(events, media_type="text/event-stream")
        with admission.room(1):
            answer = await policy.complete(body.turns, body.sampling, profile)
        return JSONResponse(Reply(profile).whole(answer))

    @router.get("/models")
    async def models() -> Json:
        """Names that `model` takes: the base, the preferences, and their profiles."""
        entry = {"object": "model", "created": 0, "owned_by": "rayalign"}
        return {"object": "list", "data": [entry | {"id": name} for name in profiles.names()]}

    return router


def _profile(profiles: Profiles, body: PolicyRequest) -> Profile:
    try:
        return profiles.requested(body.model, body.weights)
    except UnknownModel as error:
        raise refusal(404, str(error), "model", "model_not_found") from error


async def _events(
    policy: Policy, body: PolicyRequest, profile: Profile, admission: Admission
) -> AsyncGenerator[str, None]:
    """Server-sent events, after an empty one: what refuses the request is raised before that, with its status."""
    reply = Reply(profile)
    with admission.room(1):
        async with aclosing(policy.stream(body.turns, body.sampling, profile)) as pieces:
            piece = await anext(pieces)
            yield ""
            yield reply.first()
            try:
                while not isinstance(piece, Answer):
                    yield reply.piece(piece)
                    piece = await anext(pieces)
            except RayalignError as error:
                _, problem = error_reply(error)
                yield error_event(problem.model_dump())
                return
            yield reply.last(piece, with_usage=body.with_usage)


def _add_state(app: FastAPI, policy: Policy) -> None:
    @app.get("/v1/merged")
    async def merged() -> Json:
        """The merged adapters: how many are kept, and how often one was made or removed."""
        return asdict(await policy.state())

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """The engine's process answers too."""
        await policy.state()
        return {"status": "ready"}
