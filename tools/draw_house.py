"""Draws docs/house.svg: the four parts, their rooms, and who imports whom, as the code has it.

    python -m tools.draw_house            write docs/house.svg
    python -m tools.draw_house --check    exit 1 when docs/house.svg is not current

A room is a package directly inside a part; modules beside the rooms are drawn as one room, "(root)". A
part's rooms stand in rows: a room imports only rooms in its own row, or in rows below. Imports for type
checking count too; a part's own `__init__`, which loads names when they are first used, doesn't.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from dataclasses import dataclass, field
from html import escape

from tools.imports import ROOT, imports_in, package_of, package_of_module, part_of, part_of_module, sources

PICTURE = ROOT / "docs" / "house.svg"
FOLDERS = {
    "integrations": "integrations/",
    "scheduler": "scheduler/",
    "training": "training/",
    "core": "elastic_agent/",
}
BESIDE = "(root)"
WIDTH, MARGIN, GAP = 1180, 14, 8
CHARACTER, LINE = 5.9, 14
"""Pixels of a character and of a line of the small text."""
COLOURS = {"integrations": "#e8f0fe", "scheduler": "#e6f4ea", "training": "#fef7e0", "core": "#fce8e6"}


@dataclass
class Room:
    """A package directly inside a part.

    Attributes:
        says: the first line of its docstring.
        files: modules in it, those of packages inside it included.
        imports: rooms of its own part that it imports.
        parts: other parts that it imports.
    """

    name: str
    says: str
    files: int = 0
    imports: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)


def rooms_of(part: str) -> dict[str, Room]:
    """The rooms of a part by name."""
    folder = ROOT / FOLDERS[part]
    rooms: dict[str, Room] = {}

    def room(name: str) -> Room:
        if name not in rooms:
            file = folder / "__init__.py" if name == BESIDE else folder / name / "__init__.py"
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            says = text.split("\n\n")[0].replace("\n", " ")
            rooms[name] = Room(name, re.split(r" (?:May import|Imports) ", says)[0])
        return rooms[name]

    def where(package: str | None) -> str:
        return package if package is not None and (folder / package).is_dir() else BESIDE

    for path in sources():
        file = path.relative_to(ROOT).as_posix()
        if part_of(file) != part or path == folder / "__init__.py":
            continue
        mine = room(package_of(file) or BESIDE)
        mine.files += path.name != "__init__.py"
        for found in imports_in(path):
            target = part_of_module(found.module)
            if target == part and (other := where(package_of_module(found.module))) != mine.name:
                mine.imports.add(other)
            elif target not in (None, part):
                mine.parts.add(target)
    modules = [path.stem for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    if modules:
        room(BESIDE).says = ", ".join(modules)
    for one in rooms.values():
        one.imports &= rooms.keys()
    return rooms


def rows(rooms: dict[str, Room]) -> list[list[Room]]:
    """The rooms in rows, from the top: each imports only rooms in its own row, or in rows below."""
    reached = {name: reach(name, rooms) for name in rooms}
    circle = {name: frozenset({name} | {o for o in reached[name] if name in reached[o]}) for name in rooms}
    depth: dict[frozenset[str], int] = {}

    def dig(one: frozenset[str]) -> int:
        if one not in depth:
            below = {circle[other] for name in one for other in rooms[name].imports} - {one}
            depth[one] = 1 + max((dig(other) for other in below), default=-1)
        return depth[one]

    found: list[list[Room]] = [[] for _ in range(1 + max(dig(circle[name]) for name in rooms))]
    for name in sorted(rooms):
        found[depth[circle[name]]].append(rooms[name])
    return found[::-1]


def reach(name: str, rooms: dict[str, Room]) -> set[str]:
    """Rooms that a room imports, directly or through others."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        more = rooms[todo.pop()].imports - seen
        seen |= more
        todo += more
    return seen


def picture() -> str:
    """The SVG."""
    half = (WIDTH - 3 * MARGIN) // 2
    top, y_top = block("integrations", MARGIN, 34, WIDTH - 2 * MARGIN)
    left, y_left = block("scheduler", MARGIN, y_top + MARGIN, half)
    right, y_right = block("training", 2 * MARGIN + half, y_top + MARGIN, half)
    bottom, height = block("core", MARGIN, max(y_left, y_right) + MARGIN, WIDTH - 2 * MARGIN)
    rule = (
        "Each part may import the parts below it. Inside a part, a room imports only rooms in its own row, "
        "or in rows below. tests/test_house.py holds the parts, and the order of the scheduler's rooms."
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + MARGIN}" '
            f'font-family="Helvetica, Arial, sans-serif">',
            f'<rect width="{WIDTH}" height="{height + MARGIN}" fill="white"/>',
            words(MARGIN, 22, 13, rule),
            *top,
            *left,
            *right,
            *bottom,
            "</svg>",
            "",
        ]
    )


def block(part: str, x: int, y: int, width: int) -> tuple[list[str], int]:
    """One part at a place: its SVG, and where it ends."""
    rooms = rooms_of(part)
    others = sorted({other for room in rooms.values() for other in room.parts})
    title = FOLDERS[part] + (f" imports {', '.join(FOLDERS[other] for other in others)}" if others else "")
    out, at = [], y + 28
    for row in rows(rooms):
        across = (width - 2 * GAP - (len(row) - 1) * GAP) // len(row)
        lines = [wrapped(room, across) for room in row]
        tall = 24 + LINE * max(len(text) for text in lines)
        for i, (room, text) in enumerate(zip(row, lines, strict=True)):
            left = x + GAP + i * (across + GAP)
            out.append(box(left, at, across, tall, "white"))
            out.append(words(left + 8, at + 16, 12, room.name, bold=True))
            out += [words(left + 8, at + 31 + LINE * n, 11, one) for n, one in enumerate(text)]
        at += tall + GAP
    frame = [box(x, y, width, at - y, COLOURS[part]), words(x + GAP, y + 19, 14, title, bold=True)]
    return [*frame, *out], at


def box(x: int, y: int, width: int, height: int, colour: str) -> str:
    """A rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}" stroke="#888"/>'


def words(x: int, y: int, size: int, text: str, *, bold: bool = False) -> str:
    """A line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}"{weight} fill="#222">{escape(text)}</text>'


def wrapped(room: Room, width: int) -> list[str]:
    """What stands in a room's box."""
    return textwrap.wrap(f"{room.says} ({room.files} files)", max(10, int((width - 16) / CHARACTER)))


def main() -> int:
    """Write the picture, or say whether the one that is there is current."""
    now = picture()
    if "--check" in sys.argv[1:]:
        if PICTURE.read_text(encoding="utf-8") == now:
            return 0
        print(f"{PICTURE} is not current: python -m tools.draw_house draws it", file=sys.stderr)
        return 1
    PICTURE.write_text(now, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
