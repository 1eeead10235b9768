"""Scripted and random episodes for the tests, on e1-tiny's tokenizer."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from elastic_agent.budget import Budget
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.prompts.tokenizer import HFCodec
from elastic_agent.training.agents.environment import Episode, Tool, ToolCall
from elastic_agent.training.agents.episode_runner import (
    BudgetAllocator,
    EpisodeLimits,
    EpisodeRunner,
    Trajectory,
    run_episodes,
)
from elastic_agent.training.agents.lookup_environment import parse_questions
from elastic_agent.training.agents.turn_renderer import TurnRenderer
from elastic_agent.training.rollouts.rollout import Call, Rollout, machine_for, rollout_of
from tools.e1_tiny.tokenizer import CLOSE, END, build_tokenizer, vocabulary

VOCAB = vocabulary()
RENDERER = TurnRenderer(HFCodec(build_tokenizer()))
CODEC = RENDERER.codec
MARKERS = CODEC.markers
PROMPT = [{"role": "user", "content": "A shop has 3 apples . #1 to #2 . How many apples are left ?"}]
ASKED = Budget(20, 12)
LINES = {"#1": "#1 It sells 1 .", "#2": "#2 It gets 5 ."}


def ids(text: str) -> list[int]:
    return [VOCAB[word] for word in text.split()]


def says(*turns: str) -> Callable[[Sequence[Call], int], list[Rollout]]:
    """A model that samples these words in its first turn, second turn, ...; limits cut it as they would.

    Words after `//` are what it goes on with when its thinking was cut.
    """

    def decode(calls: Sequence[Call], turn: int) -> list[Rollout]:
        machines = [machine_for(prompt, budget, MARKERS, 10_000) for prompt, budget in calls]
        for machine in machines:
            natural, _, after_a_cut = turns[turn].partition("//")
            if machine.phase is not Phase.CLOSING:
                _sample(machine, ids(natural))
            if machine.phase is Phase.CLOSING:
                machine.close()
                _sample(machine, ids(after_a_cut))
        return [rollout_of(machine) for machine in machines]

    return decode


def _sample(machine: TwoPhase, words: Sequence[int]) -> None:
    """Feed the words up to the end of what the machine takes without a forced close."""
    machine.next_pass()
    for token in words:
        if machine.pass_over and machine.phase is Phase.SOLUTION:
            machine.next_pass()
        machine.feed([token], [-0.5])


def run_one(
    decode: Callable[[Sequence[Call], int], list[Rollout]],
    tools: dict[str, Tool] | None = None,
    *,
    asked: Budget = ASKED,
    allocator: BudgetAllocator | None = None,
    turns: int = 4,
    context: int = 512,
    seconds: float = 5.0,
    **episode: Any,
) -> Trajectory:
    """One episode of a problem with two lines to look up."""
    made = Episode(
        tools or {"line": lambda label: LINES[label]},
        **{"parse": parse_questions, "role": "user", **episode},
    )
    limits = EpisodeLimits(turns, context, seconds)
    runner = EpisodeRunner(made, CODEC.encode_chat(PROMPT), RENDERER, limits, allocator)
    return run_episodes([runner], lambda _: [asked], decode)[0]


def always_calls(turns: int) -> Episode:
    """An episode for a model that talks at random: so many turns call the tool, whatever they say."""
    left = iter(range(turns))

    def parse(solution: str) -> list[ToolCall]:
        return [ToolCall("line", {"label": "#1"})] if next(left, None) is not None else []

    return Episode({"line": lambda label: LINES[label]}, parse=parse, role="user")


def random_decode(seed: int = 0) -> Callable[[Sequence[Call], int], list[Rollout]]:
    """A model that samples at random, and likes to close its thinking and to end its turns."""
    rng = random.Random(seed)
    some = [VOCAB[CLOSE], VOCAB[END], VOCAB[END], *range(20, 50)]

    def decode(calls: Sequence[Call], turn: int) -> list[Rollout]:
        machines = [machine_for(prompt, budget, MARKERS, 10_000) for prompt, budget in calls]
        for machine in machines:
            while not machine.done:
                if machine.phase is Phase.CLOSING:
                    machine.close()
                machine.next_pass()
                while not machine.pass_over:
                    machine.feed([rng.choice(some)], [-0.5])
        return [rollout_of(machine) for machine in machines]

    return decode
