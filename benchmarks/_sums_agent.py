"""The agent of `agents.py`: a LangGraph with a tool and a parallel step, on problems that e1-tiny can do.

    START ==Send==> branch (look up the problem, solve it), one for each branch of a shop ==> total --> END

The last call adds up what the branches have found, so its problem depends on their answers. The agent knows
nothing of budgets: its model and the task that it runs in do.
"""

from __future__ import annotations

import operator
import random
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from elastic_agent.training.agents import EpisodeResult
from elastic_agent.training.data.word_problems import Split, combine_problem, make_problem

STEPS = (2, 3, 4)
"""Lines of a branch's problem."""


class State(TypedDict):
    """What the branches have found, by their place, and the total."""

    books: list[str]
    found: Annotated[dict[int, int | None], operator.or_]
    total: int | None


class Branch(TypedDict):
    books: list[str]
    branch: int


@tool
def look_up(books: list[str], branch: int) -> str:
    """The books of a branch: its word problem."""
    return books[branch]


def number_in(solution: str) -> int | None:
    """The number behind the last "Answer :"."""
    found = re.findall(r"Answer\s*:\s*(\d+)", solution)
    return int(found[-1]) if found else None


def build_graph(llm: Any) -> Any:
    """The compiled graph on a model."""

    async def branch(state: Branch) -> dict[str, Any]:
        text = await look_up.ainvoke({"books": state["books"], "branch": state["branch"]})
        said = await llm.ainvoke(text, kind=f"steps-{len(re.findall('#', text))}")
        return {"found": {state["branch"]: number_in(said.text)}}

    async def total(state: State) -> dict[str, Any]:
        parts = [state["found"].get(at) for at in range(len(state["books"]))]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or min(known) < 1 or sum(known) > 99:
            return {"total": None}  # no such problem: the answer of a branch is missing, or far off
        problem = combine_problem(known)
        said = await llm.ainvoke(problem.text, kind=problem.kind, final=True)
        return {"total": number_in(said.text)}

    def fan_out(state: State) -> list[Send]:
        return [Send("branch", Branch(books=state["books"], branch=at)) for at in range(len(state["books"]))]

    graph = StateGraph(State)
    graph.add_node("branch", branch)
    graph.add_node("total", total)
    graph.add_conditional_edges(START, fan_out, ["branch"])
    graph.add_edge("branch", "total")
    graph.add_edge("total", END)
    return graph.compile()


async def agent(row: Mapping[str, Any], llm: Any) -> EpisodeResult:
    """The reward: a half for the branches' answers, a half for the total. "whole" is the agent's success."""
    out = await build_graph(llm).ainvoke({"books": row["books"], "found": {}, "total": None})
    right = [out["found"].get(at) == answer for at, answer in enumerate(row["answers"])]
    whole = float(out["total"] == sum(row["answers"]))
    return EpisodeResult(0.5 * sum(right) / len(right) + 0.5 * whole, metrics={"whole": whole})


def make_rows(seed: int, count: int, split: Split) -> list[dict[str, Any]]:
    """Rows of two or three branches whose answers add up to at most 99; the same for the same seed."""
    rng, rows = random.Random(seed), list[dict[str, Any]]()
    while len(rows) < count:
        problems = [make_problem(rng, rng.choice(STEPS), split=split) for _ in range(rng.choice((2, 2, 3)))]
        answers = [problem.answer for problem in problems]
        if sum(answers) <= 99:
            rows.append({"books": [problem.text for problem in problems], "answers": answers})
    return rows
