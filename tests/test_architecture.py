"""Imports run downwards: a file of a later floor may import earlier floors, never the reverse."""

from __future__ import annotations

import ast
from pathlib import Path

FLOORS = [
    "errors",
    "records",
    "progress",
    "settings",
    "runs",
    "models",
    "data",
    "forest",
    "generate",
    "graders",
    "tasks",
    "train",
    "evaluate",
    "decide",
    "govern",
    "road",
    "serve",
    "web",
    "testing",
    "cli",
]
HEAVY = {"torch", "transformers", "sklearn", "scipy", "matplotlib", "sacrebleu", "peft", "trl", "bm25s", "polars"}
LIGHT_FLOORS = {"errors", "records", "progress", "settings", "runs", "data", "graders", "tasks", "decide"}


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, module) of every import of the tree."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def floor_of(parts: tuple[str, ...]) -> int | None:
    return FLOORS.index(parts[0]) if parts and parts[0] in FLOORS else None


def climbs(source: Path) -> list[str]:
    """Every import in `source` that goes up, as `file:line climbs from FLOOR to FLOOR`."""
    problems = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        here = floor_of(parts)
        if here is None:
            continue
        for line, module in imports(ast.parse(path.read_text(encoding="utf-8"))):
            there = floor_of(tuple(module.split(".")[1:])) if module.startswith("weft.") else None
            if there is not None and there > here:
                name = path.relative_to(source).as_posix()
                problems.append(f"{name}:{line} climbs from {FLOORS[here]} to {FLOORS[there]}")
    return problems


def test_every_file_stands_on_a_known_floor(root: Path) -> None:
    source = root / "src" / "weft"
    unknown = [
        path.name
        for path in source.iterdir()
        if path.stem not in {*FLOORS, "__init__", "__main__", "__pycache__"} and (path.is_dir() or path.suffix == ".py")
    ]
    assert unknown == []


def test_imports_run_downwards(root: Path) -> None:
    assert climbs(root / "src" / "weft") == []


def test_the_rule_sees_an_import_that_climbs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "read.py").write_text("from weft.train import sft\n")
    assert climbs(tmp_path) == ["data/read.py:1 climbs from data to train"]


def test_light_floors_import_heavy_libraries_only_inside_functions(root: Path) -> None:
    source = root / "src" / "weft"
    problems = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[0] not in LIGHT_FLOORS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef | ast.If)], [])
        problems += [f"{path.name}:{line} {name}" for line, name in imports(top) if name.split(".")[0] in HEAVY]
    assert problems == []


def test_no_source_file_uses_what_runs_foreign_code(root: Path) -> None:
    forbidden = {"eval", "exec"}
    problems = []
    for path in sorted((root / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                loads = name in {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "os.system"}
                shell = any(
                    k.arg in {"shell", "trust_remote_code"} and ast.unparse(k.value) == "True" for k in node.keywords
                )
                if loads or shell or name in forbidden:
                    problems.append(f"{path.name}:{node.lineno} {name}")
    assert problems == []
