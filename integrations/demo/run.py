"""The demo from start to end: the agent under caps, then the same work under one fixed `max_tokens`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
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
from elastic_agent.scheduler import BudgetScheduler, Price
from elastic_agent.scheduler.ledger.prices import find_price, require_price
from elastic_agent.scheduler.runlog.events import RunLog

from ..langchain import ChatElasticReasoning
from .agent import EMPTY, State, answer_of, build_agent, row_of
from .board import Board
from .display import comparison, results, screen
from .practice import FixedCap
from .problems import SHOP_WEEK, Day, count_kinds, load_days

DEFAULT_CAPS = Caps(usd="0.02", seconds=60)
_FRAMES = 8  # a second
_WIDTH = 104  # where there is no terminal to ask


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says; None is the default of each."""

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


def run_demo(options: DemoOptions) -> int:
    """Run it; returns the exit status: 0 when every problem was answered within the caps, else 1.

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


async def _demo(
    options: DemoOptions, days: list[Day], caps: Caps, backend: Backend, console: Console
) -> dict[str, Any]:
    kinds = count_kinds(days)
    try:
        log = RunLog(options.log)
    except OSError as error:
        raise ValueError(f"can't write the log {options.log} ({error.strerror}): use --log FILE") from error
    board = Board(caps, sum(kinds.values()), log)
    try:
        await backend.ready()
        price = find_price(backend.model, own=options.price)
        if caps.usd is not None:
            require_price(price, backend.model)
        known = price or Price("0", "0")
        clock = asyncio.get_running_loop().time
        start = clock()
        ours, calls, forced, spent = await elastic_run(options, days, caps, backend, board, console, price)
        ours_seconds = clock() - start
        prompts = [len(prompt_ids(backend, text)) for day in days for c in day.chains for text in c.steps]
        fixed = FixedCap(backend, caps, board.total, max(prompts) + 8, known, _sampling(options))
        console.print(
            f"\nNow the practice it replaces: the same problems and caps, one max_tokens={fixed.max_tokens} "
            f"for each call, thinking and solution in one …"
        )
        theirs: State = EMPTY
        start = clock()
        with suppress(TimeoutError):
            async with asyncio.timeout(caps.seconds):
                theirs = await build_agent(days, fixed.ask).ainvoke(EMPTY, {"max_concurrency": 64})
        theirs_seconds = clock() - start
    finally:
        board.log.close()
        await backend.aclose()
    rows = [_row(days, state) for state in (ours, theirs)]
    truth = [[*(c.answers[-1] for c in day.chains), day.answer] for day in days]
    right = [_count(row, truth) for row in rows]
    answered = [sum(a is not None for day in row for a in day) for row in rows]
    problems = sum(map(len, truth))
    console.print(results(days, *rows))
    fixed_usd = to_usd(known.charge(fixed.usage))
    console.print(
        comparison(
            [
                ("right answers", f"{right[0]} of {problems}", f"{right[1]} of {problems}"),
                ("answered", f"{answered[0]} of {problems}", f"{answered[1]} of {problems}"),
                ("spent", f"${spent['usd']:.6f}", f"${fixed_usd:.6f}"),
                ("tokens generated", f"{spent['tokens']:,}", f"{fixed.usage.generated:,}"),
                ("seconds", f"{ours_seconds:.1f}", f"{theirs_seconds:.1f}"),
                ("calls", str(calls), str(fixed.made)),
            ]
        )
    )
    if answered[0] < problems:
        console.print(
            f"{problems - answered[0]} of {problems} problems have no answer: the caps are too small for all "
            f"{board.total} calls. Raise --usd, --tokens or --seconds."
        )
    console.print(f"Every decision and its reason: elastic-agent report {options.log} --why", style="dim")
    return {
        "caps": {"usd": _float(caps.usd), "seconds": caps.seconds, "tokens": caps.tokens},
        "spent": spent | {"seconds": round(ours_seconds, 3)},
        "problems": problems,
        "answered": answered[0],
        "right": right[0],
        "fixed_cap_right": right[1],
        "calls": calls,
        "forced_closes": forced,
    }


async def elastic_run(
    options: DemoOptions,
    days: list[Day],
    caps: Caps,
    backend: Backend,
    board: Board,
    console: Console,
    price: Price | None,
) -> tuple[State, int, int, dict[str, Any]]:
    """The agent under the scheduler: its answers, calls, forced closes, and what it spent."""
    solution = options.solution
    if solution is None:
        solution = 96 if options.model in embedded_models() else 512
    llm = ChatElasticReasoning(backend=backend, solution_budget=solution, price=price)
    sampling = _sampling(options)
    last = f"{days[-1].name} / total"
    seeds = iter(range(options.seed * 1_000_000, 1 << 62))

    async def ask(label: str, text: str, kind: str) -> int | None:
        options = {"kind": kind, "final": label == last}
        answer = await ask_once(label, text, **options)
        for times, again in ((2, "again"), (4, "once more")):
            if answer is None:  # its solution was cut: what other calls gave back may pay for a longer one
                task.expect({kind: 1})
                answer = await ask_once(
                    f"{label}, {again}", text, solution_budget=times * solution, **options
                )
        return answer

    async def ask_once(label: str, text: str, **options: Any) -> int | None:
        options |= {"label": label, "seed": next(seeds)}
        try:
            message = await llm.ainvoke(text, temperature=sampling.temperature, **options)
        except CapExceededError:
            if not board.granted:
                raise  # the caps hold not even one answer
            return None  # the log says why; the other branches go on
        cut = message.response_metadata["budget"]["solution_end"] in ("length", "deadline")
        answer = board.rows[label].answer = answer_of(str(message.text), cut=cut)
        return answer

    graph = build_agent(days, ask)
    chains = sum(len(day.chains) for day in days)
    title = f"a shop's week: {chains} chains in {len(days)} days, {board.total} calls of {backend.model}"
    scheduler = BudgetScheduler(backend, price=price, log=[board.log, board.event])
    opened = asyncio.get_running_loop().time()

    def show() -> Any:
        elapsed = asyncio.get_running_loop().time() - opened
        size = {"width": console.width, "height": console.height if console.is_terminal else 40}
        return screen(title, board.bars(elapsed), board.order(), board.total, **size)

    task = scheduler.task(caps, name="shop week", expect=count_kinds(days), final_solution=solution)
    async with _shown(console, show, live=console.is_terminal and not options.json), scheduler:
        async with task:
            state: State = await graph.ainvoke(EMPTY, {"max_concurrency": 64})
        report = task.report()
    calls = [call for call in report.calls if call.outcome != "refused"]
    spent = {"usd": float(report.spent.usd or 0), "tokens": report.spent.tokens or 0}
    return state, len(calls), sum(call.usage.forced > 0 for call in calls), spent


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
    return Sampling(temperature=0.6, top_p=0.95, seed=options.seed * 1_000_000)


def _row(days: Sequence[Day], state: State) -> list[list[int | None]]:
    return [row_of(state, d, day) for d, day in enumerate(days)]


def _count(rows: Sequence[Sequence[int | None]], truth: Sequence[Sequence[int]]) -> int:
    return sum(
        got == want for row, day in zip(rows, truth, strict=True) for got, want in zip(row, day, strict=True)
    )


def _float(value: Decimal | float | int | str | None) -> float | None:
    return None if value is None else float(value)
