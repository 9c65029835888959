"""Makes intents.csv: `python examples/intents/make.py`. Standard library only, the same bytes each time.

messages.txt holds one hand-written message a line under a `= label` heading; here they are only mixed and quoted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def messages(folder: Path = HERE) -> list[tuple[str, str]]:
    """(text, label) of each message, in an order that a hash decides."""
    label, rows = "", []
    for line in (folder / "messages.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            label = line[2:]
        else:
            rows.append((line, label))
    return sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())


def main(folder: Path = HERE) -> None:
    rows = messages(folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    (folder / "intents.csv").write_text(text.getvalue(), encoding="utf-8", newline="\n")
    print(f"intents.csv: {len(rows)} messages", file=sys.stderr)


if __name__ == "__main__":
    main()
