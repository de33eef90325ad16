"""The figures of the service in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from faststyle.extras import require

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32)
PATHS = ("/", "/stylize", "/styles", "/healthz", "/metrics", "/openapi.json")
OTHER = "other"  # paths that are not served: names that strangers make up must not fill memory


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._prometheus = require("prometheus_client", extra="serve")
        self.registry = self._prometheus.CollectorRegistry()
        self._prometheus.ProcessCollector(registry=self.registry)  # memory, CPU time, open files
        self._requests = self._prometheus.Counter(
            "faststyle_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self._seconds = self._prometheus.Histogram(
            "faststyle_request_seconds",
            "Time from the header of a request to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batches = self._prometheus.Histogram(
            "faststyle_batch_size",
            "Photos in one run of a network",
            buckets=BATCHES,
            registry=self.registry,
        )

    def request_done(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = path if path in PATHS else OTHER
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def batch_done(self, size: int) -> None:
        """Count a run of a network."""
        self._batches.observe(size)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a value that is looked up each time: a queue, a cache."""
        gauge = self._prometheus.Gauge(name, about, registry=self.registry)
        gauge.set_function(value)

    def text(self) -> tuple[bytes, str]:
        """Return all figures, and their media type."""
        text: bytes = self._prometheus.generate_latest(self.registry)
        return text, str(self._prometheus.CONTENT_TYPE_LATEST)
