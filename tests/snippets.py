"""Finds the code blocks of a Markdown page. See tests/test_snippets.py for what a page may say about them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = "http://localhost:8000/v1"
FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)
MARKER = re.compile(r"<!-- snippet: (?P<what>[\w-]+)(?: (?P<reason>.+?))? -->\s*$")
SHELL = ("bash", "sh", "shell", "console")
MARKERS = ("skip", "continues", "needs-server", "output")


@dataclass(frozen=True)
class Snippet:
    """One block, with what its marker says; a block that continues others holds their text too.

    Attributes:
        output: what it prints, where the page shows that.
    """

    where: str
    line: int
    language: str
    code: str
    skip: str = ""
    needs_server: bool = False
    output: str | None = None

    @property
    def name(self) -> str:
        return f"{self.where}:{self.line}"


def pages(root: Path = ROOT) -> list[Path]:
    named = [root / name for name in ("README.md", "CONTRIBUTING.md")]
    return [page for page in [*named, *sorted((root / "docs").rglob("*.md"))] if page.exists()]


def snippets_of(text: str, where: str) -> list[Snippet]:
    """Raises ValueError for a marker that is unknown, skips without a reason, or has no block before it."""
    found: list[Snippet] = []
    for block in FENCE.finditer(text):
        language = block["language"]
        line = text.count("\n", 0, block.start()) + 1
        marker = MARKER.search(text[: block.start()].rstrip(" "))
        what, reason = (marker["what"], marker["reason"] or "") if marker else ("", "")
        if what == "output":
            if not found:
                raise ValueError(f"{where}:{line}: an output stands behind the block that prints it")
            found[-1] = replace(found[-1], output=textwrap.dedent(block["body"]))
            continue
        if language != "python" and language not in SHELL:
            continue
        if what and what not in MARKERS:
            raise ValueError(f"{where}:{line}: unknown marker {what!r}; there are {', '.join(MARKERS)}")
        if what == "skip" and not reason:
            raise ValueError(f"{where}:{line}: a skipped snippet says why: <!-- snippet: skip REASON -->")
        code = textwrap.dedent(block["body"])
        if language == "console":
            code = "".join(row[2:] for row in code.splitlines(keepends=True) if row.startswith("$ "))
        before = None
        if what == "continues":
            before = next((other for other in reversed(found) if other.language == language), None)
        found.append(
            Snippet(
                where=where,
                line=line,
                language=language,
                code=(before.code + "\n" if before else "") + code,
                skip=reason if what == "skip" else before.skip if before else "",
                needs_server=what == "needs-server" or SERVER in code or bool(before and before.needs_server),
            )
        )
    return found


def all_snippets() -> list[Snippet]:
    return [
        snippet
        for page in pages()
        for snippet in snippets_of(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())
    ]


_QUESTION = re.compile(
    r"A shop has (\d+) \w+ \.((?: #\d+ It (?:sells|uses|gets) \d+(?: boxes of \d+)? \.)+) How"
)
_STEP = re.compile(r"It (sells|uses|gets) (\d+)(?: boxes of (\d+))?")


def right_answers(code: str) -> set[int]:
    """Of the questions about a shop that are in the code."""
    found = set()
    for start, steps in _QUESTION.findall(code):
        total = int(start)
        for verb, count, size in _STEP.findall(steps):
            total += int(count) * int(size or 1) * (1 if verb == "gets" else -1)
        found.add(total)
    return found


def said_answers(printed: str) -> set[int]:
    """What a program printed as answers of the embedded model."""
    return {int(number) for number in re.findall(r"Answer: (\d+)", printed)}
