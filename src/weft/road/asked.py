"""What a command was asked for: which method, which settings, which file. No heavy library is needed to refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from weft.data.read import require_readable
from weft.errors import DamageError, UsageError
from weft.models.load import here
from weft.road.settings import BaseConfig, DocumentsConfig, MethodConfig, PairsConfig, RoadConfig
from weft.runs import SETTINGS, Run
from weft.settings import Resolved, resolve
from weft.train.too_big import refuse_too_big

C = TypeVar("C", bound=BaseConfig)
RUNS = Path("runs")
"""Where runs lie that were given no name."""


@dataclass(frozen=True)
class Told(Generic[C]):
    """What a command was told, or the run that it names was: settings, the file of examples, the run's folder."""

    settings: Resolved[C]
    data: str
    out: str | None
    resume: bool = False
    """Whether to go on with a run that has begun, and never to begin one."""


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
    resume: bool = False,
) -> Told[C]:
    """Settings of `kind` and the file they are for; `data` may be the folder of a run that is to go on.

    With `documents` the data are texts, which may lie in a folder, rather than examples.
    Raises UsageError where file or folder do not fit or there is nothing to `resume`, SettingsError for wrong settings.
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
    if resume and out:
        require_begun(Path(out))
    return Told(settings, data, out, resume)


def training_asked(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], *, resume: bool = False
) -> Told[Any]:
    """What a training by whichever method was told; see `told` and `examples_asked`."""
    kinds: dict[str, type[BaseConfig]] = {"dpo": PairsConfig, "pretrain": DocumentsConfig}
    if (kind := kinds.get(method_of(data, file, flags))) is None:
        return examples_asked(data, out, file, flags, resume=resume)
    return told(kind, data, out, file, flags, documents=kind is DocumentsConfig, resume=resume)


def examples_asked(
    data: str, out: str | None, file: str | None, flags: Mapping[str, Any], *, resume: bool = False
) -> Told[RoadConfig]:
    """What a run on examples was told; see `told`.

    Raises UsageError for another method than `sft`, and what reading the file would raise where no row of it can be.
    """
    if (method := method_of(data, file, flags)) != "sft":
        learned = {"dpo": "pairs", "pretrain": "documents"}[method]
        raise UsageError(
            f"{data}: --method {method} learns from {learned}, which have no one ideal answer to measure the arms by. "
            f"Train with: weft train {data} --method {method}, then talk to the run with: weft chat RUN"
        )
    wanted = told(RoadConfig, data, out, file, flags, resume=resume)
    require_readable(wanted.data, input=wanted.settings.config.input, output=wanted.settings.config.output)
    return wanted


def require_room(wanted: Told[Any]) -> None:
    """Raise ResourceError where the training is known not to fit on this machine; ModelError for a base that is none.

    A base that has yet to be fetched is not judged.
    """
    config = wanted.settings.config
    if (folder := here(config.base)) is not None:
        refuse_too_big(config.base, folder, config, Path(wanted.out or RUNS), config.quantize)


def require_begun(folder: Path) -> None:
    """Raise UsageError where `folder` is no run that could go on."""
    if not (folder / SETTINGS).is_file():
        raise UsageError(
            f"{folder}: --resume found no run here to go on with. Leave --resume out to begin one. "
            "A run with other settings or data goes on when its folder is named in the place of the data."
        )


def _settings_of(run: Run, kind: type[C], flags: Mapping[str, Any]) -> tuple[Resolved[C], str]:
    """What an existing run was told; flags may repeat it but not change it (`Run.create` compares)."""
    record = run.settings
    given = {key: value for key, value in flags.items() if value is not None}
    resolve(kind, given, environment={})  # a wrong flag is the user's fault, not the folder's
    try:
        kept = {key: entry["value"] for key, entry in record["run"].items()}
        origins = {key: entry["origin"] for key, entry in record["run"].items()}
        if unknown := [key for key in kind.model_fields if key not in kept]:
            raise ValueError(f"no {', '.join(unknown)}, which a weft before this one had not")
        return Resolved(kind.model_validate({**kept, **given}), origins), str(record["data"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _not_ours(run, error) from None


def _not_ours(run: Run, error: Exception) -> DamageError:
    return DamageError(
        f"{run.path(SETTINGS)}: not the settings of a run of this weft ({str(error).splitlines()[0]}). "
        "Start a new run with the file of examples."
    )


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
