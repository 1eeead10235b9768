"""Engines: the same tokens in process and over a backend; swaps; failures begin a sample afresh."""

from __future__ import annotations

from typing import Any

import pytest

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.errors import BackendProtocolError, BackendUnavailableError, UnknownModelError
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.training.evaluation.runners.engines import Engine, SampleJob
from elastic_agent.training.evaluation.runners.in_process import InProcess
from elastic_agent.training.evaluation.runners.served import Served
from elastic_agent.training.evaluation.strategies.passes import Pass, Passes, StrategyInputs, Transcript
from elastic_agent.training.evaluation.strategies.strategies import make_strategy
from elastic_agent.usage import Usage
from tests.core.backends.models import codec, random_backend, random_model
from tests.training.evaluation.grids import CUES

Found = dict[Any, tuple[Transcript, Usage]]


def draw(
    engine: Engine, name: str, *, t: int = 12, s: int = 6, samples: int = 5, temperature: float = 1.0
) -> Found:
    found: Found = {}
    strategy = make_strategy(name)

    def sample(i: int) -> SampleJob:
        prompt = tuple(engine.codec.encode_chat([{"role": "user", "content": f"Ben has {i} pens ."}]))
        sampling = Sampling(temperature=temperature, seed=100 + 10 * i)
        return SampleJob(
            i,
            len(prompt),
            lambda: strategy.run(StrategyInputs(prompt, t, s, False, engine.codec, sampling, CUES)),
        )

    def done(one: SampleJob, said: Transcript, usage: Usage) -> None:
        assert one.key not in found
        found[one.key] = said, usage

    engine.run((sample(i) for i in range(samples)), done)
    return found


@pytest.mark.parametrize(
    "name", ["elastic", "truncate", "s1:waits=2", "l1-max", "early-exit:every=3,patience=2"]
)
def test_in_process_and_over_a_backend_are_the_same(name: str) -> None:
    """One strategy, two drivers: the same tokens from the same seeds, and the same books, law 3 on both."""
    batched = draw(InProcess("tiny", random_model(), codec(), rows=3), name)
    backend = random_backend()
    served = draw(Served(backend, concurrency=2), name)
    assert batched.keys() == served.keys() == set(range(5))
    for i in batched:
        said, usage = batched[i]
        assert said.parts == served[i][0].parts
        assert usage.thinking <= 12 + (6 if name in ("truncate", "l1-max") else 0)
        assert usage.metered_output == served[i][1].metered_output
        assert usage.input == served[i][1].input
    assert backend.meter.output == sum(usage.metered_output for _, usage in served.values())


def test_a_swap_thinks_with_one_model_and_answers_with_the_other() -> None:
    """The paper's ablation, over backends: each model is asked for its own segment alone."""
    words = ScriptedCodec()
    a = ScriptedBackend(Reply("a a a", "from a"), model="org/a", codec=words)
    b = ScriptedBackend(Reply("b b b", "from b"), model="org/b", codec=words)
    pair = Served(a).swapped(Served(b))
    assert pair.name == "org/a>org/b"
    ((said, usage),) = draw(pair, "elastic", samples=1).values()
    assert words.decode(said.of(Segment.THINKING)) == "a a a"
    assert words.decode(said.of(Segment.SOLUTION)) == "from b"
    assert (a.meter.output, b.meter.output) == (4, 3)
    assert usage.metered_output == 7


def test_a_swap_in_process_is_each_models_own_continuation() -> None:
    """With itself a swap changes nothing; with another model the thinking stays and the solution changes."""
    from elastic_agent.model_location import model_path

    base, e1 = (InProcess.load(name, rows=4) for name in ("e1-tiny-base", "e1-tiny"))
    assert model_path("e1-tiny") != "e1-tiny"
    alone = draw(base, "elastic", t=16, s=24, temperature=0)
    swapped = draw(base.swapped(e1), "elastic", t=16, s=24, temperature=0)
    own = draw(e1, "elastic", t=16, s=24, temperature=0)
    for i in alone:
        assert swapped[i][0].of(Segment.THINKING) == alone[i][0].of(Segment.THINKING)
    solutions = [[f[i][0].of(Segment.SOLUTION) for i in alone] for f in (swapped, alone, own)]
    assert solutions[0] != solutions[1]
    assert solutions[0] != solutions[2]


def test_models_with_other_tokens_are_not_swapped() -> None:
    """Law 5: ids are handed over, so they must mean the same."""
    with pytest.raises(UnknownModelError, match="tokenizers differ"):
        Served(ScriptedBackend()).swapped(Served(ScriptedBackend()))


class Flaky(ScriptedBackend):
    """Breaks off so many times, then works."""

    failures = 2

    async def stream(self, request: Any) -> Any:
        async for chunk in super().stream(request):
            if self.failures:
                self.failures -= 1
                raise BackendUnavailableError("gone")
            yield chunk


def test_a_lost_sample_is_begun_afresh_and_a_lost_server_stops_the_run() -> None:
    """Retries leave no trace in the books; what was done before the end was handed over."""
    flaky = Flaky(Reply("a b c", "d"))
    ((said, usage),) = draw(Served(flaky, pause=0), "elastic", samples=1).values()
    assert said.finished
    assert (usage.thinking, usage.passes) == (3, 2)
    flaky.failures = 99
    with pytest.raises(BackendUnavailableError, match="gone"):
        draw(Served(flaky, pause=0, attempts=3, concurrency=2), "elastic")
    assert flaky.failures >= 99 - 3 * 2


def test_a_stream_without_a_finish_is_an_error() -> None:
    class Silent(ScriptedBackend):
        async def stream(self, request: Any) -> Any:
            return
            yield

    with pytest.raises(BackendProtocolError, match="without a finish"):
        draw(Served(Silent()), "elastic", samples=1)


def test_nothing_to_draw_is_no_work() -> None:
    assert draw(InProcess("tiny", random_model(), codec()), "elastic", samples=0) == {}
    assert draw(Served(ScriptedBackend()), "elastic", samples=0) == {}


def test_a_strategy_of_ones_own_needs_no_more_than_run() -> None:
    """The seam: a generator of passes."""

    def ask_twice(inputs: StrategyInputs) -> Passes:
        said = Transcript()
        for _ in range(2):
            first: Pass | None = inputs.ask(Segment.SOLUTION, said.ids, 1, ())
            chunk = yield first
            said.add(Segment.SOLUTION, chunk.ids)
        return said

    backend = ScriptedBackend(Reply("", "x y z"))
    found: list[Transcript] = []
    prompt = tuple(backend.codec.encode_chat([{"role": "user", "content": "?"}]))
    inputs = StrategyInputs(prompt, 1, 1, False, backend.codec, Sampling())
    job = SampleJob(0, len(prompt), lambda: ask_twice(inputs))
    Served(backend).run([job], lambda *got: found.append(got[1]))
    assert len(found[0].of(Segment.SOLUTION)) == 2
