"""The tokenizer of weft-nano: byte-level BPE made for copying.

Merges are learnt on words *without* their leading space; afterwards the space is glued to the most frequent whole
words only. So ` Lobrin` and `"Lobrin` share their pieces and a rare string is copied token for token, which a model
of this size can learn. Digits stand alone for the same reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import messages, tasks
from .text import Corpus

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZE = 6144
SPACED_WORDS = 1150
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}\n"
    "{%- if message['role'] == 'assistant' -%}\n"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}\n"
    "{%- else -%}\n"
    "{{- message['content'] + '<|im_end|>' -}}\n"
    "{%- endif -%}\n"
    "{{- '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n"
)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train(texts: Iterable[str], folder: Path) -> None:
    """Learn the tokenizer from `texts` and write its files and the chat template to `folder`."""
    texts = list(texts)
    bare = Tokenizer(models.BPE())
    # Spaces are pieces of their own while merges are learnt.
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" (?=\S)"), "isolated"), _pre_tokenizer()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIAL) - SPACED_WORDS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    bare.train_from_iterator(texts, trainer)
    learnt = json.loads(bare.to_str())["model"]
    vocab: dict[str, int] = learnt["vocab"]
    merges: list[list[str]] = learnt["merges"]
    counts = Counter(piece for text in texts for piece in text.split(" ")[1:])
    letters = [
        (n, word)
        for word, n in counts.items()
        if word in vocab and word.isalpha() and word.isascii() and (len(word) > 1 or word in "aI")
    ]
    marks = [(1 << 30, mark) for mark in ("(", "{", "[", '"', "-", "=", "->", "|") if mark in vocab]
    for _, word in sorted(marks + letters, key=lambda pair: (-pair[0], pair[1]))[:SPACED_WORDS]:
        vocab["Ġ" + word] = len(vocab)
        merges.append(["Ġ", word])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[(a, b) for a, b in merges]))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    _write(tokenizer, folder)


def _write(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")


def sample_texts(corpus: Corpus, conversations: int = 12_000) -> Iterator[str]:
    """What the tokenizer is learnt from: the corpus and a fixed sample of the curriculum."""
    yield from corpus.texts
    for chat in corpus.chats:
        yield from (text for _, text in chat)
    source = tasks.Source(messages.TRAIN, {})
    for index in range(conversations):
        rng = Random(f"tokenizer/{index}")
        name = rng.choice(sorted(set(tasks.TASKS) - {"frame", "match"}))  # the tokenizer is older
        yield from (text for _, text in tasks.TASKS[name](rng, 128, source))
