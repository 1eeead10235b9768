"""Who imports whom, read from the sources (AST): for the tests of layers and the picture of the house.

Nothing of ours is imported here, so a broken rule is found even when nothing runs the line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("scheduler", "training", "integrations")
"""Folders beside `elastic_agent/`, which holds the core, and links to them."""


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    relative: bool
    at_module_level: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources() -> list[Path]:
    core = [path for path in (ROOT / "elastic_agent").rglob("*.py") if not _through_a_link(path)]
    return sorted([*core, *(path for part in PARTS for path in (ROOT / part).rglob("*.py"))])


def _through_a_link(path: Path) -> bool:
    return path.relative_to(ROOT / "elastic_agent").parts[0] in PARTS


def part_of(file: str) -> str:
    first = file.split("/", 1)[0]
    return "core" if first == "elastic_agent" else first


def part_of_module(module: str) -> str | None:
    """The part that a module belongs to; None if it is not ours."""
    names = module.split(".")
    if names[0] != "elastic_agent":
        return None
    return names[1] if len(names) > 1 and names[1] in PARTS else "core"


def imports_in(path: Path) -> list[Import]:
    file = path.relative_to(ROOT).as_posix()
    return list(_walk(ast.parse(path.read_text(encoding="utf-8"), file), file, at_module_level=True))


def _absolute(file: str, level: int, module: str) -> str:
    """The name of what a relative import names: `..usage` in elastic_agent/backends/base.py is
    elastic_agent.usage."""
    if level == 0:
        return module
    package = list(Path(file).parent.parts)
    if package[0] != "elastic_agent":
        package.insert(0, "elastic_agent")
    above = package[: len(package) - level + 1]
    return ".".join([*above, *([module] if module else [])])


def _walk(node: ast.AST, file: str, *, at_module_level: bool) -> Iterator[Import]:
    """Every import; the branch of `if TYPE_CHECKING:` never runs, so it does not count as module level."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for name in child.names:
                yield Import(file, child.lineno, name.name, False, at_module_level)
        elif isinstance(child, ast.ImportFrom):
            for name in child.names:
                module = f"{_absolute(file, child.level, child.module or '')}.{name.name}"
                yield Import(file, child.lineno, module, child.level > 0, at_module_level)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, file, at_module_level=False)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), file, at_module_level=False)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), file, at_module_level=at_module_level)
        else:
            yield from _walk(child, file, at_module_level=at_module_level)


def package_of(file: str) -> str | None:
    """The package of its part that a file is in; None for a file right in the part."""
    names = file.split("/")
    return names[1] if len(names) > 2 else None


def package_of_module(module: str) -> str | None:
    names = module.removeprefix("elastic_agent.").split(".")
    return names[0] if names[0] not in PARTS else names[1] if len(names) > 1 else None
