"""A request for a fine-tuning job → a job: every field checked against what is there, then one row."""

from __future__ import annotations

import hashlib
import secrets
import threading
from typing import Any

from weft.errors import NotThere, SettingsError
from weft.serve import records
from weft.serve.errors import ApiError, invalid, too_many
from weft.serve.names import Answerer
from weft.serve.server import Server
from weft.serve.wire.jobs import MOST_SEED, DpoHyperparameters, Hyperparameters, JobRequest
from weft.serve.work.hyperparameters import asked

_RETRY_SECONDS = 30


class Creator:
    """Creates jobs of one server, one at a time, so that the limit of active jobs holds."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()

    def create(self, body: JobRequest, owner: str, idempotency_key: str | None) -> records.Job:
        """The new job, or the one that the same key made before. Raises ApiError, Conflict."""
        jobs = self._server.store.jobs
        digest = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
        with self._lock:
            if idempotency_key is not None:
                known = jobs.known(owner, idempotency_key, digest)
                if known is not None:
                    return known
            draft = self._draft(body, owner)
            most = self._server.config.active_jobs
            if jobs.active(owner) >= most:
                raise too_many(
                    f"You have {most} jobs that are not finished, the most that this server takes. "
                    "Wait for one to end, or cancel one.",
                    _RETRY_SECONDS,
                )
            return jobs.create(owner, draft, idempotency_key, digest)

    def _draft(self, body: JobRequest, owner: str) -> records.JobDraft:
        kind, hyperparameters = _method(body)
        _refuse_integrations(body)
        answerer = self._model(body.model, owner)
        self._file(body.training_file, "training_file", owner)
        if body.validation_file is not None:
            self._file(body.validation_file, "validation_file", owner)
            if body.validation_file == body.training_file:
                said = "The validation file is the training file: what is measured on it says nothing. Leave it out."
                raise invalid(said, "validation_file")
        seed = secrets.randbelow(MOST_SEED + 1) if body.seed is None else body.seed
        extension = dict(body.x_weft or {})
        try:
            asked(kind, hyperparameters, extension, seed)
        except SettingsError as error:
            raise invalid(str(error), "x_weft", "invalid_settings") from None
        return records.JobDraft(
            model=body.model,
            base=answerer.base,
            training_file=body.training_file,
            validation_file=body.validation_file,
            suffix=body.suffix,
            seed=seed,
            method={"type": kind, kind: {"hyperparameters": hyperparameters}},
            hyperparameters=hyperparameters,
            extension=extension,
            integrations=[] if body.integrations is not None else None,
            metadata=body.metadata,
            start_from=answerer.adapter,
        )

    def _model(self, name: str, owner: str) -> Answerer:
        try:
            return self._server.names.resolve(name, owner)
        except NotThere:
            said = f"Model {name} is not available for fine-tuning or does not exist. {self._server.names.hint(name)}"
            raise invalid(said, "model", "model_not_available") from None

    def _file(self, id: str, param: str, owner: str) -> None:
        try:
            file = self._server.store.files.get(owner, id)
        except NotThere:
            raise invalid(f"No such File object: {id}", param) from None
        if file.purpose != "fine-tune":
            raise invalid(
                f"File {id} has the purpose '{file.purpose}'; expected 'fine-tune'.", param, f"invalid_{param}"
            )
        if file.status == "error":
            raise invalid(f"File {id} cannot be used: {file.status_details}", param, f"invalid_{param}")


def _method(body: JobRequest) -> tuple[str, dict[str, Any]]:
    """The method and its hyperparameters, `auto` where nothing was said. Raises ApiError."""
    method = body.method
    kind = method.type if method is not None else "supervised"
    if kind == "reinforcement":
        raise invalid(
            "Method reinforcement is not available for fine-tuning on this server; it trains with supervised and dpo.",
            "method.type",
            "method_not_available",
        )
    for other in ("supervised", "dpo", "reinforcement"):
        if method is not None and other != kind and getattr(method, other) is not None:
            raise invalid(
                f"method.{other} does not belong to a method of type {kind}; leave it out.", f"method.{other}"
            )
    own = getattr(method, kind) if method is not None else None
    given = own.hyperparameters if own is not None else None
    if body.hyperparameters is not None:
        if kind != "supervised":
            raise invalid(f"hyperparameters belong under method.{kind} for a method of type {kind}.", "hyperparameters")
        if given is not None and given != body.hyperparameters:
            said = "hyperparameters and method.supervised.hyperparameters differ; give them once, under method."
            raise invalid(said, "hyperparameters")
        given = body.hyperparameters
    shape = DpoHyperparameters if kind == "dpo" else Hyperparameters
    values = given if given is not None else shape()
    return kind, {name: getattr(values, name) for name in shape.model_fields}


def _refuse_integrations(body: JobRequest) -> None:
    for number, integration in enumerate(body.integrations or ()):
        raise ApiError(
            400,
            f"Integration {integration.type!r}: this server makes no outgoing connection. Leave it out; the metrics "
            "are in the job's events while it runs, and in its result file step_metrics.csv.",
            param=f"integrations[{number}]",
            code="integration_not_available",
        )
