"""The error envelope as a shape, for the OpenAPI document; `serve/errors.py` makes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorFields(BaseModel):
    """What went wrong: all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """Every answer that is no success."""

    error: ErrorFields


_SAID = {
    400: "A field, file or value is wrong, or the object is in a state that does not allow this.",
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key lacks the scope, or Host or Origin is not allowed here.",
    404: "Unknown id, or one of another owner.",
    408: "The request came too slowly.",
    409: "The Idempotency-Key was used with another body.",
    413: "Too large.",
    429: "Too many; `Retry-After` says when to ask again.",
    500: "The server failed; the log has the request's id.",
    503: "Loading, stopping, or an engine or database that is dead; `Retry-After` says when to ask again.",
    507: "No room on the server's disk.",
}


def answers(*more: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: what any route may answer, and `more` of its own (404, 409, 413, 507)."""
    return {
        status: {"model": ErrorEnvelope, "description": _SAID[status]}
        for status in sorted({400, 401, 403, 408, 413, 429, 500, 503, *more})
    }
