"""The HTTP interface of the server, as a FastAPI application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from upernet.errors import UpernetError, printable
from upernet.inference import Parser
from upernet.serving import engine as engines
from upernet.serving.answers import Format, Include, answer_with
from upernet.serving.engine import Engine
from upernet.serving.errors import RefusedError
from upernet.serving.examples import example_photos
from upernet.serving.guard import Guard, error_response
from upernet.serving.limits import Limits
from upernet.serving.schemas import ERRORS, PARSE_BODY, PARSE_RESPONSES, Health, Model, ModelDetails
from upernet.serving.telemetry import Metrics
from upernet.serving.uploads import Receiver, check_header, discard_body
from upernet.taxonomy import LEVEL_KINDS
from upernet.version import __version__

ASSETS = Path(__file__).with_name("assets")
CLOSING = "the server is shutting down; try again later."


def create_app(
    parsers: Mapping[str, Parser],
    limits: Limits | None = None,
    *,
    token: str | None = None,
    origins: Collection[str] = (),
) -> FastAPI:
    """Return the application that `upernet serve` runs.

    Args:
        parsers: Name of a model -> its parser; the first is the default.
        limits: What clients may use at most.
        token: The bearer token that clients must send; None: none is needed.
        origins: Origins of other sites whose pages may call the server.

    Example:
        >>> import uvicorn, upernet
        >>> from upernet.serving import create_app
        >>> uvicorn.run(create_app({"everyday": upernet.load("everyday")}))
    """
    limits = limits or Limits()
    metrics, receiver = Metrics(), Receiver(limits)
    engine = Engine(parsers, limits, metrics.on_batch)
    metrics.waiting.set_function(lambda: engine.waiting)
    metrics.held.set_function(lambda: receiver.held)
    default = next(iter(parsers))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await run_in_threadpool(engine.close)

    app = FastAPI(
        title="upernet",
        version=__version__,
        description="Recognizes the scene, the objects, their parts, the materials and the textures in a photo.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.post(
        "/v1/parse",
        summary="Parse a photo",
        tags=["parse"],
        response_class=Response,
        responses=PARSE_RESPONSES | ERRORS,
        openapi_extra={"requestBody": PARSE_BODY},
    )
    async def parse(
        request: Request,
        model: Annotated[str, Query(description="Name of a model of this server.")] = default,
        levels: Annotated[
            list[str], Query(description="Levels to parse, repeated or separated by commas. Default: all of the model.")
        ] = [],  # noqa: B006 - FastAPI copies it
        format: Annotated[
            Format,
            Query(
                description="`json`: the parse; `png`: the label map of one dense level, whose values are labels; "
                "`zip`: all files of `upernet parse`; `coco`: the regions of one dense level as a COCO data set."
            ),
        ] = "json",
        include: Annotated[
            list[Include],
            Query(
                description="What the JSON contains beside shares and names, repeated: `labels` and `confidence` (PNG "
                "per level, base64), `pixels` (both in one RGB PNG: label = R + 256 G, 65535 = unsure; confidence = "
                "B / 255), `rle` (COCO run lengths per class), `photo` (the upright photo as JPEG, base64)."
            ),
        ] = [],  # noqa: B006
        max_side: Annotated[
            int | None,
            Query(ge=16, le=100_000, description="Longest side in pixels to which a larger photo is reduced first."),
        ] = None,
    ) -> Response:
        parser = _parser(parsers, model)
        wanted = _levels(parser, levels)
        level = _one_level(wanted) if format in ("png", "coco") else None
        try:
            async with receiver.receive(request) as upload:
                await run_in_threadpool(check_header, upload.content, limits)
                job = engines.Request(
                    upload.content,
                    upload.name,
                    model,
                    tuple(wanted),
                    max_side,
                    lambda parse, timing: answer_with(format, include, level, parse, timing),
                )
                answer = await _answered(engine, job, limits)
        except RefusedError:
            await discard_body(request, limits)
            raise
        metrics.photos.labels(model).inc()
        timing = job.timing
        request.state.log.update(
            model=model,
            queued_ms=round(1000 * timing.queued),
            network_ms=round(1000 * timing.network),
            batch=timing.batch,
        )
        headers = {
            "Server-Timing": f"queue;dur={1000 * timing.queued:.1f}, network;dur={1000 * timing.network:.1f}",
            "Cache-Control": "no-store",
        }
        if answer.file_name is not None:
            headers["Content-Disposition"] = f'attachment; filename="{_header_safe(answer.file_name)}"'
        return Response(answer.content, media_type=answer.media_type, headers=headers)

    @app.get("/v1/models", summary="List the models", tags=["models"], responses={401: ERRORS[401]})
    async def models() -> list[Model]:
        return [Model.of(name, parser, name == default) for name, parser in parsers.items()]

    @app.get(
        "/v1/models/{name}",
        summary="Describe a model",
        tags=["models"],
        responses={401: ERRORS[401], 404: ERRORS[404], 422: ERRORS[422]},
    )
    async def model_details(name: str) -> ModelDetails:
        return ModelDetails.of(name, _parser(parsers, name), name == default)

    @app.get("/health", summary="Tell whether the process works", tags=["operation"])
    async def health() -> Health:
        return Health(status="ok", version=__version__)

    @app.get("/ready", summary="Tell whether photos are taken", tags=["operation"], responses={503: {"model": Health}})
    async def ready(response: Response) -> Health:
        if not engine.is_ready:
            response.status_code = 503
        return Health(status="ready" if engine.is_ready else "not ready", version=__version__)

    @app.get("/metrics", summary="Show Prometheus metrics", tags=["operation"], responses={401: ERRORS[401]})
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(ASSETS / "docs.html")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(ASSETS / "index.html")

    @app.get("/v1/examples", summary="List the example photos of the page", tags=["page"])
    async def examples() -> list[str]:
        return list(example_photos())

    @app.get("/assets/examples/{name}", include_in_schema=False)
    async def example(name: str) -> Response:
        photos = example_photos()
        if name not in photos:
            raise RefusedError(404, f"there is no example photo {printable(name)[:80]!r}.")
        return FileResponse(photos[name])

    app.mount("/assets/swagger", StaticFiles(directory=str(files("fastapi_offline") / "static")))
    app.mount("/assets", StaticFiles(directory=ASSETS))
    _add_error_handlers(app)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Server-Timing", "Retry-After"],
        )
    paths = {str(getattr(route, "path", "")) for route in app.routes}
    app.add_middleware(Guard, metrics=metrics, token=token, origins=origins, paths=paths)
    app.state.engine = engine
    return app


async def _answered(engine: Engine, job: engines.Request, limits: Limits) -> engines.Answer:
    try:
        future = engine.submit(job)
    except engines.QueueFullError as full:
        raise RefusedError(
            429, f"the queue is full; try again in {full.seconds} s.", retry_after=full.seconds
        ) from None
    except engines.ClosingError:
        raise RefusedError(503, CLOSING, retry_after=5) from None
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), limits.seconds)
    except (TimeoutError, asyncio.TimeoutError):  # two types before Python 3.11
        raise RefusedError(
            503, f"the photo was not parsed within {limits.seconds:g} seconds; try again later.", retry_after=5
        ) from None
    except UpernetError as error:
        raise RefusedError(422, str(error)) from None


def _parser(parsers: Mapping[str, Parser], name: str) -> Parser:
    if name not in parsers:
        raise RefusedError(404, f"this server has no model {printable(name)[:80]!r}; it has {', '.join(parsers)}.")
    return parsers[name]


def _levels(parser: Parser, given: list[str]) -> list[str]:
    names = [name for item in given for part in item.split(",") if (name := part.strip())]
    try:
        return parser.select_levels(names or None)
    except UpernetError as error:
        raise RefusedError(422, printable(error)) from None


def _one_level(levels: list[str]) -> str:
    """Return the level of an answer that has one: the only dense one that was asked for, or `object`."""
    dense = [level for level in levels if LEVEL_KINDS[level].dense]
    if len(dense) == 1 or "object" in dense:
        return dense[0] if len(dense) == 1 else "object"
    raise RefusedError(422, "this format shows one level with a label per pixel; name one in `levels`.")


def _header_safe(name: str) -> str:
    return re.sub(r"[^ !#-\[\]-~]", "_", name)


def _add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return error_response(status, message, request.state.request_id, headers)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        request.state.log["refused"] = error.message
        retry = None if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return answer(request, error.status, error.message, retry)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(printable(part)[:40] for part in first["loc"][1:])
        return answer(request, 422, f"{where}: {printable(first['msg'])[:200]}; see /docs.")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = {404: "there is no such page; see /docs.", 405: "this method is not allowed here; see /docs."}
        headers = dict(error.headers or {})
        return answer(request, error.status_code, message.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, _: ClientDisconnect) -> JSONResponse:
        return answer(request, 400, "the body ended before it was complete; send it again.")
