"""`Prefer: declared-values`: a client whose types are closed asks for nothing that the API's own types lack.

The hosted API answers three values that its specification does not declare, and so does weft: `paused` of a job, null
as the reason why a choice that still goes on has ended, null as the log-probability of a token that nothing stands
before. Clients made from the specification, and the SDK's strict mode, break at them. One that sends this preference
(RFC 7240) hears the nearest declared value instead; all others hear what the hosted API says.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Response

PREFERENCE = "declared-values"
_Prefer = Annotated[
    str | None, Header(max_length=1000, description=f"`{PREFERENCE}`: only values that the API's own types declare.")
]


def preferred(response: Response, prefer: _Prefer = None) -> bool:
    """Whether the request asks for declared values alone; then the answer's head says that this was heard."""
    given = {re.split("[;=]", part)[0].strip().lower() for part in (prefer or "").split(",")}
    if PREFERENCE in given:
        applied(response)
    return PREFERENCE in given


Declared = Annotated[bool, Depends(preferred)]
"""`def route(declared: Declared)`: what routes take whose answers hold such a value."""


def applied(response: Response) -> None:
    """Say so in an answer that the route makes itself."""
    response.headers["preference-applied"] = PREFERENCE
