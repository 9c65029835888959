"""Text to token ids and back, with control tokens under lock and key.

`Encoder.text` turns a person's text into ids and can never yield a control token; `Encoder.scaffold` turns a template's
own words into ids and does yield them. Both continue a sequence: where the text before was ordinary text, no word-start
mark is invented (SentencePiece tokenizers otherwise put one at the head of every piece).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tokenizers import Tokenizer

from weft.errors import ModelError

Cut: TypeAlias = Callable[[Tokenizer, str], list[int]]
"""Another way to take a text apart than the tokenizer's own (`bpe_dropout.py`)."""


class Encoder:
    """A fast tokenizer taken apart into control tokens and plain text. Nothing of `tokenizer` is changed.

    `tokenizer` is a transformers fast tokenizer. Raises ModelError for one without a `tokenizer.json` form.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ModelError(
                f"the tokenizer is a {type(tokenizer).__name__} without a tokenizer.json form. "
                "Convert it once with transformers (AutoTokenizer … save_pretrained) and load that folder."
            )
        added = backend.get_added_tokens_decoder()
        self._backend = backend
        self.added = {token.content: id_ for id_, token in added.items() if token.content.strip()}
        self.control = frozenset(self.added.values())
        self._special = frozenset(id_ for id_, token in added.items() if token.special)
        self._blank = {
            token.content: id_ for id_, token in added.items() if token.content and not token.content.strip()
        }
        self._strips = {token.content: (token.lstrip, token.rstrip) for token in added.values()}
        self._split_added = _alternatives(self.added)
        self._split_blank = _alternatives(self._blank)
        self._unknown = self.added.get(str(getattr(tokenizer, "unk_token", None) or ""))
        self._starting = _plain(backend, continued=False)
        self._continued = _plain(backend, continued=True)

    def text(self, text: str, *, continued: bool, cut: Cut | None = None) -> list[int]:
        """A person's text as ids; `continued`: ordinary text stands directly before it. Never a control token.

        `cut` takes it apart where it is given and does not meet a control token.

        Raises ModelError where the tokenizer knows no other way to write a control token's text.
        """
        ids: list[int] = []
        for position, part in enumerate(self._split_blank.split(text)):
            if position % 2:
                ids.append(self._blank[part])
            elif part:
                ids += self._without_control(part, continued or position > 0, cut)
        return ids

    def _without_control(self, text: str, continued: bool, cut: Cut | None = None) -> list[int]:
        plain = self._continued if continued else self._starting
        if cut is not None and self.control.isdisjoint(ids := cut(plain, text)):
            return ids
        encoding = plain.encode(text, add_special_tokens=False)
        bad = [i for i, id_ in enumerate(encoding.ids) if id_ in self.control and id_ != self._unknown]
        if not bad:
            return encoding.ids
        # A vocabulary that holds control tokens as words (Unigram, WordLevel): take such words apart.
        starts = [encoding.offsets[i] for i in bad]
        if any(end - start < 2 for start, end in starts):
            raise ModelError(f"the tokenizer has no way to write {encoding.tokens[bad[0]]!r} as text.")
        cuts = [0, *(start + 1 for start, _ in starts), len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(cuts) if a < b]
        return [id_ for n, piece in enumerate(pieces) for id_ in self._without_control(piece, continued or n > 0)]

    def scaffold(self, text: str, *, continued: bool) -> tuple[list[int], bool]:
        """A template's own words as ids, control tokens included; and whether ordinary text may continue them."""
        ids: list[int] = []
        parts = self._split_added.split(text)
        for position, part in enumerate(parts):
            if position % 2:
                ids.append(self.added[part])
                continued = False
                continue
            if position > 0 and self._strips[parts[position - 1]][1]:
                part = part.lstrip()
            if position + 1 < len(parts) and self._strips[parts[position + 1]][0]:
                part = part.rstrip()
            if part:
                ids += self.text(part, continued=continued)
                continued = True
        return ids, continued

    def decode(self, ids: Sequence[int], *, continued: bool) -> str:
        """Ids as text; special tokens are not text and vanish. `continued` as in `text`."""
        tokens = [self._backend.id_to_token(id_) for id_ in ids if id_ not in self._special]
        decoder = (self._continued if continued else self._starting).decoder
        known = [token for token in tokens if token is not None]
        return decoder.decode(known) if decoder is not None else " ".join(known)

    def token(self, id_: int) -> str:
        """One token as a person would read it."""
        if id_ in self.control:
            return self._backend.id_to_token(id_) or ""
        return self.decode([id_], continued=True)


def _alternatives(texts: dict[str, int]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")" if texts else "(?!)()")


def _plain(backend: Tokenizer, *, continued: bool) -> Tokenizer:
    """The same vocabulary without any added token; `continued`: without the word-start mark before the first word."""
    parts = {
        name: json.loads(step.__getstate__()) if (step := getattr(backend, name)) is not None else None
        for name in ("normalizer", "pre_tokenizer", "decoder")
    }
    if continued:
        parts = {name: _without_start(part) for name, part in parts.items()}
    # Only the small steps go through JSON; the vocabulary (up to 20 MB) is shared.
    small = Tokenizer.from_str(
        json.dumps(
            {"version": "1.0", "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            | parts
            | {"model": {"type": "BPE", "vocab": {}, "merges": []}}
        )
    )
    plain = Tokenizer(backend.model)
    for name in parts:
        if (step := getattr(small, name)) is not None:
            setattr(plain, name, step)
    return plain


def _without_start(step: Any) -> Any:
    """A normalizer, pre-tokenizer or decoder that neither adds nor removes a mark before the first word."""
    if step is None:
        return None
    inner = next((key for key in ("normalizers", "pretokenizers", "decoders") if key in step), None)
    if inner:
        kept = [_without_start(part) for part in step[inner]]
        return {**step, inner: [part for part in kept if part is not None]}
    match step["type"]:
        case "Prepend":
            return None
        case "Strip" if step.get("start") and "content" in step:
            return {**step, "start": 0}
        case "Metaspace":
            return {**step, "prepend_scheme": "never"}
        case "ByteLevel":
            return {**step, "add_prefix_space": False}
        case _:
            return step
