"""The demo's screen while it runs: nothing that tells something is clipped, whatever the terminal's width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from elastic_agent.integrations.demo.display import CallRow, screen


@pytest.mark.parametrize("width", [80, 90, 100, 104, 120, 160])
def test_the_table_fits(width: int) -> None:
    """Heads, limits, answers and ends are whole; a long label may lose its end."""
    rows = [
        CallRow(
            label="Wednesday / apples 1, again",
            granted_thinking=512,
            granted_solution=192,
            used_thinking=131,
            used_solution=112,
            refund=461,
            answer=45,
            ended=ended,
            done=True,
        )
        for ended in ("natural", "budget", "preempted")
    ]
    out = io.StringIO()
    Console(width=width, height=40, file=out).print(screen("a week", [], rows, 63, width=width, height=40))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) == width
    for whole in (
        "thinking ended",
        "closed itself",
        "cut at limit",
        "cut: preempted",
        "112 of 192",
        "131 of 512",
    ):
        assert whole in text
    assert "Wednesday / apples" in text
