"""What the server answers when it does not parse a photo."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is not accepted: the HTTP status, and one sentence that says what is wrong and what to do."""

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message = status, message
        self.retry_after = retry_after
        """Seconds after which the client should try again."""
