"""The layers inside the core: which room may import which, and no circles between files.

Read from the sources (AST); imports for type checking and inside functions count as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "elastic_agent"
LINKS = {"scheduler", "training", "integrations"}

ROOT_MODULES = {"budget", "credentials", "errors", "model_location", "usage", "validation"}
"""Modules at the root that every room may import; `cli_arguments` stands above all rooms."""

# A room, and the rooms that it may import besides itself, its own rooms and the root's modules.
MAY_IMPORT: dict[str, set[str]] = {
    "charging": set(),
    "tool_calls": set(),
    "prompts": {"tool_calls"},
    "backends": {"charging", "prompts", "tool_calls"},
    "generation": {"backends", "prompts", "tool_calls"},
    "cli_arguments": {"backends", "prompts"},
}


def modules() -> dict[str, Path]:
    """The core's modules by dotted name without the package's own; "" is the package itself."""
    found = {}
    for path in CORE.rglob("*.py"):
        parts = path.relative_to(CORE).with_suffix("").parts
        if parts[0] not in LINKS:
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The core's modules that a module imports."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            inner = ".".join([*base, alias.name])
            found.add(inner if inner in known else ".".join(base))
    return found & known.keys()


GRAPH = {name: imports(name, path, modules()) for name, path in modules().items() if name}


def test_there_are_no_circles() -> None:
    """No import leads back to its own file, type checking included."""
    left = {name: set(targets) for name, targets in GRAPH.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    """charging, tool_calls <- prompts <- backends <- generation."""
    wrong = [
        f"{name} imports {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if name.split(".")[0] == room and target.split(".")[0] not in MAY_IMPORT[room] | ROOT_MODULES | {room}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_names_every_room() -> None:
    """A new room or module at the root gets its line."""
    assert {name.split(".")[0] for name in GRAPH} == MAY_IMPORT.keys() | ROOT_MODULES
