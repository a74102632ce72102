"""HTTP/1.1 with patience that ends: uvicorn waits without limit for slow clients, in both directions."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 1000
"""Connections; further ones are closed at once."""
HEAD_SECONDS = 20.0
"""Seconds in which the head of a request must arrive."""
KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open. Proxies close theirs earlier, so they never use one that is gone."""
MOST_HEAD = 2**16
"""Bytes of the head of a request."""


def impatient(request_seconds: float, head_seconds: float = HEAD_SECONDS) -> type[H11Protocol]:
    """Return a protocol for uvicorn that ends the connections of clients that are too slow.

    Args:
        request_seconds: Seconds from the head of a request to the end of its answer.
        head_seconds: Seconds in which the head of a request must arrive.
    """

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect(head_seconds)
            if len(self.connections) > MOST_CONNECTIONS:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect(None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._deadline is None:  # the connection was idle
                self._expect(head_seconds)
            super().data_received(data)

        def handle_events(self) -> None:
            before: Any = self.cycle
            super().handle_events()
            if self.cycle is not before:
                self._expect(request_seconds)

        def on_response_complete(self) -> None:
            self._expect(None)  # uvicorn closes idle connections
            super().on_response_complete()
            if self._deadline is None and self.conn.trailing_data[0]:  # the beginning of the next head
                self._expect(head_seconds)

        def _expect(self, seconds: float | None) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    return Protocol
