"""The generated curriculum: instruction and in-context tasks as conversations.

Each task is `task(rng, budget, source) -> list[Turn]`; the assistant's turns are what is learnt. Many tasks go on for several turns, so that
one row teaches zero-shot, one-shot and few-shot answering at once. Names of labels, keys, formats and the wording of
instructions are drawn anew for every conversation: only the context tells what to do.
"""

# ruff: noqa: E501, E731 (tables and their small makers read better in long lines)

# fmt: off
from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from . import messages as m
from . import words as w
from .meanings import ARTIFACT, FOOD, Meaning, groups, sentence

Turn = tuple[str, str]


@dataclass(frozen=True)
class Source:
    """What tasks draw from: intents allowed, natural sentences by topic, the style of unseen label words."""

    intents: Sequence[m.Intent]
    topics: dict[str, list[str]]
    """topic → sentences; only topics with at least 12."""
    new_label: Callable[[Random], str] = w.pseudo
    varied: bool = False
    """Names of classes are altered at random, so that they must be copied from the options and cannot be known by heart."""
    meanings: Sequence[Meaning] = ()
    """What `word_tasks` ask for."""
    wide: bool = False
    """Things have any of the dictionary's names, and other sentences stand beside what is asked for. Needs `meanings`."""

    def message(
        self, rng: Random, intent: m.Intent, extra: float = 0.5, slots: list[tuple[str, str]] | None = None
    ) -> str:
        return m.message(rng, intent, extra, slots, self.product)

    def product(self, rng: Random) -> str:
        """A thing that somebody has bought; in a wide source mostly one of the dictionary's, alone or in pairs."""
        if not self.wide or rng.random() < 0.2:
            return w.product(rng)
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(self.things)
        return w.product(rng, self.things) if kind < 0.8 else f"{rng.choice(self.things)} {rng.choice(self.things)}"

    @cached_property
    def things(self) -> list[str]:
        """What is made, eaten or drunk."""
        return list(dict.fromkeys(word for x in self.meanings if x.field in (ARTIFACT, FOOD) for word in x.words[:2]))

    @cached_property
    def by_field(self) -> dict[int, list[Meaning]]:
        found: dict[int, list[Meaning]] = {}
        for meaning in self.meanings:
            found.setdefault(meaning.field, []).append(meaning)
        return found

    @cached_property
    def with_synonyms(self) -> list[Meaning]:
        """Senses of several words, of which no two begin alike: a spelling is no synonym."""
        return [x for x in self.meanings if 1 < len(x.words) == len({word[:4] for word in x.words})]

    @cached_property
    def with_kinds(self) -> list[Meaning]:
        return [meaning for meaning in self.meanings if meaning.kinds and meaning.kinds[0] not in meaning.words]

    @cached_property
    def with_uses(self) -> list[Meaning]:
        return [meaning for meaning in self.meanings if meaning.used]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Kind → words of this kind, for kinds of at least eight words."""
        return groups(self.meanings)

    @cached_property
    def kinds(self) -> list[str]:
        return list(self.groups)


def pick(rng: Random, text: str) -> str:
    return m.fill(rng, text)


def casing(rng: Random) -> Callable[[str], str]:
    """One of the ways in which people write names of labels and keys."""
    return rng.choice(
        (
            lambda s: s, lambda s: s.replace(" ", "_"), lambda s: s.replace(" ", "-"), lambda s: s.title(), lambda s: s.upper(),
            lambda s: s.replace(" ", "_").upper(), lambda s: s.title().replace(" ", ""), lambda s: s.replace(" ", "_"), lambda s: s.capitalize(),
            lambda s: s.replace(" ", "_"), lambda s: s,
        )
    )


# ---- labels ----------------------------------------------------------------------------------------------------------


def _classes(rng: Random, source: Source, k: int) -> tuple[list[str], list[Callable[[], str]], bool]:
    """k class names, a maker of items for each, and whether the items are whole messages."""
    kind = rng.random()
    if kind < 0.56:
        pool = list(source.intents)
        if rng.random() < 0.4:
            domain = rng.choice(sorted({i.domain for i in pool}))
            same = [i for i in pool if i.domain == domain]
            pool = same if len(same) >= k else pool
        extra = rng.choice((0.0, 0.0, 0.2, 0.5))
        if rng.random() < 0.25:  # by domain instead of intent
            domains = sorted({i.domain for i in source.intents})
            chosen = rng.sample(domains, min(k, len(domains)))
            by = [[i for i in source.intents if i.domain == d] for d in chosen]
            return chosen, [(lambda g=g: source.message(rng, rng.choice(g), extra)) for g in by], True
        chosen_i = rng.sample(pool, min(k, len(pool)))
        return [i.name for i in chosen_i], [(lambda i=i: source.message(rng, i, extra)) for i in chosen_i], True
    if kind < 0.78:
        names = rng.sample(sorted(w.CATEGORIES), min(k, len(w.CATEGORIES)))
        frame = rng.choice(("{}", "{}", "{}", "the {}", "I like the {}.", "She talked about {}.", "Look: {}", "{} is the word"))
        return names, [(lambda n=n: frame.format(rng.choice(w.CATEGORIES[n]))) for n in names], False
    if kind < 0.88:
        subject = lambda: rng.choice((w.product(rng), "food", "service", "hotel", "film", "trip", "staff", w.person(rng)))
        frames = ("The {} was {}.", "What a {1} {0}!", "I found the {} {}.", "{} is just {}", "My {} turned out {}, really.", "They said that the {} was {}")
        make = lambda table: (lambda: rng.choice(frames).format(subject(), rng.choice(table)))
        return [rng.choice(("positive", "good", "happy", "praise")), rng.choice(("negative", "bad", "unhappy", "complaint"))], [make(w.GOOD), make(w.BAD)], False
    if kind < 0.94 and len(source.topics) >= k:
        topics = rng.sample(sorted(source.topics), min(k, 3))
        return [w.word(rng) for _ in topics], [(lambda t=t: rng.choice(source.topics[t])) for t in topics], True
    makers = {"number": lambda: w.digits(rng), "date": lambda: w.date(rng), "email": lambda: w.email(rng), "price": lambda: w.price(rng), "time": lambda: w.clock(rng),
              "name": lambda: w.person(rng), "code": lambda: w.code(rng), "question": lambda: pick(rng, "[what|where|when|how] is the {product}?"),
              "version": lambda: w.version(rng), "word": lambda: w.word(rng)}
    names = rng.sample(sorted(makers), min(k, len(makers)))
    return names, [makers[n] for n in names], False


def _altered(rng: Random, name: str) -> str:
    """A name of the same meaning in part: one word kept, another put beside or in place of the rest."""
    parts = name.split()
    other = w.pseudo(rng) if rng.random() < 0.3 else rng.choice(w.ALL_WORDS).lower()
    kind = rng.randrange(5)
    if kind == 0 and len(parts) > 1:
        parts[rng.randrange(len(parts))] = other
    elif kind == 1 and len(parts) > 1:
        parts.reverse()
    elif kind == 2:
        parts.insert(rng.randint(0, len(parts)), other)
    elif kind == 3:
        parts = [*parts[-1:], rng.choice(("problem", "question", "request", "issue", "help", "matter", "topic", "case", "info", "service"))]
    elif len(parts) > 1:
        parts.pop(rng.randrange(len(parts)))
    return " ".join(parts)


def _label_names(rng: Random, source: Source, names: list[str]) -> tuple[list[str], bool]:
    """How the classes are called in this conversation, and whether the names say what they mean."""
    k, kind = len(names), rng.random()
    style = casing(rng)
    if source.varied and rng.random() < 0.6:
        names = [_altered(rng, n) for n in names]
    if kind < (0.6 if source.varied else 0.45):
        shown = [style(n) for n in names]
        if len(set(shown)) == k:
            return shown, True
    if kind < 0.75:
        shown = [style(source.new_label(rng)) for _ in names]
    elif kind < 0.85:
        shown = [style(x) for x in rng.sample(w.ALL_WORDS, k)]
    elif kind < 0.92:
        shown = rng.sample(list(string.ascii_uppercase), k)
    else:
        shown = [str(x) for x in rng.sample(range(1, 100), k)]
    return (shown, False) if len(set(shown)) == k else ([f"{n}{i}" for i, n in enumerate(shown)], False)


ASK_LABEL = (
    "Classify the [text|message|item|input].", "[Choose|Pick|Select] the [label|category|class] that fits.", "What kind of [message|text|item] is this?",
    "[Assign|Give] the right [label|category|tag] to each [message|text|item].", "Label the [text|message|item].", "Sort the [message|text|item] into one of the [groups|classes|categories].",
    "Which [topic|category|label|intent] does it belong to?", "You [label|sort|classify] [messages|texts]. Answer with the [label|name] only.",
    "Read the [message|text] and answer with one [label|category|word] from the list.", "[Decide|Say] which [option|group] is right. No other words.",
)
_OPTIONS = ("Options", "Labels", "Categories", "Choices", "Possible answers", "Classes", "One of", "Groups", "Topics", "Tags")


def _option_list(rng: Random, labels: list[str]) -> str:
    order = rng.sample(labels, len(labels))
    head = rng.choice(_OPTIONS)
    kind = rng.randrange(6)
    if kind == 0:
        return f"{head}:\n" + "\n".join(f"- {x}" for x in order)
    if kind == 1:
        return f"{head}: " + rng.choice((", ", " | ", "; ", " / ")).join(order)
    if kind == 2:
        return f"{head}:\n" + "\n".join(order)
    if kind == 3:
        return f"{head}: " + ", ".join(order[:-1]) + f" or {order[-1]}."
    if kind == 4:
        return f"{head}: [" + ", ".join(json.dumps(x) for x in order) + "]"
    return f"({', '.join(order)})"


def _answer_frame(rng: Random) -> str:
    return rng.choice(("{}",) * 9 + ("Label: {}", "The answer is {}.", "<{}>", '{{"label": "{}"}}', '"{}"', "=> {}", "category = {}", "It is {}.", "[{}]"))


def classify(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Label items turn by turn; with meaningful names the options are shown, with arbitrary ones the turns teach them."""
    k = rng.choice((2, 2, 3, 4, 4, 5)) if budget <= 300 else rng.choice((2, 3, 4, 4, 6, 8, 12) if budget < 900 else (3, 4, 6, 10, 16, 24))
    names, makers, long = _classes(rng, source, k)
    labels, meaning = _label_names(rng, source, names)
    frame = _answer_frame(rng)
    cost = (26 if long else 13) + 6
    rounds = max(2, min(40, (budget - 40) // cost))
    head = ""
    if rng.random() < (0.9 if meaning else 0.6):
        head = pick(rng, rng.choice(ASK_LABEL)) + rng.choice(("\n", " ", "\n\n")) + _option_list(rng, labels)
        if frame != "{}":
            head += "\n" + pick(rng, "[Answer|Reply|Write] [like|as|in the form] ") + frame.format("...")
    prefix = rng.choice(("",) * 5 + ("Text: ", "Message: ", "Input: ", "Item: ", "> "))
    turns: list[Turn] = []
    where = rng.random()
    if head and where < 0.5:
        turns.append(("system", head))
    pending: list[int] = []
    for i in range(rounds):
        if not pending:
            pending = rng.sample(range(len(labels)), len(labels)) if rng.random() < 0.5 else [rng.randrange(len(labels)) for _ in labels]
        c = pending.pop()
        text = prefix + makers[c]()
        if head and where >= 0.5 and i == 0:
            text = head + "\n\n" + text if rng.random() < 0.8 else text + "\n\n" + head
        turns += [("user", text), ("assistant", frame.format(labels[c]))]
    return turns


def classify_prompt(rng: Random, budget: int, source: Source) -> list[Turn]:
    """All examples inside one prompt, then one or two items."""
    k = rng.choice((2, 3, 4, 4, 5))
    names, makers, long = _classes(rng, source, k)
    labels, meaning = _label_names(rng, source, names)
    a, b = rng.choice((("Text", "Label"), ("Message", "Category"), ("Input", "Output"), ("Q", "A"), ("Item", "Class"), ("message", "intent"), ("Example", "Answer")))
    sep = rng.choice(("\n", "\n", " -> ", " | ", " => "))
    line = (lambda t, lab: f"{a}: {t}\n{b}: {lab}\n\n") if sep == "\n" else (lambda t, lab: f"{t}{sep}{lab}\n")
    shots = 0 if meaning and rng.random() < 0.3 else max(k, min(20, (budget - 80) // (34 if long else 18)))
    order = [i % len(labels) for i in range(shots)]
    rng.shuffle(order)
    body = "".join(line(makers[c](), labels[c]) for c in order)
    target = rng.choice(order) if order else rng.randrange(len(labels))
    ask = pick(rng, rng.choice(ASK_LABEL)) + "\n" + (_option_list(rng, labels) + "\n" if rng.random() < 0.8 or not order else "") if rng.random() < 0.85 or not order else ""
    last = f"{a}: {makers[target]()}\n{b}:" if sep == "\n" else f"{makers[target]()}{sep}".rstrip()
    turns = [("user", f"{ask}\n{body}{last}".strip()), ("assistant", labels[target])]
    return turns


def match(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Label by likeness alone: few classes, few patterns each, arbitrary labels, so that a message resembles an earlier one of its class.

    The steps towards it: the very same item again, the same pattern with other values, another pattern of the intent.
    """
    k = rng.choice((2, 2, 3, 4))
    kind = rng.random()
    if kind < 0.65:
        width = rng.choice((1, 1, 2, 4))
        pools = [rng.sample(i.patterns, min(width, len(i.patterns))) for i in rng.sample(list(source.intents), k)]
        makers = [(lambda p=p: m.fill(rng, rng.choice(p))) for p in pools]
        cost = 24
    elif kind < 0.85:
        groups = rng.sample(sorted(w.CATEGORIES), k)
        items = [rng.sample(w.CATEGORIES[g], rng.choice((1, 2, 4, 7))) for g in groups]
        makers = [(lambda i=i: rng.choice(i)) for i in items]
        cost = 14
    else:
        fixed = [m.message(rng, i, 0.0) for i in rng.sample(list(source.intents), k)]
        makers = [(lambda t=t: t) for t in fixed]
        cost = 24
    style = casing(rng)
    maker = rng.choice((source.new_label, source.new_label, lambda r: r.choice(w.ALL_WORDS), lambda r: r.choice(string.ascii_uppercase), lambda r: str(r.randint(1, 99))))
    labels: list[str] = []
    while len(labels) < k:
        label = style(maker(rng))
        if label not in labels:
            labels.append(label)
    turns: list[Turn] = []
    if rng.random() < 0.6:
        turns.append(("system", pick(rng, rng.choice(ASK_LABEL)) + " " + _option_list(rng, labels)))
    for i in range(max(k + 2, min(40, (budget - 30) // cost))):
        c = i % k if i < k else rng.randrange(k)
        turns += [("user", makers[c]()), ("assistant", labels[c])]
    return turns


# ---- recall and copying ----------------------------------------------------------------------------------------------


def _thing(rng: Random, kind: int) -> str:
    return (w.word, w.code, lambda r: w.digits(r, 1, 4), w.person, w.product, w.pseudo, w.package, w.version)[kind](rng)


def recall(rng: Random, budget: int, source: Source) -> list[Turn]:
    """`a → b, y → d … a?`, asked several times."""
    ka, kb = rng.randrange(8), rng.randrange(8)
    n = rng.randint(2, max(2, min(30, budget // 26)))
    keys = list(dict.fromkeys(_thing(rng, ka) for _ in range(n)))
    values = [_thing(rng, kb) for _ in keys]
    arrow, gap = rng.choice((" -> ", ": ", " = ", "→", " is ", " - ", "=", " => ")), rng.choice(("\n", ", ", "; ", "\n", " | "))
    body = gap.join(f"{a}{arrow}{b}" for a, b in zip(keys, values, strict=True))
    intro = rng.choice(("", "", "Remember:\n", "Look at this list.\n", "Here are some pairs:\n", "Use the table.\n", "Data:\n"))
    order = rng.sample(range(len(keys)), len(keys))[: max(2, len(keys) // 2 + 1)]
    asks = rng.choice(("{}", "{}?", "{}{arrow}", "What is {}?", "What belongs to {}?", "Find {}.", "Give the value of {}"))
    turns: list[Turn] = []
    for i, j in enumerate(order):
        q = asks.replace("{arrow}", arrow.rstrip()).format(keys[j])
        back = rng.random() < 0.04
        if back:
            q = f"What has the value {values[j]}?"
        first = f"{intro}{body}\n\n{q}" if i == 0 else q
        answer = keys[values.index(values[j])] if back else values[j]
        turns += [("user", first), ("assistant", answer)]
    return turns


def copy(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Repeat exactly: words, codes, sentences, odd strings."""
    ask = rng.choice(("Repeat: {}", "Copy this: {}", "Say exactly: {}", "{}", "Write the same: {}", "Echo: {}", "Repeat after me.\n{}", "Copy the text between the marks: <<{}>>", "Type: {}"))
    turns: list[Turn] = []
    used = 0
    while used < budget - 30:
        kind = rng.random()
        if kind < 0.45:
            text = " ".join(_thing(rng, rng.randrange(8)) for _ in range(rng.randint(1, 6)))
        elif kind < 0.75 or not source.topics:
            text = source.message(rng, rng.choice(source.intents), 0.2)
        else:
            text = rng.choice(source.topics[rng.choice(sorted(source.topics))])
        turns += [("user", ask.format(text)), ("assistant", text)]
        used += len(text) + 14
        if rng.random() < 0.15:
            break
    if ask == "{}" and rng.random() < 0.9:
        turns.insert(0, ("system", pick(rng, "[Repeat|Copy|Echo] [every message|what the user says|the input] [exactly|word for word].")))
    return turns


# ---- small operations on strings -------------------------------------------------------------------------------------


def _words(rng: Random, low: int = 2, high: int = 6) -> list[str]:
    return [w.word(rng) for _ in range(rng.randint(low, high))]


def _follower(rng: Random) -> tuple[str, str]:
    """A word of a known order and the one after it."""
    table = rng.choice((w.DAYS, w.MONTHS, w.NUMBER_WORDS))
    i = rng.randrange(len(table))
    return table[i], table[(i + 1) % len(table)]


def _op(rng: Random) -> tuple[str, Callable[[], tuple[str, str]]]:
    """An instruction and a maker of (input, output)."""
    join = rng.choice((" ", ", ", " "))

    def on(f: Callable[[list[str]], str], low: int = 2, high: int = 6) -> Callable[[], tuple[str, str]]:
        def make() -> tuple[str, str]:
            ws = _words(rng, low, high)
            return join.join(ws), f(ws)

        return make

    nth = rng.randint(1, 3)
    old, new = rng.choice("_-./+"), rng.choice("_-./+*")
    swap = rng.choice((w.SYNONYMS, w.ANTONYMS))
    table = rng.sample(swap, 8)
    ops: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("[Write|Put] the words in [reverse|backward] order.", on(lambda x: join.join(x[::-1]))),
        ("[Write|Put] it in [capital letters|upper case].", on(lambda x: join.join(x).upper(), 1, 3)),
        ("[Write|Put] it in [small letters|lower case].", lambda: (lambda t: (t.upper(), t.lower()))(" ".join(_words(rng, 1, 4)))),
        ("[Give|Write|What is] the first word[.|]", on(lambda x: x[0])),
        ("[Give|Write|What is] the last word[.|]", on(lambda x: x[-1])),
        (f"[Give|Write] word number {nth}.", on(lambda x: x[nth - 1], 3, 6)),
        ("[Sort|Order] the words [by alphabet|alphabetically|from A to Z].", on(lambda x: join.join(sorted(x, key=str.lower)), 2, 4)),
        ("How many words [are there|does it have]?", on(lambda x: str(len(x)), 1, 8)),
        ("[Remove|Drop|Leave out] the first word.", on(lambda x: join.join(x[1:]))),
        ("[Repeat|Write] it [twice|two times].", on(lambda x: join.join(x + x), 1, 3)),
        ("[Give|Write] the first letter of each word.", on(lambda x: " ".join(y[0] for y in x), 2, 5)),
        (f"Put a {old} between the words.", on(lambda x: old.join(x), 2, 5)),
        (f"Put {new} before each word.", on(lambda x: " ".join(new + y for y in x), 2, 5)),
        ("[Make|Write] a list with dashes.", on(lambda x: "\n".join("- " + y for y in x), 2, 5)),
        ("[Make|Write] a numbered list.", on(lambda x: "\n".join(f"{i}. {y}" for i, y in enumerate(x, 1)), 2, 5)),
        ("[Make|Write|Give] a JSON list.", on(lambda x: json.dumps(x), 1, 5)),
        ("Capitalize [each|every] word.", on(lambda x: join.join(y.capitalize() for y in x), 1, 4)),
        ("[Swap|Exchange] the two words.", on(lambda x: f"{x[1]} {x[0]}", 2, 2)),
        ("[Sort|Order] the numbers [from small to large|upwards].", lambda: (lambda xs: (" ".join(map(str, xs)), " ".join(map(str, sorted(xs)))))([rng.randint(0, 99) for _ in range(rng.randint(2, 5))])),
        ("[Add|Sum] the numbers.", lambda: (lambda a, b: (f"{a} + {b}", str(a + b)))(rng.randint(0, 40), rng.randint(0, 40))),
        ("Subtract.", lambda: (lambda a, b: (f"{max(a, b)} - {min(a, b)}", str(abs(a - b))))(rng.randint(0, 40), rng.randint(0, 40))),
        ("Which number is [larger|bigger]?", lambda: (lambda a, b: (f"{a} or {b}", str(max(a, b))))(rng.randint(0, 200), rng.randint(0, 200))),
        ("[Give|Write] only the digits.", lambda: (lambda c: (c, "".join(x for x in c if x.isdigit()) or "none"))(w.code(rng))),
        ("[Give|Write] a word [with the same meaning|that means the same].", lambda: rng.choice(w.SYNONYMS)),
        ("[Give|Write] the opposite.", lambda: rng.choice(w.ANTONYMS)),
        ("Spell the word.", lambda: (lambda x: (x, " ".join(x)))(w.word(rng))),
        ("Replace by the table: " + ", ".join(f"{a}={b}" for a, b in table), lambda: rng.choice(table)),
        ("[Continue|Go on with] the [row|series].", lambda: (lambda s, d: (", ".join(str(s + d * i) for i in range(4)), str(s + d * 4)))(rng.randint(0, 20), rng.randint(1, 5))),
        ("[Continue|Go on with] the pattern.", lambda: (lambda a, b: (f"{a} {b} {a} {b} {a}", b))(w.word(rng), w.word(rng))),
        ("What comes after it?", lambda: _follower(rng)),
    ]
    return rng.choice(ops)


def operate(rng: Random, budget: int, source: Source) -> list[Turn]:
    """One operation, several inputs; half of the time the operation is named, otherwise the turns show it."""
    ask, make = _op(rng)
    ask = pick(rng, ask)
    rounds = max(2, min(10, budget // 30))
    named = rng.random() < 0.65 or ask.startswith("Replace by")
    turns: list[Turn] = [("system", ask)] if named and rng.random() < 0.5 else []
    for i in range(rounds):
        x, y = make()
        turns += [("user", f"{ask}\n{x}" if named and i == 0 and not turns else x), ("assistant", y)]
    return turns


def translate(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Word by word through a dictionary that the prompt gives."""
    n = rng.randint(4, max(5, min(24, budget // 24)))
    known = list(dict.fromkeys(rng.choice(w.ALL_WORDS) if rng.random() < 0.8 else w.pseudo(rng) for _ in range(n)))
    table = {a: w.pseudo(rng) for a in known}
    arrow, gap = rng.choice((" = ", ": ", " -> ", " means ")), rng.choice(("\n", ", ", "; "))
    book = gap.join(f"{a}{arrow}{b}" for a, b in table.items())
    ask = pick(rng, "[Translate|Translate word by word|Use the dictionary to translate]")
    turns: list[Turn] = []
    for i in range(max(2, (budget - 10 * n) // 40)):
        ws = rng.sample(known, rng.randint(1, min(4, len(known))))
        text = " ".join(ws)
        turns += [("user", f"Dictionary:\n{book}\n\n{ask}: {text}" if i == 0 else text), ("assistant", " ".join(table[x] for x in ws))]
        if len(turns) > 14:
            break
    return turns


# ---- fields ----------------------------------------------------------------------------------------------------------

KEY_NAMES: dict[str, tuple[str, ...]] = {
    "code": ("code", "order number", "reference", "ticket", "booking id", "number", "ref", "id"), "name": ("name", "customer", "person", "sender", "contact", "who"),
    "city": ("city", "place", "location", "town", "destination", "where"), "product": ("product", "item", "article", "thing", "device"),
    "date": ("date", "day", "deadline", "when", "since"), "time": ("time", "hour", "at"), "price": ("price", "amount", "cost", "sum", "money"),
    "email": ("email", "mail", "address"), "num": ("count", "quantity", "how many", "people", "amount"), "version": ("version", "release", "fixed in"),
    "package": ("package", "library", "program", "software"), "food": ("food", "dish", "meal"), "drink": ("drink", "beverage"), "team": ("team", "club"),
    "sport": ("sport", "game"), "app": ("app", "program", "software"), "car": ("car", "vehicle"), "body": ("body part", "where"), "subject": ("subject", "course"),
    "animal": ("animal", "pet"), "room": ("room", "place"), "colour": ("colour", "color"),
}

_FACTS = (
    "{name} lives in {city}.", "The {product} costs {price}.", "{name} ordered {num} {product}s on {date}.", "Order {code} goes to {city}.", "{name} can be reached at {email}.",
    "We meet at {time} in {city}.", "{package} {version} was released on {date}.", "The bug in {package} is fixed in {version}.", "{name} plays for the {team}.",
    "A table for {num} at {time} on {date}.", "Ticket {code} is about the {product}.", "{name} paid {price} on {date}.", "The meeting with {name} is on {date} at {time}.",
    "Please send the {product} to {name} in {city}.", "My order number is {code} and I bought a {product}.", "An issue was found in {package} before {version}.",
    "Versions of {package} up to {version} are affected, see {code}.", "I would like {food} and {drink} for {num} people.", "{name} drives a {colour} {car}.", "{code}: {product}, {price}",
    "The {animal} of {name} is in {city}.", "{name} hurt a {body} on {date}.", "{name} teaches {subject} at {time}.", "Call {name} about {code}.",
    "{app} {version} fails on my {product} since {date}.", "We need {num} seats on {date}, booking {code}.", "I am {name}, order {code}.", "It is for {num} people.", "Under the name {name}, at {time} please.",
)


def _amid(rng: Random, source: Source, text: str) -> str:
    """The text, in a wide source now and then beside a sentence about something else, which holds nothing to copy."""
    if not source.wide or rng.random() > 0.33:
        return text
    if rng.random() < 0.6 or not source.topics:
        other = sentence(rng.choice(rng.choice(source.with_uses).used))
    else:
        other = rng.choice(source.topics[rng.choice(sorted(source.topics))])
    return f"{text} {other}" if rng.random() < 0.5 else f"{other} {text}"


def _record_text(rng: Random, source: Source) -> tuple[str, dict[str, str]]:
    """A text and the slots that occur in it exactly once by kind."""
    slots: list[tuple[str, str]] = []
    kind = rng.random()
    if kind < 0.5:
        text = source.message(rng, rng.choice(source.intents), rng.choice((0.3, 0.7)), slots)
    else:
        facts = rng.sample(_FACTS, rng.randint(1, 3))
        text = " ".join(m.fill(rng, f, slots, source.product) for f in facts)
        if kind > 0.85 and source.topics:
            other = rng.choice(source.topics[rng.choice(sorted(source.topics))])
            text = f"{text} {other}" if rng.random() < 0.5 else f"{other} {text}"
    text = _amid(rng, source, text)
    kinds = [k for k, _ in slots]
    return text, {k: v for k, v in slots if kinds.count(k) == 1 and text.count(v) == 1}


def _layout(rng: Random, keys: list[str]) -> tuple[str, Callable[[list[str | None]], str]]:
    """A name of the format and the function that writes values in it."""
    kind = rng.randrange(14)
    void = rng.choice(("none", "-", "n/a", "null", "unknown", ""))
    text = lambda vs: [void if v is None else v for v in vs]
    if kind < 6:
        return "JSON", lambda vs: json.dumps(dict(zip(keys, vs, strict=True)), ensure_ascii=False)
    if kind < 8:
        return "compact JSON", lambda vs: json.dumps(dict(zip(keys, vs, strict=True)), ensure_ascii=False, separators=(",", ":"))
    if kind == 8:
        return "lines of the form key: value", lambda vs: "\n".join(f"{k}: {v}" for k, v in zip(keys, text(vs), strict=True))
    if kind == 9:
        return "lines of the form key = value", lambda vs: "\n".join(f"{k} = {v}" for k, v in zip(keys, text(vs), strict=True))
    if kind == 10:
        return "values split by |", lambda vs: " | ".join(text(vs))
    if kind == 11:
        return "a list with dashes", lambda vs: "\n".join(f"- {k}: {v}" for k, v in zip(keys, text(vs), strict=True))
    if kind == 12:
        return "XML", lambda vs: "".join(f"<{k.replace(' ', '_')}>{v}</{k.replace(' ', '_')}>" for k, v in zip(keys, text(vs), strict=True))
    return "one line, key=value; key=value", lambda vs: "; ".join(f"{k}={v}" for k, v in zip(keys, text(vs), strict=True))


ASK_FIELDS = (
    "[Extract|Find|Take|Pull out] the [fields|values|data|details] [{keys}|: {keys}] [from the text|from the message|] [as|in] {form}.", "[Give|Write|Return] {form} with [the keys|the fields|] {keys}.",
    "[Read|Take] the [message|text] and [fill in|give|note] {keys}. [Answer in|Use|Format:] {form}.", "[Answer|Reply] only with {form}; keys: {keys}.", "Which {keys} are in the text? [Use|Write] {form}.",
)


def extract(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Fields copied from texts into a format; null where the text does not say; sometimes with a label and a reply."""
    texts = []
    want = max(1, min(12, budget // 75))
    for _ in range(want * 3):
        text, slots = _record_text(rng, source)
        if slots or texts:
            texts.append((text, slots))
        if len(texts) == want:
            break
    if not texts:
        return recall(rng, budget, source)
    found = list(dict.fromkeys(k for _, s in texts for k in s))
    kinds = rng.sample(found, min(len(found), rng.randint(1, 4)))
    if rng.random() < 0.3:
        absent = rng.choice([k for k in KEY_NAMES if k not in kinds])
        kinds.insert(rng.randint(0, len(kinds)), absent)
    style = casing(rng)
    odd = rng.random() < (0.35 if source.varied and want > 1 else 0.12)  # names that say nothing: only the turns before can tell
    keys: list[str] = []
    for k in kinds:
        key = style(w.pseudo(rng) if odd else rng.choice(KEY_NAMES[k]))
        keys.append(key if key not in keys else f"{key}_{len(keys)}")
    form, write = _layout(rng, keys)
    if rng.random() < 0.75 and not odd:
        quoted = rng.choice((", ".join(keys), ", ".join(f'"{k}"' for k in keys), " and ".join(keys)))
        ask = m.fill(rng, rng.choice(ASK_FIELDS).replace("{keys}", quoted.replace("[", "(")).replace("{form}", form)) if "{" not in quoted else quoted
        if rng.random() < 0.3 and form.endswith("JSON"):
            ask += " " + pick(rng, "[Use null|Write null|null] [when|if|where] [it is missing|nothing is said|the text does not say].")
    else:
        ask = ""
    turns: list[Turn] = []
    if ask and rng.random() < 0.5:
        turns.append(("system", ask))
        ask = ""
    for i, (text, slots) in enumerate(texts):
        user = f"{ask}\n\n{text}" if ask and i == 0 and rng.random() < 0.7 else f"{text}\n\n{ask}" if ask and i == 0 else text
        turns += [("user", user), ("assistant", write([slots.get(k) for k in kinds]))]
    return turns


_REPLIES = (
    "[Thank you for|We are sorry about|We have received] your [message|note|request] about the {thing}.", "[We will|Our team will] [look into|check|take care of] the {thing} [today|soon|at once].",
    "[Dear customer|Dear guest|Hello], the {thing} [is on our list|will be handled|has our attention].", "[Sure|Okay|Right], [I will|let me] [see to|look at|sort out] the {thing}!",
    "[Oh no|Ouch|Hey], [that {thing} story is bad|the {thing} again]? [On it|We got you|No worries]!", "[Please accept our apologies for|We regret] the trouble with the {thing}.",
    "[Kindly|Please] [give us|allow us] {days} days to [settle|review] the {thing}.",
)


def triage(rng: Random, budget: int, source: Source) -> list[Turn]:
    """A message becomes one object: a label, another label, copied fields, a sentence in one fixed style."""
    intents = rng.sample(list(source.intents), rng.randint(2, 5))
    by_domain = rng.random() < 0.4
    style, key_style = casing(rng), casing(rng)
    names = [style(i.domain if by_domain else i.name) for i in intents]
    levels = rng.choice((["low", "high"], ["low", "normal", "high"], ["P1", "P2", "P3"], ["1", "2", "3"], ["calm", "urgent"], ["green", "yellow", "red"]))
    level_of = {i.name: rng.choice(levels) for i in intents}
    reply = rng.choice(_REPLIES)
    while "[" in reply:  # one style per conversation
        reply = m._CHOICE.sub(lambda x: rng.choice(x[1].split("|")), reply)
    reply = reply.replace("{days}", str(rng.randint(2, 9)))
    rows = []
    for _ in range(max(1, min(9, budget // 130))):
        n = rng.randrange(len(intents))
        slots: list[tuple[str, str]] = []
        text = _amid(rng, source, source.message(rng, intents[n], 0.5, slots))
        kinds = [k for k, _ in slots]
        rows.append((n, text, {k: v for k, v in slots if kinds.count(k) == 1 and text.count(v) == 1}))
    found = list(dict.fromkeys(k for _, _, s in rows for k in s))
    fields = rng.sample(found, min(len(found), rng.randint(1, 2)))
    label_key = key_style(rng.choice(("category", "topic", "type", "kind", "queue", "intent", "class", "team")))
    level_key = key_style(rng.choice(("priority", "urgency", "level", "severity", "rank"))) if rng.random() < 0.6 else ""
    reply_key = key_style(rng.choice(("reply", "answer", "response", "message", "text"))) if rng.random() < 0.6 else ""
    field_keys = [key_style(rng.choice(KEY_NAMES[f])) for f in fields]
    order = [label_key, *([level_key] if level_key else []), *field_keys, *([reply_key] if reply_key else [])]
    if rng.random() < 0.3:
        rng.shuffle(order)
    order = list(dict.fromkeys(order))
    compact = (",", ":") if rng.random() < 0.3 else None
    ask = ""
    if rng.random() < 0.8:
        ask = f"{label_key}: {' | '.join(rng.sample(sorted(set(names)), len(set(names))))}"
        if level_key:
            ask += f"\n{level_key}: {' | '.join(levels)}"
        ask = pick(rng, "[Turn each message into|Answer with|Write|Give] [one JSON object|JSON] [with|having] [keys|the keys|fields] ") + ", ".join(order) + ".\n" + ask
    turns: list[Turn] = [("system", ask)] if ask and rng.random() < 0.6 else []
    for i, (n, text, found_in) in enumerate(rows):
        values: dict[str, str | None] = {label_key: names[n], **({level_key: level_of[intents[n].name]} if level_key else {})}
        for k, f in zip(field_keys, fields, strict=True):
            values[k] = found_in.get(f)
        thing = next((found_in[f] for f in fields if f in found_in), intents[n].name)
        if reply_key:
            values[reply_key] = reply.replace("{thing}", thing)
        user = f"{ask}\n\n{text}" if ask and not turns and i == 0 else text
        turns += [("user", user), ("assistant", json.dumps({k: values[k] for k in order}, ensure_ascii=False, separators=compact))]
    return turns


_MARKS = ("<<", ">>", "[", "]", "{", "}", "--", "**", "##", "(", ")", "|", "~", "==", "*", "/", "::", "+", "<", ">", "_", "'", '"', "...", "!", "[*", "*]", "{{", "}}", "//", "^", "@")


def frame(rng: Random, budget: int, source: Source) -> list[Turn]:
    """A format of marks and words that only the turns show; the input is copied into it."""
    fields = rng.choice((1, 1, 1, 2, 2, 3))
    kinds = [rng.randrange(8) for _ in range(fields)]
    split = rng.choice((", ", " / ", "; ", " and ", "\n", " | "))
    order = rng.sample(range(fields), fields)
    pieces = []
    for _ in order:
        word_ = rng.choice(("", "", w.pseudo(rng), w.word(rng), w.pseudo(rng).capitalize()))
        lead = word_ + rng.choice((": ", "=", " -> ", " ", " is ")) if word_ else ""
        pieces.append(lead + rng.choice(("", rng.choice(_MARKS))) + "\0" + rng.choice(("", rng.choice(_MARKS))))
    shape = rng.choice((" ", "; ", "\n", ", ")).join(pieces)
    if rng.random() < 0.3:
        shape = rng.choice(_MARKS) + shape + rng.choice(_MARKS)
    turns: list[Turn] = []
    for _ in range(max(2, min(10, budget // (22 + 20 * fields)))):
        values = [_thing(rng, k) for k in kinds]
        out = shape
        for i in order:
            out = out.replace("\0", values[i], 1)
        turns += [("user", split.join(values)), ("assistant", out)]
    return turns


def convert(rng: Random, budget: int, source: Source) -> list[Turn]:
    """The same record from one layout into another: named, or shown by the first turn."""
    kinds = rng.sample(sorted(KEY_NAMES), rng.randint(2, 4))
    style = casing(rng)
    keys = list(dict.fromkeys(style(rng.choice(KEY_NAMES[k])) for k in kinds))
    _, read = _layout(rng, keys)
    form, write = _layout(rng, keys)
    ask = pick(rng, "[Write|Convert|Rewrite] [it|this|the record] as ") + form + "."
    turns: list[Turn] = [("system", ask)] if rng.random() < 0.6 else []
    for _ in range(max(2, min(6, budget // 90))):
        values: list[str | None] = [m.SLOTS[k](rng) for k, _ in zip(kinds, keys, strict=False)]
        turns += [("user", read(values)), ("assistant", write(values))]
    return turns


# ---- reading ---------------------------------------------------------------------------------------------------------

_FACT_QA = (
    ("{a} lives in {b}.", "Where does {a} live?", "city"), ("{a} bought the {b}.", "What did {a} buy?", "product"), ("{a} paid {b}.", "How much did {a} pay?", "price"),
    ("{a} arrives on {b}.", "When does {a} arrive?", "date"), ("{a} likes {b}.", "What does {a} like?", "food"), ("{a} plays {b}.", "What does {a} play?", "sport"),
    ("The code of {a} is {b}.", "What is the code of {a}?", "code"), ("{a} can be mailed at {b}.", "How can I mail {a}?", "email"), ("{a} uses {b}.", "What does {a} use?", "package"),
    ("{a} sits in the {b}.", "Where does {a} sit?", "room"), ("{a} has a {b}.", "Which animal does {a} have?", "animal"), ("{a} starts at {b}.", "When does {a} start?", "time"),
)


def answer(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Questions about a short text; the answer is a span of it, or `unknown`."""
    people = list(dict.fromkeys(w.person(rng) for _ in range(rng.randint(2, max(2, min(12, budget // 28))))))
    facts = []
    for a in people:
        text, ask, kind = rng.choice(_FACT_QA)
        b = m.SLOTS[kind](rng)
        facts.append((text.format(a=a, b=b), ask.format(a=a), b))
    body = [f[0] for f in facts]
    if source.topics and rng.random() < 0.4:
        body.insert(rng.randint(0, len(body)), rng.choice(source.topics[rng.choice(sorted(source.topics))]))
    text = rng.choice((" ", "\n", "\n- ")).join(body)
    none = rng.choice(("unknown", "I do not know.", "not stated"))
    asked = rng.sample(facts, max(1, len(facts) * 2 // 3))
    whole = rng.random() < 0.2  # answer with the sentence, as a citation
    rule = f' If the text does not say, answer "{none}".' if rng.random() < 0.3 else ""
    ask_head = pick(rng, "[Answer from the text|Use only the text|Answer with words of the text|Read and answer].") if not whole else "Answer with the sentence that tells it."
    turns: list[Turn] = []
    for i, (fact, ask, b) in enumerate(asked):
        reply = fact if whole else b
        if rule and rng.random() < 0.25:
            ask, reply = rng.choice(_FACT_QA)[1].format(a=w.pseudo(rng).capitalize()), none
        user = f"{ask_head}{rule}\n\n{text}\n\n{ask}" if i == 0 else ask
        turns += [("user", user), ("assistant", reply)]
    return turns


def yes_no(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Is it in the list, does the text mention it, are the two the same?"""
    yes, no = rng.choice((("yes", "no"), ("Yes", "No"), ("true", "false"), ("1", "0"), ("correct", "wrong"), ("Yes.", "No.")))
    kind = rng.randrange(3)
    turns: list[Turn] = []
    items = list(dict.fromkeys(_thing(rng, rng.randrange(8)) for _ in range(rng.randint(3, 8))))
    slots: list[tuple[str, str]] = []
    text = source.message(rng, rng.choice(source.intents), 0.7, slots)
    for i in range(max(2, min(8, budget // 30))):
        truth = rng.random() < 0.5
        if kind == 0:
            x = rng.choice(items) if truth else _thing(rng, rng.randrange(8))
            q, truth = f"Is {x} in the list?", x in items
            head = f"List: {', '.join(items)}\n[{yes}/{no}]\n"
        elif kind == 1:
            x = rng.choice(slots)[1] if truth and slots else _thing(rng, rng.randrange(8))
            q, truth = f"Does it mention {x}?", x in text
            head = f"{text}\n\n{yes} or {no}: "
        else:
            a = _thing(rng, rng.randrange(8))
            b = a if truth else _thing(rng, rng.randrange(8))
            q, truth = f"{a} / {b}", a == b
            head = f"Are the two the same? Say {yes} or {no}.\n"
        turns += [("user", head + q if i == 0 else q), ("assistant", yes if truth else no)]
    return turns


_TONES: dict[str, tuple[str, ...]] = {
    "formal": ("We kindly inform you that {}.", "Please be advised that {}.", "We would like to inform you that {}."),
    "friendly": ("Good news, {}!", "Just so you know, {} :)", "Hi there, {}!"), "sad": ("Sadly, {}.", "I am afraid that {}.", "It hurts to say it, but {}."),
    "short": ("{}.",), "excited": ("Wow, {}!!!", "Can you believe it, {}!"), "doubtful": ("Maybe {}.", "It seems that {}, but I am not sure."),
    "pirate": ("Arr, {}, matey!",), "polite": ("If you please, {}.", "May I mention that {}?"), "rude": ("Listen, {}, got it?",),
}
_CLAUSES = (
    "the {product} is ready", "your order {code} was sent on {date}", "the meeting is at {time}", "{name} is in {city}", "the price is {price}", "we are closed on {date}", "the {food} is sold out",
    "your ticket {code} is closed", "{package} {version} is out", "the train to {city} is late", "we found your {product}", "the {team} won", "a refund of {price} is on its way", "the bill {code} is paid",
)


def tone(rng: Random, budget: int, source: Source) -> list[Turn]:
    """Say a clause in a tone; one frame per tone and conversation, copied clause."""
    frames = {t: rng.choice(f) for t, f in rng.sample(sorted(_TONES.items()), rng.randint(1, 4))}
    one = len(frames) == 1
    ask = pick(rng, "[Say|Write|Rewrite|Put] it in a {} [tone|way|style|voice]")
    turns: list[Turn] = []
    for i in range(max(2, min(9, budget // 45))):
        t = rng.choice(sorted(frames))
        clause = m.fill(rng, rng.choice(_CLAUSES))
        user = clause if one and i else f"{ask.replace('{}', t)}: {clause}"
        turns += [("user", user), ("assistant", frames[t].format(clause))]
    return turns


def lookup(rng: Random, budget: int, source: Source) -> list[Turn]:
    """A table or list of records; one field of one row is asked for."""
    kinds = rng.sample(("name", "city", "product", "date", "price", "code", "time", "version", "email"), rng.randint(2, 3))
    cols = [rng.choice(KEY_NAMES[k]) for k in kinds]
    n = rng.randint(2, max(2, min(14, budget // 45)))
    rows = [[m.SLOTS[k](rng) for k in kinds] for _ in range(n)]
    rows = [r for i, r in enumerate(rows) if r[0] not in [x[0] for x in rows[:i]]]
    sep = rng.choice((" | ", ", ", "\t", "; "))
    body = sep.join(cols) + "\n" + "\n".join(sep.join(r) for r in rows)
    turns: list[Turn] = []
    for i in range(min(len(rows), 5)):
        r, c = rng.choice(rows), rng.randrange(1, len(kinds))
        q = rng.choice((f"{cols[c]} of {r[0]}?", f"What is the {cols[c]} for {r[0]}?", f"{r[0]}: {cols[c]}"))
        turns += [("user", f"{body}\n\n{q}" if i == 0 else q), ("assistant", r[c])]
    return turns


TASKS: dict[str, Callable[[Random, int, Source], list[Turn]]] = {
    "classify": classify, "classify_prompt": classify_prompt, "match": match, "recall": recall, "copy": copy, "operate": operate, "translate": translate, "extract": extract,
    "triage": triage, "convert": convert, "frame": frame, "answer": answer, "yes_no": yes_no, "tone": tone, "lookup": lookup,
}
