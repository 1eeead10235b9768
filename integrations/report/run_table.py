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

from elastic_agent.scheduler.runlog.events import GRANTS, unknown_schema


class RunLogError(ValueError):
    """A run log can't be read; the message names the line."""


def read_run(path: str | Path) -> list[dict[str, Any]]:
    """The events of a run, in order. A last line that a crash cut short is left out.

    Raises:
        RunLogError: no such file, nothing in it, another schema, or a line in the middle that is no event.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise RunLogError(f"can't read {path}: {error.strerror or error}") from error
    if raw.startswith(b"SQLite format 3"):
        raise RunLogError(
            f"{path} is a ledger, not a run log: `elastic-agent keys list --ledger {path}` shows its keys; a "
            f"run log is what BudgetScheduler(log='run.jsonl') or `serve --log FILE` writes"
        )
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RunLogError(f"{path} is not text, so it is no run.jsonl") from error
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
    if (problem := unknown_schema(events[0])) is not None:
        raise RunLogError(f"{path} {problem}")
    return events


def render_run(path: str | Path, *, why: bool = False) -> RenderableType:
    """A run, task by task, in 80 columns: caps, calls and sums; also sums by agent where tasks name one.

    Args:
        why: add the reason and the numbers of each grant.
    """
    events = read_run(path)
    runs: dict[int, list[dict[str, Any]]] = {}
    roots: dict[int, int] = {}
    for event in events:
        if "id" in event:
            within = event.get("parent_id")
            roots.setdefault(event["id"], roots.get(within, within) if within is not None else event["id"])
            runs.setdefault(roots[event["id"]], []).append(event)
    parts: list[RenderableType] = [Text(str(path), style="bold")]
    for run in runs.values():
        parts += ["", *_run(run, why)]
    if agents := _by_agent(events):
        parts += ["", agents]
    return Group(*parts)


def _run(events: list[dict[str, Any]], why: bool) -> list[RenderableType]:
    """The table of one task with its sub-tasks."""
    names = {event["id"]: event["task"] for event in events}
    first = events[0]
    limits: dict[tuple[int, int], tuple[int, int]] = {}
    reasons: list[Text] = []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, width=80)
    table.add_column("at", justify="right", width=8)
    table.add_column("call", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, width in (("thinking", 10), ("solution", 9), ("ended", 9), ("cost", 10)):
        table.add_column(name, justify="left" if name == "ended" else "right", width=width, no_wrap=True)
    total = {"calls": 0, "thinking": 0, "solution": 0, "usd": 0.0, "tokens": 0}
    for event in sorted(events, key=lambda e: e["at"]):
        kind, call = event["event"], (event["id"], event.get("call", 0))
        name = f"{event.get('call', '')} {event.get('label') or event.get('kind')}"
        if event["id"] != first["id"]:
            name = f"{names[event['id']]}: {name}"
        if kind in GRANTS:
            granted = event["granted"]
            before = limits.get(call, (0, 0))
            limits[call] = (max(before[0], granted["thinking"]), max(before[1], granted["solution"]))
        elif kind == "settled":
            used, charged = event.get("used") or {}, event.get("charged", {})
            for unit in ("thinking", "solution"):
                total[unit] += used.get(unit) or 0
            total["calls"] += 1
            total["usd"] += charged.get("usd", 0.0)
            total["tokens"] += charged.get("tokens", 0)
            cells = [f"{used.get(u, '?')}/{limits[call][i]}" for i, u in enumerate(("thinking", "solution"))]
            usd = charged.get("usd")
            cost = f"${usd:.6f}" if usd else f"{charged.get('tokens', 0):,} tok"
            table.add_row(f"{event['at']:.2f} s", name, *cells, used.get("thinking_end") or "no answer", cost)
        elif kind == "refused":
            table.add_row(f"{event['at']:.2f} s", name, "", "", Text("refused", "red"), "")
        if why and "reason" in event:
            reasons.append(Text.assemble((f"{name}, {kind}  ", "bold"), _why(event)))
    return [*_head(first, events, total), table, *reasons]


def _head(first: dict[str, Any], events: list[dict[str, Any]], total: dict[str, Any]) -> list[RenderableType]:
    """A task's name, caps and sums, in two lines."""
    closed = next((e for e in events if e["event"] == "task_closed" and e["id"] == first["id"]), None)
    caps = ", ".join(_amount(unit, cap) for unit, cap in first.get("caps", {}).items()) or "none"
    spent = {"tokens": total["tokens"], "usd": total["usd"]}
    spent = dict(closed["spent"]) if closed is not None else spent
    counts = Counter(e["event"] for e in events)
    stopped = sum(e["event"] == "settled" and not e.get("answered", True) for e in events)
    calls = f"{total['calls'] - stopped} answered"
    for count, what in ((stopped, "stopped"), (counts["refused"], "refused")):
        calls += f", {count} {what}" if count else ""
    spend = ", ".join(_amount(u, n) for u, n in spent.items() if n)
    open_ = "" if closed is not None else " (not closed)"
    tokens = f"{total['thinking']:,} thinking and {total['solution']:,} solution tokens"
    return [
        Text.assemble((first["task"], "bold"), f"{open_}   caps: {caps}"),
        Text(f"calls: {calls}; {tokens}"),
        Text(f"spent: {spend}"),
    ]


def _by_agent(events: list[dict[str, Any]]) -> RenderableType | None:
    """Sums of the tasks of each agent; None where no task names one."""
    agents = {e["id"]: e["agent"] for e in events if e["event"] == "task_opened" and e.get("agent")}
    if not agents:
        return None
    sums: dict[str, list[float]] = {}
    for event in events:
        if event["event"] == "settled" and event["id"] in agents:
            one = sums.setdefault(agents[event["id"]], [0, 0, 0.0])
            charged = event.get("charged", {})
            one[0] += 1
            one[1] += charged.get("tokens", 0)
            one[2] += charged.get("usd", 0.0)
    table = Table(box=box.SIMPLE_HEAD, title="by agent", title_justify="left", pad_edge=False, width=80)
    for name in ("agent", "calls", "tokens", "cost"):
        table.add_column(name, justify="left" if name == "agent" else "right")
    for agent, (calls, tokens, usd) in sums.items():
        table.add_row(agent, f"{calls:.0f}", f"{tokens:,.0f}", f"${usd:.6f}")
    return table


def _why(event: dict[str, Any]) -> str:
    """The reason of a grant or of its change, with what was left, held and reserved."""
    text, why = str(event["reason"]), event.get("why", {})
    parts = []
    if "success" in why:
        parts.append(f"success {why['success']:.2f} by its curve")
    if why.get("left"):
        parts.append(f"{', '.join(_amount(u, n) for u, n in why['left'].items())} left before")
    if event.get("hold"):
        parts.append(f"holds {', '.join(_amount(u, n) for u, n in event['hold'].items() if n)}")
    if any(why.get("reserve", {}).values()):
        kept = ", ".join(_amount(u, n) for u, n in why["reserve"].items() if n)
        parts.append(f"{kept} kept for the final answer")
    return f"{text}. {'; '.join(parts)}" if parts else text


def _amount(unit: str, amount: float) -> str:
    forms = {"usd": "${:.6f}", "tokens": "{:,.0f} tokens", "seconds": "{:.2f} s"}
    return forms[unit].format(amount)
