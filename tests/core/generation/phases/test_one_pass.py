"""One pass for both segments, whose limits the engine holds: the machine, the driver, the probe, the wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.backends.base import NO_LIMITS, Limits, Sampling, TokenChunk, TokenRequest
from elastic_agent.backends.limits_probe import FIELD, PASSED, why_two_passes
from elastic_agent.backends.replicas import Replicas
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendError
from elastic_agent.generation.call import Call
from elastic_agent.generation.control import Control
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.prompts.markers import Opening
from tests.core.generation.phases.test_two_phase import EOS, PROMPT, SINGLE, reference
from tests.wire import Wire

CLOSE = 2
REPLY = Reply("a b c d e f", "g h i j")
PLAIN = Sampling(0.0, 1.0)


def held(script: Sequence[int], limits: Limits, end: int) -> list[int]:
    """What an engine that holds the limits makes of a script; past its end the script says `end`."""
    out: list[int] = []
    while not out or out[-1] != end:
        closed = out.index(limits.close) if limits.close in out else None
        if closed is None and len(out) >= limits.thinking:
            out.append(limits.close)
        elif closed is not None and len(out) - closed - 1 >= limits.solution:
            out.append(limits.end)
        else:
            out.append(script[len(out)] if len(out) < len(script) else end)
    return out


def drive(machine: TwoPhase, tape: Sequence[int], sizes: Sequence[int], *, holds: bool) -> int:
    """A machine with an engine that says `tape[p]` at position p; what its meter counts as output."""
    metered = 0
    while not machine.done:
        if machine.phase is Phase.CLOSING:
            machine.close()
            continue
        request = machine.next_pass()
        at = len(request.prompt_ids) - len(PROMPT)
        rest = [*tape[at:], *[EOS] * (request.max_tokens + 1)]
        if request.limits is not None and holds:
            rest = held(rest, request.limits, EOS)
        stop = next((i for i, token in enumerate(rest) if token in request.stop_ids), len(rest))
        ids = rest[: min(stop + 1, request.max_tokens)]
        read, turn = 0, 0
        while read < len(ids) and not machine.pass_over:
            size = sizes[turn % len(sizes)]
            machine.feed(ids[read : read + size])
            read, turn = min(len(ids), read + size), turn + 1
        if read == len(ids) and not machine.pass_over:
            machine.pass_ended("stop" if ids[-1] in request.stop_ids else "length")
        request.receipt.output = read
        metered += read
        machine.settle_pass(read, request)
    return metered


@given(
    st.lists(st.sampled_from([CLOSE, EOS, *range(10, 16)]), max_size=40),
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.booleans(),
)
def test_one_pass_is_two(tape: list[int], t: int, s: int, sizes: list[int], holds: bool) -> None:
    """Law 3: the tokens and ends of two passes, from an engine that holds the limits, however its tokens are
    lumped together; and from one that doesn't. Law 6: its close is forced all the same. Law 2: the usage is
    the meter's."""
    budget = Budget(t, s)
    machine = TwoPhase(PROMPT, budget, SINGLE, Opening.PREFILLED, one_pass=True)
    metered = drive(machine, tape, sizes, holds=holds)
    thinking, close, solution, end = reference(tape, budget, SINGLE, Opening.PREFILLED)
    assert (list(machine.thinking_ids), list(machine.close_ids)) == (thinking, close)
    if end is ThinkingEnd.EMPTY:  # its end of text took the pass's first token
        assert machine.thinking_end in (ThinkingEnd.EMPTY, ThinkingEnd.END_OF_TEXT)
    else:
        assert machine.thinking_end is end
    assert list(machine.solution_ids) == solution
    usage = machine.usage
    forced = 0 if end is ThinkingEnd.NATURAL else 1
    assert (usage.forced, machine.sampled.count(False)) == (forced, forced)
    assert (usage.metered_output, usage.unknown) == (metered, 0)
    if holds:
        one = end in (ThinkingEnd.NATURAL, ThinkingEnd.BUDGET)
        assert usage.passes == (1 if one else 2)
        assert usage.generated <= t + 1 + s + (0 if one else 1)
        assert usage.written == (end is ThinkingEnd.BUDGET)


def test_a_limit_that_the_engine_holds_is_not_raised() -> None:
    """Law 6: a close that the engine wrote can't pass for one that was sampled. Lowered it is obeyed here."""
    machine = TwoPhase(PROMPT, Budget(3, 2), SINGLE, Opening.PREFILLED, one_pass=True)
    machine.next_pass()
    machine.set_limit(9)
    machine.feed([10, 11, 12, CLOSE, 13])
    assert (machine.thinking_end, machine.usage.written) == (ThinkingEnd.BUDGET, 1)
    machine = TwoPhase(PROMPT, Budget(9, 2), SINGLE, Opening.PREFILLED, one_pass=True)
    machine.next_pass()
    machine.feed([10])
    machine.set_limit(2)
    machine.feed([11, 12, 13])
    assert (machine.thinking_ids, machine.phase, machine.pass_over) == ((10, 11), Phase.CLOSING, True)


class Holding(ScriptedBackend):
    """Holds limits, directly and behind a `Wire`, as long as `holds`; "close" and "end" are held alone."""

    def __init__(self, reply: Reply = REPLY, holds: str = "close end", **options: Any) -> None:
        super().__init__(reply, **options)
        self.two_passes = ""
        self.holds = holds

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        if request.limits is not None:
            extra = {**request.extra, "vllm_xargs": {FIELD: list(astuple(request.limits))}}
            request = replace(request, extra=extra, limits=None)
        async for chunk in super().stream(request):
            yield chunk

    def _script(self, prompt: tuple[int, ...], extra: Mapping[str, Any]) -> tuple[Reply, list[int]]:
        reply, script = super()._script(prompt, extra)
        close, end = self.codec.markers.close_ids[0], min(self.codec.markers.eos_ids)
        if bias := extra.get("logit_bias"):
            script = [close if bias[str(close)] > 0 else 99] * 99
        asked = (extra.get("vllm_xargs") or {}).get(FIELD)
        if asked is None or not self.holds:
            return reply, script
        limits = Limits(*asked)
        if close in script and script.index(close) > limits.thinking:  # cut: its solution follows
            del script[limits.thinking : script.index(close)]
        if "close" not in self.holds:
            limits = replace(limits, thinking=999)
        if "end" not in self.holds:
            limits = replace(limits, solution=999)
        return reply, held(script, limits, end)


@pytest.mark.parametrize(("t", "s"), [(9, 9), (4, 2), (6, 1), (1, 1), (7, 3)])
async def test_a_call_in_one_pass(t: int, s: int) -> None:
    """Laws 2 and 3: what two passes bring, in one; the usage is the meter's, and nothing is unknown."""
    backend = Holding()
    one = await generate(backend, "why", Budget(t, s), sampling=PLAIN)
    two = await generate(ScriptedBackend(REPLY), "why", Budget(t, s), sampling=PLAIN)
    assert (one.output_ids, one.sampled) == (two.output_ids, two.sampled)
    assert (one.thinking_end, one.solution_end) == (two.thinking_end, two.solution_end)
    assert (one.two_passes, two.two_passes) == ("", NO_LIMITS)
    assert (one.usage.passes, one.usage.unknown) == (1, 0)
    assert (one.usage.metered_input, one.usage.metered_output) == (backend.meter.input, backend.meter.output)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"control": Control()}, "cut or raised"),
        ({"stop": ["h"]}, "stop string"),
        ({"solution_extra": {"structured_outputs": {"regex": "g"}}}, "fields of its own"),
        ({"sampling": Sampling(seed=3)}, "seed"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
async def test_calls_that_take_two_passes(options: dict[str, Any], why: str) -> None:
    """Law 9: each says why."""
    result = await generate(Holding(), "why", Budget(4, 2), **options)
    assert why in result.two_passes
    assert result.usage.passes == 2


async def test_models_and_budgets_that_take_two_passes() -> None:
    """The same where it is the model or the budget that asks for it."""
    assert "no thinking" in (await generate(Holding(), "why", Budget(0, 2))).two_passes
    opens = Holding(codec=ScriptedCodec(prefill=False))
    assert "opens its thinking itself" in (await generate(opens, "why", Budget(4, 2))).two_passes
    spelled = Holding(codec=ScriptedCodec(close=(3, 4)))
    assert "several tokens" in (await generate(spelled, "why", Budget(4, 2))).two_passes


async def test_a_stop_from_outside_ends_it() -> None:
    """A call's own control cuts a pass that the engine holds as any other: exact, an answer after it."""
    call = Call(Holding(), "why", Budget(6, 3), sampling=PLAIN)
    async for event in call:
        if len(call.machine.thinking_ids) == 2 and not call.machine.close_ids:
            call.control.cut()
        assert event is not None
    result = call.result()
    assert (len(result.thinking_ids), result.usage.forced, result.usage.written) == (2, 1, 0)
    assert result.thinking_end is ThinkingEnd.PREEMPTED
    assert result.usage.passes == 2


@pytest.mark.parametrize(
    ("holds", "says"), [("close end", ""), ("", "thinking"), ("end", "thinking"), ("close", "solution")]
)
async def test_the_probe(holds: str, says: str) -> None:
    """Only an engine that is seen to hold both limits is said to."""
    found = await why_two_passes(Holding(holds=holds))
    assert bool(found) == bool(says)
    assert says in found
    several = Holding(codec=ScriptedCodec(close=(3, 4)))
    assert "several tokens" in await why_two_passes(several)


async def test_an_engine_that_refuses() -> None:
    """A server that takes no such fields is one that takes two passes, not an error."""

    class Refusing(ScriptedBackend):
        async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
            raise BackendError("400: no such field")
            yield  # makes it a generator

    assert "no such field" in await why_two_passes(Refusing())


async def test_over_the_wire() -> None:
    """A server that holds limits is probed once, and its calls take one request. Replaced by one that
    doesn't, the next call is exact all the same, and the ones after it take two."""
    upstream = Holding()
    async with Wire(upstream) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=upstream.codec, native=True)
        await client.ready()
        await client.ready()
        assert (client.two_passes, len(wire.requests)) == ("", 2)
        before = replace(upstream.meter)
        result = await generate(client, "why", Budget(4, 2), sampling=PLAIN)
        assert (result.usage.passes, result.usage.written, result.two_passes) == (1, 1, "")
        assert result.usage.metered_output == upstream.meter.output - before.output
        result = await generate(
            client, "why", Budget(9, 2), sampling=PLAIN
        )  # closes early: an end is written
        assert (result.usage.forced, result.usage.passes) == (0, 1)
        assert (result.usage.solution, result.usage.discarded, result.usage.unknown) == (2, 1, 0)
        assert client.meter.output == upstream.meter.output
        upstream.holds = ""
        result = await generate(client, "why", Budget(4, 2), sampling=PLAIN)
        assert (len(result.thinking_ids), len(result.solution_ids)) == (4, 2)
        assert (result.usage.written, result.usage.passes) == (0, 2)
        assert client.two_passes == PASSED
        assert (await generate(client, "why", Budget(4, 2), sampling=PLAIN)).two_passes == PASSED
        await client.aclose()


async def test_a_server_without_limits() -> None:
    """One that ignores the field is found out at the start; one that wasn't asked for is not probed."""
    async with Wire(ScriptedBackend(REPLY)) as wire:
        codec = ScriptedCodec()
        asked = VllmServerBackend("scripted", wire.base_url, codec=codec, native=True)
        await asked.ready()
        assert "probed" in asked.two_passes
        plain = VllmServerBackend("scripted", wire.base_url, codec=codec)
        await plain.ready()
        assert plain.two_passes == NO_LIMITS
        both = Replicas([plain, asked])
        assert both.two_passes == NO_LIMITS
        assert Replicas([Holding(), asked]).two_passes == asked.two_passes
        await both.aclose()
