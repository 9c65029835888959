"""T26, where it is served: a file of 10,000 malformed lines is refused, every line named, none dropped, no crash."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from tests.serve.conftest import chat_rows
from tests.serve.test_validate import BAD_ROWS, turns
from weft.data.check import check
from weft.data.read import scan
from weft.serve.validate import examine

LINES = 10_000
GOOD = chat_rows(1).strip()
WAYS: tuple[bytes, ...] = (
    *(
        row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for kind, (row, _) in BAD_ROWS.items()
        if kind != "empty answer"  # told once for all rows, with their number
    ),
    b"{", b"}", b"[]", b"{]", b'"text"', b"null", b"true", b"-1", b"1e999", b"Infinity", b"{'messages': []}",
    b'{"messages": 3}', b'{"messages": "x"}', b'{"messages": null}', b'{"messages": {}}', b'{"messages": [3]}',
    b'{"messages": [null]}', b'{"messages": [[]]}', b'{"messages": [{}]}', b'{"messages": [{"role": "user"}]}',
    b'{"messages": [],}', b'{"messages": []} x', b"// no", b"\xff\xfe{", b'{"messages": "\xe9"}', b"{}\0", b"{}",
    b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", b'{"a": ' + b"9" * 5000 + b"}", b'{"messages": [{"role": 5}]}',
    json.dumps(turns(("user", 5), ("assistant", "x"))).encode(),
    json.dumps(turns(("user", ["x"]), ("assistant", "x"))).encode(),
    json.dumps(turns(("user", "a"), ("assistant", "b"), ("user", "c"))).encode(),
    json.dumps(turns(("user", "a"), ("assistant", {"text": "b"}))).encode(),
)  # fmt: skip


def test_ten_thousand_malformed_lines_are_each_named_with_their_rule(tmp_path: Path) -> None:
    assert len(set(WAYS)) >= 40
    chance = random.Random(26)
    rows = [GOOD if chance.random() < 0.1 else chance.choice(WAYS) for _ in range(LINES)]
    rows[0] = GOOD
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(rows) + b"\n")
    dataset = scan(path)
    errors = [finding for finding in check(dataset) if finding.severity == "error"]
    wrong = {number for number, row in enumerate(rows, 1) if row != GOOD}
    # Line 0: all good answers are the same here, which is an error of the whole file.
    assert {finding.line for finding in errors} - {0} == wrong
    assert all(finding.rule and finding.message for finding in errors)
    assert len(dataset.examples) + len(wrong) == dataset.rows == LINES
    (problem,) = examine(path, "supervised").problems
    assert problem.message.startswith(f"The file has {len(errors):,} errors in {LINES:,} rows: ")
    rules = Counter(finding.rule for finding in errors)
    print(f"T26: {len(wrong):,} of {LINES:,} lines wrong in {len(set(WAYS))} ways, all named, by {len(rules)} rules")
