"""Every way of keeping to a budget that the paper compares, each as one short procedure.

    elastic      E1: thinking up to t, the close (forced if need be), a solution up to s (2505.05315, 3.1)
    truncate     one cap of t + s tokens, nothing forced: no answer unless the solution is reached
    s1           budget forcing: a close before t becomes "Wait", thinking is cut at t (2501.19393, 3.1)
    l1-exact     "Think for t tokens." in the prompt, one cap (2503.04697)
    l1-max       "Think for maximum t tokens.", likewise
    early-exit   thinking ends when its probed answer has stopped changing (Dynasor/Certaindex, 2412.20993)
    native       the engine's own limit (vLLM's `thinking_token_budget`), one pass

Options stand behind the name: `s1:waits=4`, `early-exit:every=32,patience=2`. Law 3 holds for all of them: at
most t sampled thinking tokens and s solution tokens, or t + s in all where there is one cap.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from elastic_agent.backends.base import Codec
from elastic_agent.budget import Budget
from elastic_agent.errors import BackendProtocolError, did_you_mean
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.markers import Markers, Opening
from elastic_agent.prompts.told_budget import behind

from ...budgets.distributions import STATED, Wording
from .cues import Cues
from .passes import Pass, Passes, Strategy, StrategyInputs, Transcript
from .steps import (
    end_thinking,
    one_pass,
    opened,
    probe,
    solve,
    split,
    think,
    trimmed,
)


class _Named:
    """A label from name and options; two passes, and room for a forced close, unless overridden."""

    name: ClassVar[str]
    one_pass: ClassVar[bool] = False
    native: ClassVar[bool] = False

    @property
    def label(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        options = ",".join(f"{f.name}={getattr(self, f.name)}" for f in changed)
        return f"{self.name}:{options}" if options else self.name

    def prompt(self, text: str, thinking: int | None) -> str:
        return text

    def extra(self, codec: Codec, cues: Cues) -> int:
        return len(codec.markers.open_ids) + len(codec.markers.close_ids)

    def run(self, inputs: StrategyInputs) -> Passes:
        raise NotImplementedError


@dataclass(frozen=True)
class Elastic(_Named):
    """E1's separate budgeting, by the machine that serves live calls."""

    name = "elastic"
    wrap_up: int = 0
    """1: a sentence stands before a forced close (`Cues.wrap_up`)."""

    def markers(self, codec: Codec, cues: Cues) -> Markers:
        return markers_for(codec, wrap_up=cues.wrap_up if self.wrap_up else None)

    def extra(self, codec: Codec, cues: Cues) -> int:
        return self.markers(codec, cues).close_length(Opening.SELF)

    def run(self, inputs: StrategyInputs) -> Passes:
        budget = Budget(inputs.thinking, inputs.solution)
        machine = TwoPhase(inputs.prompt_ids, budget, self.markers(inputs.codec, inputs.cues), inputs.opening)
        while not machine.done:
            if machine.phase is Phase.CLOSING:
                machine.close()
                continue
            segment = Segment.SOLUTION if machine.phase is Phase.SOLUTION else Segment.THINKING
            chunk = yield Pass(machine.next_pass(inputs.next_sampling()), segment)
            machine.feed(chunk.ids)
            while not machine.pass_over and chunk.finish is None:
                chunk = yield None
                machine.feed(chunk.ids)
            if not machine.pass_over and chunk.finish is not None:
                machine.pass_ended(chunk.finish)
        return Transcript.of_machine(machine)


@dataclass(frozen=True)
class Truncate(_Named):
    """One pass of at most t + s tokens; what it reached is what there is. At t=None it is "unconstrained" as
    the paper means it: no split, a large maximum."""

    name = "truncate"
    one_pass = True

    def run(self, inputs: StrategyInputs) -> Passes:
        return (yield from one_pass(inputs, inputs.thinking + inputs.solution))


@dataclass(frozen=True)
class S1(_Named):
    """Budget forcing: up to `waits` times, a close before t is dropped and "Wait" written in its place."""

    name = "s1"
    waits: int = 1
    """How often a close is ignored; 1 as in its authors' script, 2, 4 and 6 in their figure."""

    def extra(self, codec: Codec, cues: Cues) -> int:
        return super().extra(codec, cues) + self.waits * len(codec.encode(cues.wait))

    def run(self, inputs: StrategyInputs) -> Passes:
        transcript, waits, left = Transcript(), self.waits, inputs.thinking
        wait = inputs.codec.encode(inputs.cues.wait)
        closed = not opened(inputs, transcript)
        while left > 0 and not closed:
            got = yield from think(inputs, transcript, left)
            left = inputs.thinking - transcript.sampled(Segment.THINKING) - transcript.discarded
            if got.end and waits and left - len(got.end) > 0:
                waits -= 1
                left -= len(got.end)
                transcript.discarded += len(got.end)
                transcript.add(Segment.THINKING, wait, sampled=False)
            else:
                closed = end_thinking(transcript, got)
                break
        return (yield from solve(inputs, transcript, closed))


@dataclass(frozen=True)
class L1(_Named):
    """The length is asked for in the prompt, then one pass up to a cap. A finished answer counts, however
    long it thought. Its authors cap the whole response at 2t (exact) and at 8192 (max): `cap=2048`."""

    name = "l1-exact"
    one_pass = True
    cap: int = 0
    """Most tokens of the response; 0 is t + s."""
    wording: ClassVar[Wording] = "l1-exact"

    def prompt(self, text: str, thinking: int | None) -> str:
        return text if thinking is None else behind(text, STATED[self.wording].format(t=thinking))

    def run(self, inputs: StrategyInputs) -> Passes:
        most = inputs.thinking + inputs.solution
        return (yield from one_pass(inputs, min(most, self.cap) if self.cap else most))


@dataclass(frozen=True)
class L1Max(L1):
    name = "l1-max"
    wording = "l1-max"


@dataclass(frozen=True)
class EarlyExit(_Named):
    """Every `every` thinking tokens the answer so far is probed; `patience` equal ones in a row end thinking.
    The probe is thrown away (its tokens are counted), and the solution is written as in `elastic`."""

    name = "early-exit"
    every: int = 64
    """Thinking tokens between two probes; Dynasor's middle setting."""
    patience: int = 3
    """Equal answers in a row that end thinking; likewise."""

    def extra(self, codec: Codec, cues: Cues) -> int:
        return super().extra(codec, cues) + len(codec.encode(cues.probe)) + cues.probe_tokens

    def run(self, inputs: StrategyInputs) -> Passes:
        transcript, answers = Transcript(), list[str | None]()
        closed, thought = not opened(inputs, transcript), 0
        while not closed and thought < inputs.thinking:
            got = yield from think(inputs, transcript, min(self.every, inputs.thinking - thought))
            if got.end or transcript.sampled(Segment.THINKING) == thought:  # closed, or nothing more came
                closed = end_thinking(transcript, got)
                break
            thought = transcript.sampled(Segment.THINKING)
            if thought < inputs.thinking:
                answers.append((yield from probe(inputs, transcript)))
                last = set(answers[-self.patience :])
                if len(answers) >= self.patience and len(last) == 1 and None not in last:
                    break
        return (yield from solve(inputs, transcript, closed))


@dataclass(frozen=True)
class Native(_Named):
    """The engine closes thinking at its own limit; it gives none for the solution, so we stop reading at s.
    The engine's own close can't be told from a sampled one, and is billed: it counts as sampled."""

    name = "native"
    one_pass = True
    native = True

    def run(self, inputs: StrategyInputs) -> Passes:
        markers = inputs.codec.markers
        most = inputs.thinking + len(markers.open_ids) + len(markers.close_ids) + inputs.solution
        extra = {} if inputs.unlimited else {"thinking_token_budget": inputs.thinking}
        asking: Pass | None = inputs.ask(Segment.SOLUTION, (), most, markers.eos_ids, extra)
        ids: list[int] = []
        while True:
            chunk = yield asking
            asking = None
            ids += chunk.ids
            transcript = split(inputs, ids)
            if transcript.sampled(Segment.THINKING) > inputs.thinking + len(markers.open_ids):
                raise BackendProtocolError(
                    f"the server thought for more than thinking_token_budget={inputs.thinking} tokens: it "
                    f"needs vLLM 0.19 or later and --reasoning-parser (or --reasoning-config) to keep to it"
                )
            if transcript.sampled(Segment.SOLUTION) >= inputs.solution or chunk.finish is not None:
                return trimmed(inputs, transcript, inputs.solution)


STRATEGIES: dict[str, type[_Named]] = {
    kind.name: kind for kind in (Elastic, Truncate, S1, L1, L1Max, EarlyExit, Native)
}


def make_strategy(text: str) -> Strategy:
    """A strategy by name and options, as in `early-exit:every=32,patience=2`.

    Raises:
        ValueError: no such strategy or option; names what there is.
    """
    name, _, options = text.strip().partition(":")
    kind = STRATEGIES.get(name)
    if kind is None:
        hint = did_you_mean(name, STRATEGIES)
        raise ValueError(f"no strategy called {name!r}: {hint}there are {', '.join(STRATEGIES)}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, int] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in known or not value.isdecimal():
            takes = ", ".join(f"{k}=N" for k in sorted(known)) or "none"
            raise ValueError(f"{name} has no option {option!r}; its options: {takes}")
        values[key] = int(value)
    if min(values.get("every", 1), values.get("patience", 1)) < 1:
        raise ValueError(f"{text}: every and patience must be at least 1")
    return kind(**values)
