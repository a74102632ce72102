"""What surrounds every request: its id, the token, the origin, security headers, metrics and the log."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upernet.serving.limits import Limits
from upernet.serving.telemetry import Metrics, log, logger

OPEN = frozenset(("/", "/health", "/ready", "/docs", "/openapi.json", "/favicon.ico"))
"""Paths that need no token; neither do the files of the page."""
ASSETS = "/assets/"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
CLOSING = "the server is shutting down; try again later."
GONE = 499
"""Status in the log and the metrics of requests whose client has gone; nobody receives it."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Swagger UI sets styles in its elements."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}
DISCARDED = 4
"""How many times the limit on bodies is received and forgotten after a refusal."""
DISCARD_SECONDS = 10.0


class Guard:
    """Wraps the application.

    Args:
        app: The application.
        metrics: Where requests are counted.
        limits: What clients may use at most.
        token: What `Authorization: Bearer TOKEN` must have; None: everybody may use the server.
        origins: Origins of other sites whose pages may call the server; "*": all.
        hosts: Names of this server whose pages may call it; None: all names.
        paths: The paths that exist; all others are counted together.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        limits: Limits,
        token: str | None,
        origins: Collection[str],
        hosts: Collection[str] | None,
        paths: Collection[str],
    ):
        self.app, self.metrics, self.limits = app, metrics, limits
        self.token = None if token is None else token.encode()
        self.origins, self.hosts, self.paths = origins, hosts, paths
        self._inner: ASGIApp = self._authorized
        if origins:  # outside of the token, so that pages can read why they are refused
            self._inner = CORSMiddleware(
                self._authorized,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
                expose_headers=["X-Request-ID", "Server-Timing", "Retry-After", "Content-Disposition"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, start, status = Headers(scope=scope), time.perf_counter(), GONE
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        fields: dict[str, object] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=fields)
        begun, body = False, _Body(receive, headers)

        async def send_with_headers(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = GONE if body.is_cut else message["status"], True
                sent = MutableHeaders(scope=message)
                if status >= 400 and not await body.discard(0 if status == 408 else DISCARDED * self.limits.body):
                    sent["Connection"] = "close"
                sent["X-Request-ID"] = request_id
                sent["Content-Security-Policy"] = DOCS_POLICY if scope["path"].startswith("/docs") else POLICY
                for name, value in HEADERS.items():
                    sent[name] = value
            await send(message)

        try:
            if self._is_allowed(headers):
                await self._inner(scope, body.receive, send_with_headers)
            else:
                message = "pages of other sites may not call this server; start it with --allow-origin if they should."
                await error_response(403, message, request_id)(scope, body.receive, send_with_headers)
        except asyncio.CancelledError:  # the process ends at once
            if not begun:
                await error_response(503, CLOSING, request_id)(scope, body.receive, send_with_headers)
        except Exception:
            logger.exception("request failed", extra={"fields": {"id": request_id, "path": self._path(scope["path"])}})
            if not begun:
                await server_error(request_id)(scope, body.receive, send_with_headers)
        finally:
            path, seconds = self._path(scope["path"]), time.perf_counter() - start
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(path, method, status).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if path != ASSETS:
                ms = round(1000 * seconds, 1)
                log("request", id=request_id, method=method, path=path, status=status, ms=ms, **fields)

    async def _authorized(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has the token, or needs none."""
        path, headers = scope["path"], Headers(scope=scope)
        given = headers.get("authorization", "")
        if self.token is None or path in OPEN or path.startswith(ASSETS) or self._has_token(given):
            await self.app(scope, receive, send)
            return
        problem = "the token is wrong" if given else "this server needs a token"
        refusal = error_response(
            401,
            f"{problem}; send the header 'Authorization: Bearer TOKEN' with that of the server.",
            scope["state"]["request_id"],
            {"WWW-Authenticate": "Bearer"},
        )
        await refusal(scope, receive, send)

    def _has_token(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(" ")
        # The bytes of the header, as they were sent: Starlette decodes them as Latin-1.
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self.token or b"")

    def _path(self, path: str) -> str:
        """Return a path under which requests are counted: those of clients are without limit."""
        if path.startswith(ASSETS):
            return ASSETS
        if path.startswith("/v1/models/"):
            return "/v1/models/{name}"
        return path if path in self.paths else "other"

    def _is_allowed(self, headers: Headers) -> bool:
        """Return whether a request comes from no page, from a page of this server, or from an allowed site.

        A page that got its name to point to this server (DNS rebinding) has an origin like a page of this server, but
        not one of its names.
        """
        origin = headers.get("origin")
        if origin is None or "*" in self.origins or origin in self.origins:
            return True
        try:
            parts = urlsplit(origin)
            is_own = bool(parts.netloc) and parts.netloc == headers.get("host")
            return is_own and (self.hosts is None or parts.hostname in self.hosts)
        except ValueError:
            return False


class _Body:
    """Knows how much of the body of a request has arrived."""

    def __init__(self, receive: Receive, headers: Headers):
        self._receive = receive
        self._waits_for_continue = headers.get("expect", "").lower() == "100-continue"
        length = headers.get("content-length", "")
        self._announced = int(length[:20]) if length.isdecimal() else 0
        self._is_complete = not self._announced and "transfer-encoding" not in headers
        self._has_begun = False
        self.is_cut = False
        """Whether the client has gone."""

    async def receive(self) -> Message:
        message = await self._receive()
        self._has_begun = True
        self.is_cut |= message["type"] == "http.disconnect"
        self._is_complete |= self.is_cut or not message.get("more_body", False)
        return message

    async def discard(self, most: int) -> bool:
        """Receive the rest of the body and forget it, because many clients read no answer before they have sent it all.

        Returns whether the end was reached within `most` bytes and `DISCARD_SECONDS`.
        """
        left = most
        if not self._is_complete and (self._announced > most or (self._waits_for_continue and not self._has_begun)):
            return False
        with anyio.move_on_after(DISCARD_SECONDS):
            while not self._is_complete and left > 0:
                left -= len((await self.receive()).get("body", b""))
        return self._is_complete


def error_response(status: int, message: str, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the answer that says what is wrong, in one sentence."""
    return JSONResponse({"error": message, "request_id": request_id}, status, headers)


def server_error(request_id: str) -> JSONResponse:
    """Return the answer to a request that ran into a defect of the server."""
    return error_response(
        500, f"the server failed on this request; its log has the reason, with the id {request_id}.", request_id
    )
