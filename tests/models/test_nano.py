"""The embedded base: loads everywhere, has the promised size, and its template marks what is learnt."""

from __future__ import annotations

import json
import re

import pytest

from weft.models.nano import folder


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(), trust_remote_code=False, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder(), trust_remote_code=False, local_files_only=True).eval()


CHAT = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Where is order A-4412?"},
    {"role": "assistant", "content": "In Leeds."},
    {"role": "user", "content": "And 77?\n"},
    {"role": "assistant", "content": '{"id": 77}'},
]


def test_it_is_a_plain_transformers_folder_without_code():
    assert not [p.name for p in folder().iterdir() if p.suffix == ".py" and p.name != "__init__.py"]
    config = json.loads((folder() / "config.json").read_text())
    assert (
        config["model_type"] == "qwen3" and config["architectures"] == ["Qwen3ForCausalLM"] and "auto_map" not in config
    )
    assert config["tie_word_embeddings"] and config["max_position_embeddings"] >= 1024


def test_it_has_six_to_twelve_million_parameters_in_at_most_25_megabytes(model):
    import torch

    assert 6_000_000 <= sum(p.numel() for p in model.parameters()) <= 12_000_000
    assert (folder() / "model.safetensors").stat().st_size <= 25_000_000
    assert model.dtype == torch.bfloat16


def test_the_vocabulary_has_four_to_eight_thousand_tokens_and_three_control_tokens(tokenizer, model):
    assert 4_000 <= len(tokenizer) <= 8_192 == max(8_192, model.config.vocab_size)
    assert len(tokenizer) == model.config.vocab_size
    assert {t.content for t in tokenizer.added_tokens_decoder.values()} == {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    }
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_every_text_survives_the_tokenizer(tokenizer):
    for text in ("Order #4412-B, £3.50 and naïve café\t\n\n  x", '{"a": ["b", null]}', "日本 🙂", "  lead", ""):
        assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


def test_digits_are_tokens_of_their_own(tokenizer):
    assert [t for t in tokenizer.tokenize("2024-118") if t.isdigit()] == list("2024118")


def test_a_rare_word_has_the_same_pieces_with_and_without_a_space_before_it(tokenizer):
    for word in ("Lobrin", "kettle", "Zanthor", "escalate"):
        spaced = [t for t in tokenizer.tokenize(f"x {word}")[1:] if t != "Ġ"]
        assert [t.lstrip("Ġ") for t in spaced] == tokenizer.tokenize(f'"{word}"')[1:-1]


def test_template_marks_decode_to_the_replies_and_their_end_token(tokenizer):
    out = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == 'In Leeds.<|im_end|>{"id": 77}<|im_end|>'
    assert tokenizer.decode(out["input_ids"]).endswith("<|im_end|>\n")


def test_template_renders_chatml_without_a_default_system_message(tokenizer):
    text = tokenizer.apply_chat_template(CHAT[1:3], tokenize=False)
    assert text == "<|im_start|>user\nWhere is order A-4412?<|im_end|>\n<|im_start|>assistant\nIn Leeds.<|im_end|>\n"


def test_the_prompt_is_a_prefix_of_the_whole_chat(tokenizer):
    whole = tokenizer.apply_chat_template(CHAT, return_dict=False)
    for end in (2, 4):
        prompt = tokenizer.apply_chat_template(CHAT[:end], add_generation_prompt=True, return_dict=False)
        assert whole[: len(prompt)] == prompt


def test_it_has_learnt_something_and_when_to_stop(model, tokenizer):
    import torch

    shown = []
    for word in ("red lamp", "Kestrel 40", "AB-7731"):
        shown += [{"role": "user", "content": f"Repeat: {word}"}, {"role": "assistant", "content": word}]
    asked, said = ("old ferry", "blue chair", "Marlin 7", "tall tree", "CD-1204", "grey coat"), []
    for word in asked:
        prompt = tokenizer.apply_chat_template(
            [*shown, {"role": "user", "content": f"Repeat: {word}"}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        with torch.no_grad():
            out = model.generate(**prompt, do_sample=False, max_new_tokens=16)
        said.append(tokenizer.decode(out[0, prompt["input_ids"].shape[1] :]))
    # Whether a first word has its space before it is a toss-up for so small a model.
    assert [reply.strip() for reply in said] == [f"{word}<|im_end|>" for word in asked]
    assert sum(reply == f"{word}<|im_end|>" for reply, word in zip(said, asked, strict=True)) >= 4


def _card() -> str:
    path = folder() / "README.md"
    return path.read_text("utf-8")


def test_the_card_has_the_hubs_metadata_sources_and_licence():
    import yaml

    card = _card()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc-by-sa-4.0" and head["language"] == ["en"] and head["library_name"] == "transformers"
    for source in ("wikipedia", "gsm8k", "mts-dialog", "schema-guided", "self-instruct", "p3"):
        assert source in card.lower()


def test_the_figures_on_the_card_are_those_that_were_measured(root):
    card = _card()
    measured = json.loads((root / "recipes" / "nano" / "measured.json").read_text("utf-8"))
    assert f"{measured['parameters']:,}" in card
    for who in ("nano", "untrained"):
        assert f"{measured[who]['bits_per_byte']:.3f}" in card
    cells = re.findall(r"^\| (?P<name>[^|]+?) \| (?P<nano>[^|]+?) \| (?P<untrained>[^|]+?) \|$", card, flags=re.M)
    shown = {name: (nano, untrained) for name, nano, untrained in cells}
    for kind in ("accuracy", "format"):
        for name, numbers in measured["nano"][kind].items():
            row = f"{name}: {'right' if kind == 'accuracy' else 'in the shown format'}"
            expected = f"{100 * numbers['value']:.1f} % ({100 * numbers['low']:.1f} to {100 * numbers['high']:.1f})"
            assert shown[row][0] == expected
            assert shown[row][1].startswith(f"{100 * measured['untrained'][kind][name]['value']:.1f} %")
