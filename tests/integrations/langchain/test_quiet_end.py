"""A program with a served model ends without a word on standard error, however it made its calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from tests.wire import Wire, serve_in_thread

HEAD = """
import asyncio, threading
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.generation.generate import generate
from elastic_agent import Budget, Caps
from elastic_agent.integrations.langchain import ChatElasticReasoning, TaskBudgetMiddleware
from elastic_agent.scheduler import BudgetScheduler, task_budget
from elastic_agent.backends.scripted import ScriptedCodec

def backend():
    return VllmServerBackend("scripted", URL, codec=ScriptedCodec())

def model():
    return ChatElasticReasoning(backend=backend(), thinking_budget=4, solution_budget=8)
"""

PROGRAMS = {
    "invoke": "model().invoke('q')",
    "stream": "list(model().stream('q'))",
    "stream left": "llm = model(); s = llm.stream('q'); next(s)",
    "ainvoke": "asyncio.run(model().ainvoke('q'))",
    "two runs": "llm = model(); asyncio.run(llm.ainvoke('q')); asyncio.run(llm.ainvoke('q'))",
    "both": "llm = model(); llm.invoke('q'); asyncio.run(llm.ainvoke('q')); llm.invoke('q')",
    "pending": """
llm = model()
async def main():
    task = asyncio.create_task(llm.ainvoke('q'))
    await asyncio.sleep(0.02)
asyncio.run(main())""",
    "threads": """
llm = model()
threads = [threading.Thread(target=lambda: llm.invoke('q')) for _ in range(3)]
threads += [threading.Thread(target=lambda: asyncio.run(llm.ainvoke('q'))) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]""",
    "daemon thread": """
llm = model()
def read():  # what the end of the program does to a call in mid-air is the thread's own to handle
    try:
        list(llm.stream('q'))
    except BaseException:
        pass
t = threading.Thread(target=read, daemon=True); t.start(); t.join(0.02)""",
    "a loop of one's own": """
llm = model()
loop = asyncio.new_event_loop()
loop.run_until_complete(llm.ainvoke('q'))""",
    "a closed loop of one's own": """
llm = model()
for _ in range(2):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(llm.ainvoke('q'))
    loop.close()""",
    "task": """
with task_budget(tokens=90):
    model().invoke('q')""",
    "scheduler": """
async def main():
    async with BudgetScheduler(backend()) as scheduler:
        async with scheduler.task(Caps(tokens=90)) as task:
            await task.generate('q')
asyncio.run(main())""",
    "error": """
llm = model()
try:
    with task_budget(tokens=1):
        llm.invoke('q')
except Exception:
    pass""",
    "agent": """
from langchain.agents import create_agent
agent = create_agent(model(), [], middleware=[TaskBudgetMiddleware(thread=Caps(tokens=900))])
agent.invoke({"messages": [("user", "q")]}, {"configurable": {"thread_id": "1"}})""",
    "agent left": """
from langchain.agents import create_agent
agent = create_agent(model(), [], middleware=[TaskBudgetMiddleware(thread=Caps(tokens=900))])
s = agent.stream({"messages": [("user", "q")]}, {"configurable": {"thread_id": "1"}})
next(s)""",
    "nobody there": """
try:
    there = VllmServerBackend("scripted", "http://127.0.0.1:9/v1", codec=ScriptedCodec())
    ChatElasticReasoning(backend=there).invoke('q')
except Exception:
    pass""",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Wire]:
    with serve_in_thread(ScriptedBackend(Reply("hm hm hm", "yes"), tpot=0.01)) as wire:
        yield wire


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_ends_without_a_word(server: Wire, program: str) -> None:
    """The fault: "Unclosed client session" after every synchronous script on a served model."""
    code = HEAD.replace("URL", repr(server.base_url)) + PROGRAMS[program]
    strict = [] if program.endswith("one's own") else ["-W", "error"]  # such loops are theirs to close
    done = subprocess.run(
        [sys.executable, *strict, "-c", code], capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
