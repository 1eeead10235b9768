"""What a call returns: events while it runs, and a `Generation` at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..budget import Budget
from ..usage import Usage
from .phases.deltas import Segment
from .phases.stop_reasons import SolutionEnd, ThinkingEnd


class Event(NamedTuple):
    """A piece of a running call. `text` may be "" while a character or a stop string is incomplete."""

    segment: Segment
    text: str
    ids: tuple[int, ...]
    forced: bool = False
    began_call: bool = False
    """Of the close: the model had begun a tool call while it thought."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What a call brought.

    `output_ids`, `sampled` (False = forced by us) and `logprobs` (None where forced or not asked for) are
    aligned, over thinking, close and solution. `two_passes` says why the engine did not hold both limits in
    one pass; "" where it did. `solution` is the answer alone: thinking that the model opened again behind the
    close is `reopened` (`generation.phases.answer`), though its tokens are among `solution_ids`;
    `in_answer` tells them apart. `began_call` says that thinking ended in the start of a tool call.
    """

    thinking: str
    solution: str
    budget: Budget
    usage: Usage
    thinking_end: ThinkingEnd | None
    solution_end: SolutionEnd | None
    prompt_ids: tuple[int, ...]
    thinking_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    solution_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampled: tuple[bool, ...]
    logprobs: tuple[float | None, ...]
    stop: str | None = None
    two_passes: str = ""
    reopened: str = ""
    in_answer: tuple[bool, ...] = ()
    began_call: bool = False
