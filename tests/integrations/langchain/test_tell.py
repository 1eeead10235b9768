"""`tell=` through LangChain: ours and guarded models, however they are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import (
    ChatElasticReasoning,
    ElasticReasoningLLM,
    guard,
    joined_budget,
    remote_budget,
)
from elastic_agent.integrations.langchain.accounts.remote import KEY
from elastic_agent.scheduler import task_budget
from tests.integrations.langchain.conftest import numbered

Make = Callable[..., ChatElasticReasoning]
WORDS = " (about 2000 tokens left)"


@pytest.fixture
def seen(backend: ScriptedBackend) -> list[str]:
    """The prompts that the model read."""
    prompts: list[str] = []

    def reply(prompt: str) -> Reply:
        prompts.append(prompt)
        return numbered(prompt)

    backend._reply = reply
    return prompts


@pytest.mark.parametrize("way", ["ainvoke", "invoke", "astream", "stream", "text"])
async def test_the_words_stand_behind_the_last_message(
    chat: Make, backend: ScriptedBackend, seen: list[str], way: str
) -> None:
    """Streamed or not, sync or not; what is held is what the meter counts; the messages are unchanged."""
    model: Any = chat()
    if way == "text":
        model, way = ElasticReasoningLLM(backend=backend, thinking_budget=4, solution_budget=8), "ainvoke"
    messages = [HumanMessage("say 1"), AIMessage("1"), HumanMessage("say 2")]
    async with task_budget(tokens=2_000, tell=True) as task:
        out = getattr(model, way)(messages)
        if way == "astream":
            _ = [chunk async for chunk in out]
        elif way == "stream":
            _ = list(out)
        elif way == "ainvoke":
            await out
    assert all(re.search(r"say 2 \(about 2000 tokens left\)\n?assistant$", prompt) for prompt in seen)
    assert all("say 1 (" not in prompt for prompt in seen)
    assert [message.text for message in messages] == ["say 1", "1", "say 2"]
    (call,) = task.report().calls
    assert call.grant is not None
    assert call.grant.basis.prompt == call.usage.prompt
    assert call.usage.metered_input == backend.meter.input


async def test_tools_and_guided_answers_stay_as_they_are(chat: Make, seen: list[str]) -> None:
    """A tool's message is told behind; what the engine gets for tools and structured output is the same."""

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    asked: list[BaseMessage] = [
        HumanMessage("2 + 2?"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2, "b": 2}, "id": "1"}]),
        ToolMessage("4", tool_call_id="1"),
    ]
    untold, told = [], []
    for prompts, tell in ((untold, False), (told, True)):
        async with task_budget(tokens=2_000, tell=tell):
            await chat().bind_tools([add]).ainvoke(asked)
            await (
                chat()
                .with_structured_output({"type": "object", "title": "a"}, include_raw=True)
                .ainvoke("hi")
            )
        prompts += seen
        seen.clear()
    assert [prompt.replace("4assistant", f"4{WORDS}assistant") for prompt in untold[:2]] == told[:2]
    assert "2 + 2? (" not in told[0]
    assert all("hi (about" in prompt for prompt in told[2:])
    assert len(told) == len(untold)


async def test_a_call_that_became_the_final_answer(chat: Make, seen: list[str]) -> None:
    """It is asked to answer now: with tools in our sentence and in the words, without in the words."""
    async with task_budget(tokens=60, final_solution=16, tell=True) as task:
        await chat(thinking_budget=20).ainvoke("say 1")
        for options in ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {}):
            async with task.task(task.caps):
                await chat(solution_budget=100).ainvoke("say 2", on_exhausted="answer", **options)
    asked = list(dict.fromkeys(seen))
    assert re.search(
        r"say 2user The budget is used up.* tools. \(about \d+ tokens left; final answer now\)a", asked[1]
    )
    assert re.search(r"say 2 \(about \d+ tokens left; final answer now\)a", asked[2])


async def test_a_told_answer_is_in_no_cache(chat: Make, backend: ScriptedBackend) -> None:
    """It depends on what was left. One that was not told is replayed in a task that tells."""
    model = chat(cache=InMemoryCache(), thinking_budget=9)
    async with task_budget(tokens=2_000, tell=True):
        first = await model.ainvoke("say 7")
        before = backend.meter.requests
        await model.ainvoke("say 7")
    assert not first.response_metadata["budget"]["as_asked"]
    assert backend.meter.requests > before
    await model.ainvoke("say 7")
    before = backend.meter.requests
    async with task_budget(tokens=2_000, tell=True):
        await model.ainvoke("say 7")
    assert backend.meter.requests == before


async def test_guarded_models_are_told_too() -> None:
    """Other providers' models, in the same words; their input is counted with them."""
    seen: list[list[BaseMessage]] = []

    class Other(FakeListChatModel):
        model: str = "gpt-4o-mini"

        def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
            seen.append(messages)
            return "hello"

    asked = [HumanMessage("say 1"), AIMessage("1"), HumanMessage([{"type": "text", "text": "say 2"}])]
    held: list[int] = []
    for tell in (False, "({tokens})"):
        async with task_budget(tokens=2_000, tell=tell) as task:
            await guard(Other(responses=["x"]), max_tokens=100).ainvoke(asked, final=True)
        (call,) = task.report().calls
        assert call.grant is not None
        held.append(call.grant.basis.prompt)
    assert [messages[-1].text for messages in seen] == ["say 2", "say 2 (2000)"]
    assert asked[-1].text == "say 2"
    assert held[1] > held[0] > 0


async def test_a_graph_in_another_process_is_told_alike(chat: Make, seen: list[str], tmp_path: Path) -> None:
    """Of the part that was set aside for it, in its caller's words."""
    store = tmp_path / "remote.db"
    async with (
        task_budget(tokens=2_000, tell="({tokens})"),
        remote_budget(Caps(tokens=400, seconds=60), store=store) as metadata,
        joined_budget({"metadata": metadata}, store=store),
    ):
        await chat().ainvoke("say 1")
    assert set(seen) == {"user say 1 (400)assistant"}
    bad = {KEY: metadata[KEY].replace("({tokens})", "{thinking}")}
    with pytest.raises(ValueError, match="has no budget"):
        await joined_budget({"metadata": bad}, store=store).__aenter__()
