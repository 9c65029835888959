"""The phase `validate`: the files are judged by the code of `weft check` and the API's rules."""

from __future__ import annotations

from pathlib import Path

from weft.models.chat import Chat
from weft.models.facts import inspect
from weft.models.load import load_tokenizer
from weft.serve.validate import Examination, examine, shared_rows, summary
from weft.serve.work import hyperparameters
from weft.serve.work.protocol import Failed, Note, Order, Validated, Word
from weft.serve.work.reporter import Reporter

_MOST_TOLD = 8
_MOST = 900


def check(order: Order, reporter: Reporter) -> Word:
    """`Validated`, or why files or settings cannot be trained with. What is only worth knowing is told before."""
    hyperparameters.asked(order.method, order.hyperparameters, order.extension, order.seed)
    folder = Path(order.base_folder)
    chat, context = Chat(load_tokenizer(folder)), inspect(folder).context or None
    given = {"training_file": order.training} | ({"validation_file": order.validation} if order.validation else {})
    found: dict[str, Examination] = {
        param: examine(Path(path), order.method, chat, param=param, context=context)  # type: ignore[arg-type]
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
