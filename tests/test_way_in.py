"""The way in for newcomers: CONTRIBUTING's table of changes and the picture of the house are true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (?P<change>[^|]+) \| `(?P<file>[^`|]+)` \| (?P<names>[^|]+) \|$", re.MULTILINE)


def changes() -> list[tuple[str, str, tuple[str, ...]]]:
    """(everyday change, its file, names that the file defines) of each row of the table."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Where do I change ...?")[2].partition("\n## ")[0]
    return [
        (row["change"].strip(), row["file"], tuple(re.findall(r"`([^`]+)`", row["names"])))
        for row in ROW.finditer(section)
    ]


def defined_in(path: Path) -> set[str]:
    """Names that a Python file defines: at its top, and `Class.name` for what its classes define."""
    names: set[str] = set()

    def note(body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(before + node.name)
                if isinstance(node, ast.ClassDef):
                    note(node.body, f"{before}{node.name}.")
            elif isinstance(node, ast.Assign):
                names.update(before + target.id for target in node.targets if isinstance(target, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(before + node.target.id)

    note(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


def test_the_table_has_everyday_changes() -> None:
    """At least 25, each named once."""
    rows = [change for change, _, _ in changes()]
    assert len(rows) >= 25
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize(("change", "file", "names"), changes(), ids=[change for change, _, _ in changes()])
def test_a_change_has_its_file(change: str, file: str, names: tuple[str, ...]) -> None:
    """The file is there, and defines the names that the table says."""
    path = ROOT / file
    assert path.is_file(), f"{change}: there is no {file}"
    assert names, f"{change}: the row names nothing that {file} defines"
    missing = set(names) - defined_in(path)
    assert not missing, f"{change}: {file} doesn't define {', '.join(sorted(missing))}"


def test_the_picture_of_the_house_is_current() -> None:
    """`docs/house.svg` is what `tools/draw_house.py` draws from the code."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.draw_house", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
