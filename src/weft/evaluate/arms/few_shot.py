"""The nearest training examples by BM25 as earlier turns, as many as fit, the nearest last."""

from __future__ import annotations

from collections.abc import Sequence

from weft.evaluate.arms import Arm, instructed
from weft.evaluate.retrieve import Index
from weft.models.chat import Chat
from weft.records import Conversation, Message

MOST_SHOTS = 32


def candidates(chat: Chat, train: Sequence[Conversation], room: int, instruction: str | None) -> list[Arm]:
    """Shots alone, and shots behind the system prompt that did best; the caller chooses on validation.

    `room` is the most tokens that a prompt may have.
    """
    index = Index([example.question for example in train])
    costs = [len(chat.example(_turns(example)).ids) for example in train]
    arms = [_arm("shots alone", chat, train, index, costs, room, None)]
    if instruction is not None:
        arms.append(_arm("system prompt and shots", chat, train, index, costs, room, instruction))
    return arms


def _arm(
    candidate: str,
    chat: Chat,
    train: Sequence[Conversation],
    index: Index,
    costs: Sequence[int],
    room: int,
    instruction: str | None,
) -> Arm:
    def messages(example: Conversation) -> tuple[Message, ...]:
        asked = example.prompt if instruction is None else instructed(chat, example.prompt, instruction)
        left = room - len(chat.prompt(asked))
        shots: list[Conversation] = []
        for position in index.nearest(example.question, MOST_SHOTS):
            if costs[position] > left:
                break
            left -= costs[position]
            shots.append(train[position])
        # Turns in a row cost more than each alone, by what a template puts between them.
        while shots and len(chat.prompt(_behind(shots, asked))) > room:
            shots.pop()
        return _behind(shots, asked)

    return Arm("few-shot", messages, {"candidate": candidate, "most_shots": MOST_SHOTS})


def _behind(shots: Sequence[Conversation], asked: tuple[Message, ...]) -> tuple[Message, ...]:
    """The question behind these shots, the first of which stands last."""
    before = [message for shot in reversed(shots) for message in _turns(shot)]
    head = 1 if asked[0].role == "system" else 0
    return (*asked[:head], *before, *asked[head:])


def _turns(example: Conversation) -> tuple[Message, ...]:
    """An example's turns without its system message, which the asked one has already."""
    return tuple(message for message in example.messages if message.role != "system")
