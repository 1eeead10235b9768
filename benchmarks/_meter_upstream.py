"""The upstream of the meter test: serves calls, and meters by itself what it served.

A process of its own that knows nothing of the ledger. A call is a line of JSON: `{"call", "path", "limit"}`.
It uses its whole limit more often than not, and is counted, on the disk, before the reply leaves. At each
count the meter compares every account of the path with its cap. Replies are dropped, sent twice, and delayed,
so that they arrive out of order; some calls begin only when their lease is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _meter_plan import LEASE, PRICE

Caps = dict[str, tuple[int | None, int | None]]


class Upstream:
    """The server and its meter."""

    def __init__(self, count: Path, caps: Caps, seed: int) -> None:
        self._count = count.open("ab", buffering=0)
        self._caps, self._draw = caps, random.Random(seed)
        self._uncommitted: list[tuple[bytes, asyncio.Future[None]]] = []
        self._work = asyncio.Event()
        self._busy: set[asyncio.Task[None]] = set()
        self.usage: dict[str, list[int]] = {}
        self.faults: Counter[str] = Counter()
        self.served = self.violations = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await _line(reader):
            call = json.loads(line)
            if call == "report":
                await asyncio.gather(*self._busy)
                report = {key: getattr(self, key) for key in ("usage", "faults", "served", "violations")}
                writer.write(json.dumps(report).encode() + b"\n")
                continue
            task = asyncio.create_task(self._serve(call, writer))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)
        writer.close()

    async def _serve(self, call: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        draw = self._draw
        late = draw.random() < 0.03
        self.faults["served_late"] += late
        await asyncio.sleep(draw.uniform(LEASE, 2 * LEASE) if late else draw.uniform(0.002, 0.05))
        used = call["limit"] if draw.random() < 0.6 else draw.randint(1, call["limit"])
        await self._meter(call, used)
        if draw.random() < 0.05:
            self.faults["dropped"] += 1
            return
        copies = 2 if draw.random() < 0.08 else 1
        self.faults["duplicated"] += copies - 1
        for _ in range(copies):
            delayed = draw.random() < 0.1
            self.faults["delayed"] += delayed
            await asyncio.sleep(draw.uniform(0.1, 1.5 * LEASE) if delayed else 0)
            writer.write(json.dumps({"call": call["call"], "used": used}).encode() + b"\n")

    async def _meter(self, call: dict[str, Any], used: int) -> None:
        """Count it, durably, and judge."""
        line = json.dumps([call["call"], call["path"], used]).encode() + b"\n"
        counted = asyncio.get_running_loop().create_future()
        self._uncommitted.append((line, counted))
        self._work.set()
        await counted
        self.served += 1
        over = False
        for account in call["path"]:
            usage = self.usage.setdefault(account, [0, 0])
            usage[0] += used
            usage[1] += used * PRICE
            over |= any(
                cap is not None and u > cap for u, cap in zip(usage, self._caps[account], strict=True)
            )
        self.violations += over

    async def commit(self) -> None:
        """Write what waits and sync it, all calls of a moment at once."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._uncommitted = self._uncommitted, []
            self._count.write(b"".join(line for line, _ in batch))
            await asyncio.to_thread(os.fdatasync, self._count.fileno())
            for _, counted in batch:
                counted.set_result(None)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next one; nothing where the worker is gone, perhaps in the middle of it."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""


def serve(port: Connection, count: Path, caps: Caps, seed: int) -> None:
    """The process: says its port, then serves until it is killed."""

    async def main() -> None:
        upstream = Upstream(count, caps, seed)
        server = await asyncio.start_server(upstream.connected, "127.0.0.1", 0)
        committing = asyncio.create_task(upstream.commit())
        port.send(server.sockets[0].getsockname()[1])
        await committing

    asyncio.run(main())


async def report(port: int) -> dict[str, Any]:
    """What it has metered, once it has served all that it was asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**26)
    writer.write(b'"report"\n')
    found: dict[str, Any] = json.loads(await reader.readline())
    writer.close()
    return found


def recount(count: Path) -> dict[str, list[int]]:
    """The same from the disk."""
    usage: dict[str, list[int]] = {}
    for line in count.read_bytes().splitlines():
        _, path, used = json.loads(line)
        for account in path:
            sums = usage.setdefault(account, [0, 0])
            sums[0] += used
            sums[1] += used * PRICE
    return usage


def day() -> int:
    """The UTC day: a run that sees two of them can't compare the accounts with a daily window."""
    return int(time.time() // 86400)
