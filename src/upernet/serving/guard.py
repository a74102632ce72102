"""What surrounds every request: its id, the token, the origin, security headers, metrics and the log."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upernet.serving.telemetry import Metrics, log, logger

OPEN = frozenset(("/", "/health", "/ready", "/favicon.ico"))
"""Paths that need no token; neither do the files of the page."""
ASSETS = "/assets/"
REQUEST_ID = re.compile(r"[\w.-]{1,64}")
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


class Guard:
    """Wraps the application.

    Args:
        app: The application.
        metrics: Where requests are counted.
        token: What `Authorization: Bearer TOKEN` must have; None: everybody may use the server.
        origins: Origins of other sites whose pages may call the server; "*": all.
        paths: The paths that exist; all others are counted together.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, token: str | None, origins: Collection[str], paths: Collection[str]
    ):
        self.app, self.metrics, self.token, self.origins, self.paths = app, metrics, token, origins, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, start, status = Headers(scope=scope), time.perf_counter(), 500
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        fields: dict[str, object] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=fields)
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                sent = MutableHeaders(scope=message)
                sent["X-Request-ID"] = request_id
                sent["Content-Security-Policy"] = DOCS_POLICY if scope["path"].startswith("/docs") else POLICY
                for name, value in HEADERS.items():
                    sent[name] = value
            await send(message)

        refusal = self._refusal(scope, headers, request_id)
        try:
            await (refusal or self.app)(scope, receive, send_with_headers)
        except Exception:
            logger.exception("request failed", extra={"fields": {"id": request_id, "path": scope["path"]}})
            if not begun:
                message = f"the server failed on this request; its log has the reason, with the id {request_id}."
                await error_response(500, message, request_id)(scope, receive, send_with_headers)
        finally:
            path, seconds = self._path(scope["path"]), time.perf_counter() - start
            self.metrics.requests.labels(path, scope["method"], status).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if not path.startswith(ASSETS):
                log(
                    "request",
                    id=request_id,
                    method=scope["method"],
                    path=path,
                    status=status,
                    ms=round(1000 * seconds, 1),
                    **fields,
                )

    def _path(self, path: str) -> str:
        """Return a path under which requests are counted: those of clients are without limit."""
        if path.startswith(ASSETS) or path.startswith("/v1/models/"):
            return path[: path.index("/", 1) + 1] if path.startswith(ASSETS) else "/v1/models/{name}"
        return path if path in self.paths else "other"

    def _refusal(self, scope: Scope, headers: Headers, request_id: str) -> JSONResponse | None:
        path = scope["path"]
        if not self._is_allowed(headers):
            return error_response(
                403,
                "pages of other sites may not call this server; start it with --allow-origin if they should.",
                request_id,
            )
        if self.token is None or path in OPEN or path.startswith(ASSETS) or scope["method"] == "OPTIONS":
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return None
        problem = "the token is wrong" if given else "this server needs a token"
        return error_response(
            401,
            f"{problem}; send the header 'Authorization: Bearer TOKEN' with that of the server.",
            request_id,
            {"WWW-Authenticate": "Bearer"},
        )

    def _is_allowed(self, headers: Headers) -> bool:
        """Return whether a request comes from no page, from a page of this server, or from an allowed site."""
        origin = headers.get("origin")
        if origin is None or "*" in self.origins or origin in self.origins:
            return True
        return urlsplit(origin).netloc == headers.get("host", "")


def error_response(status: int, message: str, request_id: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the answer that says what is wrong, in one sentence."""
    return JSONResponse({"error": message, "request_id": request_id}, status, headers)
