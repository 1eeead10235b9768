"""Strategies: exact (law 3), forced apart from sampled (law 6), and the books agree with the meter."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.backends.base import Sampling, TokenChunk, TokenRequest
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.errors import BackendProtocolError
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.training.evaluation.runners.engines import SampleJob
from elastic_agent.training.evaluation.runners.served import Served
from elastic_agent.training.evaluation.strategies.cues import Cues, boxed_rest
from elastic_agent.training.evaluation.strategies.passes import StrategyInputs, Transcript
from elastic_agent.training.evaluation.strategies.strategies import STRATEGIES, make_strategy
from elastic_agent.usage import Usage

CUES = Cues(wait="wait", probe="so the answer is", probe_closes=True, probe_tokens=3, read=str.strip)
TWO_PASS = ("elastic", "s1:waits=2", "early-exit:every=4,patience=2")
ONE_PASS = ("truncate", "l1-exact", "l1-max")


class Coarse(ScriptedBackend):
    """Sends several tokens at once, as a busy server does: a strategy gets more than it wanted."""

    grain = 1
    asked: list[TokenRequest]

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        self.asked = [*getattr(self, "asked", []), request]
        held: list[int] = []
        async with aclosing(super().stream(request)) as chunks:
            async for chunk in chunks:
                held += chunk.ids
                if len(held) >= self.grain or chunk.finish is not None:
                    yield TokenChunk(tuple(held), None, chunk.finish)
                    held = []


class Closing(Coarse):
    """An engine with a thinking budget of its own, as vLLM's `thinking_token_budget`."""

    base_url = "http://localhost"
    obeys = True

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        most = request.extra.get("thinking_token_budget")
        if most is None or not self.obeys:
            async for chunk in super().stream(request):
                yield chunk
            return
        close = self.codec.markers.close_ids
        thought: list[int] = []
        if most:
            first = replace(request, max_tokens=most, extra={}, receipt=type(request.receipt)())
            async for chunk in super().stream(first):
                thought += chunk.ids
                text = tuple(thought)
                if close == text[-len(close) :] or chunk.finish == "stop":
                    break
                yield TokenChunk(chunk.ids)
        ids = tuple(thought)
        if ids[-len(close) :] != close:
            self.meter.output += len(close)
            yield TokenChunk(close)
            ids = (*ids, *close)
        else:
            yield TokenChunk(close)
        rest = replace(
            request,
            prompt_ids=(*request.prompt_ids, *ids),
            max_tokens=request.max_tokens - len(ids),
            extra={},
        )
        async for chunk in super().stream(rest):
            yield chunk


def draw(
    name: str, backend: ScriptedBackend, t: int, s: int, *, unlimited: bool = False, cues: Cues = CUES
) -> tuple[Transcript, Usage]:
    """One sample of one strategy."""
    strategy = make_strategy(name)
    prompt = backend.codec.encode_chat([{"role": "user", "content": strategy.prompt("2 + 2 ?", t)}])
    found: list[tuple[Transcript, Usage]] = []

    def start() -> Any:
        return strategy.run(
            StrategyInputs(tuple(prompt), t, s, unlimited, backend.codec, Sampling(seed=1), cues)
        )

    Served(backend).run(
        [SampleJob(None, len(prompt), start)], lambda _, said, usage: found.append((said, usage))
    )
    return found[0]


def words(n: int) -> str:
    return " ".join(f"w{i}" for i in range(n))


backends = st.builds(
    lambda thinking, solution, closes, prefill, close, grain: (
        Reply(words(thinking), words(solution), closes=closes),
        ScriptedCodec(prefill=prefill, close=close),
        grain,
    ),
    st.integers(0, 20),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(3,), (3, 4), (3, 4, 5)]),
    st.integers(1, 5),
)


@pytest.mark.parametrize("name", [*TWO_PASS, *ONE_PASS])
@given(made=backends, t=st.integers(0, 24), s=st.integers(1, 10))
def test_limits_are_exact_and_the_meter_agrees(name: str, made: Any, t: int, s: int) -> None:
    """Laws 2, 3 and 6: never more than t and s (or t + s), and all that was sampled is in the books."""
    reply, codec, grain = made
    backend = Coarse(reply, codec=codec)
    backend.grain = grain
    said, usage = draw(name, backend, t, s)
    if name in ONE_PASS:
        assert usage.metered_output - usage.discarded <= t + s
    else:
        assert usage.thinking <= t
        assert usage.solution <= s
        assert usage.solution >= 1
    assert usage.metered_output == backend.meter.output
    assert usage.input == backend.meter.input
    assert usage.passes == backend.meter.requests
    assert usage.forced == said.forced
    assert all(request.max_tokens >= 1 for request in backend.asked)
    assert len(said.ids) == usage.thinking + usage.close + usage.solution
    if said.finished:
        assert codec.decode(said.of(Segment.SOLUTION)).strip() == reply.solution or not reply.thinking


@given(made=backends, t=st.integers(0, 24), s=st.integers(1, 10))
def test_a_native_budget_is_exact_too(made: Any, t: int, s: int) -> None:
    """Law 3: the engine keeps to t; it has no limit for the solution, so we do."""
    reply, _, grain = made
    backend = Closing(reply, codec=ScriptedCodec())
    backend.grain = grain
    _, usage = draw("native", backend, t, s)
    assert usage.thinking <= t
    assert usage.solution <= s
    assert usage.forced == 0


def test_a_server_that_ignores_the_native_budget_is_found_out() -> None:
    """Unknown fields are accepted silently by servers: the count says that it was not obeyed."""
    backend = Closing(Reply(words(30), "4"))
    backend.obeys = False
    with pytest.raises(BackendProtocolError, match="thinking_token_budget=8"):
        draw("native", backend, 8, 4)
    _, usage = draw("native", backend, 30, 4, unlimited=True)
    assert usage.thinking == 30


def test_elastic_forces_the_close_and_answers() -> None:
    """Thinking to the limit, a forced close, the whole solution."""
    said, usage = draw("elastic", ScriptedBackend(Reply(words(9), "it is 4")), 5, 6)
    assert (usage.thinking, usage.forced, usage.solution) == (5, 1, 4)
    assert said.cut
    assert said.finished


def test_truncation_answers_only_if_the_solution_is_reached() -> None:
    """One cap: a long thinking leaves nothing to answer with."""
    cut, usage = draw("truncate", ScriptedBackend(Reply(words(9), "4")), 4, 4)
    assert (usage.thinking, usage.solution, cut.finished) == (8, 0, False)
    whole, _ = draw("truncate", ScriptedBackend(Reply(words(4), "4")), 4, 4)
    assert whole.finished
    assert not whole.cut


def test_s1_writes_wait_for_a_close_and_counts_it_apart() -> None:
    """A suppressed close was sampled and is discarded; "wait" was not sampled."""
    backend = ScriptedBackend(Reply(words(4), "4"))
    said, usage = draw("s1", backend, 20, 4)
    text = backend.codec.decode(said.of(Segment.THINKING))
    assert text == "w0 w1 w2 w3wait"  # the script, which counts tokens, closes again behind it
    assert (usage.thinking, usage.forced, usage.discarded) == (4, 1, 1)
    assert not said.cut
    none, usage = draw("s1:waits=0", backend, 20, 4)
    assert usage.forced == 0
    assert none.finished
    _, usage = draw("s1", backend, 3, 4)
    assert (usage.thinking, usage.forced) == (3, 1)  # cut to shorten


@pytest.mark.parametrize(
    ("name", "says"),
    [("l1-exact", "Q? Think for 64 tokens."), ("l1-max", "Q? Think for maximum 64 tokens.")],
)
def test_l1_asks_for_the_length_in_its_authors_words(name: str, says: str) -> None:
    """And for none where none is wanted."""
    strategy = make_strategy(name)
    assert strategy.prompt("Q?", 64) == says
    assert strategy.prompt("Q?", None) == "Q?"
    assert make_strategy("elastic").prompt("Q?", 64) == "Q?"


def test_l1_can_be_capped_as_its_authors_do() -> None:
    _, usage = draw("l1-exact:cap=6", ScriptedBackend(Reply(words(30), "4")), 20, 4)
    assert usage.metered_output == 6


def test_early_exit_stops_when_the_answer_is_stable() -> None:
    """Probes are sampled, billed, thrown away; thinking ends with the second equal answer."""
    backend = ScriptedBackend(Reply(words(40), "it is 4", needs=0))
    said, usage = draw("early-exit:every=4,patience=2", backend, 40, 8)
    assert usage.thinking == 8
    assert said.probes == usage.discarded == 6
    assert said.cut
    assert said.finished
    never = replace(CUES, read=lambda text: None)
    _, usage = draw("early-exit:every=4,patience=2", backend, 40, 8, cues=never)
    assert usage.thinking == 40


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42}\\]", "42"),
        ("\\frac{1}{2}} ok", "\\frac{1}{2}"),
        ("42} Wait, no", None),
        ("42", None),
        ("}", None),
    ],
)
def test_a_boxed_answer_is_read_up_to_its_brace(text: str, answer: str | None) -> None:
    """Nested braces belong to it, and one that is taken back at once is none."""
    assert boxed_rest(text) == answer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("elastc", "did you mean elastic"),
        ("", "there are elastic, truncate"),
        ("s1:wait=2", "waits=N"),
        ("s1:waits=-1", "waits=N"),
        ("truncate:x=1", "its options: none"),
        ("early-exit:every=0", "at least 1"),
    ],
)
def test_an_unknown_strategy_names_what_there_is(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_strategy(text)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_label_makes_its_strategy_again(name: str) -> None:
    """Results are kept under it."""
    assert make_strategy(name).label == name
    assert make_strategy("early-exit:patience=2,every=64").label == "early-exit:patience=2"
