"""What the server tells its operator: Prometheus metrics, and one line of log per request, without photo content."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as generate_latest

from upernet.errors import printable
from upernet.version import __version__

LogForm = Literal["text", "json"]
SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 60)
BATCHES = (1, 2, 3, 4, 6, 8, 16, 32)

logger = logging.getLogger("upernet.serving")


class Metrics:
    """The metrics of one server, which `GET /metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "upernet_requests", "Answered requests.", ("path", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "upernet_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.photos = Counter("upernet_photos", "Parsed photos.", ("model",), registry=self.registry)
        self.pixels = Counter("upernet_pixels", "Pixels of the parsed photos.", ("model",), registry=self.registry)
        self.batch = Histogram(
            "upernet_batch_photos", "Photos per pass through a network.", buckets=BATCHES, registry=self.registry
        )
        self.network = Histogram(
            "upernet_network_seconds", "Seconds per pass, with label maps.", buckets=SECONDS, registry=self.registry
        )
        self.waiting = Gauge("upernet_waiting_photos", "Photos that wait for a network.", registry=self.registry)
        self.in_memory = Gauge(
            "upernet_in_memory_pixels",
            "Pixels of the photos that are decoded, in a network, or being encoded.",
            registry=self.registry,
        )
        self.held = Gauge(
            "upernet_held_bytes",
            "Bytes of the bodies and answers that wait or are transferred.",
            registry=self.registry,
        )
        version = Gauge("upernet_version_info", "1, with the version.", ("version",), registry=self.registry)
        version.labels(__version__).set(1)

    def on_batch(self, model: str, pixels: Sequence[int], seconds: float) -> None:
        """Count one pass through a network, with the number of pixels of each photo."""
        self.photos.labels(model).inc(len(pixels))
        self.pixels.labels(model).inc(sum(pixels))
        self.batch.observe(len(pixels))
        self.network.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Formatter(logging.Formatter):
    def __init__(self, form: LogForm):
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        error = self.formatException(record.exc_info) if record.exc_info else None
        if self.form == "json":
            known = {"time": now, "level": record.levelname.lower(), "message": record.getMessage(), **fields}
            return json.dumps(known if error is None else known | {"traceback": error}, ensure_ascii=False)
        listed = " ".join(f"{name}={printable(value)}" for name, value in fields.items())
        line = f"{now[11:19]} {record.getMessage()}" + (f"  {listed}" if listed else "")
        return line if error is None else f"{line}\n{error}"


def set_up_logging(form: LogForm) -> None:
    """Send the log of the server, and the warnings of uvicorn, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(form))
    for name, level in (("upernet.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)


def log(message: str, **fields: Any) -> None:
    """Write a line with fields to the log."""
    logger.info(message, extra={"fields": {name: value for name, value in fields.items() if value is not None}})
