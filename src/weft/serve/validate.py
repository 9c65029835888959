"""Whether a file may be trained on: the API's rules, through the very code behind `weft check`.

`by_content` is the cheap look at a file's beginning when it arrives; `examine` reads all of it, in a worker, before the
job leaves `validating_files`. Whatever `weft check` calls an error is a reason to refuse here, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from weft.data.check import check, overlap
from weft.data.check.amount import ADVISED, LEAST
from weft.data.formats import sniff, strict_json
from weft.data.formats.layouts import NO_LAYOUT_CURE
from weft.data.formats.preferences import NO_PAIR_CURE
from weft.data.read import scan
from weft.data.read_preferences import read_preferences
from weft.errors import DataError, UsageError
from weft.records import Conversation, Dataset, Finding

if TYPE_CHECKING:
    from weft.models.chat import Chat

Method = Literal["supervised", "dpo"]
Param = Literal["training_file", "validation_file"]
HEAD_BYTES = sniff.HEAD_BYTES
"""How much of a file's beginning `by_content` wants to see."""
_SHOWN = 5
_INVALID_FILE = {"training_file": "invalid_training_file", "validation_file": "invalid_validation_file"}
_TOO_FEW = "invalid_n_examples"
_CURES = {
    NO_PAIR_CURE: "The method `dpo` needs rows of `input`, `preferred_output` and `non_preferred_output`; single "
    "answers are learned by the method `supervised`.",
    NO_LAYOUT_CURE: "Write each row as an object with chat `messages`.",
}
"""For what the command line would do here, what the API would."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file cannot be used, in the API's three words."""

    code: str
    param: str
    message: str


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found: `problems` refuse the file, `remarks` are worth an event, `examples` are what can be learned."""

    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]
    examples: tuple[Conversation, ...] = ()


def by_content(head: bytes) -> str | None:
    """Why a file that begins with `head` (its first HEAD_BYTES) cannot be JSONL, `RULE: sentence`; None if it may."""
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        return "empty-file: the file is empty; expected one JSON object per line"
    try:
        kind = sniff.kind_of(head, "file")
    except DataError as error:
        return f"not-text: {error}"
    if kind == "array":
        return "json-array: the file is one JSON array; expected JSONL, one object per line without commas between"
    if kind == "objects":
        return "spread-objects: the file's objects are spread over several lines; expected one whole object per line"
    if kind == "table":
        return "not-jsonl: the file's lines are not JSON objects; expected JSONL, one object per line"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n\t ")
    if len(head) >= HEAD_BYTES and b"\n" not in text:
        return None  # the first line goes on behind what was seen
    return _first_line(text.split(b"\n")[0])


def _first_line(line: bytes) -> str | None:
    try:
        value = strict_json.parse(line.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        return f"encoding: the first line is not UTF-8 at byte {error.start}"
    except strict_json.JsonFlaw as flaw:
        return f"{flaw.rule}: the first line {flaw.message}. {flaw.cure}"
    return None if isinstance(value, dict) else "not-object: the first line is no JSON object"


def validate(
    path: Path,
    method: Method,
    base_chat: Chat | None = None,
    *,
    param: Param = "training_file",
    context: int | None = None,
) -> list[Problem]:
    """The problems alone of `examine`."""
    return list(examine(path, method, base_chat, param=param, context=context).problems)


def examine(
    path: Path,
    method: Method,
    base_chat: Chat | None = None,
    *,
    param: Param = "training_file",
    context: int | None = None,
    learn: Literal["last", "all"] = "last",
) -> Examination:
    """Everything that is wrong with a file for `method`. `param` is the field of the job that named it.

    With the base's chat, examples that its template has no place for are found too, or whose replies cannot be learned
    as `learn` asks, and with its `context` in tokens those that are too long. Never raises for what a file holds.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    wrong = by_content(head)
    if wrong is not None:
        return Examination((Problem(_INVALID_FILE[param], param, _sentence(wrong)),), ())
    try:
        found = _pairs(path, param) if method == "dpo" else _conversations(path, param, base_chat, context, learn)
    except (DataError, UsageError) as error:
        # Readers name the path, which is the store's, not the owner's.
        said = _worded(str(error).replace(f"{path}: ", "").replace(str(path), "the file"))
        return Examination((Problem(_INVALID_FILE[param], param, said[:1].upper() + said[1:]),), ())
    return found if param == "training_file" else _without_amount(found)


def shared_rows(training: Sequence[Conversation], validation: Sequence[Conversation]) -> tuple[str, ...]:
    """A remark for each way in which validation examples are also training examples, with their rows."""
    return tuple(
        f"The validation file overlaps the training file: {finding.message.replace(' of the test', '')}."
        for finding in overlap(training, validation)
    )


def summary(problems: Sequence[Problem]) -> Problem:
    """All problems as the one that a job's `error` holds: the first one's code, every message."""
    return replace(problems[0], message=" ".join(problem.message for problem in problems))


def _conversations(
    path: Path, param: Param, base_chat: Chat | None, context: int | None, learn: Literal["last", "all"]
) -> Examination:
    dataset = scan(path)
    if any(finding.rule == "preference" for finding in dataset.findings):
        message = "The file holds preference pairs, which the method `supervised` cannot learn; use the method `dpo`."
        return Examination((Problem(_INVALID_FILE[param], param, message),), ())

    def tokens(example: Conversation) -> int:
        assert base_chat is not None
        return len(base_chat.example(example.messages, example.offered, learn=example.learned(learn)).ids)

    findings = check(dataset, count_tokens=tokens if base_chat is not None else None, context_tokens=context)
    return _judged(findings, dataset, param)


def _pairs(path: Path, param: Param) -> Examination:
    given = read_preferences(path)
    examples = tuple(Conversation(pair.answered(pair.chosen), pair.line) for pair in given.pairs)
    findings = list(given.findings)
    if len(examples) < ADVISED:
        few = len(examples) < LEAST
        message = f"{len(examples)} usable pairs"
        findings.append(Finding("too-few", 0, "error" if few else "warning", message))
    dataset = Dataset(given.path, given.layout, examples, given.findings, given.rows, given.sha256)
    return _judged(findings, dataset, param)


def _judged(findings: Sequence[Finding], dataset: Dataset, param: Param) -> Examination:
    errors = [finding for finding in findings if finding.severity == "error"]
    problems = []
    if rows := [finding for finding in errors if finding.rule != "too-few"]:
        problems.append(Problem(_INVALID_FILE[param], param, _named(rows, dataset.rows)))
    if any(finding.rule == "too-few" for finding in errors):
        number = len(dataset.examples)
        problems.append(
            Problem(
                _TOO_FEW,
                param,
                f"The file has {number} example{'' if number == 1 else 's'} that can be learned; at least {LEAST} are "
                f"needed, {ADVISED} to 100 are a working floor.",
            )
        )
    remarks = [_remark(finding) for finding in findings if finding.severity == "warning"]
    return Examination(tuple(problems), tuple(remarks), dataset.examples)


def _named(errors: Sequence[Finding], rows: int) -> str:
    """The first few errors by line and rule, and how many there are."""
    shown = "; ".join(f"[{error.rule}] {_place(error)}{error.message}" for error in errors[:_SHOWN])
    more = f"; and {len(errors) - _SHOWN:,} more" if len(errors) > _SHOWN else ""
    head = f"The file has {len(errors):,} error{'' if len(errors) == 1 else 's'} in {rows:,} rows: "
    cure = next((error.cure for error in errors if error.cure), "")
    return _worded(f"{head}{shown}{more}. {cure}".rstrip())


def _worded(text: str) -> str:
    for cure, ours in _CURES.items():
        text = text.replace(cure, ours)
    return text


def _place(finding: Finding) -> str:
    return f"line {finding.line} " if finding.line and "line" not in finding.message else ""


def _remark(finding: Finding) -> str:
    return f"[{finding.rule}] {_place(finding)}{finding.message}" + (f": {finding.cost}" if finding.cost else "") + "."


def _without_amount(found: Examination) -> Examination:
    """A validation file may be short: how few rows it has is no reason to refuse it."""
    problems = tuple(problem for problem in found.problems if problem.code != _TOO_FEW)
    if not found.examples and not problems:
        problems = found.problems
    return replace(found, problems=problems)


def _sentence(rule_and_reason: str) -> str:
    rule, _, reason = rule_and_reason.partition(": ")
    return f"[{rule}] {reason[:1].upper()}{reason[1:]}".rstrip(".") + "."
