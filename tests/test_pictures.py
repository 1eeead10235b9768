"""The pictures of the docs: drawn by the code from data that ships, without a script, fetching nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import _demo_picture, _picture, training

ROOT = Path(__file__).resolve().parent.parent
PICTURES: dict[str, Callable[[Any], str]] = {
    "allocation": lambda found: _picture.picture(found["curves"]),
    "allocation-e1-gym-135m": lambda found: _picture.picture(found["curves"], "each"),
    "demo": _demo_picture.picture,
    "training": lambda found: training.drawn([training.Cell(**cell) for cell in found]),
}
"""Name of the picture and its data -> how it is drawn. docs/real-model.svg: its benchmark's own test."""


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_from_its_data(name: str) -> None:
    """Whoever measures again redraws, and whoever redraws has measured."""
    data = json.loads((ROOT / "benchmarks" / "data" / f"{name}.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / f"{name}.svg").read_text(encoding="utf-8") == PICTURES[name](data)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_small_and_fetches_nothing(path: Path) -> None:
    """Well-formed, at most 40 kB, without a script and without an address to go to."""
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 40_000
    assert {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}.isdisjoint(
        {"script", "foreignObject", "image"}
    )
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]


def test_a_wrong_answer_is_not_drawn_as_a_right_one() -> None:
    """Right, wrong and missing are three looks, and the count is of the right ones."""
    course = {"answers": [[1, 2, None]], "seconds": [[0.1, 0.2, 0.0]], "spent": [[0.2, 0.01]]}
    drawn = _demo_picture.picture(
        {"cap": 0.02, "truth": {"Monday": [1, 3, 5]}, "ours": course, "theirs": course}
    )
    assert drawn.count("1 of 3 right") == 2
    assert drawn.count('class="box') == 2
    assert drawn.count("✗ 2") == 2
