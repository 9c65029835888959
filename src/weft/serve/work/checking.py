"""The phase `validate`: the files are judged by the code of `weft check` and the API's rules.

What can never fit into this machine's memory is refused here too, from the shapes in the base's folder alone. Whether
there is memory at the moment matters when training begins.
"""

from __future__ import annotations

from pathlib import Path

from weft.models import memory
from weft.models.chat import Chat
from weft.models.facts import inspect
from weft.models.load import load_tokenizer
from weft.serve.validate import Examination, examine, shared_rows, summary
from weft.serve.work import hyperparameters
from weft.serve.work.protocol import Failed, Note, Order, Validated, Word
from weft.serve.work.reporter import Reporter
from weft.train.sft_config import SftConfig
from weft.train.too_big import least_needed
from weft.train.tuning_config import TuningConfig

_MOST_TOLD = 8
_MOST = 900


def check(order: Order, reporter: Reporter) -> Word:
    """`Validated`, or why files or settings cannot be trained with. What is only worth knowing is told before."""
    wanted = hyperparameters.asked(order.method, order.hyperparameters, order.extension, order.seed)
    folder = Path(order.base_folder)
    refused = _too_big(order.base, folder, wanted.config)
    if refused is not None:
        return refused
    chat, context = Chat(load_tokenizer(folder)), inspect(folder).context or None
    given = {"training_file": order.training} | ({"validation_file": order.validation} if order.validation else {})
    learn = wanted.config.learn if isinstance(wanted.config, SftConfig) else "last"
    found: dict[str, Examination] = {
        param: examine(Path(path), order.method, chat, param=param, context=context, learn=learn)  # type: ignore[arg-type]
        for param, path in given.items()
    }
    problems = [problem for one in found.values() for problem in one.problems]
    if problems:
        whole = summary(problems)
        return Failed(code=whole.code, message=whole.message, param=whole.param)
    remarks = [remark for one in found.values() for remark in one.remarks]
    if order.validation:
        remarks += shared_rows(found["training_file"].examples, found["validation_file"].examples)
    for remark in remarks[:_MOST_TOLD]:
        reporter.word(Note(message=remark[:_MOST]))
    return Validated()


def _too_big(name: str, folder: Path, config: TuningConfig) -> Failed | None:
    """Why a training can never fit, however little else runs; None where it may."""
    least, most = least_needed(folder, config), memory.most_bytes()
    if least is None or most is None or least.memory <= most:
        return None
    return Failed(
        code="out_of_memory",
        message=f"Training {name} ({least.parameters:,} parameters), an adapter of {least.trained:,} numbers with "
        f"their optimizer, needs at least {least.memory / 1e9:,.2f} GB of memory; this server's machine has "
        f"{most / 1e9:,.2f} GB. Choose a smaller base, or a smaller adapter (x_weft.lora.r).",
        param="model",
    )
