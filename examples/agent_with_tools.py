"""`create_agent` with a tool and a budget for each run: when it is used up, the last call is the answer.

    python examples/agent_with_tools.py [MODEL BASE_URL]

Without arguments a scripted model plays one that never stops searching, so that the end shows; with them, a
vLLM server answers (a model that was trained to call tools).
"""

import sys
from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import tool

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, TaskBudgetMiddleware
from elastic_agent.scheduler import Task


@tool
def search(question: str) -> str:
    """Look something up."""
    return "the harbour was built in 1911, and enlarged twice"


def never_done(prompt: str) -> Reply:
    if "Answer now" in prompt:
        return Reply("then I say what I have", "It was built in 1911.")
    call = '<tool_call>{"name": "search", "arguments": {"question": "harbour, more"}}</tool_call>'
    return Reply("I would like to know more about this " * 3, call)


if len(sys.argv) > 2:
    llm = ChatElasticReasoning(model=sys.argv[1], base_url=sys.argv[2], thinking_budget=256)
else:
    llm = ChatElasticReasoning(backend=ScriptedBackend(never_done), thinking_budget=64, solution_budget=32)


def show(task: Task) -> None:
    print(task.report())


budget = TaskBudgetMiddleware(run=Caps(tokens=300), on_task=show)
agent: Any = create_agent(llm, [search], middleware=[budget])

if __name__ == "__main__":
    out = agent.invoke({"messages": [("user", "When was the harbour built?")]})
    print("searches:", sum(message.type == "tool" for message in out["messages"]))
    print("answer:  ", out["messages"][-1].text)
