"""`elastic-agent report --json`: a recorded run as one JSON object.

    version      of this shape (`run_model.VERSION`)
    tasks        the outermost tasks: name, agent, opened, closed, caps, spent, left, refusal, calls, tasks
    by_kind, by_agent   name, calls, thinking, solution, tokens, usd

A call has number, kind, label, model, begun, ended, outcome, thinking_end, granted, used, charged, and
decisions: at, what, granted, hold, left, reserved, success, reason. Times are seconds since the outermost
task was opened; budgets are `{"thinking": t, "solution": s}`; amounts are by unit: tokens, usd, seconds.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .run_model import VERSION, Budgets, Call, Run, Task


def as_dict(run: Run) -> dict[str, Any]:
    """The run, JSON-ready."""
    sums = {
        f"by_{by}": [{"name": name} | asdict(one) for name, one in run.sums(by).items()]
        for by in ("kind", "agent")
    }
    return {"version": VERSION, "tasks": [_task(task) for task in run.tasks], **sums}


def _task(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "agent": task.agent,
        "started": task.started,
        "opened": task.opened,
        "closed": task.closed,
        "caps": dict(task.caps),
        "spent": task.spent,
        "left": task.left,
        "refusal": task.refusal,
        "calls": [_call(call) for call in task.calls.values()],
        "tasks": [_task(one) for one in task.tasks],
    }


def _call(call: Call) -> dict[str, Any]:
    decisions = [asdict(one) | {"granted": _budgets(one.granted)} for one in call.decisions]
    return {
        "number": call.number,
        "kind": call.kind,
        "label": call.label,
        "model": call.model,
        "begun": call.begun,
        "ended": call.ended,
        "outcome": call.outcome,
        "thinking_end": call.thinking_end,
        "granted": _budgets(call.granted),
        "used": _budgets(call.used),
        "charged": dict(call.charged),
        "decisions": decisions,
    }


def _budgets(found: Budgets | None) -> dict[str, int] | None:
    return None if found is None else {"thinking": found[0], "solution": found[1]}
