"""Tasks made of measured outcomes, played through the real desk in virtual time.

An `Outcome` is one sample of `benchmarks/data`: what a model did at every thinking limit. A `Work` is a task:
its calls, and which of them each one waits for (a chain, or branches and a call that combines them). `play`
hands its calls to a `Desk`, as a live task would: held, waited for, settled and refunded; a token takes one
unit of time, so branches overlap. The replay keeps its own meter of what was served.

A grant between two measured limits is served at the lower one, and what lies between is not spent. A thinking
that ends by itself within the grant is the uncut one.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import io
import random
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler.allocation.call_terms import CallSize, CallTerms, ModelFacts
from elastic_agent.scheduler.allocation.request import Request, Running, build_request
from elastic_agent.scheduler.allocation.task_state import TaskState, build_task_state
from elastic_agent.scheduler.dispatch.apply import record_answer
from elastic_agent.scheduler.dispatch.dispatcher import Dispatcher
from elastic_agent.scheduler.estimates.agent_history import Histories
from elastic_agent.scheduler.estimates.call_stats import UsageStats
from elastic_agent.scheduler.estimates.curve_files import parse
from elastic_agent.scheduler.estimates.success_curve import CurveSet
from elastic_agent.scheduler.latency.model import Latency
from elastic_agent.scheduler.ledger.accounts import Account
from elastic_agent.scheduler.ledger.amounts import Amount
from elastic_agent.scheduler.policies.protocol import AllocationPolicy
from elastic_agent.training.evaluation.reports.stats import ENOUGH, spread
from elastic_agent.usage import Usage

DATA = Path(__file__).with_name("data") / "e1-tiny.csv.gz"
T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Of the calls of a model, in tokens: the limits of what was measured, and the close.

    Attributes:
        thinking: at the most, uncut.
        solution: at the most.
        close: the marker that ends thinking.
    """

    thinking: int
    solution: int
    close: int


TINY = Sizes(512, 96, 1)
"""e1-tiny's."""


@dataclass(frozen=True)
class Outcome:
    """What one sample did at every measured limit."""

    kind: str
    problem: int
    prompt: int
    thinking: int
    grid: tuple[int, ...]
    right: tuple[bool, ...]
    solution: tuple[int, ...]
    sizes: Sizes = TINY

    def at(self, limit: int) -> tuple[int, bool, int]:
        """With this limit: thinking tokens, right or not, solution tokens."""
        if limit >= self.thinking:
            return self.thinking, self.right[-1], self.solution[-1]
        i = bisect_right(self.grid, limit) - 1
        return self.grid[i], self.right[i], self.solution[i]

    @cached_property
    def cheapest(self) -> int | None:
        """The fewest tokens with which it is right; None when it never is."""
        costs = [
            used + self.sizes.close + said for t in self.grid for used, right, said in [self.at(t)] if right
        ]
        return min(costs, default=None)


@dataclass(frozen=True)
class Work(Generic[T]):
    """A task: calls in the order in which they are declared, and for each the calls that it waits for."""

    calls: tuple[T, ...]
    after: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Played:
    """How a task went: which calls were right, what the meter counted, calls that were refused, thinking
    tokens, whether it has a final answer, and the tokens that were held for its calls."""

    right: tuple[bool, ...]
    metered: int
    refused: int
    thinking: int = 0
    answered: bool = False
    held: int = 0


@dataclass
class Place:
    """Where a task is played, if not by itself: a dispatcher and an account that it shares, when it comes,
    what it is worth, and how long a token takes."""

    dispatcher: Dispatcher
    account: Account | None
    at: float
    value: float = 1.0
    tick: float = 0.01


def load(path: Path = DATA) -> list[Outcome]:
    """The measured samples."""
    rows = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))
    close, cuts, solution = (name.partition(":")[2] for name in next(rows)[4:7])
    grid = tuple(map(int, cuts.split()))
    sizes = Sizes(grid[-1], int(solution), int(close))
    return [
        Outcome(
            kind,
            int(problem),
            int(prompt),
            int(thinking),
            grid,
            tuple(one == "1" for one in right),
            tuple(map(int, said.split())),
            sizes,
        )
        for kind, problem, _, prompt, thinking, right, said in rows
    ]


def curves_of(outcomes: Sequence[Outcome], model: str) -> CurveSet:
    """Success curves from outcomes, as an evaluation of these problems would have written them."""
    found: dict[str, dict[str, Any]] = {
        name: {}
        for name in (
            "kinds",
            "natural_thinking",
            "solution_tokens",
            "solution_by_thinking",
            "right_solutions",
        )
    }
    for kind, rows in pool_of(outcomes).items():
        grid = rows[0].grid
        cells = {None if t == grid[-1] else t: [one.at(t) for one in rows] for t in grid}
        found["kinds"][kind] = [
            [t, statistics.fmean(right for _, right, _ in cell), len(cell)] for t, cell in cells.items()
        ]
        found["solution_by_thinking"][kind] = [
            [t, statistics.fmean(said for *_, said in cell)] for t, cell in cells.items()
        ]
        right = {t: [said for _, hit, said in cell if hit] for t, cell in cells.items()}
        found["right_solutions"][kind] = [
            [t, *list(spread(said).values())[1:]] for t, said in right.items() if len(said) >= ENOUGH
        ]
        found["natural_thinking"][kind] = spread([one.thinking for one in rows])
        found["solution_tokens"][kind] = spread([one.solution[-1] for one in rows])
    return parse({"model": model, "s": outcomes[0].sizes.solution, **found})


def pool_of(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """By kind."""
    pool: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        pool[one.kind].append(one)
    return dict(pool)


def make_work(pool: Mapping[str, Sequence[T]], count: int, seed: int) -> list[Work[T]]:
    """Tasks of 3 to 9 calls, kinds mixed: every other one a chain of 3 to 7, the rest 2 to 4 branches of 1
    or 2 calls each and a call that combines them (of word problems: of as many lines as there are branches).
    """
    rng = random.Random(seed)
    kinds = sorted(pool)

    def draw() -> T:
        return rng.choice(pool[rng.choice(kinds)])

    work: list[Work[T]] = []
    for number in range(count):
        if number % 2 == 0:
            size = rng.randint(3, 7)
            before = tuple((i - 1,) if i else () for i in range(size))
            work.append(Work(tuple(draw() for _ in range(size)), before))
            continue
        calls: list[T] = []
        after: list[tuple[int, ...]] = []
        ends = []
        branches, links = rng.randint(2, 4), rng.randint(1, 2)
        for _ in range(branches):
            for link in range(links):
                after.append((len(calls) - 1,) if link else ())
                calls.append(draw())
            ends.append(len(calls) - 1)
        after.append(tuple(ends))
        combines = f"steps-{branches}"  # of as many lines as there are branches
        calls.append(rng.choice(pool[combines]) if combines in pool else draw())
        work.append(Work(tuple(calls), tuple(after)))
    return work


@dataclass
class Memory:
    """What a scheduler knows beyond one task: its curves, and the usage_stats that it has seen."""

    curves: Any
    usage_stats: UsageStats
    feedback: bool = True
    agents: Histories = field(default_factory=Histories)

    @classmethod
    def of(cls, curves: Any, *, feedback: bool = True) -> Memory:
        return cls(curves, UsageStats(), feedback)


def play(
    work: Work[Outcome],
    cap: int,
    policy: AllocationPolicy,
    memory: Memory,
    *,
    declare: bool = True,
    place: Place | None = None,
    agents: bool = False,
) -> Played:
    """One task under one cap.

    Args:
        declare: it says which calls it will make.
        place: where it is played; None: on a dispatcher of its own.
        agents: it is the task of one of two agents, one for chains, one for branches.
    """
    place, calls = place or Place(Dispatcher(), None, 0.0, tick=1.0), work.calls
    dispatcher, now = place.dispatcher, place.at
    account = dispatcher.ledger.open("task", parent=place.account, tokens=cap, now=now)
    agent = "branches" if len(work.after[-1]) > 1 else "chain"
    past = memory.agents[agent] if agents else None
    state = build_task_state("task", account, policy, past=past, now=now, value=place.value)
    if declare:
        state.forecast.expect(Counter(call.kind for call in calls))
    try:
        dispatcher.open(state, now, None, calls[0].sizes.close)
    except CapExceededError:
        dispatcher.ledger.close(account)
        return Played((False,) * len(calls), 0, len(calls))
    right = [False] * len(calls)
    over: set[int] = set()
    answering: set[int] = set()
    asked: dict[int, Request] = {}
    decided: list[int] = []
    ends: list[tuple[float, int, Running]] = []  # when thinking is at its limit, or the call is over
    metered = refused = thought = held = 0

    def submit() -> None:
        for i, call in enumerate(calls):
            if i not in asked and over.issuperset(work.after[i]):
                asked[i] = _request(state, call, i == len(calls) - 1, memory, lambda i=i: decided.append(i))
                dispatcher.submit(asked[i], now)
        dispatcher.run_pass(account, now)

    submit()
    while len(over) < len(calls):
        while decided:
            i = decided.pop(0)
            outcome = asked[i].outcome
            if isinstance(outcome, Exception):
                over.add(i)
                refused += 1
                continue
            assert outcome is not None
            usage, right[i] = _served(calls[i], outcome)
            heapq.heappush(ends, (now + usage.thinking * place.tick, i, outcome))
        if not ends:
            submit()
            if not decided and not ends:
                break
            continue
        now, i, running = heapq.heappop(ends)
        usage, _ = _served(calls[i], running)
        if i not in answering:
            if usage.forced and dispatcher.extend(running, usage.thinking, now) is not None:
                more, right[i] = _served(calls[i], running)
                heapq.heappush(ends, (now + (more.thinking - usage.thinking) * place.tick, i, running))
            else:
                answering.add(i)
                heapq.heappush(ends, (now + (usage.close + usage.solution) * place.tick, i, running))
            continue
        metered += usage.generated
        held += (running.grant.budget.thinking or 0) + usage.close + running.grant.budget.solution
        thought += usage.thinking
        record_answer(running, usage)
        if memory.feedback:
            running.record_feedback(right[i])
        over.add(i)
        dispatcher.settle(running, Amount(usage.generated), now)
        submit()
    dispatcher.ledger.check()
    assert account.spent.tokens == metered, (account.spent, metered)
    dispatcher.close(state, now)
    assert account.held.tokens == 0
    return Played(tuple(right), metered, refused, thought, state.status.answered, held)


def _served(call: Outcome, running: Running) -> tuple[Usage, bool]:
    """What a call uses under its grant, and whether its answer is right."""
    budget = running.grant.budget
    used, hit, said = call.at(budget.thinking or 0)
    close = call.sizes.close
    cut = close * (used < call.thinking)
    usage = Usage(call.prompt, used, close, cut, min(said, budget.solution))
    return usage, hit and said <= budget.solution


def _request(state: TaskState, call: Outcome, last: bool, memory: Memory, wake: Any) -> Request:
    sizes = call.sizes
    size = CallSize(
        prompt=call.prompt,
        fresh=call.prompt,
        thinking=sizes.thinking,
        solution=sizes.solution,
        close=sizes.close,
    )
    model = ModelFacts("", memory.curves, Latency(), memory.usage_stats)
    request = build_request(state, size, model, CallTerms(call.kind, final=last))
    request.on_outcome = wake
    return request


def table_of(outcomes: Sequence[Outcome]) -> Mapping[str, list[tuple[int, list[tuple[int, int, bool]]]]]:
    """By kind and limit, what `Informed` wants: tokens of thinking and close, of the solution, if right."""
    found: dict[str, list[tuple[int, list[tuple[int, int, bool]]]]] = {}
    for kind in sorted({one.kind for one in outcomes}):
        rows = [one for one in outcomes if one.kind == kind]
        found[kind] = [
            (
                t,
                [(used + one.sizes.close, said, right) for one in rows for used, right, said in [one.at(t)]],
            )
            for t in rows[0].grid
        ]
    return found


def play_plain(work: Work[Outcome], cap: int, most: int) -> Played:
    """The same task with one `max_tokens` a call for thinking and solution together, cut where the cap ends,
    and no scheduler. Branches are taken one after another, which is kinder than life."""
    left, right = cap, []
    for call in work.calls:
        used, hit, said = call.at(call.sizes.thinking)
        wanted, limit = used + call.sizes.close + said, min(most, left)
        right.append(hit and wanted <= limit)
        left -= min(wanted, limit)
    return Played(tuple(right), cap - left, 0)
