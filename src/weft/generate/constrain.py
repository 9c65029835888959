"""Replies of a given form: a JSON schema or a pattern becomes the set of tokens that may come next.

The grammar engine is llguidance. Whoever sends a schema may be hostile, so it is first tried in a process of its own
with a limit on time and memory (`grammar_check.py`); what fails there is refused in words. Between tokens the engine's
own limits hold. An end token is allowed only where the grammar may end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from weft.errors import ResourceError, RunError, UsageError

SECONDS = 2.0
"""Longest that a grammar may take to be made."""
MEMORY = 2 * 2**30
"""Address space of the process that tries grammars."""
LARGEST = 256 * 1024
"""Bytes of a schema or pattern."""
DEEPEST = 100
"""Levels of a schema."""
KEPT = 64
"""Grammars that are remembered."""


@dataclass(frozen=True, eq=False)
class Constraint:
    """What a reply must look like, compiled. Made by `Grammars`; any number of replies may use it."""

    grammar: str
    _compiled: Any = field(repr=False)
    _vocabulary: int

    def start(self) -> Matcher:
        """The state at the beginning of a reply."""
        return Matcher(self._compiled.deep_copy(), self._vocabulary)

    def accepts(self, ids: Sequence[int]) -> bool:
        """Whether these ids, without an end token, are a whole reply of this form."""
        matcher = self._compiled.deep_copy()
        return matcher.try_consume_tokens(list(ids)) == len(ids) and matcher.is_accepting()


class Matcher:
    """One reply on its way through a grammar. Raises RunError where the engine's own limits are met."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._words = np.zeros((vocabulary + 31) // 32, np.int32)

    def allowed(self, end_ids: Collection[int]) -> Tensor:
        """(V,) true for the tokens that may come next; of `end_ids` those only where the reply may end."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocabulary].astype(bool)
        bits[[token for token in end_ids if 0 <= token < self._vocabulary]] = self._matcher.is_accepting()
        return torch.from_numpy(bits)

    def takes(self, token: int, end_ids: Collection[int]) -> bool:
        """What `allowed` says of this one token, twenty times as fast."""
        if token in end_ids:
            return self._matcher.is_accepting()
        return not self.done and self._matcher.validate_tokens([token]) == 1

    def took(self, token: int) -> None:
        """The reply went on with `token`."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def done(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RunError(f"the response format became too complex to follow ({_short(self._matcher.get_error())}).")


class Grammars:
    """Makes constraints for one tokenizer. Thread-safe; takes up to SECONDS, so not for an event loop.

    `tokenizer`: a transformers fast tokenizer. `vocabulary`: V of the model's logits. `ends`: tokens that end a reply.
    """

    def __init__(
        self, tokenizer: Any, vocabulary: int, ends: Collection[int], *, seconds: float = SECONDS, memory: int = MEMORY
    ) -> None:
        self._backend, self._vocabulary, self._ends = tokenizer.backend_tokenizer, vocabulary, sorted(ends)
        self._seconds, self._memory = seconds, memory
        self._lock = threading.Lock()
        self._made: OrderedDict[str, Constraint] = OrderedDict()
        self._tokens: LLTokenizer | None = None
        self._process: subprocess.Popen[str] | None = None

    def json_schema(self, schema: Mapping[str, Any]) -> Constraint:
        """Replies that are one JSON value of this schema, without white space between its parts.

        Of llguidance's own key `x-guidance` only `item_separator` and `key_separator` are heard: a blank may stand
        behind commas, and behind colons.
        Raises UsageError for a schema that cannot be followed: unknown or contradictory keywords, too large, too slow.
        """
        text = _dumped(schema)
        if len(text.encode()) > LARGEST or _depth(schema) > DEEPEST:
            raise UsageError(
                f"the JSON schema is larger than {LARGEST // 1024} KiB or nested deeper than {DEEPEST} levels. "
                "Make it smaller."
            )
        plain = json.loads(text)
        options: Any = {"whitespace_flexible": False, **_separators(plain.pop("x-guidance", None))}
        return self._constraint(
            "the JSON schema", lambda: LLMatcher.grammar_from_json_schema(json.dumps(plain), overrides=options)
        )

    def json_object(self) -> Constraint:
        """Replies that are one JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Constraint:
        """Replies that match `pattern` as a whole (the syntax of Rust's regex). Raises UsageError as `json_schema`."""
        if len(pattern.encode()) > LARGEST:
            raise UsageError(f"the pattern is larger than {LARGEST // 1024} KiB. Make it smaller.")
        return self._constraint("the pattern", lambda: LLMatcher.grammar_from_regex(pattern))

    def close(self) -> None:
        """End the process that tries grammars."""
        with self._lock:
            self._kill()

    def _constraint(self, what: str, grammar: Callable[[], str]) -> Constraint:
        try:
            text = grammar()
        except ValueError as error:
            raise UsageError(f"{what} cannot be used: {_short(str(error))}") from None
        with self._lock:
            if text not in self._made:
                if error := self._tried(text):
                    raise UsageError(f"{what} cannot be used: {_short(error)}")
                self._made[text] = Constraint(text, LLMatcher(self._tokenizer(), text, log_level=0), self._vocabulary)
            self._made.move_to_end(text)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
            return self._made[text]

    def _tokenizer(self) -> LLTokenizer:
        if self._tokens is None:
            self._tokens = LLTokenizer(self._backend.to_str(), n_vocab=self._vocabulary, eos_token=self._ends)
        return self._tokens

    def _tried(self, grammar: str) -> str:
        """What is wrong with the grammar, found in the other process; empty where nothing is."""
        fresh = self._process is None or self._process.poll() is not None
        if fresh:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "weft.generate.grammar_check"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            tokenizer = {"tokenizer": self._backend.to_str(), "vocabulary": self._vocabulary, "ends": self._ends}
            if self._asked({**tokenizer, "memory": self._memory}, 60) is None:
                self._kill()
                raise ResourceError("the process that tries response formats could not be started.")
        answer = self._asked({"grammar": grammar}, self._seconds)
        if answer is None:
            self._kill()
            return f"making it took more than {self._seconds:g} seconds or {self._memory // 2**20} MiB."
        return answer

    def _asked(self, message: Mapping[str, Any], seconds: float) -> str | None:
        """The process's answer, or None where it gave none in time: then it is dead."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            return str(json.loads(line)["error"]) if line.endswith("\n") else None
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _dumped(schema: Mapping[str, Any]) -> str:
    if not isinstance(schema, Mapping):
        raise UsageError(f"the JSON schema is a {type(schema).__name__}, expected an object.")
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the JSON schema is not JSON ({type(error).__name__}: {_short(str(error))}).") from None


def _separators(asked: Any) -> dict[str, str]:
    """Those of the wishes that change where blanks stand, and nothing else."""
    known = {"item_separator": (",", ", "), "key_separator": (":", ": ")}
    wishes = asked if isinstance(asked, dict) else {}
    return {key: wishes[key] for key, values in known.items() if wishes.get(key) in values}


def _depth(value: Any) -> int:
    """Levels of lists and objects, found without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def _short(text: str) -> str:
    return " ".join(text.split())[:300] or "unknown reason"
