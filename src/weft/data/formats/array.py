"""A JSON array, or JSON objects spread over several lines, cut into the texts of its elements.

Only brackets and strings are looked at, so one malformed element does not hide the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from weft.data.formats.lines import Line
from weft.records import Finding

# A string may not run over a line break in JSON; ending it there lets the cut recover from a missing quote.
_TOKEN = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|[\[\]{},]')


def elements(text: str) -> Iterator[Line | Finding]:
    """Each element of the array (or each top-level object) with the line where it begins."""
    outer = 1 if text.lstrip().startswith("[") else 0
    depth = 0
    start = text.index("[") + 1 if outer else 0
    counted, line = 0, 1
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "[{":
            depth += 1
            continue
        closed = mark in "]}"
        depth -= closed
        ends_array = closed and depth == outer - 1 and outer == 1
        ends_object = closed and depth == 0 and outer == 0
        if not (ends_array or ends_object or (mark == "," and depth == outer)):
            continue
        end = token.end() if ends_object else token.start()
        begin = start + len(text[start:end]) - len(text[start:end].lstrip())
        if text[begin:end].strip():
            line += text.count("\n", counted, begin)
            counted = begin
            yield Line(line, text[begin:end].strip())
        start = token.end()
        if ends_array:
            break
    rest = text[start:].strip()
    if rest:
        yield _left_over(line + text.count("\n", counted, text.index(rest, start)), depth > 0)


def _left_over(line: int, unclosed: bool) -> Finding:
    if unclosed:
        message = "begins a row whose brackets do not close before the end of the file"
        cure = "The file seems to be cut off, or a quote or bracket is missing here. Write it again in full."
    else:
        message = "holds text after the end of the array"
        cure = "Keep one array in the file, or write one object per line (JSONL)."
    return Finding("json", line, "error", message, "everything from here on is left out", cure)
