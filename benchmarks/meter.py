"""Caps hold at the meter, whatever dies: workers share one ledger, and the upstream counts by itself.

Eight worker processes run tasks (organisation, key with a daily window, task, sometimes a sub-task) whose
caps are too small for all that they want. Meanwhile, on purpose:

- workers are killed with SIGKILL, in turn at every point between hold, dispatch, receipt and settle, and at
  random moments (`kills_at`); others take over their tasks
- workers are stopped for longer than a lease, and go on (`pauses`)
- replies are dropped, duplicated, delayed and reordered; some calls begin only after their lease (`faults`)
- the store is killed and started again (`outages`); SQLite, which has no server, is locked for as long
- its clock jumps (`clock_jumps`): SQLite's through the clocks of some workers, by 400 days ahead and an hour
  back, until they are put right; a server's own clock can't be moved from here, so the latest time that its
  ledger remembers is, by two leases

Then, after a sweep, the ledger is held against the meter:

    cap_violations      calls after whose count some account was over its cap: the meter's own judgement
    ledger_below_meter  accounts for which the ledger says that less was spent than the meter counted
    stranded            holds that still live after lease and grace
    double_terminal     holds of which the store told two different ends

The variants other than `sound` are wrong on purpose (`_meter_variants.py`); for them the exit status is 0 if
the meter caught them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from itertools import cycle, pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from _meter_plan import JUMP, LEASE, caps, tasks
from _meter_upstream import day, recount, report, serve
from _meter_variants import BREAKS, WRONG
from _meter_worker import POINTS, make_store, work
from _servers import PostgresServer, RedisServer

from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount
from elastic_agent.scheduler.ledger.stores.protocol import Store

WORKERS, AT_ONCE = 8, 3
WRONG_CLOCKS = (400 * 86400.0, -3600.0)
GRACE = 1.0  # seconds after a lease's end in which a sweep must have ended the hold


class Ledger:
    """The store's place: its server or file, its outages, its clock."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._server = {"postgres": PostgresServer, "redis": RedisServer}.get(kind, lambda: None)()
        self.url = self._server.url if self._server else str(folder / "ledger.db")

    def __enter__(self) -> Ledger:
        if self._server:
            self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.remove()

    def outage(self) -> None:
        """SIGKILL and a start; a file is locked against everybody."""
        if self._server:
            self._server.kill()
            time.sleep(0.5)
            self._server.start()
            return
        with sqlite3.connect(self.url, timeout=30, isolation_level=None) as file:
            file.execute("BEGIN IMMEDIATE")
            time.sleep(1.5 * LEASE)
            file.execute("ROLLBACK")
        file.close()

    def jump(self) -> bool:
        """As if a server's clock had gone ahead and come back. False: it is away just now."""
        try:
            if self.kind == "redis":
                import redis

                with redis.Redis.from_url(self.url) as client:
                    client.hset("{elastic}", "clock", round((time.time() + JUMP) * 1e6))
            elif self.kind == "postgres":
                import psycopg

                with psycopg.connect(self.url) as connection:
                    connection.execute("UPDATE elastic_ledger SET latest = %s", [time.time() + JUMP])
        except Exception as error:  # each driver has its own
            print(f"the ledger is away: {type(error).__name__}", file=sys.stderr)
            return False
        return True


class Run:
    """Gives out tasks and deaths until all tasks are done."""

    def __init__(self, ledger: Ledger, options: argparse.Namespace, port: int, folder: Path) -> None:
        self._ledger, self._options, self._port, self._folder = ledger, options, port, folder
        self._processes = multiprocessing.get_context("forkserver")
        self._todo = deque((n, 0) for n in range(options.tasks))
        self._draw = random.Random(options.seed)
        self._deaths = cycle((*POINTS, "any moment"))
        self._ordered = 0
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self.done: set[int] = set()
        self.kills_at: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        troubles = [
            asyncio.create_task(trouble) for trouble in (self._pauses(), self._outages(), self._jumps())
        ]
        async with asyncio.TaskGroup() as workers:
            for index in range(WORKERS):
                workers.create_task(self._worker(index))
        for trouble in troubles:
            trouble.cancel()
        for trouble in await asyncio.gather(*troubles, return_exceptions=True):
            if isinstance(trouble, Exception):
                raise trouble

    @property
    def progress(self) -> float:
        return len(self.done) / self._options.tasks

    async def _worker(self, index: int) -> None:
        """One place: a process, and the next when it has died, until nothing is left to do."""
        generation = 0
        while self.progress < 1:
            generation += 1
            ours, theirs = self._processes.Pipe()
            name = f"{index}.{generation}"
            options = self._options
            process = self._processes.Process(
                target=work,
                args=(
                    (options.tasks, options.seed),
                    theirs,
                    options.store,
                    self._ledger.url,
                    options.variant,
                    self._port,
                    self._folder / f"journal-{name}",
                    f"{options.seed}.{name}",
                ),
            )
            await asyncio.to_thread(process.start)
            theirs.close()
            self._workers[index] = process, ours
            await self._serve(process, ours)
            del self._workers[index]
            await asyncio.to_thread(process.join)
            ours.close()

    async def _serve(self, process: BaseProcess, line: Connection) -> None:
        """Keep one process busy until it dies, or all is done."""
        mine: dict[int, int] = {}
        death: str | None = None
        said: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                while line.poll():
                    said.put_nowait(line.recv())
            except (EOFError, OSError):
                loop.remove_reader(line.fileno())
                said.put_nowait(("dead",))

        loop.add_reader(line.fileno(), read)
        while self.progress < 1:
            try:
                while self._todo and len(mine) < AT_ONCE:
                    n, attempt = self._todo.popleft()
                    mine[n] = attempt
                    line.send(("task", n, attempt))
                if death is None and self._due():
                    death = next(self._deaths)
                    self._ordered += 1
                    if death == "any moment":
                        loop.call_later(self._draw.uniform(0, 0.5), process.kill)
                    else:
                        line.send(("die", death))
                message = await asyncio.wait_for(said.get(), 0.2)
            except TimeoutError:
                continue
            except OSError:
                message = ("dead",)
            match message:
                case ("done", n):
                    self.done.add(n)
                    mine.pop(n)
                case ("refused",):
                    self.counts["refused"] += 1
                case ("failed", why):
                    raise RuntimeError(f"a worker failed: {why}")
                case ("dead",):
                    if death is None:
                        raise RuntimeError("a worker died that nobody killed")
                    self.kills_at[death] += 1
                    self._todo.extend((n, attempt + 1) for n, attempt in mine.items())
                    return
        loop.remove_reader(line.fileno())
        process.kill()

    def _due(self) -> bool:
        """Kills keep pace with the tasks, and are through a little before them."""
        return self._ordered < self._options.kills * min(1.0, self.progress / 0.9)

    async def _pauses(self) -> None:
        """Stop one worker for longer than a lease, again and again."""
        while True:
            await asyncio.sleep(self._draw.uniform(0.2, 0.6) * LEASE)
            process, _ = self._draw.choice([*self._workers.values()] or [(None, None)])
            if process is None or not process.is_alive():
                continue
            try:
                process_signal(process, signal.SIGSTOP)
                self.counts["pauses"] += 1
                await asyncio.sleep(self._draw.uniform(1.1, 1.8) * LEASE)
            finally:
                process_signal(process, signal.SIGCONT)

    async def _outages(self) -> None:
        for moment in (0.2, 0.5, 0.8):
            await self._until(moment)
            await asyncio.to_thread(self._ledger.outage)
            self.counts["outages"] += 1

    async def _jumps(self) -> None:
        for moment in (0.1, 0.35, 0.65, 0.9):
            await self._until(moment)
            if self._ledger.kind == "sqlite":
                lines = [line for _, line in self._workers.values()][: len(WRONG_CLOCKS)]
                for line, seconds in zip(lines, WRONG_CLOCKS, strict=False):
                    with suppress(OSError):  # its worker was killed meanwhile
                        line.send(("jump", seconds))
                await asyncio.sleep(1.5 * LEASE)
                for line in lines:
                    with suppress(OSError):
                        line.send(("jump", 0.0))
            else:
                while not await asyncio.to_thread(self._ledger.jump):  # noqa: ASYNC110  (until it is back)
                    await asyncio.sleep(0.1)
            self.counts["clock_jumps"] += 1

    async def _until(self, moment: float) -> None:
        while self.progress < moment:  # noqa: ASYNC110  (many move it; looked at now and then)
            await asyncio.sleep(0.1)


def process_signal(process: BaseProcess, number: int) -> None:
    """A signal, if it is still there."""
    import os

    try:
        if process.pid is not None:
            os.kill(process.pid, number)
    except ProcessLookupError:
        pass


async def judge(
    store: Store, metered: dict[str, list[int]], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The ledger against the meter, once everything has come to its end."""
    ends: dict[str, set[tuple[str, ...]]] = {}
    for journal in folder.glob("journal-*"):  # noqa: ASYNC240  (nothing else runs by now)
        for line in journal.read_text().splitlines():
            key, *end = line.split("\t")
            ends.setdefault(key, set()).add(tuple(end))
    await asyncio.sleep(LEASE + GRACE + JUMP)  # time stood still for as long as the clock had jumped
    await store.expire()
    stranded = 0
    for hold in await store.holds():
        if hold.state is HoldState.LIVE:
            stranded += 1
        else:
            end = (str(hold.state), str(hold.charged.tokens), str(hold.charged.nano))
            ends.setdefault(hold.key, set()).add(end)
    spent: dict[str, Amount] = {}
    parents: dict[str, str] = {}
    for task in tasks(options.tasks, options.seed):
        levels = await store.read_accounts(task.account)
        spent |= {level.spec.id: level.spent for level in levels}
        parents |= {below.spec.id: above.spec.id for below, above in pairwise(levels)}
    below = [
        account
        for account, (tokens, nano) in metered.items()
        if spent[account].tokens < tokens or spent[account].nano < nano
    ]
    children: dict[str, Amount] = {}
    for account, parent in parents.items():
        children[parent] = children.get(parent, NOTHING) + spent[account]
    outgrown = [account for account, total in children.items() if total.max(spent[account]) != spent[account]]
    try:
        await store.check()
        law = ""
    except AssertionError as error:
        law = str(error)
    return {
        "ledger_below_meter": len(below),
        "stranded": stranded,
        "double_terminal": sum(len(told) > 1 for told in ends.values()),
        "children_over_parents": len(outgrown),
        "check": law,
        "holds": len(ends),
        "spent_tokens": sum(amount.tokens for account, amount in spent.items() if "/" not in account),
    }


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run, from start to judgement."""
    started, today = time.monotonic(), day()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["_meter_worker", "elastic_agent.scheduler.ledger.stores." + options.store]
    )
    count = folder / "upstream"
    ours, theirs = context.Pipe()
    plan = tasks(options.tasks, options.seed)
    upstream = context.Process(target=serve, args=(theirs, count, caps(plan), options.seed), daemon=True)
    upstream.start()
    port = await asyncio.to_thread(ours.recv)
    with Ledger(options.store, folder) as ledger:
        run = Run(ledger, options, port, folder)
        await run.run()
        metered = await report(port)
        upstream.kill()
        if recount(count) != metered["usage"]:
            raise RuntimeError("the upstream's file and its memory differ: its count is not to be trusted")
        store = make_store(options.store, ledger.url)
        found = await judge(store, metered["usage"], folder, options)
        await store.aclose()
    if day() != today:
        raise RuntimeError(
            "the run saw two days, its accounts with a daily window can't be judged: run it again"
        )
    return {
        "store": options.store,
        "variant": options.variant,
        "tasks": len(run.done),
        "kills": run.kills_at.total(),
        "cap_violations": metered["violations"],
        **found,
        "metered_tokens": sum(usage[0] for name, usage in metered["usage"].items() if "/" not in name),
        "calls": metered["served"],
        "faults": metered["faults"],
        **{key: run.counts[key] for key in ("refused", "pauses", "outages", "clock_jumps")},
        "kills_at": dict(run.kills_at),
        "seconds": round(time.monotonic() - started),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", choices=("sqlite", "postgres", "redis"), default="sqlite")
    parser.add_argument("--variant", choices=("sound", *WRONG), default="sound")
    parser.add_argument("--tasks", type=int, help="default: 2,000; quick: 150")
    parser.add_argument("--kills", type=int, help="default: 220; quick: 22")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="the last line of the output is one JSON object")
    options = parser.parse_args()
    options.tasks = options.tasks or (150 if options.quick else 2000)
    options.kills = (22 if options.quick else 220) if options.kills is None else options.kills
    return options


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="elastic-meter-") as folder:
        result = asyncio.run(measure(options, Path(folder)))
    wrong = (
        "cap_violations",
        "ledger_below_meter",
        "stranded",
        "double_terminal",
        "children_over_parents",
        "check",
    )
    if options.variant == "sound":
        good = not any(result[key] for key in wrong)
        verdict = "every cap held at the meter" if good else "BROKEN"
    else:
        good = all(result[key] for key in BREAKS[options.variant])
        verdict = "caught, as it should be" if good else "NOT CAUGHT"
    for key, value in result.items():
        print(f"{key:20} {value}")
    print(f"{options.store}, {options.variant}: {verdict}")
    if options.json:
        print(json.dumps(result))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
