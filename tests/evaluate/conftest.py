"""Objects of report.json as runs write them: one for each kind of task, and those in which little happened."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

Report = dict[str, Any]


def share(right: float, n: int) -> dict[str, float]:
    """A share with its Wilson interval."""
    z = 1.96
    middle = (right + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(right * (1 - right) / n + z * z / (4 * n * n))
    return {"value": right, "low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def answer(category: str, priority: str, number: str | None, product: str | None, reply: str) -> str:
    fields = {"category": category, "priority": priority, "order_number": number, "product": product, "reply": reply}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def structured() -> Report:
    n = 128
    names = {
        "zero-shot": ("Base, as it is", 0.0, 0.008, 61.4, 0.31),
        "prompted": ("With a written system prompt", 0.031, 0.102, 214.2, 0.42),
        "few-shot": ("With the nearest examples", 0.203, 0.641, 702.8, 0.63),
        "tuned": ("Fine-tuned", 0.906, 0.992, 61.4, 0.29),
    }
    arms = [
        {
            "name": name,
            "title": title,
            "split": "test",
            "n": n,
            "metrics": {
                "accuracy": share(accuracy, n),
                "format_consistency": share(form, n),
                "format_unaided": share(form / 2, n),
                "exact_match": share(accuracy * 0.7, n),
                "log_loss": {"value": 2.4 - 2 * accuracy, "low": 2.2 - 2 * accuracy, "high": 2.61 - 2 * accuracy},
                "fields.category": share(min(1, accuracy + 0.05), n),
            },
            "tokens_per_request": tokens,
            "seconds_per_request": seconds,
            "details": {},
        }
        for name, (title, accuracy, form, tokens, seconds) in names.items()
    ]
    arms[1]["details"] = {
        "system_prompt": "You answer support messages.\nAnswer with one JSON object with exactly the keys "
        '"category", "priority", "order_number", "product" and "reply".',
        "candidates": [{"candidate": "plain", "validation": 0.016}, {"candidate": "with format", "validation": 0.047}],
    }
    arms[2]["details"] = {"shots": 4, "retrieval": "BM25 over the training questions"}
    decisive = {
        "arms": ["tuned", "few-shot"],
        "metric": "accuracy",
        "difference": 0.703,
        "low": 0.617,
        "high": 0.781,
        "p": 2.1e-24,
        "p_adjusted": 6.3e-24,
        "n": n,
        "test": "McNemar, exact",
    }
    ideal = answer(
        "damaged",
        "normal",
        "#48213",
        "ceramic kettle",
        "We apologise for the damage to your ceramic kettle and will arrange a replacement without delay.",
    )
    return {
        "weft": "0.1.0",
        "created": "2026-11-22T09:14:03+00:00",
        "run": "runs/tickets-1a2b3c",
        "base": "weft-nano",
        "base_details": {
            "architecture": "Qwen3ForCausalLM",
            "parameters": 7_342_080,
            "context": 1024,
            "fingerprint": "4be1c7d0a94f2c61",
        },
        "data": {
            "path": "examples/tickets/tickets.jsonl",
            "layout": "chat messages",
            "rows": 640,
            "train": 445,
            "validation": 65,
            "test": n,
            "sha256": "9f2c" * 16,
            "findings": [
                {
                    "rule": "same-input-different-output",
                    "line": 88,
                    "severity": "warning",
                    "message": "The same question as in line 41 has another answer.",
                    "cost": "The model cannot learn both; one of them counts as wrong.",
                    "cure": "Keep the better one.",
                },
                *(
                    {
                        "rule": "near-duplicate",
                        "line": line,
                        "severity": "note",
                        "message": f"Nearly the same question as in line {line - 3}.",
                        "cost": "Kept together in one part of the split.",
                        "cure": "None needed.",
                    }
                    for line in range(101, 113)
                ),
            ],
        },
        "task": {
            "kind": "structured",
            "metric": "accuracy",
            "description": "Each answer is one JSON object; accuracy: share of rows with every closed field right.",
            "fields": [{"name": "category"}, {"name": "priority"}],
        },
        "arms": arms,
        "comparisons": [
            decisive,
            {**decisive, "arms": ["tuned", "prompted"], "difference": 0.875, "low": 0.805, "high": 0.922},
            {
                **decisive,
                "arms": ["prompted", "few-shot"],
                "difference": -0.172,
                "low": -0.25,
                "high": -0.094,
                "p": 2e-5,
            },
        ],
        "training": {
            "method": "LoRA r 16 on all linear layers",
            "trainable_parameters": 614_400,
            "total_parameters": 7_956_480,
            "steps": 240,
            "best_step": 200,
            "stopped_because": "validation loss did not fall for 2 validations",
            "seconds": 94.2,
            "tokens": 412_031,
            "curve": {
                "train": [
                    [s, round(0.05 + 2.6 * math.exp(-s / 45) + 0.06 * math.sin(1.7 * s), 4)] for s in range(1, 241)
                ],
                "validation": [
                    [s, round(0.13 + 2.4 * math.exp(-s / 50) + 0.001 * max(0, s - 200), 4)] for s in range(20, 241, 20)
                ],
            },
            "settings": {
                "learning_rate": {"value": 0.002, "origin": "auto: LoRA on a base of 7 M parameters"},
                "epochs": {"value": 8, "origin": "default"},
                "lora": {"value": {"r": 16, "alpha": 32}, "origin": "default"},
            },
        },
        "confusion": None,
        "fields": [
            {
                "field": field,
                "arms": {name: share(min(1.0, right * level), n) for name, (_, right, *_) in names.items()},
            }
            for field, level in (("category", 1.07), ("priority", 1.05), ("order_number", 1.06), ("product", 1.02))
        ],
        "disagreements": [
            {
                "line": 17 + 31 * i,
                "question": "Hello, my ceramic kettle arrived with a cracked lid today. The order is #48213, please "
                "call me on 020 7946 0321. Kind regards, Imogen",
                "expected": ideal,
                "answers": {
                    "prompted": "The customer has a broken kettle. I am sorry to hear that!",
                    "few-shot": ideal.replace("#48213", "020 7946").replace("damaged", "delivery"),
                    "tuned": ideal if i else ideal.replace('"normal"', '"high"').replace(" without delay", ""),
                },
                "right": {"prompted": False, "few-shot": False, "tuned": bool(i)},
            }
            for i in range(10)
        ],
        "verdict": {
            "choice": "fine-tune",
            "arm": "tuned",
            "reason": "The tuned model reaches 90.6 % right (84.3-94.6), few-shot prompting 20.3 % right (14.2-28.1): "
            "better by 70.3 points (61.7 to 78.1, p < 0.001, 128 rows).",
            "comparison": decisive,
            "would_change": [
                "A larger base that already answers in the right form with a prompt.",
                "Fewer than about 12,000 requests in the model's life, if training time is dear.",
            ],
            "costs": {"zero-shot": 61_400, "prompted": 214_200, "few-shot": 702_800, "tuned": 61_400},
            "control": share(0.0, n),
        },
        "settings": {
            "data": {"value": "examples/tickets/tickets.jsonl", "origin": "flag"},
            "base": {"value": "weft-nano", "origin": "default"},
            "seed": {"value": 7, "origin": "environment WEFT_SEED"},
        },
        "use": {
            "chat": "weft chat runs/tickets-1a2b3c",
            "eval": "weft eval runs/tickets-1a2b3c",
            "adapter": "runs/tickets-1a2b3c/adapter",
            "schema": "runs/tickets-1a2b3c/schema.json",
        },
        "schema": {"type": "object"},
        "seconds": {"read": 0.12, "arms": 41.3, "train": 94.2, "whole_run": 151.7},
        "test_looks": 1,
    }


def _labelled(labels: list[str], n: int) -> Report:
    report = structured() | {"schema": None}
    size = len(labels)
    counts = [
        [n // size if i == j else (3 if (i * 7 + 1) % size == j else 0) for j in range(size)] for i in range(size)
    ]
    names = {"classical": ("Classical classifier", 0.941, 0), "tuned": ("Fine-tuned", 0.929, 44.1)}
    arms = [
        {
            "name": name,
            "title": title,
            "split": "test",
            "n": n,
            "metrics": {
                "accuracy": share(right, n),
                "macro_f1": share(right - 0.02, n),
                "format_consistency": share(1.0, n),
            },
            "tokens_per_request": tokens,
            "seconds_per_request": 0.00021 if name == "classical" else 0.08,
            "details": {},
        }
        for name, (title, right, tokens) in names.items()
    ]
    decisive = {
        "arms": ["classical", "tuned"],
        "metric": "accuracy",
        "difference": 0.012,
        "low": -0.03,
        "high": 0.054,
        "p": 0.6291,
        "n": n,
        "test": "McNemar, exact",
    }
    return report | {
        "run": "runs/intents-77aa01",
        "task": {"kind": "classification", "metric": "accuracy", "description": "One label each.", "labels": labels},
        "arms": arms,
        "comparisons": [decisive],
        "confusion": {"labels": labels, "counts": counts},
        "fields": None,
        "disagreements": [
            {
                "line": 12,
                "question": "Dim the lamp in the hall",
                "expected": labels[0],
                "answers": {"classical": labels[0], "tuned": labels[1]},
                "right": {"classical": True, "tuned": False},
            }
        ],
        "verdict": {
            "choice": "classical",
            "arm": "classical",
            "reason": "The classical classifier is the cheapest arm that is not significantly worse than the best.",
            "comparison": decisive,
            "would_change": [],
            "costs": {"classical": 0, "tuned": 44_100},
        },
    }


def classification() -> Report:
    return _labelled(["lights", "heating", "music", "timer", "shopping list", "weather"], 102)


def many_labels() -> Report:
    return _labelled([f"{verb}_{noun}" for verb in VERBS for noun in NOUNS], 2002)


VERBS = ("activate", "cancel", "change", "compromised", "declined", "lost_or_stolen", "pending")
NOUNS = (
    "card",
    "pin",
    "transfer",
    "top_up",
    "cash_withdrawal",
    "exchange_rate",
    "fee",
    "refund",
    "limit",
    "phone",
    "id",
)


def text() -> Report:
    report = structured()
    for arm, level in zip(report["arms"], (0.21, 0.3, 0.42, 0.57), strict=True):
        arm["metrics"] = {"chrf": {"value": level, "low": level - 0.03, "high": level + 0.04}}
    comparison = {"arms": ["tuned", "few-shot"], "metric": "chrf", "difference": 0.15, "low": 0.11, "high": 0.19}
    comparison |= {"p": 0.0005, "n": 128, "test": "paired bootstrap"}
    long = "It was a long answer, and it went on. " * 80
    report["disagreements"] = [
        {
            "line": 3,
            "question": "Tell me about it.\n\nAt length.",
            "expected": long,
            "answers": {"tuned": long[500:], "few-shot": "", "prompted": "x" * 3000},
            "right": {},
        }
    ]
    verdict = report["verdict"] | {"comparison": comparison}
    return report | {
        "task": {"kind": "text", "metric": "chrf", "description": "Free text."},
        "comparisons": [comparison],
        "fields": None,
        "verdict": verdict,
    }


def more_data() -> Report:
    """Twelve rows: nothing was measured or trained, and optional keys are absent."""
    return {
        "weft": "0.1.0",
        "run": "runs/small-000000",
        "base": "weft-nano",
        "data": {"rows": 12, "train": 8, "validation": 2, "test": 2, "findings": []},
        "arms": [],
        "training": None,
        "verdict": {
            "choice": "more-data",
            "reason": "12 usable examples are too few to measure anything.",
            "comparison": None,
        },
    }


KINDS: dict[str, Callable[[], Report]] = {
    "structured": structured,
    "classification": classification,
    "many labels": many_labels,
    "text": text,
    "more data": more_data,
    "empty": dict,
}


@pytest.fixture
def sample() -> Callable[[str], Report]:
    """`sample("structured")`: a fresh report object of that kind."""
    return lambda kind: KINDS[kind]()


@pytest.fixture(params=list(KINDS))
def any_report(request: pytest.FixtureRequest) -> Report:
    """Each kind of report in turn."""
    return KINDS[request.param]()


@pytest.fixture(scope="session", params=list(KINDS))
def any_page(request: pytest.FixtureRequest) -> str:
    """The page of each kind of report in turn."""
    from weft.evaluate.report import render_html

    return render_html(KINDS[request.param]())
