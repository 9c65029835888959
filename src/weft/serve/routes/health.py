"""Is the process alive, can it answer, and how is it doing."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from weft.serve.errors import unavailable
from weft.serve.server import Server
from weft.serve.wire.error import ErrorEnvelope, answers


class Health(BaseModel):
    """That the process is there, and nothing more."""

    status: Literal["ok"] = "ok"


def router(server: Server) -> APIRouter:
    """/health, /ready and /metrics."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/health")
    def health() -> Health:
        """Whether the process is alive."""
        return Health()

    @routes.get("/ready", responses={503: {"model": ErrorEnvelope}})
    def ready() -> Health:
        """Whether requests can be answered now; 503 while loading or stopping, or while engine or database are dead."""
        if server.draining.is_set():
            raise unavailable("The server is stopping.", "draining")
        trouble = server.engines.trouble()
        if trouble is not None:
            raise unavailable(trouble.said, trouble.code, 1)
        server.store.ask()
        return Health()

    @routes.get(
        "/metrics", responses=answers() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )  # fmt: skip
    def metrics() -> Response:
        """Counters in Prometheus' text format."""
        measures = server.measures
        measures.jobs.clear()
        for status, number in server.store.jobs.counts().items():
            measures.jobs.labels(status).set(number)
        measures.engine.clear()
        for base, engine in server.engines.running().items():
            counts = engine.counts()
            for what in ("running", "waiting", "cached_tokens", "adapters", "generated", "read", "reused"):
                measures.engine.labels(server.names.shown(base), what).set(getattr(counts, what))
        return Response(measures.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
