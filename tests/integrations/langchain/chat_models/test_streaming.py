"""Streams: reasoning, then text, then what it cost; and what is left behind when nobody reads on."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import nullcontext

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.graph import END, START, StateGraph

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.integrations.langchain.blocking_portal import portal
from elastic_agent.integrations.langchain.errors import CallTimeoutError, UpstreamUnavailableError
from elastic_agent.scheduler import task_budget

Make = Callable[..., ChatElasticReasoning]


def merged(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_reasoning_comes_before_text_and_a_merged_stream_is_the_message(
    chat: Make, version: str
) -> None:
    """The same content, blocks, usage and metadata as `ainvoke`, from deltas in order."""
    model = chat(output_version=version)
    chunks = [chunk async for chunk in model.astream("say 7")]
    kinds = [block["type"] for chunk in chunks for block in chunk.content_blocks]
    assert kinds == ["reasoning"] * 4 + ["text"] * 4
    whole, message = merged(chunks), await model.ainvoke("say 7")
    assert whole.text == message.text
    assert [{**b, "index": 0} for b in whole.content_blocks] == [
        {**b, "index": 0} for b in message.content_blocks
    ]
    assert whole.usage_metadata == message.usage_metadata
    assert whole.response_metadata == message.response_metadata


async def test_usage_and_budget_are_on_the_last_chunk_alone(chat: Make) -> None:
    """LangChain merges by adding: twice told would be twice counted."""
    chunks = [chunk async for chunk in chat().astream("say 7")]
    assert [bool(c.usage_metadata or c.response_metadata) for c in chunks] == [False] * (len(chunks) - 1) + [
        True
    ]
    assert chunks[-1].chunk_position == "last"


def test_the_sync_stream_is_the_same(chat: Make) -> None:
    """One implementation: sync goes through the portal."""
    model = chat()
    whole = merged(list(model.stream("say 7")))
    assert (whole.text, whole.usage_metadata) == ("the answer is 7", model.invoke("say 7").usage_metadata)


@pytest.mark.parametrize("in_task", [False, True])
async def test_an_answer_that_nobody_reads_along_is_decoded_once(
    chat: Make, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, in_task: bool
) -> None:
    """Each segment of it; a stream has to look at each of its tokens."""
    decode, decoded = backend.codec.decode, list[int]()

    def counting(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return decode(ids)

    monkeypatch.setattr(backend.codec, "decode", counting)
    async with task_budget(tokens=200) if in_task else nullcontext():
        assert (await chat().ainvoke("say 7")).text == "the answer is 7"
        assert decoded == [6, 4, 6, 5]  # the scripted model looks at its prompt of 6 before each pass
        decoded.clear()
        async for _ in chat().astream("say 7"):
            pass
        assert len(decoded) > 4


async def test_events_stream_too(chat: Make) -> None:
    """`astream_events` and streaming callbacks see the tokens of an `ainvoke`."""
    events = [e async for e in chat().astream_events("say 7", version="v2")]
    texts = [e["data"]["chunk"].text for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(texts) == "the answer is 7"
    end = next(e for e in events if e["event"] == "on_chat_model_end")
    assert end["data"]["output"].usage_metadata["output_token_details"] == {"reasoning": 4}


async def test_a_graph_streams_its_models_tokens(chat: Make) -> None:
    """LangGraph's `stream_mode="messages"`: reasoning and text deltas of a node that only invokes."""
    model = chat()
    graph = StateGraph(dict)

    async def node(state: dict[str, str]) -> dict[str, str]:
        return {"out": (await model.ainvoke("say 7")).text}

    graph.add_node("ask", node)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    kinds = [
        block["type"]
        async for chunk, _ in graph.compile().astream({}, stream_mode="messages")
        for block in chunk.content_blocks
    ]
    assert kinds == ["reasoning"] * 4 + ["text"] * 4


async def test_a_cancelled_call_stops_the_model(chat: Make, backend: ScriptedBackend) -> None:
    """Cancelling `ainvoke` closes the backend's stream before the next token."""
    backend.tpot = 0.01
    task = asyncio.create_task(chat().ainvoke("say 7"))
    while not backend.meter.output:  # noqa: ASYNC110 - the fake has no event to wait for
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    served = backend.meter.output
    await asyncio.sleep(0.05)
    assert (backend.running, backend.meter.output) == (0, served)


async def test_a_stream_that_nobody_reads_on_stops_the_model(chat: Make, backend: ScriptedBackend) -> None:
    """`break` in an `async for` over `astream`."""
    async for _ in chat().astream("say 7"):
        break
    for _ in range(20):
        await asyncio.sleep(0)
    assert backend.running == 0


def test_a_sync_stream_that_is_left_stops_the_model(chat: Make, backend: ScriptedBackend) -> None:
    """`break` in a `for` over `stream`: stopped when the loop is left, not some time later."""
    stream = chat().stream("say 7")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert backend.running == 0


async def test_a_timeout_stops_the_model_and_says_so(chat: Make, backend: ScriptedBackend) -> None:
    """`timeout=` fails the call; it is no deadline that gets answered."""
    backend.ttft = 30.0
    with pytest.raises(CallTimeoutError):
        await chat(timeout=0.02).ainvoke("say 7")
    assert backend.running == 0


async def test_a_broken_stream_is_an_upstream_error(chat: Make) -> None:
    """A stream that breaks after its first token is not tried again: what it brought was shown already."""
    broken = ScriptedBackend(Reply("a b c", "d", fail_after=2))
    with pytest.raises(UpstreamUnavailableError, match="broke off after 2"):
        await chat(backend=broken, max_retries=3).ainvoke("hi")
    assert broken.meter.requests == 1


async def test_a_call_that_brought_nothing_is_tried_again(
    chat: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_retries` counts tries that failed before their first token."""
    monkeypatch.setattr("elastic_agent.integrations.langchain.call.BACKOFF", 0.0)
    replies = iter([Reply("a", "b", fail_after=0), Reply("a", "b", fail_after=0)])
    flaky = ScriptedBackend(lambda prompt: next(replies, Reply("a", "b")))
    assert (await chat(backend=flaky, max_retries=2).ainvoke("hi")).text == "b"


# The portal

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


async def who() -> str:
    await asyncio.sleep(0)
    return name.get()


def test_the_portal_carries_the_callers_context() -> None:
    """What `task_budget` sets in the caller is there in the coroutine."""
    token = name.set("caller")
    try:
        assert portal.run(who()) == "caller"
    finally:
        name.reset(token)
    assert portal.run(who()) == "nobody"


def test_what_a_stream_sets_is_set_in_its_reader() -> None:
    """As if it had been awaited: the scheduler knows by it which streams are open around a call."""

    async def naming() -> AsyncGenerator[str]:
        name.set("open")
        yield name.get()
        name.set("closed")

    def read() -> list[str]:
        seen = []
        for item in portal.iterate(naming()):
            seen += [item, name.get()]
        return [*seen, name.get()]

    assert contextvars.copy_context().run(read) == ["open", "open", "closed"]


def test_the_portal_serves_many_threads_at_once() -> None:
    """Sync branches in LangGraph's thread pool wait side by side, not in a row."""
    barrier = asyncio.Barrier(8)

    async def meet() -> None:
        async with asyncio.timeout(20):
            await barrier.wait()

    threads = [threading.Thread(target=lambda: portal.run(meet())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_a_sync_call_works_inside_a_running_loop(chat: Make) -> None:
    """A sync tool called from async code has a loop already; the portal has its own."""

    async def main() -> str:
        return chat().invoke("say 7").text

    assert asyncio.run(main()) == "the answer is 7"


def test_waiting_for_oneself_is_refused() -> None:
    """From the portal's own thread a sync call could only wait for ever."""

    async def inside() -> None:
        portal.run(who())

    with pytest.raises(RuntimeError, match="use await"):
        portal.run(inside())


def test_an_interrupted_call_has_stopped_when_the_caller_goes_on(
    chat: Make, backend: ScriptedBackend
) -> None:
    """Ctrl-C while `invoke` waits: the model has stopped and the hold is settled before it is raised."""
    backend.tpot = 0.01
    me = threading.get_ident()
    interrupt = threading.Timer(0.03, lambda: signal.pthread_kill(me, signal.SIGINT))
    interrupt.start()
    with task_budget(tokens=500) as task:
        with pytest.raises(KeyboardInterrupt):
            chat(thinking_budget=8).invoke("say 7")
        assert backend.running == 0
        assert not task.state.account.live
        assert task.spent.tokens == backend.meter.output
