"""`weft chat`: one question, two models side by side, lines from a pipe; never more than the context holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.cli import main

Weft = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny bases, and a run trained with a system message."""
    from weft.progress import Silent
    from weft.road.whole import train_only
    from weft.testing import save_base

    folder = tmp_path_factory.mktemp("work")
    save_base(folder / "tiny")
    save_base(folder / "other", "qwen3", seed=7)
    rows = [{"prompt": f"say {n} {'abcdefgh'[n % 8] * 5}", "completion": f"{n * n}!"} for n in range(60)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"base": str(folder / "tiny"), "system": "Be brief.", "epochs": 1, "learning_rate": 1e-2}
    train_only(str(folder / "a.jsonl"), str(folder / "run"), None, flags, Silent())
    rows = [{"prompt": f"say {n}", "completion": json.dumps({"size": n % 7, "word": f"w{n}"})} for n in range(60)]
    (folder / "json.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_only(str(folder / "json.jsonl"), str(folder / "held"), None, {**flags, "system": None}, Silent())
    return folder


@pytest.fixture
def weft(work: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Weft:
    """Runs `weft chat`, with lines for its standard input: (exit code, stdout, stderr)."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(work)

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as end:
            main(["chat", *map(str, arguments)])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return int(end.value.code or 0), said.out, said.err

    return run


def _reply(work: Path, name: str, system: str | None, *texts: str, limit: int = 8) -> str:
    """What the model answers, by the engine alone."""
    from weft.generate.engine import Request, answer
    from weft.generate.sampling_config import Sampling
    from weft.records import Message
    from weft.road.open import open_model

    base = open_model(str(work / name)).base
    messages = [Message("system", system)] if system else []
    reply = ""
    for text in texts:
        messages.append(Message("user", text))
        (result,) = answer(base, [Request(tuple(base.chat.prompt(messages)))], Sampling(max_tokens=limit))
        reply = base.chat.decode(result.ids)
        messages.append(Message("assistant", reply))
    return reply


def test_one_question_is_answered_as_the_engine_answers(weft: Weft, work: Path) -> None:
    code, out, _ = weft("tiny", "--prompt", "say 3", "--max-tokens", 8)
    assert (code, out) == (0, _reply(work, "tiny", None, "say 3") + "\n")


def test_a_run_is_asked_with_the_system_message_of_its_training(weft: Weft, work: Path) -> None:
    replies = json.loads(weft("run", "--prompt", "say 3", "--max-tokens", 8, "--json")[1])["replies"]
    assert replies == {"run": _reply(work, "run", "Be brief.", "say 3")}
    replies = json.loads(weft("run", "--prompt", "say 3", "--max-tokens", 8, "--system", "", "--json")[1])["replies"]
    assert replies == {"run": _reply(work, "run", None, "say 3")}


def test_a_run_with_json_answers_replies_under_their_schema_unless_it_is_told_to_write_freely(
    weft: Weft, work: Path
) -> None:
    asked = ["--prompt", "say 3", "--max-tokens", 120, "--json"]
    held, free = (json.loads(weft("held", *asked, *more)[1])["replies"]["held"] for more in ([], ["--free"]))
    assert list(json.loads(held)) == ["size", "word"]
    assert free == _reply(work, "held", None, "say 3", limit=120) != held
    other = json.loads(weft("tiny", "--prompt", "say 3", "--max-tokens", 8, "--json")[1])["replies"]["tiny"]
    assert other == _reply(work, "tiny", None, "say 3")


def test_two_models_answer_side_by_side(weft: Weft, work: Path) -> None:
    code, out, _ = weft("run", "other", "--prompt", "say 3", "--max-tokens", 8, "--json")
    told = json.loads(out)
    assert code == 0 and told["prompt"] == "say 3"
    assert list(told["replies"]) == ["run", "other"]
    code, out, _ = weft("run", "other", "--prompt", "say 3", "--max-tokens", 8)
    first, second = told["replies"].values()
    assert out == f"[run]\n{first}\n[other]\n{second}\n"


def test_lines_of_a_pipe_are_one_conversation_until_new(weft: Weft, work: Path) -> None:
    code, out, err = weft("tiny", "--max-tokens", 8, stdin=b"say 1\n\nsay 2\n/new\nsay 2\n/quit\nsay 3\n")
    replies = [_reply(work, "tiny", None, *texts) for texts in (("say 1",), ("say 1", "say 2"), ("say 2",))]
    assert (code, out) == (0, "".join(reply + "\n" for reply in replies))
    assert err == "(a new conversation)\n"


def test_the_longest_reply_is_what_the_context_still_holds(weft: Weft) -> None:
    assert weft("tiny", "--prompt", "say 3")[0] == 0  # the usual limit alone is the whole context of this base
    code, _, err = weft("tiny", "--prompt", "word " * 100)
    assert code == 2 and "leaves no room for a reply in the context of 256" in err and "/new" in err


def test_an_adapters_folder_can_be_talked_to(weft: Weft, work: Path) -> None:
    replies = json.loads(weft("run/adapter", "--prompt", "say 3", "--max-tokens", 8, "--json")[1])["replies"]
    assert replies == {"run/adapter": _reply(work, "run", None, "say 3")}


def test_text_that_is_not_utf8_is_refused_in_words(weft: Weft) -> None:
    code, _, err = weft("tiny", "--max-tokens", 4, stdin=b"caf\xe9\n")
    assert code == 2 and "not UTF-8" in err
    code, _, err = weft("tiny", "--prompt", "caf\udce9", "--max-tokens", 4)
    assert code == 2 and "not UTF-8" in err
