"""The demo's agent: a LangGraph with a parallel branch for every chain, and a last call for every day.

    START ==Send==> chain (its steps in turn) ==barrier, Send==> combine (one a day) --> END

The agent knows nothing of budgets: its model and the task that it runs in do. `answer_of` reads the number in
a solution, for the agent and for the baseline.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from .problems import Day, kind_of

Ask = Callable[[str, str, str], Awaitable[int | None]]
"""Asks a model: (label, problem, kind) to the number in its solution, None where it has none."""

ChainKey = tuple[int, int]
"""Day and chain, by their numbers."""


class State(TypedDict):
    """What the graph's branches have found: answers by chain, totals by day."""

    chains: Annotated[dict[ChainKey, int | None], operator.or_]
    totals: Annotated[dict[int, int | None], operator.or_]


class _Where(TypedDict):
    day: int
    chain: int


class _Found(TypedDict):
    day: int
    found: list[int | None]


def answer_of(solution: str, *, cut: bool = False) -> int | None:
    """The number after the last "Answer:", else the last number of the solution, else None.

    The last number of a solution that was cut is a step on the way, not the answer.
    """
    found = re.findall(r"Answer\s*:\s*\$?(\d+)", solution)
    if not found and not cut:
        found = re.findall(r"\d+", solution)
    return int(found[-1]) if found else None


def build_agent(days: Sequence[Day], ask: Ask) -> Any:
    """The compiled graph; `await graph.ainvoke(EMPTY)` returns a `State`."""

    async def chain(state: _Where) -> dict[str, Any]:
        day, part = days[state["day"]], days[state["day"]].chains[state["chain"]]
        answer: int | None = None
        for i, step in enumerate(part.steps, 1):
            text = step if i == 1 else step.replace("{previous}", str(answer))
            answer = await ask(f"{day.name} / {part.name} {i}", text, kind_of(step))
            if answer is None:
                break  # the next problem starts from an answer that does not exist
        return {"chains": {(state["day"], state["chain"]): answer}}

    async def combine(state: _Found) -> dict[str, Any]:
        day, found = days[state["day"]], state["found"]
        text = day.combine
        for i, answer in enumerate(found):
            text = text.replace(f"{{{i}}}", str(answer))
        total = await ask(f"{day.name} / total", text, kind_of(text))
        return {"totals": {state["day"]: total}}

    def barrier(state: State) -> dict[str, Any]:
        return {}

    def fan_out(_: State) -> list[Send]:
        return [
            Send("chain", _Where(day=d, chain=c))
            for d, day in enumerate(days)
            for c in range(len(day.chains))
        ]

    def gather(state: State) -> list[Send] | str:
        ready = []
        for d, day in enumerate(days):
            found = [state["chains"].get((d, c)) for c in range(len(day.chains))]
            if None not in found:
                ready.append(Send("combine", _Found(day=d, found=found)))
        return ready or END

    graph = StateGraph(State)
    graph.add_node("chain", chain)
    graph.add_node("barrier", barrier)
    graph.add_node("combine", combine)
    graph.add_conditional_edges(START, fan_out, ["chain"])
    graph.add_edge("chain", "barrier")
    graph.add_conditional_edges("barrier", gather, ["combine", END])
    graph.add_edge("combine", END)
    return graph.compile()


EMPTY: State = {"chains": {}, "totals": {}}


def row_of(state: State, number: int, day: Day) -> list[int | None]:
    """A day's answers: its chains', then its total."""
    chains = [state["chains"].get((number, c)) for c in range(len(day.chains))]
    return [*chains, state["totals"].get(number)]
