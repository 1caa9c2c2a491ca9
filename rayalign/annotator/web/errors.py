"""Errors of the routes as replies: a typed body of ours, or OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from rayalign.annotator.web.access import Refused, refused
from rayalign.annotator.web.gate import refusal
from rayalign.annotator.web.openai_bodies import error_reply
from rayalign.config import words
from rayalign.errors import RayalignError


class OpenAIRoute(APIRoute):
    """A route that writes every error in OpenAI's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except (RequestValidationError, HTTPException, RayalignError) as error:
                status, reply = error_reply(error)
                return JSONResponse(reply.model_dump(), status, getattr(error, "headers", None))

        return handler


def answer_errors(app: FastAPI) -> None:
    """Every error as a typed body."""

    @app.exception_handler(RayalignError)
    async def ours(_: Request, error: RayalignError) -> JSONResponse:
        return refusal(refused(error))

    @app.exception_handler(TimeoutError)
    async def late(_: Request, error: TimeoutError) -> JSONResponse:
        return refusal(refused(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refusal(
                Refused(400, "invalid_json", f"the body is not JSON: {first.get('ctx', {}).get('error', '')}")
            )
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        if not place and first["type"] in ("dict_type", "model_attributes_type", "model_type"):
            message = "the body is not a JSON object; send one, with Content-Type: application/json"
            return refusal(Refused(422, "invalid_request", message))
        return refusal(Refused(422, "invalid_request", f"{place or 'body'}: {words(first)}", field=place or None))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        codes = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        code = codes.get(error.status_code, "invalid_request")
        refused_request = Refused(error.status_code, code, str(error.detail))
        refused_request.headers |= error.headers or {}
        return refusal(refused_request, request.scope)
