"""What an engine is: it draws samples, in batches in this process, or over any `Backend` (a vLLM server,
say).

Both engines (`in_process`, `served`) run the same strategies (generators of passes), and hand each sample
over as soon as it is done, so that it can be recorded. `swapped` pairs two engines: the first thinks, the
second writes the solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from elastic_agent.backends.base import Codec
from elastic_agent.errors import UnknownModelError
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.usage import Usage

from ..strategies.passes import Pass, Passes, Transcript


@dataclass(frozen=True, slots=True)
class SampleJob:
    """One sample to be drawn. `start` begins it, afresh after a failure."""

    key: Any
    prompt: int
    start: Callable[[], Passes]


Done = Callable[[SampleJob, Transcript, Usage], None]
"""Told of each sample when it is done."""


class Engine(Protocol):
    """A model that samples can be drawn from."""

    @property
    def name(self) -> str: ...
    @property
    def codec(self) -> Codec: ...
    @property
    def context_length(self) -> int: ...
    @property
    def native(self) -> bool:
        """It knows a thinking budget of its own."""
        ...

    def ready(self) -> None:
        """Make sure that the model can be reached; then `context_length` is right."""
        ...

    def run(self, samples: Iterable[SampleJob], done: Done) -> None:
        """Draw them all. What is done when it raises has been handed over."""
        ...

    def swapped(self, solver: Self) -> Engine:
        """This model thinks, `solver` writes the solution."""
        ...


@dataclass(slots=True)
class RunningSample:
    """A sample that is being drawn: its running pass, and what its passes have cost."""

    sample: SampleJob
    passes: Passes
    segment: Segment = Segment.THINKING
    counts: dict[str, int] = field(
        default_factory=lambda: {"input": 0, "cached": 0, "passes": 0, "unknown": 0}
    )
    unread: int = 0

    def started(self, ask: Pass) -> None:
        self.segment = ask.segment
        self.counts["input"] += len(ask.request.prompt_ids)
        self.counts["passes"] += 1

    def finish(self, transcript: Transcript, done: Done) -> None:
        transcript.discarded += self.unread
        done(self.sample, transcript, transcript.usage(self.sample.prompt, **self.counts))


def check_same_tokens(thinker: Engine, solver: Engine) -> None:
    """A swap splices ids (law 5), so both models must read the same ones.

    Raises:
        UnknownModelError: their vocabularies or markers differ.
    """
    a, b = thinker.codec, solver.codec
    vocabularies = [
        codec.tokenizer.get_vocab() if hasattr(codec, "tokenizer") else id(codec) for codec in (a, b)
    ]
    if vocabularies[0] != vocabularies[1] or a.markers != b.markers:
        raise UnknownModelError(
            f"{thinker.name} and {solver.name} can't be swapped: thinking is handed over as token ids, and "
            f"their tokenizers differ"
        )
