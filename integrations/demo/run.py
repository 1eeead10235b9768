"""The demo from start to end: the agent under caps, then the same work under one fixed `max_tokens`."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.backends.load import load_backend
from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import CapExceededError
from elastic_agent.generation.prepare import prompt_ids
from elastic_agent.model_location import embedded_models
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.scheduler import BudgetScheduler, Price, Task
from elastic_agent.scheduler.ledger.prices import find_price, require_price
from elastic_agent.scheduler.runlog.events import RunLog, Sink

from ..langchain import ChatElasticReasoning
from ..page import LivePage
from .agent import EMPTY, State, answer_of, build_agent, row_of
from .baseline import FixedMaxTokens
from .board import Board
from .display import comparison, results, screen
from .problems import SHOP_WEEK, Day, count_kinds, load_days

DEFAULT_CAPS = Caps(usd="0.02", seconds=60)
_FRAMES = 8  # a second
_WIDTH = 104  # without a terminal
_PARALLEL = 64  # branches at once
_SEEDS = 1_000_000  # between the seeds of two runs


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says; None takes the default."""

    caps: Caps | None = None
    model: str = "e1-tiny"
    base_url: str | None = None
    api_key: str | None = None
    tokenizer: str | None = None
    markers: MarkerText | None = None
    problems: str | None = None
    price: Price | None = None
    seed: int = 0
    log: str = "run.jsonl"
    solution: int | None = None
    json: bool = False
    svg: str | None = None
    page: int | None = None


def run_demo(options: DemoOptions) -> int:
    """Run the demo; returns the exit status: 0 when every problem was answered within the caps, else 1.

    Raises:
        ProblemsError, ElasticError: bad input, before anything is spent.
    """
    days = load_days(options.problems or SHOP_WEEK)
    caps = options.caps or DEFAULT_CAPS
    console = Console(stderr=options.json, record=options.svg is not None, highlight=False)
    if not console.is_terminal or options.svg is not None:
        console.width = _WIDTH
    backend = load_backend(
        options.model,
        base_url=options.base_url,
        api_key=options.api_key,
        tokenizer=options.tokenizer,
        markers=options.markers,
    )
    summary = asyncio.run(_demo(options, days, caps, backend, console))
    if options.svg is not None:
        console.save_svg(options.svg, title="elastic-agent demo")
    if options.json:
        sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["answered"] == summary["problems"] else 1


@dataclass(frozen=True, slots=True)
class WayResult:
    """What one way of working through the problems brought, and what it used."""

    state: State
    seconds: float
    calls: int
    tokens: int
    usd: float
    forced_closes: int = 0


async def _demo(
    options: DemoOptions, days: list[Day], caps: Caps, backend: Backend, console: Console
) -> dict[str, Any]:
    try:
        log = RunLog(options.log)
    except OSError as error:
        raise ValueError(f"can't write the log {options.log} ({error.strerror}): use --log FILE") from error
    pages: list[LivePage] = []
    board = Board(caps, count_kinds(days).total(), log)
    try:
        if options.page is not None:
            pages.append(LivePage(options.page))
            print(f"live: {pages[0].url}", file=sys.stderr)
        await backend.ready()
        price = find_price(backend.model, own=options.price)
        if caps.usd is not None:
            require_price(price, backend.model)
        ours = await elastic_run(options, days, caps, backend, board, console, price, pages)
        theirs = await _baseline_run(options, days, caps, backend, board.total, console, price)
    finally:
        board.log.close()
        for page in pages:
            page.close()
        await backend.aclose()
    return _report(options, days, caps, ours, theirs, console)


async def elastic_run(
    options: DemoOptions,
    days: list[Day],
    caps: Caps,
    backend: Backend,
    board: Board,
    console: Console,
    price: Price | None,
    logs: Sequence[Sink] = (),
) -> WayResult:
    """The agent under the scheduler; `logs` hear of it, too."""
    solution = options.solution
    if solution is None:
        solution = 96 if options.model in embedded_models() else 512
    llm = ChatElasticReasoning(
        backend=backend, solution_budget=solution, price=price, temperature=_sampling(options).temperature
    )
    scheduler = BudgetScheduler(backend, price=price, log=[board.log, board.event, *logs])
    task = scheduler.task(caps, name="shop week", expect=count_kinds(days), final_solution=solution)
    seeds = itertools.count(options.seed * _SEEDS)
    asker = _Asker(llm, task, board, solution, f"{days[-1].name} / total", seeds)
    graph = build_agent(days, asker.ask)
    chains = sum(len(day.chains) for day in days)
    title = (
        f"a shop's week: {chains} chains in {len(days)} days, {board.total} calls planned on {backend.model}"
    )
    clock = asyncio.get_running_loop().time
    start = clock()

    def show() -> Any:
        size = {"width": console.width, "height": console.height if console.is_terminal else 40}
        return screen(title, board.bars(clock() - start), board.order(), board.total, **size)

    async with _shown(console, show, live=console.is_terminal and not options.json), scheduler:
        async with task:
            state: State = await graph.ainvoke(EMPTY, {"max_concurrency": _PARALLEL})
        report = task.report()
    made = [call for call in report.calls if call.outcome != "refused"]
    return WayResult(
        state,
        clock() - start,
        len(made),
        report.spent.tokens or 0,
        float(report.spent.usd or 0),
        sum(call.usage.forced > 0 for call in made),
    )


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks the model for the agent; asks again, for a longer solution, where a solution was cut."""

    llm: ChatElasticReasoning
    task: Task
    board: Board
    solution: int
    final_label: str
    seeds: Iterator[int]

    async def ask(self, label: str, text: str, kind: str) -> int | None:
        options = {"kind": kind, "final": label == self.final_label}
        answer = await self._ask_once(label, text, **options)
        for times, again in ((2, "again"), (4, "once more")):
            if answer is None:  # what other calls gave back may pay for a longer solution
                self.task.expect({kind: 1})
                longer = options | {"solution_budget": times * self.solution}
                answer = await self._ask_once(f"{label}, {again}", text, **longer)
        return answer

    async def _ask_once(self, label: str, text: str, **options: Any) -> int | None:
        try:
            message = await self.llm.ainvoke(text, label=label, seed=next(self.seeds), **options)
        except CapExceededError:
            if not self.board.granted:
                raise  # the caps don't hold even one answer
            return None  # the log says why; the other branches go on
        cut = message.response_metadata["budget"]["solution_end"] in ("length", "deadline")
        answer = self.board.rows[label].answer = answer_of(str(message.text), cut=cut)
        return answer


async def _baseline_run(
    options: DemoOptions,
    days: list[Day],
    caps: Caps,
    backend: Backend,
    calls: int,
    console: Console,
    price: Price | None,
) -> WayResult:
    """The same agent with one fixed `max_tokens` a call."""
    price = price or Price("0", "0")
    prompts = [len(prompt_ids(backend, text)) for day in days for c in day.chains for text in c.steps]
    fixed = FixedMaxTokens(backend, caps, calls, max(prompts) + 8, price, _sampling(options))
    console.print(
        f"\nNow the practice it replaces: the same problems and caps, one max_tokens={fixed.max_tokens} "
        f"for each call, thinking and solution in one …"
    )
    state, clock = EMPTY, asyncio.get_running_loop().time
    start = clock()
    with suppress(TimeoutError):
        async with asyncio.timeout(caps.seconds):
            state = await build_agent(days, fixed.ask).ainvoke(EMPTY, {"max_concurrency": _PARALLEL})
    usd = float(to_usd(price.charge(fixed.usage)))
    return WayResult(state, clock() - start, fixed.made, fixed.usage.generated, usd)


def _report(
    options: DemoOptions, days: list[Day], caps: Caps, ours: WayResult, theirs: WayResult, console: Console
) -> dict[str, Any]:
    """Print the results; returns the summary for JSON."""
    rows = [[row_of(way.state, d, day) for d, day in enumerate(days)] for way in (ours, theirs)]
    truth = [day.truth for day in days]
    problems = sum(map(len, truth))
    right = [_count_right(row, truth) for row in rows]
    answered = [sum(a is not None for day in row for a in day) for row in rows]
    console.print(results(days, *rows))
    console.print(
        comparison(
            [
                ("right answers", f"{right[0]} of {problems}", f"{right[1]} of {problems}"),
                ("answered", f"{answered[0]} of {problems}", f"{answered[1]} of {problems}"),
                ("spent", f"${ours.usd:.6f}", f"${theirs.usd:.6f}"),
                ("tokens generated", f"{ours.tokens:,}", f"{theirs.tokens:,}"),
                ("seconds", f"{ours.seconds:.1f}", f"{theirs.seconds:.1f}"),
                ("calls", str(ours.calls), str(theirs.calls)),
            ]
        )
    )
    if answered[0] < problems:
        console.print(
            f"{problems - answered[0]} of {problems} problems have no answer: the caps are too small for all "
            f"{count_kinds(days).total()} calls. Raise --usd, --tokens or --seconds."
        )
    console.print(f"Every decision and its reason: elastic-agent report {options.log} --why", style="dim")
    return {
        "caps": {
            "usd": None if caps.usd is None else float(caps.usd),
            "seconds": caps.seconds,
            "tokens": caps.tokens,
        },
        "spent": {"usd": ours.usd, "tokens": ours.tokens, "seconds": round(ours.seconds, 3)},
        "problems": problems,
        "answered": answered[0],
        "right": right[0],
        "fixed_cap_right": right[1],
        "calls": ours.calls,
        "forced_closes": ours.forced_closes,
    }


@asynccontextmanager
async def _shown(console: Console, show: Callable[[], RenderableType], *, live: bool) -> AsyncIterator[None]:
    """Keep the screen up to date, or print it once at the end; after a Ctrl-C, too."""
    if not live:
        yield
        console.print(show())
        return

    async def draw(view: Live) -> None:
        while True:
            view.update(show())
            await asyncio.sleep(1 / _FRAMES)

    with Live(show(), console=console, refresh_per_second=_FRAMES, transient=False) as view:
        drawing = asyncio.create_task(draw(view))
        try:
            yield
        finally:
            drawing.cancel()
            view.update(show())


def _sampling(options: DemoOptions) -> Sampling:
    return Sampling(temperature=0.6, top_p=0.95, seed=options.seed * _SEEDS)


def _count_right(rows: Sequence[Sequence[int | None]], truth: Sequence[Sequence[int]]) -> int:
    return sum(
        got == want for row, day in zip(rows, truth, strict=True) for got, want in zip(row, day, strict=True)
    )
