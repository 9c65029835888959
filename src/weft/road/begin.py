"""How a run begins: which method, which settings, which folder. The same for every way of tuning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

from weft import __version__
from weft.errors import DamageError, UsageError
from weft.models.load import Base, load, locate
from weft.models.quant import refuse_full
from weft.road.settings import BaseConfig, MethodConfig
from weft.runs import SETTINGS, Run
from weft.settings import Resolved, resolve
from weft.train import processes
from weft.train.sharded import shared_run
from weft.train.too_big import refuse_too_big

RUNS = Path("runs")
C = TypeVar("C", bound=BaseConfig)


@dataclass(frozen=True)
class Told(Generic[C]):
    """What a command was told, or the run that it names was: settings, the file of examples, the run's folder."""

    settings: Resolved[C]
    data: str
    out: str | None


def method_of(data: str, file: str | None, flags: Mapping[str, Any]) -> str:
    """The method of the run that `data` is the folder of, else the one that flags, environment or file ask for."""
    if (Path(data) / SETTINGS).is_file():
        run = Run.open(Path(data))
        try:
            return str(run.settings["run"]["method"]["value"])
        except (KeyError, TypeError) as error:
            raise _not_ours(run, error) from None
    return resolve(MethodConfig, flags, file=Path(file) if file else None).config.method


def told(
    kind: type[C],
    data: str,
    out: str | None,
    file: str | None,
    flags: Mapping[str, Any],
    *,
    documents: bool = False,
) -> Told[C]:
    """Settings of `kind` and the file they are for; `data` may be the folder of a run that is to go on.

    With `documents` the data are texts, which may lie in a folder, rather than examples.
    Raises UsageError where file or folder do not fit, SettingsError for wrong settings.
    """
    given = Path(data)
    if (given / SETTINGS).is_file():
        if file or (out and Path(out).resolve() != given.resolve()):
            raise UsageError(f"{data}: a run keeps its settings and its folder. Leave out --config and --out.")
        settings, data = _settings_of(Run.open(given), kind, flags)
        out = str(given)
    else:
        settings = resolve(kind, flags, file=Path(file) if file else None)
    if not Path(data).is_file() and not (documents and Path(data).is_dir()):
        raise UsageError(_not_a_file(data, documents))
    return Told(settings, data, out)


def load_base(told: Told[Any]) -> Base:
    """The base that the settings name, in 4 bits where they say so (with --full a UsageError).

    Raises ResourceError, before any weights load, where training it is known not to fit.
    """
    config = told.settings.config
    refuse_too_big(config.base, locate(config.base), config, Path(told.out or RUNS), config.quantize)
    base = load(config.base, quantize=config.quantize)
    if config.full:
        refuse_full(base.model)
    return base


def open_run(told: Told[Any], base: Base, data_sha256: str, route: str, **also: str) -> Run:
    """The run of these settings, data and base: a new folder, or the unfinished one that lies there.

    `also`: fingerprints of what else it learns from.
    """
    record = {
        "data": str(Path(told.data).resolve()),
        "data_sha256": data_sha256,
        **also,
        "base_sha256": base.fingerprint,
        "arithmetic": route,
        **({"processes": processes.count()} if processes.count() > 1 else {}),
        "versions": {
            "weft": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "run": told.settings.to_json(),
    }
    folder = Path(told.out) if told.out else RUNS / f"{Path(told.data).absolute().stem}-{_short_hash(record)}"
    return shared_run(lambda: Run.create(folder, record))


def _settings_of(run: Run, kind: type[C], flags: Mapping[str, Any]) -> tuple[Resolved[C], str]:
    """What an existing run was told; flags may repeat it but not change it (`Run.create` compares)."""
    record = run.settings
    given = {key: value for key, value in flags.items() if value is not None}
    resolve(kind, given, environment={})  # a wrong flag is the user's fault, not the folder's
    try:
        kept = {key: entry["value"] for key, entry in record["run"].items()}
        origins = {key: entry["origin"] for key, entry in record["run"].items()}
        return Resolved(kind.model_validate({**kept, **given}), origins), str(record["data"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _not_ours(run, error) from None


def _not_ours(run: Run, error: Exception) -> DamageError:
    return DamageError(
        f"{run.path(SETTINGS)}: not the settings of a run of this weft ({str(error).splitlines()[0]}). "
        "Start a new run with the file of examples."
    )


def _short_hash(record: Mapping[str, Any]) -> str:
    values = {**record, "run": {key: entry["value"] for key, entry in record["run"].items()}}
    del values["data"]  # the same bytes elsewhere are the same run
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _not_a_file(data: str, documents: bool) -> str:
    path = Path(data)
    if path.is_dir():
        return (
            f"{data}: a folder, and not a run folder (no {SETTINGS} in it). Name a file of examples; "
            "documents in a folder are learned with: weft train FOLDER --method pretrain"
        )
    if path.exists():
        return f"{data}: not a regular file. Save the examples in a file first."
    wanted = (
        "a .txt, .md, .rst or JSONL file of documents, a folder of them,"
        if documents
        else ("a JSONL, JSON or CSV file of examples,")
    )
    return f"{data}: no such file. Name {wanted} or the folder of a run."
