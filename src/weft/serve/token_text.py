"""Single tokens as log-probabilities show them: their text and their exact bytes, which may be part of a character."""

from __future__ import annotations

import functools
import re
from typing import Any

from weft.models.chat import Chat

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
LOWEST = -9999.0
"""What the API writes for a token that cannot come: JSON has no infinity."""


class TokenText:
    """The tokens of one base."""

    def __init__(self, chat: Chat) -> None:
        backend = chat.tokenizer.backend_tokenizer
        self._chat, self._backend = chat, backend
        added = backend.get_added_tokens_decoder()
        self._added = {id_: token.content for id_, token in added.items()}
        self._unseen = frozenset(id_ for id_, token in added.items() if token.special)
        self._letters = _letters() if b"ByteLevel" in (backend.decoder or _Nothing()).__getstate__() else None

    def bytes(self, id: int) -> bytes:
        """The bytes of a token; a control token's are those of its name."""
        token = self._added.get(id) or self._backend.id_to_token(id)
        if token is None:
            return b""
        if id in self._added:
            return token.encode()
        if self._letters is not None and all(letter in self._letters for letter in token):
            return bytes(self._letters[letter] for letter in token)
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else self._chat.text([id]).encode()

    def shown_bytes(self, id: int) -> int:
        """How many bytes of an answer's text a token makes; special tokens are no text."""
        return 0 if id in self._unseen else len(self.bytes(id))

    def text(self, id: int) -> str:
        """A token's text; what is no whole character shows as a replacement mark."""
        return self.bytes(id).decode("utf-8", "replace")

    def entry(self, id: int, logprob: float, top: tuple[tuple[int, float], ...] = ()) -> dict[str, Any]:
        """A token of a chat answer as it is sent."""
        return {**self._one(id, logprob), "top_logprobs": [self._one(*each) for each in top]}

    def _one(self, id: int, logprob: float) -> dict[str, Any]:
        raw = self.bytes(id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, LOWEST), "bytes": list(raw)}


@functools.lru_cache(maxsize=16)
def token_text(chat: Chat) -> TokenText:
    """The tokens of a base, looked up once."""
    return TokenText(chat)


class _Nothing:
    def __getstate__(self) -> bytes:
        return b""


def _letters() -> dict[str, int]:
    """The letter by which byte-level tokenizers write each byte: printable ones as themselves (GPT-2's alphabet)."""
    themselves = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in themselves]
    return {chr(byte): byte for byte in themselves} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
