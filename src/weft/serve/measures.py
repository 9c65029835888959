"""What `/metrics` tells, through prometheus-client, in a registry of this server's own.

Labels are few and bounded: method, route (the template, never an id), status. No owner, no text of a request.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)


class Measures:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "weft_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "weft_request_seconds",
            "From a request's head to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.open = Gauge("weft_requests_open", "Requests that are being answered.", registry=self.registry)
        self.refused = Counter(
            "weft_requests_refused", "Requests refused before their route.", ("reason",), registry=self.registry
        )
        self.jobs = Gauge("weft_jobs", "Jobs by status.", ("status",), registry=self.registry)
        self.engine = Gauge("weft_engine", "How each base's engine stands.", ("base", "what"), registry=self.registry)

    def text(self) -> bytes:
        """The exposition format (text, version 0.0.4)."""
        return generate_latest(self.registry)
