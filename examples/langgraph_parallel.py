"""A LangGraph whose branches run in parallel under one ceiling, and a last call that combines their answers.

    python examples/langgraph_parallel.py [MODEL [BASE_URL]]      # BASE_URL: a vLLM server's

Nothing in the graph knows of budgets: `task_budget` around it is enough. Branches that find the cap taken
wait for what others give back, or think less; the last call's tokens are kept for it from the start.
"""

import asyncio
import operator
import re
import sys
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import task_budget

SHELVES = [
    "A shop has 3 pens . #1 It makes 17 pens . #2 It uses 2 crates of 8 pens . How many pens are left ?",
    "A shop has 20 cups . #1 It sells 7 cups . #2 It buys 2 . How many cups are left ?",
    "A shop has 34 bags . #1 It gets 29 . #2 It uses 9 bags . #3 It sells 5 packs of 6 bags . "
    "#4 It uses 9 bags . How many bags are left ?",
    "A shop has 69 hats . #1 It uses 11 . #2 It finds 29 hats . #3 It uses 21 hats . #4 It gets 21 . "
    "#5 It loses 63 . How many hats are left ?",
    "A shop has 59 plums . #1 It uses 4 packs of 4 . #2 It buys 17 plums . #3 It ships 3 plums . "
    "#4 It gets 5 packs of 2 . #5 It uses 26 . #6 It sells 6 . How many plums are left ?",
]


class State(TypedDict, total=False):
    problem: str
    counts: Annotated[list[int], operator.add]
    total: str


def number(text: str) -> int:
    found = re.findall(r"\d+", text)
    return int(found[-1]) if found else 0


def build_graph(llm: ChatElasticReasoning) -> Any:
    async def count(state: State) -> State:
        kind = f"steps-{state['problem'].count('#')}"  # calls of a kind share a curve of success
        return {"counts": [number((await llm.ainvoke(state["problem"], kind=kind)).text)]}

    async def combine(state: State) -> State:
        first, *others = state["counts"]
        steps = " ".join(f"#{n} It gets {more} ." for n, more in enumerate(others, 1))
        problem = f"A shop has {first} items . {steps} How many items are left ?"
        return {"total": (await llm.ainvoke(problem, final=True)).text}

    builder = StateGraph(State)
    builder.add_node(count)
    builder.add_node(combine)
    builder.add_conditional_edges(START, lambda _: [Send("count", {"problem": shelf}) for shelf in SHELVES])
    builder.add_edge("count", "combine")
    builder.add_edge("combine", END)
    return builder.compile()


async def main(model: str = "e1-tiny", base_url: str | None = None) -> None:
    graph = build_graph(ChatElasticReasoning(model=model, base_url=base_url, solution_budget=96).load())
    async with task_budget(tokens=600, seconds=120, final_solution=96) as task:
        out = await graph.ainvoke({})
    print("counts:", out["counts"])
    print("total: ", out["total"])
    print(task.report())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
