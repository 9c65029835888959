"""The papers tell the truth: the reference is fresh, every command shown exists, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from weft.cli import VERBS, cli

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(
        f"docs/{name}.md"
        for name in ("training", "runs", "verdict", "forest", "scaling", "serving", "chat-completions")
    ),
]


def commands(text: str) -> list[list[str]]:
    """The words of every `weft …` line in the fenced blocks of a page, prompt sign and comment taken off."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    # Where a block has prompt signs, all other lines are what the commands print.
    typed = (re.findall(r"^\$ (.*)$", block, re.MULTILINE) or block.splitlines() for block in blocks)
    lines = [line.strip() for lines in typed for line in lines]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"weft [a-z]", line)]


def test_the_reference_is_what_the_commands_say_today(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "docs/make_reference.py", "--check"], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.strip() == "docs/reference.md is fresh"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_is_understood(root: Path, page: str) -> None:
    context = click.Context(cli, info_name="weft")
    for verb, *arguments in [words[1:] for words in commands((root / page).read_text(encoding="utf-8"))]:
        assert verb in VERBS, f"{page} shows `weft {verb}`"
        command = cli.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            verb, *arguments = arguments
            command = command.commands[verb]
        command.make_context(verb, list(arguments), parent=context)  # raises on an unknown flag or a missing argument


@pytest.mark.parametrize("page", PAGES)
def test_every_local_link_of_a_page_leads_somewhere(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    missing = [target for target in targets if target and not ((root / page).parent / target).exists()]
    assert missing == []


def test_every_verb_is_in_the_readme(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"weft {verb}" not in text] == []


def test_the_house_in_the_docs_names_every_floor_that_exists(root: Path) -> None:
    house = (root / "docs" / "design.md").read_text(encoding="utf-8")
    floors = [path.name for path in (root / "src" / "weft").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [floor for floor in floors if f"  {floor}/" not in house] == []


@pytest.mark.slow
def test_the_readme_commands_run(root: Path, tmp_path: Path) -> None:
    """Each in the order shown, from a working copy of the examples."""
    (tmp_path / "examples").symlink_to(root / "examples")
    for words in commands((root / "README.md").read_text(encoding="utf-8")):
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, input="")
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
