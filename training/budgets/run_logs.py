"""The budgets that a scheduler really handed out, and the caps of its tasks, read from its run logs.

A run log (`run.jsonl`, `BudgetScheduler(..., log=...)`) holds one JSON object a line. Of these the events
called "grant" matter here: `granted` is {"thinking": t, "solution": s} and `kind` says what sort of call got
it; a later "extended", "extension_dropped" or "reduced" of the same call says what it had in the end.
Training on them is training for the cuts that the model will meet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from elastic_agent.budget import Budget, Caps
from elastic_agent.errors import ElasticError

SCHEMA = 2
GRANTS = ("grant", "extended", "extension_dropped", "reduced")
"""Of the scheduler's run logs, which this part doesn't import; a test compares them."""
RETIRED = ("raised", "dropped", "lowered")
"""Events of schema 1, by which a task's own log of that schema is known."""


class GrantLogError(ElasticError, ValueError):
    """A run log that can't be trained on; names the file, and the line where there is one."""


def parse_grants(
    lines: Iterable[str], *, name: str = "run.jsonl", kinds: Sequence[str] = ()
) -> list[tuple[str, Budget]]:
    """(kind, budget) of every grant in the lines of one log; of some `kinds` of calls only, if any are named.

    Raises:
        GrantLogError: a line is no JSON object, or a grant is malformed. An unfinished last line is what a
            killed run leaves behind: it is left out.
    """
    found: list[tuple[str, Budget]] = []
    latest: dict[Any, int] = {}
    for where, event in _events(lines, name):
        if event.get("event") not in GRANTS:
            continue
        granted, kind = event.get("granted"), str(event.get("kind", "call"))
        if not isinstance(granted, dict) or not {"thinking", "solution"} <= granted.keys():
            raise GrantLogError(
                f'{where}: a grant without its budget; expected "granted": {{"thinking": t, "solution": s}}'
            )
        try:
            budget = Budget(granted["thinking"], granted["solution"])
        except ElasticError as error:
            raise GrantLogError(f"{where}: {error}") from None
        if not kinds or kind in kinds:
            call = event.get("task"), event.get("call")
            if event["event"] == "grant":
                latest[call] = len(found)
                found.append((kind, budget))
            elif call in latest:
                found[latest[call]] = kind, budget
    return found


def parse_caps(lines: Iterable[str], *, name: str = "run.jsonl") -> list[Caps]:
    """The caps of every task in the lines of one log that is no sub-task.

    Raises:
        GrantLogError: a line is no JSON object, or a task's caps are malformed.
    """
    found: list[Caps] = []
    for where, event in _events(lines, name):
        if event.get("event") != "task_opened" or event.get("parent") is not None:
            continue
        try:
            found.append(Caps(**event["caps"]))
        except (ElasticError, KeyError, TypeError) as error:
            raise GrantLogError(f"{where}: a task without caps that can be read: {error}") from None
    return found


def read_caps(paths: Sequence[str | Path]) -> list[Caps]:
    """The caps of every task in these logs, the tightest first; a folder means all `*.jsonl` below it.

    Raises:
        GrantLogError: no such file, a malformed line, or no task at all.
    """
    found: list[Caps] = []
    for file in _files(paths):
        with file.open(encoding="utf-8") as lines:
            found += parse_caps(lines, name=str(file))
    if not found:
        raise GrantLogError(
            f"no task in {', '.join(map(str, paths))}: a scheduler writes them with BudgetScheduler(log=...)"
        )
    tight = (math.inf, math.inf, math.inf)
    return sorted(
        found,
        key=lambda caps: tuple(
            most if cap is None else float(cap)
            for cap, most in zip((caps.tokens, caps.usd, caps.seconds), tight, strict=True)
        ),
    )


def _events(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, event) of the lines of one log. An unfinished last line, which a killed run leaves
    behind, is left out.

    Raises:
        GrantLogError: a line is no JSON object, or of another schema.
    """
    pending: GrantLogError | None = None
    for number, line in enumerate(lines, 1):
        if pending is not None:
            raise pending
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            pending = GrantLogError(f"{where} is not JSON ({error.msg}, column {error.colno})")
            if line.endswith("\n"):
                raise pending from None
            continue
        if not isinstance(event, dict):
            raise GrantLogError(f"{where} is not an event: expected a JSON object")
        if event.get("event") in RETIRED or event.get("schema", SCHEMA) != SCHEMA:
            raise GrantLogError(
                f"{where}: the log has schema {event.get('schema', 1)}, and this version reads {SCHEMA}: run "
                f"the agent again with this version of elastic-agent, or train with the one that wrote it"
            )
        yield where, event


def _files(paths: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if not path.exists():
            raise GrantLogError(f"there is no run log {path}")
        files += sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    return files


def read_grants(paths: Sequence[str | Path], kinds: Sequence[str] = ()) -> list[Budget]:
    """Every budget granted in these logs; a folder means all `*.jsonl` below it.

    Raises:
        GrantLogError: no such file, a malformed line, or no grant at all.
    """
    grants: list[tuple[str, Budget]] = []
    seen: set[str] = set()
    for file in _files(paths):
        with file.open(encoding="utf-8") as lines:
            every = parse_grants(lines, name=str(file))
        seen |= {kind for kind, _ in every}
        grants += [found for found in every if not kinds or found[0] in kinds]
    if not grants:
        named = ", ".join(str(path) for path in paths) or "no file"
        if seen:
            raise GrantLogError(
                f"no grant of kind {', '.join(kinds)} in {named}: it has {', '.join(sorted(seen))}"
            )
        raise GrantLogError(f"no grants in {named}: a scheduler writes them with BudgetScheduler(log=...)")
    return [budget for _, budget in grants]
