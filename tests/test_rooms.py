"""Imports go one way through the rooms of common/."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("config", "experiment", "monitor", "environment", "agents", "training", "recording", "analysis", "study")


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """Full names of what the code below a node imports, but for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = resolve_name("." * child.level + (child.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in child.names)
        yield from imported(child, package)


def test_each_room_knows_only_the_rooms_before_it() -> None:
    seen, wrong = set(), []
    for path in sorted((ROOT / "common").rglob("*.py")):
        room = path.relative_to(ROOT / "common").parts[0].removesuffix(".py")
        if room not in ROOMS:
            continue  # an entry point, or the package's own file
        seen.add(room)
        allowed = {"monitor"} if room == "monitor" else {*ROOMS[: ROOMS.index(room) + 1]}
        package = ".".join(path.relative_to(ROOT).parent.parts)
        for name in imported(ast.parse(path.read_text()), package):
            if name.startswith("common.") and name.split(".")[1] in {*ROOMS} - allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert seen == {*ROOMS} and not wrong, wrong
