"""Train a LangGraph agent with two tools and a sub-agent, as it is.

    python examples/train_langgraph_agent.py [--steps N]

The agent adds up the books of a shop's branches. One tool looks a branch up, the other writes the sum down as
a problem; a sub-agent, with a cap of its own inside the agent's, checks the sum when caps allow. The graph
knows nothing of training: run in `task_budget(...)`, it is what production runs. Two steps teach nothing;
they show that each call is learnt from as it really was.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from transformers.utils import logging

from elastic_agent.errors import CapExceededError
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import task_budget
from elastic_agent.training.agents import EpisodeResult
from elastic_agent.training.config.loading import load_config
from elastic_agent.training.data.word_problems import combine_problem, make_problems
from elastic_agent.training.run import train

BOOKS = {f"branch {at}": problem for at, problem in enumerate(make_problems(5, 40, split="train", steps=2))}


class State(TypedDict):
    """Branches to add up, what was found, and the sum."""

    branches: list[str]
    found: list[int]
    total: int | None
    checked: bool


@tool
def look_up(branch: str) -> str:
    """The books of a branch."""
    return BOOKS[branch].text


@tool
def add_up(parts: list[int]) -> str:
    """The problem that adds these numbers up."""
    return combine_problem(parts).text


async def number(llm: Any, text: str, **options: Any) -> int | None:
    """What the model answers to a problem."""
    found = re.findall(r"Answer : (\d+)", (await llm.ainvoke(text, **options)).text)
    return int(found[-1]) if found else None


async def accountant(llm: Any, text: str, total: int) -> bool:
    """The sub-agent: solves the sum once more, under a cap of its own."""
    try:
        async with task_budget(tokens=60, name="accountant"):
            return await number(llm, text) == total
    except CapExceededError:  # no tokens are left for a second look
        return False


def build_graph(llm: Any) -> Any:
    """The agent's graph on a model."""

    async def read(state: State) -> dict[str, Any]:
        found = [await number(llm, await look_up.ainvoke({"branch": name})) for name in state["branches"]]
        return {"found": [part for part in found if part is not None]}

    async def add(state: State) -> dict[str, Any]:
        parts = state["found"]
        if len(parts) < len(state["branches"]) or min(parts) < 1 or sum(parts) > 99:
            return {"total": None}
        text = await add_up.ainvoke({"parts": parts})
        total = await number(llm, text, final=True)
        return {"total": total, "checked": total is not None and await accountant(llm, text, total)}

    graph = StateGraph(State)
    graph.add_node("read", read)
    graph.add_node("add", add)
    graph.add_edge(START, "read")
    graph.add_edge("read", "add")
    graph.add_edge("add", END)
    return graph.compile()


async def agent(row: Mapping[str, Any], llm: ChatElasticReasoning) -> EpisodeResult:
    """The reward: is the sum right? Whether it was checked is logged."""
    start = {"branches": row["branches"], "found": [], "total": None, "checked": False}
    out = await build_graph(llm).ainvoke(start)
    return EpisodeResult(float(out["total"] == row["total"]), metrics={"checked": float(out["checked"])})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2)
    steps = parser.parse_args().steps
    logging.disable_progress_bar()
    names = list(BOOKS)
    rows = [
        {"branches": [a, b], "total": BOOKS[a].answer + BOOKS[b].answer}
        for a, b in zip(names[::2], names[1::2], strict=True)
        if BOOKS[a].answer + BOOKS[b].answer <= 99
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "rows.jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes = (
            f"agent={{run: '{__name__}:agent', caps: {{tokens: [60, 300]}}, llm: {{solution_budget: 64}}}}",
            f"data={{source: rows, path: {data}}}",
            f"output={Path(folder, 'e1-shop')}",
            f"steps={steps}",
            "rollout={prompts: 2, group: 4}",
        )
        train(load_config("agent", changes))


if __name__ == "__main__":
    main()
