"""Fine-tuning jobs: create, list, retrieve, cancel, pause, resume, events (paged or live), checkpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from weft.errors import WrongState
from weft.serve import records
from weft.serve.access import Asker
from weft.serve.creating import Creator
from weft.serve.errors import ENDED, ApiError
from weft.serve.events import events as live_events
from weft.serve.server import Server
from weft.serve.wire.body import warn
from weft.serve.wire.declared import Declared
from weft.serve.wire.error import answers
from weft.serve.wire.jobs import CheckpointObject, EventObject, JobObject, JobRequest
from weft.serve.wire.lists import MOST, After, Bounded, Listed, first, last, metadata_query

_LOOK_EVERY = 0.25
"""Seconds between looks for new events of a job that is being followed."""
RELEASE_SECONDS = 5.0
"""How long the answer to a cancel or a pause waits for the worker to let the job go."""
_RELEASE_LOOKS = 0.1
JobId = Annotated[str, Path(max_length=256, pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Query(ge=1, le=MOST)]
IdempotencyKey = Annotated[str | None, Header(max_length=255, description="The same key and body make one job.")]
_METADATA = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "description": "metadata[key]=value for jobs that have it; metadata=null for jobs without any.",
            "style": "deepObject",
            "schema": {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            },
        }
    ]
}


def router(server: Server) -> APIRouter:
    """The routes under /v1/fine_tuning/jobs."""
    routes = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
    jobs = server.store.jobs
    creator = Creator(server)

    def shown(job: records.Job, declared: bool) -> JobObject:
        return JobObject.of(job, server.config.organization, server.names.shown(job.base), declared)

    @routes.post("", responses=answers(409))
    def create(
        body: JobRequest, response: Response, asker: Asker, declared: Declared, idempotency_key: IdempotencyKey = None
    ) -> JobObject:
        """Create a job; it waits for its files to be validated, then for a free slot."""
        warn(response, *body.warnings())
        return shown(creator.create(body, asker.owner, idempotency_key), declared)

    @routes.get("", responses=answers(404), openapi_extra=_METADATA)
    def listed(
        request: Request, asker: Asker, declared: Declared, after: After = None, limit: Limit = 20
    ) -> Listed[JobObject]:
        """The caller's jobs, newest first."""
        metadata, without = metadata_query(request)
        page = jobs.list(asker.owner, after=after, limit=limit, metadata=metadata, without_metadata=without)
        return Listed[JobObject](data=[shown(job, declared) for job in page.items], has_more=page.has_more)

    @routes.get("/{job_id}", responses=answers(404))
    def retrieve(job_id: JobId, asker: Asker, declared: Declared) -> JobObject:
        """One job."""
        return shown(jobs.get(asker.owner, job_id), declared)

    @routes.post("/{job_id}/cancel", responses=answers(404))
    async def cancel(job_id: JobId, asker: Asker, declared: Declared) -> JobObject:
        """Cancel a job for good."""
        try:
            return shown(await _wished(server, asker.owner, job_id, "cancel"), declared)
        except WrongState as error:
            raise _not_now(error, "job_not_cancellable") from None

    @routes.post("/{job_id}/pause", responses=answers(404))
    async def pause(job_id: JobId, asker: Asker, declared: Declared) -> JobObject:
        """Save a job and let its slot go."""
        try:
            return shown(await _wished(server, asker.owner, job_id, "pause"), declared)
        except WrongState as error:
            raise _not_now(error, "job_not_pausable") from None

    @routes.post("/{job_id}/resume", responses=answers(404))
    def resume(job_id: JobId, asker: Asker, declared: Declared) -> JobObject:
        """Queue a paused job again; it goes on from what was saved. One that is about to pause goes on."""
        try:
            return shown(jobs.resume(asker.owner, job_id), declared)
        except WrongState as error:
            raise _not_now(error, "job_not_resumable") from None

    live = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}

    @routes.get("/{job_id}/events", response_model=Listed[EventObject], responses=answers(404) | live)
    async def events(job_id: JobId, asker: Asker, after: After = None, limit: Limit = 20, stream: bool = False) -> Any:
        """The job's log, newest first; with `stream` oldest first and live from `after` on, until the job is final."""
        if stream:
            await run_in_threadpool(jobs.get, asker.owner, job_id)
            told = await run_in_threadpool(jobs.event_number, asker.owner, job_id, after) if after else 0
            return live_events(server, _live(server, asker.owner, job_id, told))

        page = await run_in_threadpool(lambda: jobs.events(asker.owner, job_id, after=after, limit=limit))
        return Listed[EventObject](data=[EventObject.of(event) for event in page.items], has_more=page.has_more)

    @routes.get("/{job_id}/checkpoints", responses=answers(404))
    def checkpoints(job_id: JobId, asker: Asker, after: After = None, limit: Limit = 10) -> Bounded[CheckpointObject]:
        """The job's checkpoints, newest first."""
        page = jobs.checkpoints(asker.owner, job_id, after=after, limit=limit)
        data = [CheckpointObject.of(checkpoint) for checkpoint in page.items]
        return Bounded[CheckpointObject](data=data, has_more=page.has_more, first_id=first(data), last_id=last(data))

    return routes


async def _wished(server: Server, owner: str, job_id: str, wish: records.Wish) -> records.Job:
    """The job once its worker has let it go as it was wished; after RELEASE_SECONDS as it is.

    Raises NotThere, WrongState.
    """
    until = time.monotonic() + RELEASE_SECONDS
    job = await run_in_threadpool(server.store.jobs.wish, owner, job_id, wish)
    while job.wish is not None and time.monotonic() < until:
        await asyncio.sleep(_RELEASE_LOOKS)
        job = await run_in_threadpool(server.store.jobs.get, owner, job_id)
    return job


async def _live(server: Server, owner: str, job_id: str, number: int) -> AsyncGenerator[str]:
    """Every event of the job after the one of this number, each once, then `[DONE]`, once it is final.

    A server that stops ends the stream without it.
    """
    while True:
        # The state first: an event that comes between the two looks is then seen by the next round.
        final = (await run_in_threadpool(server.store.jobs.get, owner, job_id)).status in records.FINAL
        new = await run_in_threadpool(server.store.jobs.events_since, owner, job_id, number)
        for event in new:
            number = event.number
            yield EventObject.of(event).model_dump_json()
        if not new:
            if final:
                yield "[DONE]"
            if final or server.draining.is_set():
                return
            await asyncio.sleep(_LOOK_EVERY)


def _not_now(error: WrongState, code: str) -> ApiError:
    return ApiError(400, str(error), code=code, headers=ENDED)
