"""What `test_processes` runs in another process: argv[1] is the server, argv[2] what to do, stdin the words.

start FOLDER     begin an agent's thread, up to the interrupt before its tools
resume FOLDER    go on with it
remote LEDGER METADATA N    a graph whose N parallel branches ask the model under the caller's scope
"""

from __future__ import annotations

import asyncio
import json
import operator
import pickle
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from elastic_agent import Caps
from elastic_agent.backends.scripted import ScriptedCodec
from elastic_agent.integrations.langchain import ChatElasticReasoning, TaskBudgetMiddleware, joined_budget
from elastic_agent.integrations.langchain.errors import BudgetExceededError, ClosedTaskError

URL, WHAT = sys.argv[1:3]
CODEC = ScriptedCodec()
for word, number in json.load(sys.stdin).items():
    CODEC._ids[word], CODEC._words[number] = number, word


def model() -> ChatElasticReasoning:
    options = {"codec": CODEC}
    return ChatElasticReasoning(
        model="scripted", base_url=URL, backend_options=options, thinking_budget=8, solution_budget=8
    )


@tool
def research(question: str) -> str:
    """Ask a researcher."""
    return model().invoke(question).text


def thread(folder: Path, *, resume: bool) -> dict[str, Any]:
    """One invocation of an agent whose checkpoints are in a file between processes."""
    saver, file = InMemorySaver(), folder / "checkpoints"
    if resume:
        saved, saver.writes, saver.blobs = pickle.loads(file.read_bytes())
        for name, spaces in saved.items():
            saver.storage[name].update(spaces)
    budget = TaskBudgetMiddleware(run=Caps(tokens=100), thread=Caps(tokens=200), store=folder / "spend.db")
    assert budget._accounts is not None
    if len(sys.argv) > 4:  # the test that kills this process does not wait for a minute
        budget._accounts.seconds = float(sys.argv[4])
    agent: Any = create_agent(
        model(), [research], middleware=[budget], checkpointer=saver, interrupt_before=["tools"]
    )
    print("running", flush=True)
    config = {"configurable": {"thread_id": "7"}}
    agent.invoke(None if resume else {"messages": [("user", "go")]}, config)
    plain = {
        name: {key: dict(value) for key, value in spaces.items()} for name, spaces in saver.storage.items()
    }
    file.write_bytes(pickle.dumps((plain, saver.writes, saver.blobs)))
    state = agent.get_state(config)
    return {"next": list(state.next), "messages": len(state.values["messages"])}


class State(TypedDict, total=False):
    n: int
    out: Annotated[list[str], operator.add]
    failed: Annotated[list[str], operator.add]


async def remote(ledger: str, metadata: str, n: int) -> dict[str, Any]:
    """A graph as a remote one would run: its branches join the budget that the config's metadata names."""

    async def ask(state: State, config: RunnableConfig) -> State:
        try:
            async with joined_budget(config, store=ledger) as task:
                answer = await model().ainvoke(f"say {state['n']}")
                return {"out": [f"{task.spent.tokens}" if answer.text else ""]}
        except (BudgetExceededError, ClosedTaskError) as error:
            return {"failed": [type(error).__name__]}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_conditional_edges(START, lambda state: [Send("ask", {"n": i}) for i in range(state["n"])])
    graph.add_edge("ask", END)
    out = await graph.compile().ainvoke({"n": n}, {"metadata": json.loads(metadata)})
    answers = out.get("out", [])
    failed = out.get("failed", [])
    return {
        "answered": len(answers),
        "spent": sum(map(int, answers)),
        "error": failed[0] if failed else None,
    }


if WHAT == "remote":
    result = asyncio.run(remote(sys.argv[3], sys.argv[4], int(sys.argv[5])))
else:
    result = thread(Path(sys.argv[3]), resume=WHAT == "resume")
print(json.dumps(result), flush=True)
