"""A thousand tasks with deadlines on one backend that is too small for them part of the time.

    python benchmarks/arrivals.py [--quick] [--json] [--data DIR | --trace FILE] [--synthetic]

Tasks arrive, and are as long, as the requests of a trace: the Azure LLM traces (azure_llm_conv.csv and
azure_llm_code.csv in --data, $ELASTIC_SHARED_DATA or /work/shared/data), or a file of JSON lines with
`timestamp` (milliseconds) and `output_length` (tokens). --synthetic runs ten made-up traces
(`_arrival_traces.py`), each in a process of its own; they also run where there is no Azure trace. The length
of a request is that of its answer; the thinking that its model would like to do is three times as long. One
task in four is a chain of two steps and a final answer, one in four has three parts side by side before it.
Arrivals keep the trace's rhythm, squeezed so that answers and thinking together ask for --load times what the
backend can do: thinking has to give way, and at the peaks tasks have to be refused.

The backend serves 16 calls at once, later ones queue inside it; its tokens per second are shared among
them, so its speed falls with load; and for 40 seconds out of every 300 everything takes three times as
long. Time is virtual, except `refusal_ms`, which is real time from asking to the refusal.

The first trace runs twice: with admission and a queue (`max_running=16`), and as is usual today, with a
deadline and neither (`unmanaged`: everything is sent at once, and stopped when its time is up).

Each refusal is checked by an oracle that knows what the scheduler can't: the speed to come, spikes
included, and how long each answer will really be. It serves what had been admitted and had not ended, and
the refused task, without any thinking, most urgent first, on the backend's own rules. `needless` are
refusals where everybody would have been in time; each is asked about alone, so of several tasks that are
refused in one moment all may be needless although only one of them would have fitted. An oracle that is told
the declared lengths instead (`final_solution` in full) says how many of these come from answers that turned
out shorter than declared: `needless_as_declared`.

With --json the last line of stdout is one JSON object: what follows of the first trace, and
    traces             the same in short for each trace, by name
    worst              that with the smallest share in time
Of a trace:
    trace              "azure", the file's name, or that of a made-up one
    tasks              that arrived
    admitted, refused  what became of them
    answered           admitted ones with a whole final answer, in time or not
    late               admitted ones without a whole final answer at their deadline; `late_named` says why,
                       `late_unavoidable` names those that the oracle could not have served either beside what
                       had been admitted before them: a spike came that nobody could know of
    in_time            share of the admitted ones that are not late
    latest_ms          by how much the last of them ended after its deadline; below zero: before
    refusal_ms_p99     real milliseconds from asking to the refusal
    needless, needless_as_declared     of the refusals, as above
    unmanaged          the same without admission: answered and late
    thinking           mean thinking tokens of an answered task, and unmanaged
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import os
import random
import re
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks._arrival_traces import SHAPES, Row, azure, json_lines, synthetic, thinned
from elastic_agent import Budget, Caps
from elastic_agent.backends.base import TokenChunk, TokenRequest
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import CapExceededError, DeadlineError, EndpointBusyError
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.result import Generation
from elastic_agent.scheduler import BudgetScheduler, Timing
from tests.clock import run as run_virtual

BATCH = 16
FASTEST, PER_SECOND, TTFT = 0.01, 600.0, 0.15
SPIKE, SPIKE_SECONDS, SPIKE_EVERY = 3.0, 40.0, 300.0
WHOLE = (SolutionEnd.EOS, SolutionEnd.STOP)
LONGEST = 512


@dataclass(frozen=True)
class Arrival:
    """One task of the trace: when it comes, how long its answers are, and how much time it has."""

    name: str
    at: float
    shape: str
    answer: int
    step: int
    thinking: int
    seconds: float

    @property
    def declared(self) -> int:
        """The `final_solution` that it asks for: its caller knows the size within a factor of two."""
        return max(16, 1 << self.answer.bit_length())

    def stages(self, final: int) -> list[tuple[int, int]]:
        """Calls side by side and the solution tokens of each, stage by stage."""
        before = {"one": [], "chain": [(1, self.step)] * 2, "parts": [(3, self.step)]}[self.shape]
        return [*before, (1, final)]

    @property
    def tokens(self) -> int:
        """All that it would like to generate."""
        return sum(width * (size + self.thinking) for width, size in self.stages(self.answer))


@dataclass
class Outcome:
    """What became of a task."""

    arrival: Arrival
    ended: float = 0.0
    refused: str | None = None
    refusal_ms: float = 0.0
    finals: list[Generation] = field(default_factory=list)
    thinking: int = 0
    steps: int = 0
    error: str | None = None
    live: list[tuple[Arrival, int]] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        return bool(self.finals) and self.finals[-1].solution_end in WHOLE

    @property
    def over(self) -> float:
        """Seconds by which it ended after its deadline; below zero: before."""
        return self.ended - self.arrival.at - self.arrival.seconds

    @property
    def late(self) -> str | None:
        """Why there was no whole answer at the deadline; None if there was."""
        if self.error:
            return self.error
        if not self.answered:
            return f"cut after {len(self.finals[-1].solution_ids)} of {self.arrival.answer} tokens"
        return f"{self.over:.3f} s after its deadline" if self.over > 1e-6 else None


def slowness(now: float) -> float:
    """What everything takes now, as a multiple."""
    return SPIKE if now % SPIKE_EVERY >= SPIKE_EVERY - SPIKE_SECONDS else 1.0


class Overloaded(ScriptedBackend):
    """Tokens per second shared by at most `BATCH` calls; more wait inside, first come, first served."""

    def __init__(self) -> None:
        super().__init__(reply)
        self._places = asyncio.Semaphore(BATCH)

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        async with self._places:
            playing = super().stream(request)
            try:
                async for chunk in playing:
                    now = asyncio.get_running_loop().time()
                    self.ttft = TTFT * slowness(now)
                    self.tpot = max(FASTEST, self.running / PER_SECOND) * slowness(now)
                    yield chunk
            finally:
                await playing.aclose()


def reply(prompt: str) -> Reply:
    """The prompt says how long its thinking and its solution are: the last two numbers in it."""
    thinking, solution = (int(number) for number in re.findall(r"\d+", prompt)[-2:])
    return Reply("hm " * thinking, "so " * max(1, solution - 1))  # the end of text is a token, too


def tasks_of(rows: Sequence[Row], load: float, seed: int) -> list[Arrival]:
    """The tasks of a trace: their shapes and deadlines are drawn, their arrivals squeezed to this load."""
    rng = random.Random(seed)
    found = []
    for i, (at, generated) in enumerate(rows):
        answer = min(max(4, generated), LONGEST)
        shape = rng.choice(("one", "one", "chain", "parts"))
        step = max(4, answer // 4)
        arrival = Arrival(f"task-{i}", at - rows[0][0], shape, answer, step, 3 * answer, 0.0)
        alone = sum(TTFT + size * BATCH / PER_SECOND for _, size in arrival.stages(arrival.declared))
        found.append((arrival, 3.0 + alone * rng.uniform(1.5, 5.0)))
    asked = sum(arrival.tokens for arrival, _ in found)
    squeeze = asked / PER_SECOND / load / max(found[-1][0].at, 1e-9)
    return [replace(arrival, at=arrival.at * squeeze, seconds=time) for arrival, time in found]


async def managed(arrivals: Sequence[Arrival], timing: Timing) -> list[Outcome]:
    """With admission and a queue."""
    clock = asyncio.get_running_loop().time
    backend = Overloaded()
    backend.ttft, backend.tpot = TTFT, FASTEST
    live: dict[str, Outcome] = {}

    async def arrive(scheduler: BudgetScheduler, arrival: Arrival) -> Outcome:
        await asyncio.sleep(arrival.at - clock())
        outcome = Outcome(arrival)
        expect = {"step": 2} if arrival.shape == "chain" else {"part": 3} if arrival.shape == "parts" else {}
        task = scheduler.task(
            Caps(seconds=arrival.seconds),
            name=arrival.name,
            expect={**expect, "final": 1},
            parallel=["part"],
            final_solution=arrival.declared,
        )
        asked = time.perf_counter()
        try:
            task.open()
        except (DeadlineError, EndpointBusyError) as error:
            outcome.refusal_ms = 1000 * (time.perf_counter() - asked)
            outcome.refused = str(error)
            outcome.live = [(o.arrival, o.steps) for o in live.values()]
            return outcome
        outcome.live = [(o.arrival, o.steps) for o in live.values()]
        live[arrival.name] = outcome

        async def call(kind: str, size: int, limit: int) -> Generation | None:
            prompt = f"{arrival.name} {kind} {outcome.steps} {arrival.thinking} {size}"
            try:
                found = await task.generate(prompt, kind=kind, solution=limit)
            except (CapExceededError, EndpointBusyError) as error:
                if kind == "final":
                    outcome.error = str(error)
                return None
            outcome.thinking += found.usage.thinking
            return found

        try:
            for width, size in arrival.stages(arrival.answer)[:-1]:
                kind = "part" if width > 1 else "step"
                await asyncio.gather(*(call(kind, size, arrival.declared) for _ in range(width)))
                outcome.steps += 1
            final = await call("final", arrival.answer, arrival.declared)
            outcome.finals += [final] if final else []
        finally:
            await task.aclose()
            outcome.ended = clock()
            del live[arrival.name]
        return outcome

    limits = {"max_running": BATCH, "max_waiting": 20 * BATCH}
    async with BudgetScheduler(backend, timing=timing, **limits) as scheduler:
        outcomes = await asyncio.gather(*(arrive(scheduler, arrival) for arrival in arrivals))
        scheduler.check()
    return outcomes


async def unmanaged(arrivals: Sequence[Arrival]) -> list[Outcome]:
    """As is usual today: everything is sent, thinks as it likes, and is stopped when its time is up."""
    clock = asyncio.get_running_loop().time
    backend = Overloaded()
    backend.ttft, backend.tpot = TTFT, FASTEST

    async def arrive(arrival: Arrival) -> Outcome:
        await asyncio.sleep(arrival.at - clock())
        outcome = Outcome(arrival, error="no answer at its deadline")

        async def call(size: int) -> Generation:
            prompt = f"{arrival.name} {arrival.thinking} {size}"
            found = await generate(backend, prompt, Budget(None, arrival.declared))
            outcome.thinking += found.usage.thinking
            return found

        try:
            async with asyncio.timeout(arrival.seconds):
                for width, size in arrival.stages(arrival.answer):
                    outcome.finals = await asyncio.gather(*(call(size) for _ in range(width)))
                outcome.error = None
        except TimeoutError:
            pass
        outcome.ended = clock()
        return outcome

    return await asyncio.gather(*(arrive(arrival) for arrival in arrivals))


def possible(refused: Arrival, live: Sequence[tuple[Arrival, int]], *, declared: bool) -> bool:
    """The oracle: whether the refused task and all that had been admitted could have been in time.

    Each task works through its stages without thinking; a stage that had begun starts again, which is against
    the oracle. Calls get one of `BATCH` places by deadline; speed is the backend's own, spikes included.
    """
    now = refused.at
    tasks = [
        (a.at + a.seconds, a.stages(a.declared if declared else a.answer)[done:])
        for a, done in [*live, (refused, 0)]
    ]
    waiting = [(end, i, size) for i, (end, ((n, size), *_)) in enumerate(tasks) for _ in range(n)]
    heapq.heapify(waiting)
    left = {i: stages[0][0] for i, (_, stages) in enumerate(tasks)}
    running: list[list[float]] = []  # task, seconds before its first token, tokens to go
    while waiting or running:
        while waiting and len(running) < BATCH:
            end, i, size = heapq.heappop(waiting)
            running.append([i, TTFT * slowness(now), size])
        each = max(FASTEST, len(running) / PER_SECOND) * slowness(now)
        period = now % SPIKE_EVERY
        turn = SPIKE_EVERY - SPIKE_SECONDS if period < SPIKE_EVERY - SPIKE_SECONDS else SPIKE_EVERY
        step = min([turn - period, *(wait + tokens * each for _, wait, tokens in running)])
        now += max(step, 1e-6)
        for call in running:
            waited = min(call[1], step)
            call[1] -= waited
            call[2] -= (step - waited) / each
        for call in [call for call in running if call[2] <= 1e-6]:
            running.remove(call)
            i = int(call[0])
            end, stages = tasks[i]
            if now > end + 1e-6:
                return False
            left[i] -= 1
            if not left[i] and len(stages) > 1:
                stages.pop(0)
                left[i] = stages[0][0]
                for _ in range(left[i]):
                    heapq.heappush(waiting, (end, i, stages[0][1]))
    return True


def measure(source: str, arrivals: list[Arrival], timing: Timing, *, compare: bool) -> dict[str, Any]:
    """The managed run and the oracle; with `compare` the unmanaged run, too."""
    outcomes = run_virtual(managed(arrivals, timing))
    refused = [o for o in outcomes if o.refused is not None]
    admitted = [o for o in outcomes if o.refused is None]
    late = {o.arrival.name: o.late for o in admitted if o.late}
    answered = [o for o in admitted if o.answered]
    times = sorted(o.refusal_ms for o in refused) or [0.0]

    def fits(outcome: Outcome) -> bool:
        return possible(outcome.arrival, outcome.live, declared=False)

    def thinking(of: list[Outcome]) -> float:
        return round(sum(o.thinking for o in of) / max(1, len(of)), 1)

    found = {
        "trace": source,
        "tasks": len(arrivals),
        "minutes": round(arrivals[-1].at / 60, 1),
        "admitted": len(admitted),
        "refused": len(refused),
        "answered": len(answered),
        "late": len(late),
        "late_named": late,
        "late_unavoidable": [o.arrival.name for o in admitted if o.late and not fits(o)],
        "in_time": round(1 - len(late) / max(1, len(admitted)), 4),
        "latest_ms": round(1000 * max([o.over for o in admitted], default=0.0), 3),
        "refusal_ms_p99": round(times[min(len(times) - 1, int(0.99 * len(times)))], 3),
        "needless": sum(map(fits, refused)),
        "needless_as_declared": sum(possible(o.arrival, o.live, declared=True) for o in refused),
        "thinking": {"managed": thinking(answered)},
        "a_refusal": refused[0].refused if refused else None,
    }
    if compare:
        usual = run_virtual(unmanaged(arrivals))
        found["unmanaged"] = {
            "answered": sum(o.answered and o.error is None for o in usual),
            "late": sum(o.late is not None for o in usual),
        }
        found["thinking"]["unmanaged"] = thinking([o for o in usual if o.error is None])
    return found


def play(
    name: str, rows: Sequence[Row], load: float, seed: int, timing: Timing, compare: bool
) -> dict[str, Any]:
    """One trace, for a process of its own."""
    return measure(name, tasks_of(rows, load, seed), timing, compare=compare)


def chosen(args: argparse.Namespace, tasks: int) -> list[tuple[str, list[Row]]]:
    """The traces that are asked for, by name."""
    found: list[tuple[str, list[Row]]] = []
    if args.trace is not None:
        found.append((args.trace.stem, thinned(json_lines(args.trace), tasks)))
    elif not args.synthetic and (rows := azure(args.data)):
        found.append(("azure", thinned(rows, tasks)))
    if args.synthetic or not found:
        found += [(name, synthetic(name, tasks, args.seed)) for name in SHAPES]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data, timing = os.environ.get("ELASTIC_SHARED_DATA", "/work/shared/data"), Timing()
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of the Azure traces")
    parser.add_argument("--trace", type=Path, help="a file of JSON lines (timestamp, output_length) instead")
    parser.add_argument("--synthetic", action="store_true", help="the ten made-up traces (beside --trace)")
    parser.add_argument("--tasks", type=int, help="of each trace; default 1000")
    parser.add_argument("--load", type=float, default=1.5, help="tokens asked for, over what can be served")
    parser.add_argument("--headroom", type=float, default=timing.headroom, help="see `Timing`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="100 tasks a trace; under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    args = parser.parse_args()
    traces = chosen(args, args.tasks or (100 if args.quick else 1000))
    timing = Timing(headroom=args.headroom)
    with ProcessPoolExecutor(min(len(traces), os.cpu_count() or 1)) as pool:
        jobs = [
            pool.submit(play, name, rows, args.load, args.seed, timing, compare=i == 0)
            for i, (name, rows) in enumerate(traces)
        ]
        results = [job.result() for job in jobs]
    for result in results:
        report(result)
    worst = min(results, key=lambda result: result["in_time"])
    first = results[0]
    if len(results) > 1:
        print(f"The worst: {worst['trace']}, {100 * worst['in_time']:.2f}% of the admitted in time.")
    if args.json:
        brief = ("tasks", "admitted", "answered", "late", "in_time", "latest_ms", "refused", "needless")
        per = {result["trace"]: {name: result[name] for name in brief} for result in results}
        print(json.dumps({**first, "traces": per, "worst": {"trace": worst["trace"], **per[worst["trace"]]}}))


def report(result: dict[str, Any]) -> None:
    """What became of one trace, for people."""
    print(
        f"{result['tasks']} tasks of the {result['trace']} trace in {result['minutes']} minutes: "
        f"{result['admitted']} admitted, {result['answered']} of them answered, {result['late']} late. "
        f"{result['refused']} refused (99% in {result['refusal_ms_p99']:.2f} ms), "
        f"{result['needless']} needlessly. Mean thinking: {result['thinking']['managed']} tokens."
    )
    if "unmanaged" in result:
        usual = result["unmanaged"]
        print(
            f"Without admission {usual['answered']} answered, {usual['late']} late; mean thinking: "
            f"{result['thinking']['unmanaged']} tokens."
        )
    for name, why in result["late_named"].items():
        known = "; nobody could have kept all promises" if name in result["late_unavoidable"] else ""
        print(f"late: {name}: {why}{known}")


if __name__ == "__main__":
    main()
