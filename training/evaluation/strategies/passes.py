"""What a strategy is made of: passes over a model, and the transcript that they make. No IO, no clock.

A strategy is a generator. It yields a `Pass` (a request, and the segment that it is for) and is sent the
tokens as they come, chunk by chunk. Yielding None reads on; yielding another `Pass` ends the running one. The
strategy returns a `Transcript`. So it reads top to bottom like the procedure in its paper, and one driver
(`elastic_agent.training.evaluation.runners.engines`) runs all of them, batched in process or over any
backend.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from elastic_agent.backends.base import Codec, Finish, Sampling, TokenRequest
from elastic_agent.generation.phases.answer import read_answer
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.prompts.markers import Markers, Opening
from elastic_agent.usage import Usage

from .cues import Cues


@dataclass(frozen=True, slots=True)
class Pass:
    """One request, and the segment that it is for: a swap sends thinking and solution to two models."""

    request: TokenRequest
    segment: Segment


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of the running pass; `finish` is None while more may follow."""

    ids: tuple[int, ...]
    finish: Finish | None = None


@dataclass(slots=True)
class StrategyInputs:
    """Everything that a strategy needs to draw one sample.

    Attributes:
        prompt_ids: the prompt, generation prompt included.
        thinking: t, as a number that fits into the context.
        solution: s.
        unlimited: t was None; `thinking` is what the context has room for.
        codec: the model's.
        sampling: its seed is the sample's own.
        cues: the words that fit the problems.
    """

    prompt_ids: tuple[int, ...]
    thinking: int
    solution: int
    unlimited: bool
    codec: Codec
    sampling: Sampling
    cues: Cues = field(default_factory=Cues)
    passes: int = 0

    def next_sampling(self) -> Sampling:
        """The sampling of the next pass: passes of one sample must not repeat each other's draws."""
        seed = self.sampling.seed
        self.passes += 1
        return replace(self.sampling, seed=None if seed is None else seed + self.passes - 1)

    def ask(
        self,
        segment: Segment,
        written: Sequence[int],
        most: int,
        stops: Collection[int],
        extra: Mapping[str, Any] | None = None,
    ) -> Pass:
        """A pass that goes on from the prompt and what has been written, by at most so many tokens."""
        return Pass(
            TokenRequest(
                prompt_ids=(*self.prompt_ids, *written),
                max_tokens=most,
                stop_ids=frozenset(stops),
                sampling=self.next_sampling(),
                extra=extra or {},
            ),
            segment,
        )

    @property
    def opening(self) -> Opening:
        return self.codec.markers.opening(self.prompt_ids)


@dataclass(slots=True)
class Transcript:
    """One sample, segment by segment.

    Attributes:
        parts: (segment, ids, sampled) in order; ids that were not sampled were inserted by the strategy.
        discarded: sampled tokens that are in no segment: probes, suppressed closes, an end of text while
            thinking.
        probes: how many of those were answers to probes.
        finished: the solution ended by itself, within its limit.
        thinking_in_close, solution_in_close: ids that spell the text that tokens of the close share with the
            thinking and with the solution.
    """

    parts: list[tuple[Segment, tuple[int, ...], bool]] = field(default_factory=list)
    discarded: int = 0
    probes: int = 0
    finished: bool = False
    thinking_in_close: tuple[int, ...] = ()
    solution_in_close: tuple[int, ...] = ()

    def text(self, segment: Segment, codec: Codec) -> str:
        """A segment as people read it; a solution without thinking that the model opened again."""
        ids = self.of(segment)
        if segment is Segment.THINKING:
            start = codec.markers.start_of(ids) if codec.markers.open_in_text else None
            return codec.decode((*ids[start or 0 :], *self.thinking_in_close)).strip()
        return codec.decode((*self.solution_in_close, *read_answer(codec.markers, ids).text_ids)).strip()

    def add(self, segment: Segment, ids: Sequence[int], *, sampled: bool = True) -> None:
        if ids:
            self.parts.append((segment, tuple(ids), sampled))

    @property
    def ids(self) -> tuple[int, ...]:
        """Everything behind the prompt, as the model reads it."""
        return tuple(i for _, ids, _ in self.parts for i in ids)

    def of(self, segment: Segment) -> tuple[int, ...]:
        """The ids of a segment, inserted ones included."""
        return tuple(i for where, ids, _ in self.parts if where is segment for i in ids)

    def sampled(self, segment: Segment) -> int:
        return sum(len(ids) for where, ids, sampled in self.parts if where is segment and sampled)

    @property
    def forced(self) -> int:
        """Inserted tokens, wherever they stand."""
        return sum(len(ids) for _, ids, sampled in self.parts if not sampled)

    @property
    def cut(self) -> bool:
        """The close was forced."""
        return any(where is Segment.CLOSE and not sampled for where, _, sampled in self.parts)

    def usage(self, prompt: int, **passes: int) -> Usage:
        """As buckets: inserted words count with the close, whose place they take."""
        return Usage(
            prompt=prompt,
            thinking=self.sampled(Segment.THINKING),
            close=self.sampled(Segment.CLOSE) + self.forced,
            forced=self.forced,
            solution=self.sampled(Segment.SOLUTION),
            discarded=self.discarded,
            **passes,
        )

    @classmethod
    def of_machine(cls, machine: TwoPhase) -> Transcript:
        """Of a two-phase machine that is done."""
        transcript = cls(
            discarded=machine.usage.discarded,
            finished=machine.solution_end is SolutionEnd.EOS,
            thinking_in_close=machine.thinking_in_close,
            solution_in_close=machine.solution_in_close,
        )
        transcript.add(Segment.THINKING, machine.thinking_ids)
        transcript.add(Segment.CLOSE, machine.close_ids, sampled=not machine.usage.forced)
        transcript.add(Segment.SOLUTION, machine.solution_ids)
        return transcript


Passes = Generator[Pass | None, Chunk, Transcript]
"""A running strategy."""


class Strategy(Protocol):
    """A way of keeping to a budget.

    Attributes:
        label: the name with the options that are not the default; the row's key in results and tables.
        one_pass: thinking and solution come from one request, so they can't be swapped between models.
        native: needs an engine with a thinking budget of its own.
    """

    @property
    def label(self) -> str: ...
    @property
    def one_pass(self) -> bool: ...
    @property
    def native(self) -> bool: ...

    def prompt(self, text: str, thinking: int | None) -> str:
        """The user's message, with what the strategy adds to it."""
        ...

    def extra(self, codec: Codec, cues: Cues) -> int:
        """Tokens beyond prompt, t and s for which the context must have room."""
        ...

    def run(self, inputs: StrategyInputs) -> Passes:
        """Draw one sample."""
        ...


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass sampled, and whether it ended in the close or in the end of text.

    `end` are the sampled tokens of that end (not in `ids`); `late` tokens came behind a close. The last two
    fields are those of `Transcript`.
    """

    ids: tuple[int, ...]
    closed: bool = False
    end: tuple[int, ...] = ()
    late: int = 0
    thinking_in_close: tuple[int, ...] = ()
    solution_in_close: tuple[int, ...] = ()


def read(
    ask: Pass, ends: Collection[int], closes: Markers | None = None, before: Sequence[int] = ()
) -> Generator[Pass | None, Chunk, PassResult]:
    """Read a pass to its end, or to the close if markers are given.

    Args:
        ask: the pass.
        ends: end-of-text ids.
        closes: the model's markers; the close may have begun in `before`, what the last pass sampled.
    """
    ids: list[int] = list(before)
    asking: Pass | None = ask
    while True:
        chunk = yield asking
        asking = None
        for i, token in enumerate(chunk.ids):
            ids.append(token)
            found = None if closes is None else closes.close_at(ids, len(ids))
            if found is not None:
                begin, last, after = found
                late = len(chunk.ids) - i - 1
                return PassResult(tuple(ids[:begin]), True, tuple(ids[begin:]), late, last, after)
        if chunk.finish is not None:
            if ids[-1:] and ids[-1] in ends:
                return PassResult(tuple(ids[:-1]), end=tuple(ids[-1:]))
            return PassResult(tuple(ids))
