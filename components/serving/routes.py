"""HTTP onto the ingress: paths, status codes, headers, server-sent events."""

import asyncio
import base64
import struct
import uuid
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from components.reasoning.budget import Limits
from components.serving.adapter_routes import add_adapter_routes
from components.serving.chat import ChatRun, NameSetup
from components.serving.completions import CompletionRun
from components.serving.edge import ACCOUNT, Edge
from components.serving.errors import ApiError, from_exception, from_validation
from components.serving.ingress import Ingress
from components.serving.key_budgets import NOTHING
from components.serving.metrics import CONTENT_TYPE
from components.serving.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FeedbackRequest,
    Sampling,
    SearchRequest,
)

Result = TypeVar("Result")
LINEAGE_HEADER, ADAPTER_HEADER = "x-raylign-lineage", "x-raylign-adapter"


class EventStream(StreamingResponse):
    """Server-sent events whose source is closed, and its generation stopped, as soon as the client leaves."""

    def __init__(self, lines: AsyncGenerator[str, None], headers: dict[str, str]) -> None:
        super().__init__(lines, headers={"cache-control": "no-cache", **headers}, media_type="text/event-stream")
        self._lines = lines

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the lines; close their source whatever happens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()


def build_asgi_app(ingress: Ingress) -> FastAPI:
    """Return the app with every endpoint; all its failures are OpenAI error objects."""
    app = FastAPI(title="raylign", docs_url=None, redoc_url=None, openapi_url=None)
    _add_failures(app, ingress)
    _add_openai_routes(app, ingress)
    _add_own_routes(app, ingress)
    add_adapter_routes(app, ingress.swap, ingress.plan.admin_digests)
    routes = [route.path for route in app.routes if hasattr(route, "path")]
    keys = ingress.plan.key_digests
    allowed = (*keys, *ingress.plan.admin_digests) if keys else ()
    app.add_middleware(Edge, metrics=ingress.metrics, key_digests=allowed, routes=routes, account=ingress.account)
    return app


def _add_failures(app: FastAPI, ingress: Ingress) -> None:
    def failed(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> JSONResponse:
        return failed(error)

    @app.exception_handler(RequestValidationError)
    async def on_bad_body(_: Request, error: RequestValidationError) -> JSONResponse:
        return failed(from_validation(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        text = {404: "Unknown path", 405: "This path does not take that method"}.get(error.status_code, error.detail)
        return failed(ApiError(error.status_code, f"{text}: {request.method} {request.url.path}", code="unknown_url"))

    @app.exception_handler(Exception)
    async def on_anything_else(_: Request, error: Exception) -> JSONResponse:
        return failed(from_exception(error, ingress.plan.engine.retry_after_s))


def _add_openai_routes(app: FastAPI, ingress: Ingress) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": ingress.model_cards()}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return ingress.model_card(ingress.setup(name))

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        setup = ingress.setup(body.model)
        return await _answered(ingress.chat.start(body, setup, _request_id(request, "chatcmpl")), setup, body, request)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        setup = ingress.setup(body.model)
        return await _answered(ingress.complete(body, setup, _request_id(request, "cmpl")), setup, body, request)

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        await _admit_search(request)
        made = await ingress.embeddings(body)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(made["vectors"])
        ]
        counts = {"prompt_tokens": made["tokens"], "total_tokens": made["tokens"]}
        return {"object": "list", "model": body.model, "data": data, "usage": counts}


def _add_own_routes(app: FastAPI, ingress: Ingress) -> None:
    @app.post("/v1/search")
    async def search(body: SearchRequest, request: Request) -> dict[str, Any]:
        await _admit_search(request)
        return await ingress.search(body)

    @app.post("/v1/feedback")
    async def feedback(body: FeedbackRequest) -> dict[str, Any]:
        return await ingress.feedback(body)

    @app.get("/v1/lineage")
    async def lineage(model: str | None = None) -> dict[str, Any]:
        return {"object": "list", "data": ingress.lineage_pages(model)}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await ingress.metrics_text(), media_type=CONTENT_TYPE)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return await ingress.health()


async def _answered(run: ChatRun | CompletionRun, setup: NameSetup, body: Sampling, request: Request) -> Response:
    """Return a run's answer, whole or as a stream, within what its key has left. Raises ApiError."""
    headers = _headers(setup)
    if (account := request.scope.get(ACCOUNT)) is not None:
        await run.admit(account)
    if body.stream:
        return EventStream(await _unless_left(request, _begun(run.stream())), headers)
    return JSONResponse(await _unless_left(request, run.response()), headers=headers)


async def _admit_search(request: Request) -> None:
    """Take a request that generates nothing from its key's budget. Raises ApiError."""
    if (account := request.scope.get(ACCOUNT)) is not None:
        await account.open(Limits(), NOTHING)


async def _unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what ``work`` returns; a client that leaves before that cancels it (nobody reads the 499 then)."""

    async def client_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.create_task(work), asyncio.create_task(client_left())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "The client closed the connection.", code="client_closed_request")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _begun(lines: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Return the stream once it has its first line, so that an early failure still decides the status."""
    first = await anext(lines)

    async def all_lines() -> AsyncGenerator[str, None]:
        try:
            yield first
            async for line in lines:
                yield line
        finally:
            await lines.aclose()

    return all_lines()


def _headers(setup: NameSetup) -> dict[str, str]:
    """Return the headers that say what answers."""
    headers = {LINEAGE_HEADER: setup.lineage_id}
    return headers | ({ADAPTER_HEADER: setup.adapter.address} if setup.adapter else {})


def _request_id(request: Request, prefix: str) -> str:
    """Return the answer's id: the id that Serve gives every request (or the client's own) behind OpenAI's prefix."""
    return f"{prefix}-{request.headers.get('x-request-id') or uuid.uuid4().hex}"


def _encoded(vector: list[float], encoding: str) -> list[float] | str:
    """Return a vector as numbers, or as base64 of little-endian float32 as OpenAI's client asks for."""
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
