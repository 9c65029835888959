"""What the page shows, in words: the newest jobs, the models, the program for a first job.

The script writes the same sentences when a job changes; a test in a browser holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from weft.errors import NotThere
from weft.serve.records import LOCAL, Job
from weft.serve.server import Server

JOBS = 20
"""How many of the newest jobs are shown."""
_NEAR = 20
"""Events among which the latest metrics are looked for."""
STATES = {
    "validating_files": "checking files",
    "queued": "waiting",
    "running": "training",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""Each status in a word."""
_BLANK = {"id": "", "status": "", "title": "", "state": "", "base": "", "note": "", "step": None, "facts": ()}
_CHECKPOINT = ":ckpt-step-"


def page(server: Server, address: str, *, keyless: bool) -> dict[str, Any]:
    """The template's variables; `address` is the API's URL as the reader calls this server.

    Without `keyless` nothing of any owner is in it: not even how many jobs there are.
    """
    shown = _jobs(server) if keyless else {"jobs": [], "more": False}
    statuses = [job["status"] for job in shown["jobs"]]
    models = _models(server) if keyless else []
    tuned = next((model["id"] for model in models if model["kind"] == "tuned"), "")
    return {
        **shown,
        "keyless": keyless,
        "headline": headline(statuses) if keyless else "This server asks for a key.",
        "opened": next((job["id"] for job in shown["jobs"] if job["status"] == "running"), None),
        "blank": _BLANK,
        "models": models,
        "chosen": (models[0]["id"] if models else "", tuned),
        "address": address,
        "base": next(iter(server.names.bases()), "") if keyless else "MODEL",
        "secret": "any" if keyless else "KEY",
        "at": datetime.fromtimestamp(server.clock(), UTC),
        "last": JOBS,
    }


def headline(statuses: Iterable[str]) -> str:
    """`1 job is training, 2 wait.`"""
    statuses = list(statuses)
    running = statuses.count("running")
    waiting = statuses.count("queued") + statuses.count("validating_files")
    said = f"{running} job{' is' if running == 1 else 's are'} training" if running else "Nothing is training"
    return f"{said}, {waiting} wait{'s' if waiting == 1 else ''}." if waiting else f"{said}."


def shown(job: Job, base: str, latest: Mapping[str, Any] | None, file: str) -> dict[str, Any]:
    """One job in words. `latest`: data of its last metrics event; `file`: what its training file is called."""
    step = (latest["step"], latest["total_steps"]) if latest and job.status in ("running", "paused") else None
    return {
        "id": job.id,
        "status": job.status,
        "title": job.suffix or job.id,
        "state": STATES[job.status],
        "base": base if job.model == base else f"{job.model} = {base}",
        "note": _note(job, latest),
        "step": step,
        "facts": _facts(job, file),
    }


def _note(job: Job, latest: Mapping[str, Any] | None) -> str:
    """How it stands and what can be done, in a sentence."""
    at = f"step {latest['step']} of {latest['total_steps']}" if latest else ""
    match job.status:
        case "validating_files":
            return "Its files are being checked."
        case "queued":
            return "It waits for a free slot."
        case "running":
            loss = latest.get("train_loss") if latest else None
            told = at.capitalize() + (f", training loss {loss:.3f}" if isinstance(loss, int | float) else "")
            return f"{told}." if at else "Training begins."
        case "paused":
            return f"Paused{f' at {at}' if at else ''}. client.fine_tuning.jobs.resume(…) lets it go on."
        case "succeeded":
            return f"It answers as {job.fine_tuned_model}"
        case "failed":
            return str((job.error or {}).get("message", "No reason was given."))
        case _:
            return "Cancelled; nothing was kept but its log."


def _facts(job: Job, file: str) -> list[tuple[str, Any]]:
    """(name, text or time) of what else is known of it."""
    numbers = job.hyperparameters
    names = (("n_epochs", "Epochs"), ("batch_size", "Batch size"), ("learning_rate_multiplier", "Learning rate ×"))  # noqa: RUF001
    facts: list[tuple[str, Any]] = [
        ("Job", job.id),
        ("Method", str(job.method["type"])),
        ("Training file", file),
        *((said, str(numbers[name])) for name, said in names if numbers.get(name) is not None),
        ("Seed", str(job.seed)),
        ("Created", _moment(job.created_at)),
    ]
    if job.trained_tokens is not None:
        facts.append(("Tokens trained on", f"{job.trained_tokens:,}"))
    if job.finished_at is not None:
        facts.append(("Finished", _moment(job.finished_at)))
    return facts + [(name, value) for name, value in (job.metadata or {}).items()]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _jobs(server: Server) -> dict[str, Any]:
    jobs = server.store.jobs
    found = jobs.list(LOCAL, limit=JOBS)
    return {"jobs": [_job(server, job) for job in found.items], "more": found.has_more}


def _job(server: Server, job: Job) -> dict[str, Any]:
    latest = None
    if job.status in ("running", "paused"):
        near = server.store.jobs.events(LOCAL, job.id, limit=_NEAR).items
        latest = next((event.data for event in near if event.type == "metrics"), None)
    try:
        file = server.store.files.get(LOCAL, job.training_file).filename
    except NotThere:
        file = job.training_file
    return shown(job, server.names.shown(job.base), latest, file)


def _models(server: Server) -> list[dict[str, Any]]:
    """Bases and aliases, then tuned models, newest first, then their checkpoints."""
    names = server.names
    bases = [{"id": name, "base": names.shown(behind), "made": None} for name, behind in names.bases().items()]
    tuned = [
        {"id": model.id, "base": names.shown(model.base), "made": _moment(model.created_at)}
        for model in sorted(server.store.models.list(LOCAL), key=lambda model: -model.created_at)
    ]
    models = [model | {"kind": kind(model["id"])} for model in bases + tuned]
    return sorted(models, key=lambda model: ("base", "tuned", "checkpoint").index(model["kind"]))


def kind(model: str) -> str:
    """`base`, `tuned` or `checkpoint`, from a model's name."""
    if not model.startswith("ft:"):
        return "base"
    return "checkpoint" if _CHECKPOINT in model else "tuned"
