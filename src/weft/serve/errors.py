"""Every failure as the API's error envelope: one exception to raise, one place that translates weft's own.

`{"error": {"message", "type", "param", "code"}}` with all four keys, whatever went wrong. Routes raise `ApiError`, or
let weft's errors through: `translate` knows each of them. Unexpected ones become a 500 that tells nothing but its id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from weft import errors as weft_errors
from weft.generate.requests import Full

INVALID = "invalid_request_error"
ENDED = {"x-should-retry": "false"}
"""A header that keeps the SDK from sending the same refusal again."""

_SECRET = re.compile(r"\b(weft-sk-|sk-|hf_|whsec_)[A-Za-z0-9_\-]{6,}")
_KINDS = {"file": "File", "upload": "Upload", "part": "UploadPart"}


class ApiError(HTTPException):
    """An answer other than success: HTTP status, the four fields of the envelope, further headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message, self.param, self.code = message, param, code
        self.type = type or ("server_error" if status >= 500 else INVALID)

    def envelope(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`: the body of an answer, or a data line of a stream."""
        error = {"message": masked(self.message), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def masked(text: str) -> str:
    """`text` with everything that looks like a secret key as `weft-sk-***`."""
    return _SECRET.sub(r"\1***", text)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: a bad field, file or value."""
    return ApiError(400, message, param=param, code=code)


def body_too_large(message: str) -> ApiError:
    """413, and the connection is closed, since the rest of the body is not read."""
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def too_many(message: str, retry_after: float) -> ApiError:
    """429 with `Retry-After` in whole seconds, at least one."""
    seconds = str(max(1, math.ceil(retry_after)))
    return ApiError(429, message, type="requests", code="rate_limit_exceeded", headers={"retry-after": seconds})


def unavailable(message: str, code: str, retry_after: float = 5) -> ApiError:
    """503 with `Retry-After`: loading, draining, or an engine that is dead."""
    return ApiError(503, message, code=code, headers={"retry-after": str(max(1, math.ceil(retry_after)))})


def not_there(kind: str, id: str) -> ApiError:
    """404 for an id that is unknown or of another owner, in the words that clients match on."""
    if kind == "job":
        return ApiError(404, f"Could not find fine tune: {id}", param="fine_tune_id", code="fine_tune_not_found")
    if kind == "model":
        said = f"The model `{id}` does not exist or you do not have access to it."
        return ApiError(404, said, param="model", code="model_not_found")
    return ApiError(404, f"No such {_KINDS.get(kind, kind)} object: {id}", param="id")


def translate(error: Exception) -> ApiError | None:
    """The answer for one of weft's errors; None for what nobody foresaw."""
    match error:
        case ApiError():
            return error
        case weft_errors.NotThere():
            return not_there(error.kind, error.id)
        case weft_errors.TooLarge():
            return ApiError(413, str(error), code="request_too_large")
        case weft_errors.Conflict():
            return ApiError(409, str(error), code="conflict", headers=ENDED)
        case weft_errors.WrongState():
            return ApiError(400, str(error), code="wrong_state", headers=ENDED)
        case Full():
            return too_many(str(error), error.retry_after)
        case weft_errors.DataError() | weft_errors.UsageError():
            return invalid(str(error))
        case weft_errors.Unreachable():
            return unavailable("The server's database does not answer; ask again later.", "database_unavailable")
        case weft_errors.ResourceError():
            # Paths and sizes are for the operator's log, not for the caller.
            return ApiError(507, "The server has no room for this now; its operator finds the reason in the log.")
        case _:
            return None
