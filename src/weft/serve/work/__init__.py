"""The workers of `weft serve`: a supervisor inside the server, and processes that validate and train.

    server ── supervisor ── nursery (imported once, forks) ── worker of one attempt ── its crew
                  └───────── channel: one JSON object per line ──────┘

A worker has no database, no secret and no path but those it was told; it says what it did, the supervisor decides what
that means.
"""
