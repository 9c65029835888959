"""Serving: weft's engine beside transformers' `generate` with PEFT, and `weft serve` beside `transformers serve`.

Same base, adapters, prompts, greedy tokens, number format, threads and oneDNN switch; each contestant is a process,
and they take turns A B A B. Replies are compared before anything is timed. Timed is the whole call with all requests
sent at once, prompts included. Then: seconds to the first token behind a shared system prompt, cached and not; and
curves of tokens per second over clients and adapters. Left out: torch.compile, for either side.

    scripts/bench serve --models nano,M --json serve.json --docs
    scripts/bench serve --parts llama               beside llama.cpp, which is compiled the first time (half an hour)
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, page
from benchmarks.serve_grounds import Worker, adapters, base_folder, median, prompts, vocabulary
from benchmarks.serve_http import compared
from benchmarks.serve_llama import beside_llama, in_words
from weft import __version__
from weft.errors import RunError, UsageError, WeftError
from weft.runs import write_whole

Row = dict[str, Any]


def mixed(given: argparse.Namespace, model: str, folder: Path) -> Row:
    """16 requests over 8 adapters: tokens per second of both, their ratio, and how many replies are the same."""
    base = base_folder(model, folder)
    names = adapters(base, 8, given.rank, folder / f"adapters-{model}")
    work = _work(given, model, given.clients, names, given.prompt)
    workers = [_worker(given, name, base, names, given.clients) for name in ("weft", "peft")]
    try:
        replies = [worker.ask(**work)["ids"] for worker in workers]
        same = sum(a == b for a, b in zip(*replies, strict=True)) / len(replies[0])
        rounds = [[worker.ask(**work) for worker in workers] for _ in range(given.rounds)]
    finally:
        for worker in workers:
            worker.close()
    made = given.clients * given.new
    wall, cpu = ([[answer[kind] for answer in turn] for turn in rounds] for kind in ("seconds", "cpu_seconds"))
    return {
        "what": "mixed", "model": model, "clients": given.clients, "adapters": 8, "same_replies": same,
        "weft": made / median([turn[0] for turn in wall]), "peft": made / median([turn[1] for turn in wall]),
        "ratio": median([turn[1] / turn[0] for turn in wall]), "cpu_ratio": median([turn[1] / turn[0] for turn in cpu]),
        "ratios": sorted(turn[1] / turn[0] for turn in wall),
    }  # fmt: skip


def first_token(given: argparse.Namespace, model: str, folder: Path) -> Row:
    """Seconds to the first token behind a shared prompt of `given.shared` tokens, cached and not."""
    base = base_folder(model, folder)
    worker = _worker(given, "weft", base, [], 1)
    shared = prompts(1, 2 * given.shared, vocabulary(model), 1)[0][: given.shared]
    own = prompts(given.rounds + 1, 32, vocabulary(model), 2)
    try:
        without, cached = (
            median(worker.ask(do="first", shared=shared, own=own, cached=cached)["seconds"]) for cached in (False, True)
        )
    finally:
        worker.close()
    return {
        "what": "first token", "model": model, "shared": given.shared, "uncached": without, "cached": cached,
        "ratio": without / cached,
    }  # fmt: skip


def curves(given: argparse.Namespace, model: str, folder: Path) -> list[Row]:
    """Tokens per second of weft for each number of clients and of adapters."""
    base = base_folder(model, folder)
    names = adapters(base, max(given.many), given.rank, folder / f"adapters-{model}")
    worker = _worker(given, "weft", base, names, max(given.several))
    cells = [(clients, count) for clients in given.several for count in given.many]
    seconds: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells}
    try:
        for turn in range(given.rounds + 1):  # the first one warms up
            for clients, count in cells:
                answer = worker.ask(**_work(given, model, clients, names[:count], given.prompt))
                if turn:
                    seconds[clients, count].append(answer["seconds"])
    finally:
        worker.close()
    return [
        {
            "what": "curve", "model": model, "clients": clients, "adapters": count,
            "weft": clients * given.new / median(seconds[clients, count]),
        }
        for clients, count in cells
    ]  # fmt: skip


def bench(given: argparse.Namespace, folder: Path) -> list[Row]:
    """Measure what was asked for; tell and write the rows after each."""
    parts: dict[str, Callable[[str], list[Row]]] = {
        "mixed": lambda model: [mixed(given, model, folder)],
        "first": lambda model: [first_token(given, model, folder)],
        "curves": lambda model: curves(given, model, folder),
        "http": lambda model: [compared(given, model, base_folder(model, folder), folder)],
        "llama": lambda model: beside_llama(given, model, base_folder(model, folder), folder),
    }
    about = {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(), "weft_version": __version__,
        "dtype": given.precision, "new": given.new, "rounds": given.rounds,
        "machine": machine.in_words(machine.describe() | {"threads_asked_for": str(given.threads)}),
    }  # fmt: skip
    rows: list[Row] = []
    for model in given.models:
        for part in given.parts:
            try:
                found = parts[part](model)
            except RunError as error:
                found = [{"what": part, "model": model, "failed": str(error)}]
            rows += [{**row, **about} for row in found]
            print(summary(rows[-len(found) :]), file=sys.stderr)
            if given.json:
                write_whole(given.json, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
    if given.docs:
        page.update("serve", f"{rows[0]['machine']}\n\n{summary(rows)}")
    return rows


def summary(rows: list[Row]) -> str:
    """The rows as Markdown."""
    shown = [[str(row["model"]), str(row["what"]), _in_words(row)] for row in rows]
    return page.table(["model", "what", "result"], shown)


def _in_words(row: Row) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    match row["what"]:
        case "mixed":
            return (
                f"{row['clients']} requests, {row['adapters']} adapters: weft {row['weft']:.0f} tokens/s, transformers "
                f"with PEFT {row['peft']:.0f}; {row['ratio']:.1f} times ({row['ratios'][0]:.1f} to "
                f"{row['ratios'][-1]:.1f}); {100 * row['same_replies']:.0f} % of the replies are the same"
            )
        case "first token":
            return (
                f"behind {row['shared']} shared tokens: {1000 * row['uncached']:.0f} ms, cached "
                f"{1000 * row['cached']:.0f} ms ({row['ratio']:.1f} times)"
            )
        case "llama.cpp":
            return in_words(row)
        case "curve":
            return f"{row['clients']} clients, {row['adapters']} adapters: {row['weft']:.0f} tokens/s"
        case _:
            return (
                f"{row['clients']} clients over HTTP, the base alone: weft {row['weft']:.0f} tokens/s, transformers "
                f"serve {row['transformers']:.0f}; {row['ratio']:.1f} times"
            )


def _worker(given: argparse.Namespace, contestant: str, base: Path, names: list[str], clients: int) -> Worker:
    return Worker(
        contestant=contestant, base=str(base), base_folder=str(base), dtype=given.precision, threads=given.threads,
        adapters=names, clients=clients,
    )  # fmt: skip


def _work(given: argparse.Namespace, model: str, clients: int, names: list[str], tokens: int) -> dict[str, Any]:
    chosen = [names[number % len(names)] for number in range(clients)]
    return {
        "do": "tokens", "prompts": prompts(clients, tokens, vocabulary(model), 0), "adapters": chosen, "new": given.new
    }  # fmt: skip


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    words = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description="Measure serving.")
    parser.add_argument("--models", type=words, default=["nano", "M"])
    parser.add_argument("--parts", type=words, default=["mixed", "first", "curves", "http"])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--several", type=numbers, default=[1, 4, 16, 64], help="clients of the curves")
    parser.add_argument("--many", type=numbers, default=[1, 8, 64], help="adapters of the curves")
    parser.add_argument("--prompt", type=int, default=128, help="longest prompt in tokens; the shortest is half of it")
    parser.add_argument("--new", type=int, default=64, help="tokens of each reply")
    parser.add_argument("--shared", type=int, default=512, help="tokens of the shared system prompt")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    if unknown := {*given.models} - {"nano", "M"} | {*given.parts} - {"mixed", "first", "curves", "http", "llama"}:
        parser.error(
            f"unknown: {', '.join(sorted(unknown))}; models are nano and M, parts mixed, first, curves, http, llama"
        )
    return given


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = _parse(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = bench(given, Path(folder))
    except (WeftError, UsageError) as error:
        print(f"bench serve: {error}", file=sys.stderr)
        return error.exit_code
    print(summary(rows))
    return 0 if not any("failed" in row for row in rows) else 3


if __name__ == "__main__":
    sys.exit(main())
