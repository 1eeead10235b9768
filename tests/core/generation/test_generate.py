"""The driver, on a scripted model and a fake clock: streams, cuts, deadlines, stops, aborts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.backends.base import Sampling, TokenChunk, TokenRequest
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.budget import Budget
from elastic_agent.errors import (
    BackendProtocolError,
    BackendUnavailableError,
    ContextLengthError,
)
from elastic_agent.generation.call import Call
from elastic_agent.generation.control import Control
from elastic_agent.generation.generate import generate, stream
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.prepare import prompt_ids
from elastic_agent.generation.result import Event, Generation
from tests.clock import run

LONG = Reply(thinking=" ".join(f"t{i}" for i in range(100)), solution=" ".join(f"s{i}" for i in range(100)))


def ask(backend: ScriptedBackend, budget: Budget, **options: object) -> Generation:
    return run(generate(backend, "why", budget, **options))


def books(backend: ScriptedBackend, *results: Generation) -> None:
    """Law 2: what the calls say they used is what the upstream metered; nothing runs on."""
    assert sum(r.usage.metered_output for r in results) == backend.meter.output
    assert sum(r.usage.metered_input for r in results) == backend.meter.input
    assert sum(r.usage.passes for r in results) == backend.meter.requests
    assert backend.running == 0


def test_a_natural_close() -> None:
    """A call that stays within its budget: two passes, text of both segments, books equal to the meter."""
    backend = ScriptedBackend(Reply("two and two", "it is 4"))
    result = ask(backend, Budget(50, 50))
    assert (result.thinking, result.solution) == ("two and two", "it is 4")
    assert (result.thinking_end, result.solution_end) == (ThinkingEnd.NATURAL, SolutionEnd.EOS)
    assert (result.usage.thinking, result.usage.close, result.usage.forced, result.usage.solution) == (
        3,
        1,
        0,
        4,
    )
    books(backend, result)


@given(st.integers(0, 8), st.integers(1, 6), st.booleans(), st.booleans(), st.sampled_from([1, 3]))
def test_limits_are_exact(t: int, s: int, prefill: bool, closes: bool, close: int) -> None:
    """Law 3: at most t, then the close, then at most s, for models that prefill or open by themselves, close
    or not, with a marker of one or of several tokens; and the books are the meter's."""
    codec = ScriptedCodec(prefill=prefill, close=tuple(range(3, 3 + close)))
    reply = Reply("a b c d", "e f g", closes=closes)
    backend = ScriptedBackend(reply, codec=codec)
    result = ask(backend, Budget(t, s))
    assert result.usage.thinking <= t
    assert len(result.solution_ids) <= s
    assert len(result.output_ids) == len(result.sampled) == len(result.logprobs)
    assert "a b c d".startswith(result.thinking)
    assert "e f g".startswith(result.solution)
    assert result.solution == " ".join("efg"[: min(s, 3)])
    books(backend, result)


def test_no_thinking_at_all() -> None:
    """A model that answers without opening a block has answered, in as many passes as that takes."""
    backend = ScriptedBackend(Reply("", "one two three four five"), codec=ScriptedCodec(prefill=False))
    result = ask(backend, Budget(2, 9))
    assert result.thinking_end is ThinkingEnd.NEVER_OPENED
    assert result.solution == "one two three four five"
    books(backend, result)


def test_thinking_decides() -> None:
    """Cut before it has thought enough, the scripted model answers otherwise: budgets matter in tests too."""
    backend = ScriptedBackend(Reply("hm " * 40, "4", needs=20, otherwise="5"))
    assert ask(backend, Budget(19, 5)).solution == "5"
    assert ask(backend, Budget(20, 5)).solution == "4"


def test_events_come_in_order_and_add_up() -> None:
    """Streaming: thinking deltas, the close, solution deltas; joined they are the result."""

    async def main() -> tuple[list[Event], Generation]:
        call = Call(ScriptedBackend(LONG), "why", Budget(5, 3))
        return [event async for event in call], call.result()

    events, result = run(main())
    assert [e.segment.value for e in events] == ["thinking"] * 5 + ["close"] + ["solution"] * 3
    assert [e.forced for e in events] == [False] * 5 + [True] + [False] * 3
    assert tuple(i for e in events for i in e.ids) == result.output_ids
    assert "".join(e.text for e in events if e.segment is Segment.SOLUTION).strip() == result.solution


class Lumps(ScriptedBackend):
    """Sends its tokens in lumps, as a server that coalesces its events does."""

    def __init__(self, reply: Reply, size: int, **options: object) -> None:
        super().__init__(reply, **options)  # type: ignore[arg-type]
        self.size = size

    async def stream(self, request: TokenRequest):  # type: ignore[no-untyped-def]
        held: list[int] = []
        async with aclosing(super().stream(request)) as chunks:
            async for chunk in chunks:
                held += chunk.ids
                if len(held) >= self.size or chunk.finish:
                    yield TokenChunk(tuple(held), None, chunk.finish)
                    held = []


@given(
    st.integers(1, 9), st.sampled_from([(), ("s2",), ("2 s",), ("s2 s3", "s3"), ("s7",)]), st.integers(1, 9)
)
def test_chunking_never_changes_the_result(size: int, stop: Sequence[str], s: int) -> None:
    """Law 3: however many tokens an event brings, and with stop strings inside it, the answer is the same."""
    one = ask(Lumps(LONG, 1), Budget(7, s), stop=stop)
    other = ask(Lumps(LONG, size), Budget(7, s), stop=stop)
    for field in ("output_ids", "sampled", "thinking", "solution", "stop", "thinking_end", "solution_end"):
        assert getattr(one, field) == getattr(other, field), field


def test_a_stop_string_ends_the_solution_only() -> None:
    """Stop strings are looked for in the solution, never in thinking; nothing of one is given out."""
    backend = ScriptedBackend(Reply("a STOP b", "c d STOP e"))
    result = ask(backend, Budget(9, 9), stop=["STOP"])
    assert result.thinking == "a STOP b"
    assert (result.solution, result.stop, result.solution_end) == ("c d", "STOP", SolutionEnd.STOP)
    books(backend, result)


def test_the_deadline_cuts_thinking_then_the_solution() -> None:
    """`think_until` cuts thinking, `answer_until` the solution, at that moment, also when nothing arrives."""
    backend = ScriptedBackend(LONG, ttft=1.0, tpot=1.0)
    result = ask(backend, Budget(50, 50), control=Control(think_until=5.5, answer_until=9.7))
    assert (result.thinking_end, result.solution_end) == (ThinkingEnd.DEADLINE, SolutionEnd.DEADLINE)
    assert (result.usage.thinking, result.usage.solution) == (5, 4)
    books(backend, result)


def test_an_answer_deadline_alone_ends_thinking_too() -> None:
    """A model that thinks past `answer_until` is cut there, also when its tokens never make it wait."""
    backend = ScriptedBackend(LONG, tpot=1.0)
    result = ask(backend, Budget(50, 50), control=Control(answer_until=3.5))
    assert (result.thinking_end, result.solution_end) == (ThinkingEnd.DEADLINE, SolutionEnd.DEADLINE)
    assert result.usage.solution == 0
    books(backend, result)


def test_a_stalled_upstream_is_cut_at_the_deadline() -> None:
    """No token for an hour: the deadline still comes at its moment, never a hang."""

    async def main() -> tuple[float, Generation]:
        backend = ScriptedBackend(LONG, ttft=3600)
        result = await generate(backend, "why", Budget(5, 5), control=Control(3.0, 4.0))
        return asyncio.get_running_loop().time(), result

    now, result = run(main())
    assert now == pytest.approx(4.0)
    assert result.usage.metered_output == 0


def steered(act: Callable[[Control], None], at: float, budget: Budget | None = None) -> Generation:
    """A call of one token a second; `act` is done to its control at that moment."""

    async def main() -> Generation:
        backend, control = ScriptedBackend(LONG, ttft=1.0, tpot=1.0), Control()
        asyncio.get_running_loop().call_at(at, act, control)
        result = await generate(backend, "why", budget or Budget(50, 5), control=control)
        books(backend, result)
        return result

    return run(main())


def test_cut_and_limits_while_it_waits() -> None:
    """Steering interrupts a waiting call at once, between two tokens."""
    result = steered(lambda c: c.cut(), 3.5)
    assert (result.thinking_end, result.usage.thinking) == (ThinkingEnd.PREEMPTED, 3)
    result = steered(lambda c: c.set_limit(2), 3.5)
    assert (result.thinking_end, result.usage.thinking) == (ThinkingEnd.PREEMPTED, 3)
    result = steered(lambda c: c.set_limit(8), 3.5)
    assert (result.thinking_end, result.usage.thinking) == (ThinkingEnd.BUDGET, 8)
    result = steered(lambda c: c.set_limit(12), 3.5, Budget(6, 5))
    assert (result.usage.thinking, result.usage.passes) == (12, 3)
    result = steered(lambda c: c.set_deadlines(6.5, 9.0), 3.5)
    assert (result.usage.thinking, result.usage.solution) == (6, 2)


def test_steering_twice_in_one_moment() -> None:
    """What comes after a cut does not undo it; a limit that is lowered and raised again was never lowered."""

    def cut_then_move(control: Control) -> None:
        control.cut()
        control.set_deadlines(90.0, 99.0)

    def lower_then_move(control: Control) -> None:
        control.set_limit(2)
        control.set_deadlines(90.0, 99.0)

    def lower_then_raise(control: Control) -> None:
        control.set_limit(2)
        control.set_limit(8)

    for steer in (cut_then_move, lower_then_move):
        result = steered(steer, 3.5)
        assert (result.thinking_end, result.usage.thinking) == (ThinkingEnd.PREEMPTED, 3)
    result = steered(lower_then_raise, 3.5)
    assert (result.thinking_end, result.usage.thinking) == (ThinkingEnd.BUDGET, 8)


def test_raised_too_late_is_preempted() -> None:
    """Raised after the interruption was on its way: the pass is lost, the call goes on to its solution."""

    async def main() -> Generation:
        loop, control = asyncio.get_running_loop(), Control()

        def steer() -> None:
            control.set_limit(2)
            loop.call_soon(lambda: loop.call_soon(control.set_limit, 8))

        loop.call_later(3.5, steer)
        return await generate(ScriptedBackend(LONG, ttft=1, tpot=1), "why", Budget(20, 5), control=control)

    result = run(main())
    assert result.thinking_end is ThinkingEnd.PREEMPTED
    assert (result.usage.thinking, result.usage.solution) == (3, 5)


def test_a_limit_that_comes_too_late_leaves_the_solution_alone() -> None:
    """Steering thinking after it has ended changes nothing: the solution is not interrupted."""
    result = steered(lambda c: c.set_limit(1), 6.5, Budget(4, 5))
    assert (result.usage.thinking, result.usage.solution) == (4, 5)
    assert result.solution_end is SolutionEnd.LENGTH
    assert steered(lambda c: c.cut(), 6.5, Budget(4, 5)).solution_end is SolutionEnd.LENGTH


def test_the_context_bounds_a_raised_limit() -> None:
    """A limit raised beyond the context is the context's, not an error in mid-call."""

    async def main() -> Generation:
        backend, control = ScriptedBackend(LONG, context_length=40), Control()
        control.set_limit(10**6)
        return await generate(backend, "why", Budget(3, 5), control=control)

    result = run(main())
    assert len(result.prompt_ids) + len(result.output_ids) <= 40
    assert result.solution_end is SolutionEnd.LENGTH


def test_the_reader_steers_between_tokens() -> None:
    """Whoever reads the stream may cut from the loop's body: not one more thinking token comes."""

    async def main() -> Generation:
        control = Control()
        call = Call(ScriptedBackend(LONG), "why", Budget(50, 3), control=control)
        async for event in call:
            if len(call.machine.thinking_ids) == 4 and event.segment is Segment.THINKING:
                control.cut()
        return call.result()

    assert run(main()).usage.thinking == 4


def test_on_tokens_sees_every_chunk_and_may_move() -> None:
    """`on_tokens` gets segment, count and clock; the moments that it moves hold from then on."""
    seen: list[tuple[Segment, int, float]] = []
    control = Control()

    def on_tokens(segment: Segment, count: int, now: float) -> None:
        seen.append((segment, count, now))
        if now == 3:
            control.set_deadlines(3.0, None)

    control.on_tokens = on_tokens
    result = ask(ScriptedBackend(LONG, ttft=1, tpot=1), Budget(50, 2), control=control)
    assert result.usage.thinking == 3
    assert seen == [(Segment.THINKING, 1, i) for i in (1, 2, 3)] + [(Segment.SOLUTION, 1, i) for i in (4, 5)]


@pytest.mark.parametrize("after", [0, 3, 7])
def test_cancelled_anywhere(after: int) -> None:
    """Cancelling stops the backend; what is known is counted, and equals the meter."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, ttft=1.0, tpot=1.0)
        call = Call(backend, "why", Budget(5, 5))

        async def consume() -> None:
            async for _ in call:
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(after + 0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        result = call.result()
        assert result.solution_end is SolutionEnd.ABORTED
        assert result.thinking_end is (ThinkingEnd.BUDGET if after >= 5 else ThinkingEnd.ABORTED)
        books(backend, result)

    run(main())


def test_cancelled_again_while_the_backend_closes() -> None:
    """Law 2: what was served and not read is counted, however impatient the caller."""

    class Ahead(ScriptedBackend):
        async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
            try:
                yield TokenChunk((20,))
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)

    async def main() -> None:
        call = Call(Ahead(), "why", Budget(100, 5))

        async def consume() -> None:
            async with aclosing(call.stream()) as events:
                async for _ in events:
                    await asyncio.sleep(50)

        task = asyncio.create_task(consume())
        for _ in range(2):
            await asyncio.sleep(0.5)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (call.usage.thinking, call.usage.unknown) == (1, 99)

    run(main())


def test_left_in_the_middle() -> None:
    """Closing the stream stops the backend before the next token."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        call = Call(backend, "why", Budget(50, 5))
        async with aclosing(call.stream()) as events:
            async for _ in events:
                break
        assert call.usage.thinking == 1
        books(backend, call.result())

    run(main())


def test_an_upstream_that_breaks_off() -> None:
    """A broken stream is a BackendUnavailableError; what it had served is counted."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("a b c d", "e", fail_after=2))
        call = Call(backend, "why", Budget(9, 9))
        with pytest.raises(BackendUnavailableError):
            _ = [event async for event in call]
        assert call.usage.thinking == 2
        assert call.result().solution_end is SolutionEnd.ABORTED
        books(backend, call.result())

    run(main())


class Mute(ScriptedBackend):
    """Ends its streams without saying so."""

    async def stream(self, request: TokenRequest):  # type: ignore[no-untyped-def]
        yield TokenChunk((99,))


def test_a_stream_without_an_end_is_not_trusted() -> None:
    """Law 8: without a finish nobody knows what else was served: the rest of the pass is charged."""

    async def main() -> None:
        call = Call(Mute(), "why", Budget(9, 9))
        with pytest.raises(BackendProtocolError, match="without a finish"):
            _ = [event async for event in call]
        assert (call.usage.thinking, call.usage.unknown) == (1, 8)

    run(main())


class Recorder(ScriptedBackend):
    """Remembers its requests."""

    requests: list[TokenRequest]

    async def stream(self, request: TokenRequest):  # type: ignore[no-untyped-def]
        self.requests = [*getattr(self, "requests", []), request]
        async with aclosing(super().stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk


def test_what_the_passes_ask_for() -> None:
    """Law 5: the second prompt is the first one's ids, the thinking and the close; engine fields go to the
    solution alone, and the passes' seeds differ."""
    backend = Recorder(LONG)
    result = ask(
        backend, Budget(3, 2), sampling=Sampling(seed=5), solution_extra={"guided_regex": "x"}, priority=7
    )
    first, second = backend.requests
    assert second.prompt_ids == (*first.prompt_ids, *result.thinking_ids, *result.close_ids)
    assert (first.max_tokens, second.max_tokens) == (3, 2)
    assert (first.extra, second.extra) == ({}, {"guided_regex": "x"})
    assert (first.priority, second.priority) == (7, 7)
    assert first.sampling.seed != second.sampling.seed
    assert first.stop_ids == {0, 3}
    assert second.stop_ids == {0}


def test_prompts_of_every_kind() -> None:
    """Text, a conversation and ids are the same prompt."""
    backend = ScriptedBackend()
    ids = prompt_ids(backend, "why")
    assert prompt_ids(backend, [{"role": "user", "content": "why"}]) == ids
    assert prompt_ids(backend, ids) == ids


def test_a_prompt_without_room_is_refused() -> None:
    """Law 4: refused before a token is spent, with numbers; unlimited thinking takes the room there is."""
    backend = ScriptedBackend(LONG, context_length=30)
    with pytest.raises(ContextLengthError, match="30 tokens"):
        Call(backend, "word " * 40, Budget(0, 5))
    result = ask(backend, Budget(None, 5))
    assert len(result.prompt_ids) + len(result.output_ids) <= 30
    books(backend, result)


def test_many_at_once() -> None:
    """Concurrent calls with different budgets don't mix, and together they are the meter."""

    async def main() -> None:
        backend = ScriptedBackend(LONG, tpot=1.0)
        results = await asyncio.gather(*(generate(backend, f"q{i}", Budget(i, i + 1)) for i in range(20)))
        assert [r.usage.thinking for r in results] == list(range(20))
        assert [r.usage.solution for r in results] == list(range(1, 21))
        books(backend, *results)

    run(main())


def test_the_functions_stream_and_generate_agree() -> None:
    """Streamed or not, the same."""

    async def main() -> None:
        backend = ScriptedBackend(LONG)
        result = await generate(backend, "why", Budget(4, 4))
        ids = [i async for event in stream(backend, "why", Budget(4, 4)) for i in event.ids]
        assert tuple(ids) == result.output_ids

    run(main())


class Bytes(ScriptedCodec):
    """One token a byte."""

    def encode(self, text: str) -> list[int]:
        return [16 + b for b in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - 16 for i in ids if i >= 16).decode(errors="replace")


def test_half_a_character_is_shown_in_its_place() -> None:
    """Thinking cut inside a character: what is left of it comes before the close, not after the answer."""

    async def main() -> None:
        call = Call(ScriptedBackend(Reply("aé", "ü"), codec=Bytes()), "why", Budget(2, 9))
        events = [event async for event in call]
        shown = [(e.segment.value, e.text) for e in events if e.text or e.segment is Segment.CLOSE]
        assert shown == [("thinking", "a"), ("thinking", "\ufffd"), ("close", ""), ("solution", "ü")]

    run(main())
