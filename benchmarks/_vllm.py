"""What the vLLM benchmarks share: a server, its own counters, and a client.

The server is one of ours for as long as the benchmark runs (`elastic_agent.backends.vllm.process`), or the
one that --base-url names; then the counters are right only while nobody else uses it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from elastic_agent.backends.vllm.process import VllmProcess, vllm_python
from elastic_agent.backends.vllm.server import VllmServerBackend

MODEL = "e1-tiny"
OPTIONS = ("--max-model-len=1024", "--max-num-seqs=64")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that all of them have."""
    made = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    made.add_argument("--quick", action="store_true", help="fewer calls: under a minute, beside the start")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--model", default=MODEL, help=f"what is served (default {MODEL})")
    made.add_argument("--base-url", metavar="URL", help="a vLLM server that runs, idle but for us")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--native", action="store_true", help="the engine holds the limits, in one pass")
    return made


def needs_vllm() -> None:
    """Ends the program, with status 0, where there is no vLLM: `make bench` goes on without."""
    if vllm_python() is None:
        print("skipped: no vLLM here (make vllm)")
        raise SystemExit(0)


@contextmanager
def served(args: argparse.Namespace, options: Sequence[str] = OPTIONS) -> Iterator[str]:
    """The base URL of the server that --base-url names, or of one that is started and stopped here."""
    if args.base_url:
        yield args.base_url.rstrip("/")
        return
    needs_vllm()
    log = Path(f"/tmp/elastic-vllm-{args.seed}.log")
    with VllmProcess(args.model, options, native=args.native, log=log, environment=ENVIRONMENT) as server:
        yield server.base_url


@dataclass(frozen=True)
class Counters:
    """What `/metrics` says, summed over engines; the first four count up from the server's start."""

    prompt: int
    output: int
    cache_queries: int
    cache_hits: int
    running: int
    waiting: int

    def since(self, before: Counters) -> Counters:
        return Counters(
            self.prompt - before.prompt,
            self.output - before.output,
            self.cache_queries - before.cache_queries,
            self.cache_hits - before.cache_hits,
            self.running,
            self.waiting,
        )


_NAMES = (
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)


async def counters(base_url: str, session: aiohttp.ClientSession) -> Counters:
    """The server's own counters, now."""
    async with session.get(f"{base_url.removesuffix('/v1')}/metrics") as response:
        lines = (await response.text()).splitlines()
    sums = dict.fromkeys(_NAMES, 0.0)
    for line in lines:
        name = line.partition("{")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
    return Counters(*(int(sums[name]) for name in _NAMES))


async def idle(base_url: str, session: aiohttp.ClientSession, seconds: float = 60.0) -> Counters:
    """The counters when nothing runs or waits, and nothing has changed since they were last asked for."""
    async with asyncio.timeout(seconds):
        now = await counters(base_url, session)
        while True:
            before, now = now, await counters(base_url, session)
            if not now.running and not now.waiting and now == before:
                return now
            await asyncio.sleep(0.05)


async def backend(args: argparse.Namespace, base_url: str) -> VllmServerBackend:
    """A client of the server, warmed up (a first short prompt can kill a CPU worker)."""
    client = VllmServerBackend(args.model, base_url, native=args.native)
    await client.ready()
    if args.native and client.two_passes:
        raise SystemExit(f"{base_url} does not hold limits: {client.two_passes}")
    return client
