"""The tokens that a call used, in buckets; all of the project's token arithmetic.

A call is one or two passes over the upstream. The buckets say what the tokens were. The two `metered_*`
properties say what the upstream's own meter counts and bills:

    pass 1   input  prompt                           output  thinking + natural close + discarded
    pass 2   input  prompt + thinking + close        output  solution

A forced close is written by us into the second pass's input: the upstream never counts it as output. Where
the engine holds the limits itself there is one pass, whose close it may have written in, as output
(`written`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, or of several added up.

    Attributes:
        prompt: the caller's prompt, once.
        thinking: sampled thinking tokens kept; the close is not among them.
        close: tokens of the close, sampled or forced.
        forced: the part of `close` that was forced.
        solution: sampled solution tokens, an end-of-text token included.
        discarded: tokens that the upstream served and that belong to no segment, such as the end-of-text
            token stripped from thinking.
        unknown: tokens that the upstream may have served when a pass was cut off. They are charged, since
            nobody can know.
        input: input tokens of all passes, as sent.
        cached: the part of `input` that the upstream had in its prefix cache; usually most of what a second
            pass reads again.
        prompt_cached: the part of `prompt` that was in the cache before this call: the first pass's hits.
        passes: how often the upstream was asked.
        written: the part of `forced` that the upstream wrote itself, and counts as output.
        reopened: the part of `solution` that is reopened thinking (`elastic_agent.generation.phases.answer`).
        wrap_up: the part of `forced` that is a wrap-up sentence (`elastic_agent.generation.wrap_up`).
        cache_written: the part of `input` that a provider wrote to its cache, and may bill dearer for it.
    """

    prompt: int = 0
    thinking: int = 0
    close: int = 0
    forced: int = 0
    solution: int = 0
    discarded: int = 0
    unknown: int = 0
    input: int = 0
    cached: int = 0
    passes: int = 0
    written: int = 0
    prompt_cached: int = 0
    reopened: int = 0
    wrap_up: int = 0
    cache_written: int = 0

    @property
    def reasoning(self) -> int:
        """Tokens of all thinking, before the close and after."""
        return self.thinking + self.reopened

    @property
    def generated(self) -> int:
        """Tokens that count against `Caps.tokens`: generated or forced, or possibly so."""
        return self.thinking + self.close + self.solution + self.discarded + self.unknown

    @property
    def output(self) -> int:
        """Tokens of the answer as the caller sees it: thinking, close and solution."""
        return self.thinking + self.close + self.solution

    @property
    def metered_input(self) -> int:
        """What the upstream's meter counts as input."""
        return self.input

    @property
    def metered_output(self) -> int:
        """The most that the upstream's meter counts as output; exact when `unknown` is 0."""
        return self.generated - self.forced + self.written

    def billed(self) -> dict[str, int]:
        """What the upstream bills, by names for people.

        Returns:
            input_tokens: of all passes; cached_input_tokens: the part that was in the prefix cache;
            output_tokens: the most that the upstream counts; unknown_tokens: the part that it may have served
            when a pass was cut off; passes.
        """
        return {
            "input_tokens": self.metered_input,
            "cached_input_tokens": min(self.cached, self.metered_input),
            "output_tokens": self.metered_output,
            "unknown_tokens": self.unknown,
            "passes": self.passes,
        }

    def to_dict(self) -> dict[str, int]:
        """The buckets by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Probes(NamedTuple):
    """Probes of the answer while a call thinks (`elastic_agent.generation.early_exit`), and what they can
    cost.

    Attributes:
        every: thinking tokens between two probes.
        tokens: the most tokens that one probe generates.
        lead: tokens that a probe reads beside prompt, thinking and close.
    """

    every: int
    tokens: int
    lead: int = 0

    def most(self, thinking: int) -> int:
        """How many probes there are below this thinking limit."""
        return max(0, thinking - 1) // self.every

    def generated(self, thinking: int) -> int:
        """The most tokens that these probes generate."""
        return self.tokens * self.most(thinking)

    def read(self, prompt: int, thinking: int, close: int) -> int:
        """The most input tokens of these probes, and of the passes in which thinking goes on afterwards."""
        probes = self.most(thinking)
        return probes * (2 * prompt + close + self.lead) + self.every * probes * (probes + 1)


def worst_case(prompt: int, thinking: int, close: int, solution: int) -> Usage:
    """The most that a call of this Budget can use: what a hold has to cover.

    Thinking runs to its limit, the close is forced, the solution runs to its limit, and the second pass
    reads everything again. With `thinking=0` there is one pass.
    """
    return Usage(
        prompt=prompt,
        thinking=thinking,
        close=close,
        forced=close,
        solution=solution,
        input=worst_input(prompt, thinking, close),
        passes=2 if thinking else 1,
    )


def worst_input(prompt: int, thinking: int, close: int) -> int:
    """Input tokens of `worst_case`, all passes: the second one reads prompt, thinking and close again."""
    return (prompt if thinking else 0) + prompt + thinking + close
