"""Passages of the user's own documents, found by BM25, shown before the question."""

from __future__ import annotations

from pathlib import Path

from weft.errors import UsageError
from weft.evaluate.arms import Arm, instructed
from weft.evaluate.retrieve import Index
from weft.models.chat import Chat
from weft.records import Conversation, Message

SUFFIXES = (".txt", ".md", ".rst")
PASSAGE_WORDS = 80
MOST_PASSAGES = 5


def read_passages(folder: Path) -> list[str]:
    """Paragraphs of the text files under `folder`, long ones cut at PASSAGE_WORDS words, in the order of their paths.

    Raises UsageError where the folder is missing, holds no text, or a file is not UTF-8.
    """
    if not folder.is_dir():
        raise UsageError(f"--docs {folder}: not a folder. Name a folder with {', '.join(SUFFIXES)} files.")
    passages: list[str] = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"--docs {file}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
        except OSError as error:
            raise UsageError(f"--docs {file}: cannot be read ({error.strerror}).") from None
        for paragraph in text.split("\n\n"):
            words = paragraph.split()
            passages += [" ".join(words[i : i + PASSAGE_WORDS]) for i in range(0, len(words), PASSAGE_WORDS)]
    if not passages:
        raise UsageError(f"--docs {folder}: holds no text. Expected {', '.join(SUFFIXES)} files.")
    return passages


def candidates(chat: Chat, passages: list[str], room: int, instruction: str | None) -> list[Arm]:
    """Passages alone, and passages behind the system prompt that did best; the caller chooses on validation."""
    index = Index(passages)
    arms = [_arm("passages alone", chat, passages, index, room, None)]
    if instruction is not None:
        arms.append(_arm("system prompt and passages", chat, passages, index, room, instruction))
    return arms


def _arm(candidate: str, chat: Chat, passages: list[str], index: Index, room: int, instruction: str | None) -> Arm:
    def messages(example: Conversation) -> tuple[Message, ...]:
        asked = example.prompt if instruction is None else instructed(chat, example.prompt, instruction)
        best = asked
        shown: list[str] = []
        for position in index.nearest(example.question, MOST_PASSAGES):
            shown.append(passages[position])
            notes = "Use these notes where they help.\n\n" + "\n\n".join(f"- {passage}" for passage in shown)
            longer = instructed(chat, asked, notes)
            if len(chat.prompt(longer)) > room:
                break
            best = longer
        return best

    return Arm("rag", messages, {"candidate": candidate, "passages": len(passages)})
