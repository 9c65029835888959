"""A file of preference pairs → PreferenceSet: JSONL or a JSON array; the layout is detected and said.

Strict and complete as `read.py` is: every row becomes a Preference or a Finding with its line, nothing is dropped in
silence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from weft.data.formats import objects, preferences, sniff
from weft.data.formats.flaws import RowFlaw
from weft.errors import DataError
from weft.records import Finding, Message, Preference, PreferenceSet

_SHOWN = 5


def read_preferences(path: Path | str, *, system: str | None = None) -> PreferenceSet:
    """The pairs of a file, with a Finding for each row that is none. `system` goes before prompts without one.

    Raises UsageError when the path is not there, DataError when the file is not JSON or no row can be read.
    """
    path = Path(path)
    with objects.open_file(path) as file:
        head = file.read(sniff.HEAD_BYTES)
        if not head.strip(b"\xef\xbb\xbf \t\r\n"):
            raise DataError(f"{path}: the file is empty; expected one preference pair per line.")
        kind = sniff.kind_of(head, str(path))
        if kind == "table":
            raise DataError(
                f"{path}: this is a table or plain text; preference pairs are read from JSONL or a JSON array. "
                'Write each as {"prompt": …, "chosen": …, "rejected": …}.'
            )
        file.seek(0)
        lines, rows = objects.rows_of(path, file, kind)
        pairs: list[Preference] = []
        findings: list[Finding] = []
        seen: Counter[str] = Counter()
        for row in rows:
            if isinstance(row, Finding):
                findings.append(row)
                continue
            try:
                pair, layout = preferences.by_layout(row.value, row.line)
            except RowFlaw as flaw:
                findings.append(objects.left_out(flaw.rule, row.line, flaw.message, flaw.cure))
                continue
            seen[layout] += 1
            pairs.append(pair if system is None else _instructed(pair, system))
    if not pairs:
        raise DataError(_nothing_readable(path, findings))
    layout = objects.CONTAINERS[kind] + seen.most_common(1)[0][0]
    return PreferenceSet(
        str(path), layout, tuple(pairs), (*lines.notes(), *findings), len(pairs) + len(findings), lines.sha256()
    )


def _instructed(pair: Preference, system: str) -> Preference:
    if pair.prompt[0].role == "system":
        return pair
    return replace(pair, prompt=(Message("system", system), *pair.prompt))


def _nothing_readable(path: Path, findings: list[Finding]) -> str:
    if findings and all(finding.rule == "no-pair" for finding in findings):
        first = findings[0]
        return f"{path}: none of its {len(findings)} rows can be used. Line {first.line} {first.message}. {first.cure}"
    shown = "\n".join(f"  line {finding.line} {finding.message}. {finding.cure}" for finding in findings[:_SHOWN])
    more = f"\n  and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    return f"{path}: none of its {len(findings)} rows can be read as a preference pair:\n{shown}{more}"
