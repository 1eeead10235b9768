"""`elastic-agent report run.jsonl`: a recorded run as a table, with the reason of each grant when asked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_agent.scheduler.events import GRANTS


class RunLogError(ValueError):
    """A run log that can't be read; the message names the line."""


def read_run(path: str | Path) -> list[dict[str, Any]]:
    """The events of a run, in order. A last line cut short by a crash is left out.

    Raises:
        RunLogError: no such file, nothing in it, or a line in the middle that is not an event.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunLogError(f"can't read {path}: {error}") from error
    events: list[dict[str, Any]] = []
    for i, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError("not an event")
        except ValueError as error:
            if i == len(lines):
                break
            raise RunLogError(f"{path} is not a run.jsonl: line {i} is no event ({error})") from error
        events.append(event)
    if not events:
        raise RunLogError(f"{path} holds no events: is it a run.jsonl?")
    return events


def render_run(path: str | Path, *, why: bool = False) -> RenderableType:
    """A run as a table of its calls, with what was granted, used and refunded."""
    events = read_run(path)
    table = Table(
        box=box.SIMPLE_HEAD, title=f"{path}", title_justify="left", pad_edge=False, collapse_padding=True
    )
    tasks = len({event["task"] for event in events if "task" in event})
    for name in ("at", "call", "thinking", "solution", "ended", "refund", "left"):
        right = name in ("at", "refund", "left")
        table.add_column(
            name, no_wrap=True, min_width=22 if name == "call" else None, justify="right" if right else "left"
        )
    grants = {(e["task"], e["call"]): e for e in events if e["event"] in GRANTS}
    reasons: list[Text] = []
    for event in events:
        if event["event"] not in (*GRANTS, "settled", "refused"):
            continue
        name = f"{event['call']} {event.get('label') or event['kind']}"
        name = f"{event['task']}: {name}" if tasks > 1 else name
        if event["event"] == "refused":
            table.add_row(f"{event['at']:.2f}", name, "refused", "", "", "", "")
        elif event["event"] == "settled":
            granted = grants[event["task"], event["call"]]["granted"]
            used = event.get("used") or {}
            table.add_row(
                f"{event['at']:.2f}",
                name,
                f"{used.get('thinking', '?')} of {granted['thinking']}",
                f"{used.get('solution', '?')} of {granted['solution']}",
                str(used.get("thinking_end") or "no answer"),
                f"{event['refund']['tokens']:.0f}",
                _left(event.get("left", {})),
            )
        if why and event["event"] != "settled":
            refused = ("refused: ", "red") if event["event"] == "refused" else ""
            reasons.append(Text.assemble((f"{name}  ", "bold"), refused, event["reason"]))
    counts = Counter(event["event"] for event in events)
    foot = Text(", ".join(f"{n} {name}" for name, n in counts.items()), style="dim")
    return Group(table, *reasons, foot)


def _left(left: dict[str, float]) -> str:
    shown = {"usd": "${:.5f}", "tokens": "{:,.0f} tokens", "seconds": "{:.0f} s"}
    return next((text.format(left[unit]) for unit, text in shown.items() if unit in left), "")
