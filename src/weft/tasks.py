"""A task: examples and the way to judge an answer, inferred from the training part alone.

One thing with three uses: its examples are learned, its graders measure the arms, and later reward reinforcement.
Nothing here sees a validation or test row before it is graded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from weft.errors import DataError, UsageError
from weft.graders.base import Grader
from weft.graders.chrf import Chrf
from weft.graders.exact_match import ExactMatch
from weft.graders.fields import Fields
from weft.graders.format_consistency import FormatConsistency
from weft.graders.label import Label
from weft.graders.label_shape import LabelShape, infer_labels
from weft.graders.line_shape import LineShape, infer_lines
from weft.graders.object_shape import ObjectShape, infer_objects
from weft.graders.shape import STRUCTURED_SHARE, Shape, are_labels, infer_shape, line_share, object_share
from weft.graders.similarity import Similarity
from weft.graders.text_shape import infer_text
from weft.records import Conversation, Grade, TaskKind

KINDS: tuple[TaskKind, ...] = ("classification", "structured", "text")
GRADERS = ("label", "fields", "exact_match", "chrf", "similarity", "format_consistency")
_SHORT_ANSWER_WORDS = 3


@dataclass(frozen=True)
class Task:
    """What the answers are and how one is judged."""

    kind: TaskKind
    metric: str
    """The score that decides: the first thing in every table, what arms are compared by."""
    graders: tuple[Grader, ...]
    labels: tuple[str, ...]
    """All labels of the training answers, sorted; empty unless the kind is classification."""
    shape: Shape
    constant: str
    """The best answer that needs no question: the training answer right most often under `metric` (ties: the first)."""
    distinct: int
    """How many different answers the training part holds."""

    def grade(self, answer: str, expected: str) -> Grade:
        """One answer judged by all graders."""
        scores: dict[str, float] = {}
        for grader in self.graders:
            scores |= grader.grade(answer, expected)
        return Grade(answer, expected, {self.metric: scores[self.metric], **scores})

    @property
    def description(self) -> str:
        """The task in one sentence, for a reader."""
        if isinstance(self.shape, LabelShape):
            return f"classification: one of {len(self.labels)} labels"
        if isinstance(self.shape, ObjectShape | LineShape):
            form = "one JSON object" if isinstance(self.shape, ObjectShape) else "fixed lines"
            exact = [field.name for field in self.shape.fields if field.role != "free"]
            free = [field.name for field in self.shape.fields if field.role == "free"]
            judged = f"; right when {', '.join(exact)} {'are' if len(exact) > 1 else 'is'} right" if exact else ""
            return f"structured: {form}{judged}" + (f"; {', '.join(free)} judged by chrF" if free else "")
        return f"text: free answers, judged by {self.metric}"

    def to_json(self) -> dict[str, Any]:
        """For report.json: kind, metric, description, graders, and labels or fields where there are any."""
        shape = self.shape
        fields = [field.to_json() for field in shape.fields] if isinstance(shape, ObjectShape | LineShape) else None
        return {
            "kind": self.kind,
            "metric": self.metric,
            "description": self.description,
            "graders": [grader.name for grader in self.graders],
            "format": shape.describe(),
            "constant": self.constant,
            **({"labels": list(self.labels)} if self.labels else {}),
            **({"fields": fields} if fields is not None else {}),
        }


def infer(train: Sequence[Conversation], *, kind: TaskKind | None = None, grader: str | None = None) -> Task:
    """The task of the training examples; `kind` and `grader` override what would be inferred.

    Raises DataError without examples, UsageError when an override does not fit the answers.
    """
    if not train:
        raise DataError("no training examples: at least one is needed to infer the task from. Add rows.")
    outputs = [example.answer for example in train]
    messages = ["\n".join(message.content for message in example.prompt) for example in train]
    shape = infer_shape(outputs, messages) if kind is None else _shape_of_kind(kind, outputs, messages)
    if kind is None:
        kind = _kind_of(shape)
    graders = _graders(shape, outputs)
    if grader is not None:
        graders = _with_main(grader, graders, shape, kind)
    metric = graders[0].metric
    return Task(
        kind=kind,
        metric=metric,
        graders=graders,
        labels=shape.labels if isinstance(shape, LabelShape) else (),
        shape=shape,
        constant=_best_constant(outputs, shape, metric),
        distinct=len({output.strip() for output in outputs}),
    )


def _kind_of(shape: Shape) -> TaskKind:
    if isinstance(shape, LabelShape):
        return "classification"
    return "structured" if isinstance(shape, ObjectShape | LineShape) else "text"


def _graders(shape: Shape, outputs: Sequence[str]) -> tuple[Grader, ...]:
    """The main grader first."""
    form = FormatConsistency(shape)
    if isinstance(shape, LabelShape):
        return (Label(), ExactMatch(), form)
    if isinstance(shape, ObjectShape | LineShape):
        fields = Fields(shape)
        exact = any(field.role != "free" for field in shape.fields)
        return (fields, ExactMatch(), form) if exact else (Chrf(), fields, ExactMatch(), form)
    if median(len(output.split()) for output in outputs) <= _SHORT_ANSWER_WORDS:
        return (ExactMatch(), Chrf(), form)  # in an answer such as "42" shared characters mean nothing
    return (Chrf(), Similarity(), ExactMatch(), form)


def _shape_of_kind(kind: TaskKind, outputs: Sequence[str], messages: Sequence[str]) -> Shape:
    """The shape that a wanted kind implies; UsageError when the answers are not of that kind."""
    if kind == "text":
        return infer_text(outputs)
    if kind == "classification":
        distinct = len({output.strip() for output in outputs})
        if distinct < 2 or distinct * 2 > len(outputs) or object_share(outputs) >= STRUCTURED_SHARE:
            raise UsageError(
                f"--task classification does not fit: the {len(outputs)} training answers hold {distinct} different "
                "texts; labels must be at least two, come twice each on average and not be JSON. "
                f"Leave --task out (the answers look like {_kind_of(infer_shape(outputs))}) or choose --task text."
            )
        return infer_labels(outputs)
    if kind == "structured":
        if object_share(outputs) >= max(0.5, line_share(outputs)):
            return infer_objects(outputs, messages)
        if line_share(outputs) >= 0.5:
            return infer_lines(outputs, messages)
        raise UsageError(
            f"--task structured does not fit: {object_share(outputs):.0%} of the training answers are one JSON object "
            f"and {line_share(outputs):.0%} have the same `Key: value` lines; at least half must be one of the two. "
            f"Leave --task out or choose --task {'classification' if are_labels(outputs) else 'text'}."
        )
    raise UsageError(f"--task {kind}: unknown kind of task. Choose one of {', '.join(KINDS)}.")


def _with_main(name: str, graders: tuple[Grader, ...], shape: Shape, kind: TaskKind) -> tuple[Grader, ...]:
    """The graders with the one called `name` in front, or UsageError saying why it cannot judge these answers."""
    if name not in GRADERS:
        raise UsageError(f"--grader {name}: unknown grader. Choose one of {', '.join(GRADERS)}.")
    if name == "label" and not isinstance(shape, LabelShape):
        raise UsageError(f"--grader label needs labels, but the answers are {kind}: use --task classification as well.")
    chosen: Grader
    if name == "fields":
        if not isinstance(shape, ObjectShape | LineShape):
            raise UsageError(
                f"--grader fields needs answers of JSON or `Key: value` lines, but they are {kind}: "
                "choose exact_match, chrf or similarity."
            )
        if all(field.role == "free" for field in shape.fields):
            raise UsageError("--grader fields: every field of the answers is free text; use chrf or similarity.")
        chosen = Fields(shape)
    elif name == "format_consistency":
        chosen = FormatConsistency(shape)
    else:
        others: dict[str, Callable[[], Grader]] = {
            "label": Label,
            "exact_match": ExactMatch,
            "chrf": Chrf,
            "similarity": Similarity,
        }
        chosen = others[name]()
    return (chosen, *(grader for grader in graders if grader.name != name))


def _best_constant(outputs: Sequence[str], shape: Shape, metric: str) -> str:
    """The training answer that, given to every question, would be right most often."""
    texts = [output.strip() for output in outputs]
    keys: list[Hashable] = list(texts)
    if metric == "accuracy" and isinstance(shape, ObjectShape | LineShape):
        keys = [_judged_part(text, shape) for text in texts]
    counts = Counter(keys)  # most_common keeps the order of first occurrence among equals
    return texts[keys.index(counts.most_common(1)[0][0])]


def _judged_part(text: str, shape: ObjectShape | LineShape) -> Hashable:
    """Those fields of an answer that decide whether it is right."""
    parsed = shape.parse(text)
    if parsed is None:
        return text
    free = {field.name for field in shape.fields if field.role == "free"}
    return tuple(sorted((key, repr(value)) for key, value in parsed.items() if key not in free))
