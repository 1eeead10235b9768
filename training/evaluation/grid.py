"""The grid: models by strategies by t by s, each problem k times; checked, then drawn, then written down.

Everything that can be known to fail is found before a token is spent. Samples that the results file holds
are not drawn again. A sample's seed depends on its problem and number alone, so a run that was cut off and
taken up again draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from elastic_agent.backends.base import DEFAULT_SAMPLING, Sampling
from elastic_agent.budget import Budget
from elastic_agent.errors import ContextLengthError, ElasticError
from elastic_agent.generation.phases.answer import read_answer
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.usage import Usage

from ..rewards.grades import Sample
from .results import Key, Record, Results
from .runners.engines import Engine, SampleJob
from .runners.grading import GradingQueue
from .strategies.passes import Passes, Strategy, StrategyInputs, Transcript
from .suites import Item, Suite


class GridError(ElasticError):
    """A grid that can't be run; says which part of it, and why."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is to be measured.

    Attributes:
        suite: problems and grader.
        strategies: ways of keeping to a budget.
        thinking: the values of t; None is unconstrained.
        solution: the values of s.
        samples: k of avg@k.
        sampling: how tokens are drawn (its seed is not used).
        seed: of the whole run.
    """

    suite: Suite
    strategies: Sequence[Strategy]
    thinking: Sequence[int | None]
    solution: Sequence[int]
    samples: int = 1
    sampling: Sampling = DEFAULT_SAMPLING
    seed: int = 0

    def __post_init__(self) -> None:
        for what, values in (
            ("strategies", [s.label for s in self.strategies]),
            ("thinking", self.thinking),
            ("solution", self.solution),
        ):
            if not values or len(set(values)) < len(values):
                raise GridError(f"{what}: expected at least one value, and each once; got {list(values)}")
        for t in self.thinking:
            for s in self.solution:
                Budget(t, s)
        if self.samples < 1:
            raise GridError(f"samples must be at least 1, got {self.samples}")

    def header(self) -> dict[str, Any]:
        """What makes a results file this run's; the grid itself may grow."""
        return {
            "problems": self.suite.name,
            "grader": self.suite.grader.name,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": self.seed,
        }

    def keys(self, model: str) -> Iterator[tuple[Key, Strategy, Item]]:
        """Every sample of a model: strategy by strategy, and all samples of a cell together."""
        for strategy in self.strategies:
            for s in self.solution:
                for t in self.thinking:
                    for item in self.suite.items:
                        for number in range(self.samples):
                            yield Key(model, strategy.label, t, s, item.id, number), strategy, item

    def __len__(self) -> int:
        """Samples a model."""
        cells = len(self.strategies) * len(self.thinking) * len(self.solution)
        return cells * len(self.suite.items) * self.samples


def check(grid: Grid, engine: Engine) -> None:
    """Refuse what can't work on this model, before a token is spent.

    Raises:
        GridError: a native budget on an engine that has none, or one pass for two models.
        ContextLengthError: a prompt, t and s that don't fit together.
    """

    @cache
    def length(text: str) -> int:
        return len(_prompt_ids(engine, text))

    for strategy in grid.strategies:
        if strategy.native and not engine.native:
            raise GridError(
                f"{strategy.label} needs an engine with a thinking budget of its own: run {engine.name} on a "
                f"vLLM server (--base-url)"
            )
        if strategy.one_pass and ">" in engine.name:
            raise GridError(
                f"{strategy.label} is one pass: its thinking and solution can't come from two models"
            )
        for t in grid.thinking:
            prompts = [(length(strategy.prompt(i.prompt, t)), i.id) for i in grid.suite.items]
            longest, problem = max(prompts)
            _thinking(grid, engine, strategy, t, max(grid.solution), longest, problem)


def _prompt_ids(engine: Engine, text: str) -> list[int]:
    return engine.codec.encode_chat([{"role": "user", "content": text}])


def _thinking(
    grid: Grid, engine: Engine, strategy: Strategy, t: int | None, s: int, prompt: int, problem: str
) -> int:
    """t as a number that fits behind the prompt."""
    extra = strategy.extra(engine.codec, grid.suite.cues)
    most = engine.context_length - prompt - extra - s
    if most < (t or 0):
        raise ContextLengthError(
            f"{engine.name} has a context of {engine.context_length} tokens; problem {problem} needs "
            f"{prompt} + t={t or 0} + s={s} + {extra} for {strategy.label}: lower --thinking or --solution"
        )
    return most if t is None else t


def run(
    grid: Grid,
    engine: Engine,
    results: Results,
    done: Callable[[Record], None] = lambda record: None,
) -> None:
    """Draw what is missing of one model, and write it down as it is graded.

    Args:
        grid: what is measured.
        engine: draws.
        results: where samples go.
        done: told of each sample that is written down, in the thread that grades.
    """
    items = {item.id: item for item in grid.suite.items}

    def samples() -> Iterator[SampleJob]:
        for key, strategy, item in grid.keys(engine.name):
            if key not in there:
                yield _sample(grid, engine, key, strategy, item)

    def write(record: Record) -> None:
        results.add(record)
        done(record)

    there = set(results.records)  # not looked at while the queue writes
    with GradingQueue(grid.suite.grader, write) as queue:

        def drawn(sample: SampleJob, transcript: Transcript, usage: Usage) -> None:
            item = items[sample.key.problem]
            record = ungraded(item, sample.key, engine, transcript, usage)
            queue.add(
                record,
                Sample(record.solution, item.reference, record.finished, columns={"problem": item}),
            )

        engine.run(samples(), drawn)


def measure(grid: Grid, engine: Engine) -> list[Record]:
    """Every sample of one model, drawn afresh and kept in no file: for tests and benchmarks.

    Raises:
        GridError, ContextLengthError: as `check` does.
    """
    check(grid, engine)
    with TemporaryDirectory() as folder, Results(Path(folder, "results.jsonl"), grid.header()) as results:
        run(grid, engine, results)
        return list(results.records.values())


def _sample(grid: Grid, engine: Engine, key: Key, strategy: Strategy, item: Item) -> SampleJob:
    ids = tuple(_prompt_ids(engine, strategy.prompt(item.prompt, key.t)))
    thinking = _thinking(grid, engine, strategy, key.t, key.s, len(ids), item.id)
    sampling = replace(grid.sampling, seed=seed_of(grid.seed, key))

    def start() -> Passes:
        inputs = StrategyInputs(ids, thinking, key.s, key.t is None, engine.codec, sampling, grid.suite.cues)
        return strategy.run(inputs)

    return SampleJob(key, len(ids), start)


def seed_of(seed: int, key: Key) -> int:
    """The seed of one sample: the same for every model, strategy and budget, so that comparisons are paired
    and a thinking that is cut at t begins like the one that is not."""
    text = repr((seed, key.problem, key.sample)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


def ungraded(item: Item, key: Key, engine: Engine, transcript: Transcript, usage: Usage) -> Record:
    """A transcript as a line of the results, its grade still to come."""
    answer = read_answer(engine.codec.markers, transcript.of(Segment.SOLUTION))
    return Record(
        **key._asdict(),
        kind=item.kind,
        right=False,
        finished=transcript.finished and not answer.inside,
        cut=transcript.cut,
        tokens=usage.metered_output,
        thinking_tokens=usage.thinking,
        solution_tokens=usage.solution,
        forced=usage.forced,
        discarded=usage.discarded,
        probes=transcript.probes,
        input=usage.metered_input,
        passes=usage.passes,
        thinking=transcript.text(Segment.THINKING, engine.codec),
        solution=transcript.text(Segment.SOLUTION, engine.codec),
    )


def weights_of(folder: str | Path) -> str:
    """A fingerprint of a model folder's weights: names, sizes, and the first and last MiB of each file."""
    files = sorted(p for p in Path(folder).glob("*") if p.suffix in (".safetensors", ".bin", ".pt", ".gguf"))
    found = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            found.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            found.update(file.read())
    return found.hexdigest() if files else ""
