"""Small suites, records and runs for the tests of evaluation."""

from __future__ import annotations

from typing import Any

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.training.evaluation.grid import Grid
from elastic_agent.training.evaluation.results import Record
from elastic_agent.training.evaluation.runners.custom_graders import FunctionGrader
from elastic_agent.training.evaluation.strategies.cues import Cues
from elastic_agent.training.evaluation.strategies.strategies import make_strategy
from elastic_agent.training.evaluation.suites import Item, Suite

CUES = Cues(wait="wait", probe="so", probe_closes=True, probe_tokens=3, read=str.strip)


def suite(problems: int = 4, *, grade: Any = None) -> Suite:
    """Problems whose answer is their number; a scripted model knows it after `number` thinking tokens."""
    items = [Item(f"p{i}", f"what is {i} ?", str(i), f"kind-{i % 2}") for i in range(problems)]
    judge = grade or (lambda item, text, done: done and text == item.reference)
    return Suite("numbers", items, FunctionGrader(judge, "same"), CUES)


def grid(**changes: Any) -> Grid:
    strategies = [make_strategy(name) for name in changes.pop("strategies", ("elastic",))]
    made = {"suite": suite(), "thinking": (0, 2, None), "solution": (4,), **changes}
    return Grid(strategies=strategies, **made)


def model(name: str = "scripted", *, thinks: int = 5, context: int = 100) -> ScriptedBackend:
    def reply(prompt: str) -> Reply:
        number = prompt.split(" is ")[1].split()[0]
        words = " ".join(f"step-{i}." for i in range(thinks))
        return Reply(words, number, needs=int(number))

    return ScriptedBackend(reply, model=name, context_length=context)


def record(**changes: Any) -> Record:
    """A sample, right unless it says otherwise."""
    made: dict[str, Any] = {
        "model": "m",
        "strategy": "elastic",
        "t": 8,
        "s": 4,
        "problem": "p0",
        "sample": 0,
        "kind": "k",
        "right": True,
        "finished": True,
        "cut": False,
        "tokens": 12,
        "thinking_tokens": 8,
        "solution_tokens": 4,
        "forced": 1,
        "discarded": 0,
        "probes": 0,
        "input": 20,
        "passes": 2,
        "thinking": "one. two.",
        "solution": "4",
    }
    return Record(**{**made, **changes})
