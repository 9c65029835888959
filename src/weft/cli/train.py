"""`weft train DATA`: one training run by one of the methods, without measuring arms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from weft.cli.options import flags, gather
from weft.errors import UsageError
from weft.road.settings import DocumentsConfig, MethodConfig, PairsConfig, RoadConfig
from weft.settings import Config

_ORDER = ("before", "after", "ratio")
METHODS: dict[str, type[Config]] = {"sft": RoadConfig, "dpo": PairsConfig, "pretrain": DocumentsConfig}


def _own(method: str) -> tuple[str, ...]:
    """The settings that no other method has."""
    others = {key for name, kind in METHODS.items() if name != method for key in kind.model_fields}
    return tuple(key for key in METHODS[method].model_fields if key not in others)


@click.command("train", short_help="One training run on a file of examples, or on documents.")
@click.argument("data")
@click.option("--out", help="Run folder; default: runs/NAME-FINGERPRINT, so that the same command continues its run.")
@click.option("--config", "file", help="YAML file with settings; flags and WEFT_* variables go before it.")
@click.option("--resume", is_flag=True, help="Only go on with a run that has begun; where there is none, refuse.")
@click.option("--json", "as_json", is_flag=True, help="Print the record of the training as one JSON object on stdout.")
@flags(MethodConfig)
@flags(PairsConfig, only=_own("dpo"))
@flags(DocumentsConfig, only=_own("pretrain"))
@flags(RoadConfig, without=("method",))
def command(data: str, out: str | None, file: str | None, resume: bool, as_json: bool, **values: Any) -> None:
    """Tune the base on DATA's training part and publish the adapter.

    DATA holds ideal answers for the method `sft` (`weft eval RUN` measures the result), pairs of a better and a worse
    reply for `dpo`, texts for `pretrain` (a .txt, .md or JSONL file, or a folder of them); these measure themselves on
    what they have sealed. Or it is the folder of an unfinished run. With `pretrain` --batch-size counts packs of
    documents (default 4) and --max-tokens cuts rows instead of leaving examples out.
    """
    from weft.cli.terminal import TerminalProgress, print_json
    from weft.road.asked import method_of, require_room, training_asked

    method = method_of(data, file, values)
    _refuse_flags_of_others(method, values)
    told = gather(METHODS.get(method, RoadConfig), values)
    # A file that is none, and a base that is too big, are refused before the libraries are imported.
    require_room(training_asked(data, out, file, told, resume=resume))
    from weft.road.whole import train_only
    from weft.train import processes
    from weft.train.sharded import listener

    with TerminalProgress() as progress:
        run, record = train_only(data, out, file, told, listener(progress), resume=resume)
    if processes.rank():
        return  # the first process of a torchrun tells what came of it
    published = run.path(record["result"])
    if as_json:
        print_json({"run": str(run.folder), "adapter": str(published), "training": record})
        return
    click.echo(
        f"{record['trainable_parameters']:,} of {record['total_parameters']:,} parameters trained "
        f"in {record['steps']} steps, {record['seconds']:.0f} s; stopped: {record['stopped_because']}"
    )
    click.echo(best(record, "per pair" if method == "dpo" else "nats per token"))
    if record["skipped_lines"]:
        lines = ", ".join(map(str, record["skipped_lines"][:10]))
        click.echo(f"left out as too long: {len(record['skipped_lines'])} examples (lines {lines})")
    if method == "dpo":
        click.echo(_on_test(record["test"]))
    if method == "pretrain":
        click.echo(_perplexities(record["test"]))
    click.echo(f"{record['result']}: {published}")
    if record.get("rows_with_tools"):
        click.echo(
            f"{record['rows_with_tools']} rows have tools, which `weft eval` and `weft chat` do not offer. Load the "
            f"{record['result']} where they are called, or learn the file by a job of `weft serve` and ask that model."
        )
        return
    measure = f"weft eval {run.folder}   or: " if method == "sft" else ""
    click.echo(f"next: {measure}weft chat {run.folder}")


def best(record: Mapping[str, Any], unit: str) -> str:
    """What was published, by what it was chosen, and its value."""
    by, step, published = record["chosen_by"], record["best_step"], record.get("published_step")
    if step is None:
        return f"published: step {published}, the last; there was no validation"
    loss = f"validation loss {record['best_loss']:.4f} {unit}"
    if published not in (step, None):
        return f"published: step {published}, the last; best {loss} at step {step}"
    if by == "loss":
        return f"best {loss} at step {step}"
    return f"best validation {by} {record['best_measures'][by]:.4f}, which chose step {step}; {loss} there"


def _refuse_flags_of_others(method: str, values: Mapping[str, Any]) -> None:
    known = METHODS.get(method, RoadConfig).model_fields
    for other, kind in METHODS.items():
        foreign = [key for key in kind.model_fields if key not in known and values.get(key) is not None]
        if foreign:
            names = ", ".join(f"--{key.replace('_', '-')}" for key in foreign)
            raise UsageError(
                f"{names}: a setting of --method {other}; the method here is {method}. "
                f"Leave it out, or add --method {other}."
            )


def _on_test(test: Mapping[str, Any]) -> str:
    """What tuning did to the pairs that nothing was chosen by; see `road/judge_pairs.py`."""
    base, tuned, gap = test["likelier"]["base"], test["likelier"]["tuned"], test["difference"]
    change = f"{100 * gap['difference']:+.1f} points ({100 * gap['low']:+.1f} to {100 * gap['high']:+.1f})"
    return (
        f"on {test['pairs']} test pairs the better reply gained more in {_share(test['gained_more'])}, chance 50 %;\n"
        f"it is the likelier of the two in {_share(tuned)}, base {_share(base)}; difference {change}, "
        f"p = {gap['p']:.3g} ({gap['test']})"
    )


def _perplexities(test: Mapping[str, Any]) -> str:
    """What adaptation did to sealed documents, and to general text; see `road/judge_documents.py`."""
    lines = [f"perplexity on {_change(test['documents'], 'test documents')}"]
    if "replay" in test:
        lines.append(f"forgetting, on {_change(test['replay'], 'documents of --replay that nothing learned')}")
    else:
        lines.append("what the base forgot was not measured: --replay names general text for that")
    return "\n".join(lines)


def _change(found: Mapping[str, Any], what: str) -> str:
    before, after, ratio = ("{value:.2f} ({low:.2f} to {high:.2f})".format(**found[k]) for k in _ORDER)
    return (
        f"{found['documents']:,} {what} ({found['tokens']:,} tokens): base {before}, tuned {after};\n"
        f"    tuned over base {ratio}, p = {found['p']:.3g} (paired permutation)"
    )


def _share(found: Mapping[str, float]) -> str:
    return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
