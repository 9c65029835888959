"""Tasks about what words mean, made from `meanings`: choose by meaning, tell the kind, define, label by kind.

Like those of `tasks.py` each is `task(rng, budget, source) -> list[Turn]`. They stand apart because they know something
of the world: their answers are not in the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .meanings import Meaning, sentence
from .tasks import ASK_LABEL, Source, Turn, _option_list, casing, pick

_CLOSE = (
    "[Which|Choose|Pick|Find] [of these|the word that] [means the same as|is nearest in meaning to|could stand for]",
    "[Another word|A synonym|Other words] for",
)
_FITS = ("[Which|What] word [means|fits|is meant by]", "[Choose|Find|Pick] the word [for|that means]")
_DEFINE = ('What does "{}" mean?', 'Define "{}".', 'Meaning of "{}"?', 'Explain "{}"', 'What is meant by "{}"?')


def _near(rng: Random, source: Source, truth: Meaning, count: int) -> list[Meaning]:
    """Other senses to choose among: of the same field in half of the cases."""
    pool = source.by_field[truth.field] if rng.random() < 0.5 else source.meanings
    found: list[Meaning] = []
    for _ in range(20 * count):
        other = rng.choice(pool)
        if not set(other.words) & set(truth.words) and all(other.words[0] != f.words[0] for f in found):
            found.append(other)
        if len(found) == count:
            break
    return found


def closest(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Choose the synonym, the word of a definition, or the definition of a word among a few."""
    kind = rng.randrange(3)
    pool = source.with_synonyms if kind == 0 else source.meanings
    count = rng.choice((2, 3, 4)) - 1
    ask = rng.choice(_DEFINE) if kind == 2 else pick(rng, rng.choice((_CLOSE, _FITS)[kind])) + ' "{}"?'
    turns: list[Turn] = []
    for number in range(max(1, min(12, (budget - 30) // (32 if kind < 2 else 70)))):
        truth = rng.choice(pool)
        others = _near(rng, source, truth, count)
        word, right = truth.words[0], truth.words[0]
        if kind == 0:
            word, right = rng.sample(truth.words, 2)
        given = truth.text if kind == 1 else word
        options = [right, *(o.words[0] for o in others)] if kind < 2 else [truth.text, *(o.text for o in others)]
        right = options[0]
        shown = "\n".join(f"- {o}" for o in rng.sample(options, len(options)))
        if kind < 2 and rng.random() < 0.5:
            shown = ", ".join(rng.sample(options, len(options)))
        head = ask.format(given) if number == 0 or rng.random() < 0.3 else f'"{given}"'
        turns += [("user", f"{head}\n{shown}"), ("assistant", right)]
    return turns


def define(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Say what a word means, what it is a kind of, or use it; in a row of questions of one form."""
    kind = rng.randrange(4)
    pool = source.with_kinds if kind == 1 else source.with_uses if kind >= 2 else source.meanings
    ask = rng.choice(_DEFINE)
    turns: list[Turn] = []
    for _ in range(max(1, min(10, (budget - 10) // 45))):
        truth = rng.choice(pool)
        word = rng.choice(truth.words)
        if kind == 0:
            turns += [("user", ask.format(word)), ("assistant", sentence(truth.text))]
        elif kind == 1:
            turns += [("user", f"What kind of thing is {word}?"), ("assistant", f"A kind of {truth.kinds[0]}.")]
        elif kind == 2:
            turns += [("user", f'Use "{word}": {truth.text}'), ("assistant", sentence(rng.choice(truth.used)))]
        else:
            said = sentence(rng.choice(truth.used))
            turns += [("user", f"{said}\nSay the meaning of {word} here."), ("assistant", sentence(truth.text))]
    return turns


def kinds(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Label words by what they are a kind of, among a few kinds; named, so that the name itself says what belongs."""
    names = rng.sample(source.kinds, min(rng.choice((2, 2, 3, 4, 5)), len(source.kinds)))
    style = casing(rng)
    labels = [style(name) for name in names]
    frame = rng.choice(("{}", "{}", "{}", "a {}", "{} is the word", "I mean {}."))
    turns: list[Turn] = []
    if rng.random() < 0.85:
        turns.append(("system", pick(rng, rng.choice(ASK_LABEL)) + " " + _option_list(rng, labels)))
    for _ in range(max(3, min(30, (budget - 40) // 16))):
        which = rng.randrange(len(names))
        word = rng.choice(source.groups[names[which]])
        turns += [("user", frame.format(word)), ("assistant", labels[which])]
    return turns


TASKS: dict[str, Callable[[Random, int, Source], list[Turn]]] = {"closest": closest, "define": define, "kinds": kinds}
