"""Makes tickets.jsonl: `python examples/tickets/make.py`. Standard library only, the same bytes each time.

messages.txt was written by hand and each line is used once: a priority (h, n, l), a space and the message, under a
`= category` heading; [brackets] mark the product, `#` and `@` stand for an order number of either format.
What is added here: the numbers, one of requests.txt (each used once) where a message does not name its subject, an
order reference on some messages that have none, a sign-off (names.txt) on every fifth, and the answer.
Lines whose priority contradicts the rule of the README are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PRIORITIES = {"h": "high", "n": "normal", "l": "low"}
QUESTION = "product_question"
MAY_GET_REFERENCE = ("delivery", "refund", "damaged", "billing")

HIGH = re.compile(
    r"\burgent|\basap\b|\bimmediately\b|\bemergency\b|\btomorrow\b|\btonight\b|\bthis (weekend|afternoon)\b"
    r"|\b(by|before) (monday|tuesday|wednesday|thursday|friday|saturday|sunday|noon)\b"
    r"|\belectric shock\b|\bget a shock\b|\bsmoke came\b|\bsparks\b|\bburn(t|ing)\b"
    r"|\bhurt\.|\binjured\b|\bdangerous\b|\bfire\b"
    r"|\bcut my hand\b",
    re.IGNORECASE,
)
"""A deadline, a danger or the word itself."""

LOW = re.compile(
    r"\bno (rush|hurry|pressure|need for speed)\b|\bwhenever\b|\btake your time\b|\bcan wait\b|\bleisure\b"
    r"|\bwhen (you have (a moment|time)|you've a minute|time allows|someone has)|\bat some point\b|\bjust curious\b"
    r"|\bconvenient\b|\bnot pressing\b",
    re.IGNORECASE,
)
"""It can wait, says the customer."""

TELLING = {
    "delivery": r"deliver|courier|carrier|parcel|track|arriv|ship|transit|depot",
    "refund": r"refund|return|money back|repa[iy]|reimburs",
    "damaged": r"damage|broke|crack|smash|torn|dent|chip|snap|split|bent|scratch|shatter",
    "billing": r"bill|invoice|charge|payment|receipt|debit",
    "account": r"account|profile|log ?in|sign[- ]?in|password",
    QUESTION: r"\? .*\.|\. .*\?",
}
"""A message without such a word (a product question: of a single sentence) gets a request, while there are any."""

REFERENCES = (
    "My order number is {}.",
    "It was order {}.",
    "You will find it under {}.",
    "Reference: {}.",
    "{} is the order number.",
    "I quote order {}.",
    "(Order {})",
    "This concerns order {}.",
    "For your records: {}.",
    "The number on the slip is {}.",
)
SIGN_OFFS = ("Regards, {}", "Thanks, {}", "{}", "Yours, {}", "- {}", "Kind regards, {}", "Sincerely, {}", "Best, {}")


@dataclass(frozen=True, slots=True)
class Ticket:
    """One example: what the customer wrote and what the answer is made of."""

    message: str
    category: str
    priority: str
    order_number: str | None
    product: str | None
    name: str | None
    """Who signed; part of the message, not of the answer."""

    @property
    def answer(self) -> dict[str, str | None]:
        return {
            "category": self.category,
            "priority": self.priority,
            "order_number": self.order_number,
            "product": self.product,
            "reply": reply(self.category, self.product, self.order_number),
        }

    def to_json(self) -> dict[str, list[dict[str, str]]]:
        answer = json.dumps(self.answer, ensure_ascii=False, separators=(",", ":"))
        return {"messages": [{"role": "user", "content": self.message}, {"role": "assistant", "content": answer}]}


def reply(category: str, product: str | None, order_number: str | None) -> str:
    """The house's sentence for this category, about the product, else the order, else a general word."""

    def subject(general: str) -> str:
        return f"your {product}" if product else f"order {order_number}" if order_number else general

    match category:
        case "delivery":
            return f"We regret the trouble and will pursue the delivery of {subject('your parcel')} with the carrier."
        case "refund":
            return f"We will review the refund for {subject('your purchase')} and confirm it to you in writing."
        case "damaged":
            return (
                f"We apologise for the damage to {subject('your goods')} and will arrange a replacement without delay."
            )
        case "billing":
            return f"We will examine the billing of {subject('your purchase')} and correct any error in the invoice."
        case "account":
            return "We will attend to your account with care and inform you of the outcome by letter."
        case "product_question":
            interest = f"the {product}" if product else "our range"
            return f"We thank you for your interest in {interest} and will gladly send the details."
    raise SystemExit(f"messages.txt: unknown category {category!r}; add its sentence to reply() in make.py")


def tickets(folder: Path = HERE) -> list[Ticket]:
    """All examples in the order of the file: an order that a hash decides, so that categories are mixed."""
    people = iter((folder / "names.txt").read_text(encoding="utf-8").splitlines())
    numbers = _order_numbers()
    requests = _requests(folder)
    made = []
    bare = signed = referenced = 0
    for place, (category, letter, written) in enumerate(_written(folder)):
        product = _product(written)
        message = re.sub(r"[\[\]]", "", written)
        if not re.search(TELLING[category], message, re.IGNORECASE):
            message = " ".join([message, *requests[category][:1]])
            del requests[category][:1]
        order_number = None
        if mark := re.search(r"[#@]", message):
            order_number = next(numbers[mark[0]])
            message = message.replace(mark[0], order_number)
        elif category in MAY_GET_REFERENCE:
            bare += 1
            if bare % 5 < 2:
                referenced += 1
                order_number = next(numbers["#@"[referenced % 2]])
                message += " " + REFERENCES[referenced % len(REFERENCES)].format(order_number)
        name = None
        if place % 5 == 0:
            name = next(people)
            message += " " + SIGN_OFFS[signed % len(SIGN_OFFS)].format(name)
            signed += 1
        made.append(Ticket(message, category, PRIORITIES[letter], order_number, product, name))
    return sorted(made, key=lambda ticket: hashlib.sha256(ticket.message.encode()).digest())


def _written(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(category, priority letter, marked message) of each line; all broken lines are named at once."""
    flaws, lines = [], []
    for number, category, line in _sections(folder / "messages.txt"):
        letter, _, message = line.partition(" ")
        if flaw := _flaw(category, letter, message):
            flaws.append(f"messages.txt line {number}: {flaw}: {line}")
        lines.append((category, letter, message))
    if flaws:
        raise SystemExit("\n".join(flaws))
    yield from lines


def _requests(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for _, category, line in _sections(folder / "requests.txt"):
        found.setdefault(category, []).append(line)
    return found


def _sections(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, heading above it, line) of each line that is no heading."""
    heading = ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("= "):
            heading = line[2:]
        else:
            yield number, heading, line


def _flaw(category: str, letter: str, message: str) -> str | None:
    by_rule = "h" if HIGH.search(message) else "l" if LOW.search(message) or category == QUESTION else "n"
    if by_rule != letter:
        return f"priority is {letter!r}, expected {by_rule!r} by the rule of the README"
    if len(re.findall(r"\[[^\]]+\]", message)) > 1 or len(re.findall(r"[#@]", message)) > 1:
        return "more than one product or order number"
    return None


def _product(written: str) -> str | None:
    found = re.search(r"\[([^\]]+)\]", written)
    return found[1] if found else None


def _order_numbers() -> dict[str, Iterator[str]]:
    """Distinct numbers of each format; no digits occur in both."""
    shuffled = sorted(range(10_000, 100_000), key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return {
        "#": (f"#{number}" for number in shuffled[::2]),
        "@": (f"WX-{number}" for number in shuffled[1::2]),
    }


def main(folder: Path = HERE) -> None:
    rows = tickets(folder)
    text = "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows)
    (folder / "tickets.jsonl").write_text(text, encoding="utf-8", newline="\n")
    print(f"tickets.jsonl: {len(rows)} examples", file=sys.stderr)


if __name__ == "__main__":
    main()
