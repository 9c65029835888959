"""Structured outputs: where the training answers are JSON, every arm's answers are held to the schema of theirs.

A prompted model with a schema is what fine-tuning has to beat, since every server offers that (`response_format`). The
schema is found anew at each visit from the training part alone, and lies in the run's folder for those who will ask
the tuned model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from weft.errors import WeftError
from weft.generate.constrain import Constraint, Grammars
from weft.graders.json_schema import json_schema
from weft.graders.object_shape import ObjectShape
from weft.models.load import Base
from weft.progress import Progress
from weft.records import Conversation
from weft.road.prepare import Prepared
from weft.runs import Run

SCHEMA = "schema.json"
"""The schema in a run's folder, to be sent as `response_format`."""
TRIED = 1000
"""Training answers on which a schema is tried."""
PATIENCE = 120.0
"""Seconds that the schema of the training answers may take to be made."""
_SPACED = {"x-guidance": {"item_separator": ", ", "key_separator": ": "}}


@dataclass(frozen=True)
class Form:
    """What every answer must look like."""

    schema: Mapping[str, Any]
    constraint: Constraint


def find(base: Base, prepared: Prepared, progress: Progress) -> Form | None:
    """The form of the training answers; None, and why is said, where they are not JSON of one schema.

    Of two ways to write JSON, with and without blanks behind commas and colons, it is the one that all training
    answers of the task's shape keep: a schema that forbids what is to be learned would measure nothing.
    """
    shape = prepared.task.shape
    if not isinstance(shape, ObjectShape):
        return None
    if any(example.tools for example in prepared.split.train):
        return _not_held("some examples have tools, and a call has another form", progress)
    if not shape.ordered:
        return _not_held("the keys of the training answers come in no fixed order", progress)
    answers = list(_answers(base, prepared.split.train, shape))
    with _grammars(base) as grammars:
        for style in ({}, _SPACED):
            schema = {**json_schema(shape), **style}
            try:
                constraint = grammars.json_schema(schema)
            except (WeftError, ValueError) as error:  # a tokenizer that the grammar engine cannot follow, for one
                return _not_held(str(error), progress)
            if all(constraint.accepts(answer) for answer in answers):
                return Form(schema, constraint)
    return _not_held("the training answers are not all written in one way", progress)


def keep(run: Run, form: Form) -> None:
    """Write the schema into the run's folder, where it is not there yet."""
    if not run.has(SCHEMA):
        run.write_json(SCHEMA, dict(form.schema))


def of_run(run: Run, base: Base) -> Constraint | None:
    """The constraint of the run's schema; None where its answers are held to none."""
    if not run.has(SCHEMA):
        return None
    with _grammars(base) as grammars:
        return grammars.json_schema(run.read_json(SCHEMA))


def _not_held(reason: str, progress: Progress) -> None:
    progress.say(f"    answers are not held to a JSON schema: {reason.rstrip('.')}")


def _grammars(base: Base) -> closing[Grammars]:
    # A run must not depend on how busy the machine is: the limit on time is for strangers' schemas.
    return closing(Grammars(base.chat.tokenizer, base.vocabulary, base.chat.end_ids, seconds=PATIENCE))


def _answers(base: Base, train: Sequence[Conversation], shape: ObjectShape) -> Iterator[list[int]]:
    """Answers of the task's shape as tokens, without the end; evenly spread where there are many."""
    for example in train[:: max(1, len(train) // TRIED)]:
        if shape.matches(example.answer):
            tokens = base.chat.example(example.messages)
            start = len(base.chat.prompt(example.prompt))
            yield [
                token
                for token, learn in zip(tokens.ids[start:], tokens.learn[start:], strict=True)
                if learn and token not in base.chat.end_ids
            ]
