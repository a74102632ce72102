"""What the server takes from its clients at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on memory and time; together they bound what any number of clients can cost."""

    queue: int = 32
    """Photos that wait for the network; further requests are answered with 429."""
    batch: int = 4
    """Photos of like size that go through the network together."""
    body: int = 32 * 2**20
    """Bytes of the body of a request."""
    held: int = 512 * 2**20
    """Bytes of all bodies and answers, from the time when they are expected until they are sent; further requests are
    answered with 429."""
    pixels: int = 50_000_000
    """Pixels of a photo, and of a batch."""
    in_memory: int = 60_000_000
    """Pixels of all photos that are decoded, in the network, or being encoded; the others wait as files. One photo may
    always be."""
    upload_seconds: float = 60.0
    """Seconds in which the body of a request must arrive."""
    seconds: float = 60.0
    """Seconds from the end of the upload to the answer."""
    download_seconds: float = 60.0
    """Seconds in which the client must have received the answer."""
