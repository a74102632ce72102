"""The HTTP interface of the server, as a FastAPI application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from upernet.errors import UpernetError, printable
from upernet.inference import Parser
from upernet.serving import engine as engines
from upernet.serving.answers import Format, Include, answer_with, expected_bytes
from upernet.serving.engine import Engine
from upernet.serving.errors import RefusedError
from upernet.serving.examples import example_photos
from upernet.serving.guard import CLOSING, GONE, OPEN, Guard, error_response, server_error
from upernet.serving.limits import Limits
from upernet.serving.schemas import ERRORS, PARSE_BODY, PARSE_RESPONSES, Health, Model, ModelDetails, describe_token
from upernet.serving.telemetry import Metrics
from upernet.serving.uploads import Hold, Receiver, pixels_of
from upernet.taxonomy import LEVEL_KINDS
from upernet.version import __version__

ASSETS = Path(__file__).with_name("assets")
PIECE = 2**18
"""Bytes of an answer that are sent at once."""
HEADER_READERS = 2
"""Threads that read the headers of photos."""


def create_app(
    parsers: Mapping[str, Parser],
    limits: Limits | None = None,
    *,
    token: str | None = None,
    origins: Collection[str] = (),
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Return the application that `upernet serve` runs.

    Args:
        parsers: Name of a model -> its parser; the first is the default.
        limits: What clients may use at most.
        token: The bearer token that clients must send; None: none is needed.
        origins: Origins of other sites whose pages may call the server.
        hosts: Names of this server whose pages may call it; None: all names. The ones of the loopback address protect a
            server on a desktop from pages that point their own name to it.

    Raises:
        UpernetError: There is no parser, or the token is empty.

    Example:
        >>> import uvicorn, upernet
        >>> from upernet.serving import create_app
        >>> uvicorn.run(create_app({"everyday": upernet.load("everyday")}))
    """
    if not parsers:
        raise UpernetError("a server needs a model; give one or more parsers.")
    if token == "":
        raise UpernetError("the token is empty; choose another one, or give None if none is needed.")
    limits = limits or Limits()
    metrics, receiver = Metrics(), Receiver(limits)
    engine = Engine(parsers, limits, metrics.on_batch)
    metrics.waiting.set_function(lambda: engine.waiting)
    metrics.in_memory.set_function(lambda: engine.in_memory)
    metrics.held.set_function(lambda: receiver.held)
    header_readers = anyio.CapacityLimiter(HEADER_READERS)
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
        with _refusals():
            engine.check_place()
        with Hold(receiver) as hold:
            upload = await receiver.receive(request, hold)
            pixels = await anyio.to_thread.run_sync(pixels_of, upload.content, limits, limiter=header_readers)
            hold.add(expected_bytes(format, include, pixels))
            job = engines.Request(
                upload.take(),
                pixels,
                upload.name,
                model,
                tuple(wanted),
                max_side,
                lambda parse, timing: answer_with(format, include, level, parse, timing),
            )
            answer = await _answered(engine, job, limits, request)
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
        return _AnswerResponse(answer, headers, receiver)

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

    @app.get(
        "/metrics",
        summary="Show Prometheus metrics",
        tags=["operation"],
        response_class=PlainTextResponse,
        responses={401: ERRORS[401]},
    )
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
    if token is not None:
        describe_token(app.openapi(), OPEN)
    paths = {str(getattr(route, "path", "")) for route in app.routes}
    app.add_middleware(Guard, metrics=metrics, limits=limits, token=token, origins=origins, hosts=hosts, paths=paths)
    app.state.engine = engine
    return app


class _AnswerResponse(Response):
    """Sends an answer piece by piece; what its client has not received yet counts as held."""

    def __init__(self, answer: engines.Answer, headers: Mapping[str, str], receiver: Receiver):
        super().__init__(answer.content, media_type=answer.media_type, headers=headers)
        self._receiver = receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with Hold(self._receiver) as hold:
            hold.keep(len(self.body))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), PIECE):
                piece = bytes(self.body[start : start + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})


async def _answered(engine: Engine, job: engines.Request, limits: Limits, request: Request) -> engines.Answer:
    """Return the answer of the engine; a client that goes away takes its photo out of the queue.

    Raises:
        RefusedError: The photo was not accepted, cannot be parsed, or was not parsed in time.
        ClientDisconnect: The client has gone.
    """
    with _refusals():
        answer = asyncio.wrap_future(engine.submit(job))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answer, gone), timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer.cancelled():
            raise RefusedError(503, CLOSING, retry_after=5)
        if answer.done():
            return answer.result()
        if gone.done():
            raise ClientDisconnect
        raise RefusedError(
            503, f"the photo was not parsed within {limits.seconds:g} seconds; try again later.", retry_after=5
        )
    except UpernetError as error:
        raise RefusedError(422, str(error)) from None
    finally:
        answer.cancel()
        gone.cancel()


@contextmanager
def _refusals() -> Generator[None, None, None]:
    """Answer with a status that the engine takes no photo.

    Raises:
        RefusedError: The queue is full, or the server ends.
    """
    try:
        yield
    except engines.QueueFullError as full:
        raise RefusedError(
            429, f"the queue is full; try again in {full.seconds} s.", retry_after=full.seconds
        ) from None
    except engines.ClosingError:
        raise RefusedError(503, CLOSING, retry_after=5) from None


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
    async def gone(request: Request, _: ClientDisconnect) -> JSONResponse:  # nobody receives it
        return answer(request, GONE, "the client has gone.")

    @app.exception_handler(Exception)  # which goes on to the guard, and from there to the log
    async def failed(request: Request, _: Exception) -> JSONResponse:
        return server_error(request.state.request_id)
