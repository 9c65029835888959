"""A process that tries grammars, so that one which takes too long or too much memory can be killed with it.

    python -m weft.generate.grammar_check       started by `constrain.py`, never by a person

One line of JSON in, one out. First the tokenizer: {"tokenizer": its JSON, "vocabulary": V, "ends": [ids], "memory":
bytes}. Then grammars: {"grammar": text} → {"error": text}, empty where it can be used.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Answer until the input ends."""
    from llguidance import LLMatcher, LLTokenizer

    first = json.loads(sys.stdin.readline())
    _limit_memory(first["memory"])
    tokenizer = LLTokenizer(first["tokenizer"], n_vocab=first["vocabulary"], eos_token=first["ends"])
    _say("")
    for line in sys.stdin:
        matcher = LLMatcher(tokenizer, json.loads(line)["grammar"], log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
        _say(matcher.get_error())


def _say(error: str) -> None:
    sys.stdout.write(json.dumps({"error": error}) + "\n")
    sys.stdout.flush()


def _limit_memory(size: int) -> None:
    try:
        import resource
    except ImportError:  # not a Unix: the time limit alone holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
