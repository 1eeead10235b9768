"""The layers inside the core: which room may import which, and no circles between files.

Read from the sources (AST); imports for type checking and inside functions count as well.
"""

from __future__ import annotations

import pytest

from tests.test_house import PACKAGES
from tools.imports import ROOT, imports_in, part_of, sources

ROOT_MODULES = {"budget", "config_files", "credentials", "errors", "model_location", "usage", "validation"}
"""Modules at the root that every room may import; `cli_arguments` stands above all rooms."""

# A room, and the rooms that it may import besides itself, its own rooms and the root's modules.
MAY_IMPORT = PACKAGES["core"] | {"cli_arguments": {"backends", "prompts"}}


def modules() -> dict[str, set[str]]:
    """The core's modules by dotted name without the package's own, and what each imports; not `__init__`."""
    names = {}
    for path in sources():
        if part_of(path.relative_to(ROOT).as_posix()) == "core":
            parts = path.relative_to(ROOT / "elastic_agent").with_suffix("").parts
            names[".".join(part for part in parts if part != "__init__")] = path
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        inside = [one.module.removeprefix("elastic_agent.") for one in imports_in(path) if one.relative]
        found[name] = {one if one in names else one.rpartition(".")[0] for one in inside} & names.keys()
    return {name: targets for name, targets in found.items() if name}


GRAPH = modules()


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
