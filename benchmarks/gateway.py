"""What the gateway adds to a request, beside LiteLLM's proxy with a budget on, in front of the same upstream.

    python benchmarks/gateway.py [--quick] [--json] [--memory] [--workers N]

Three ways to the same fast upstream (`_gateway_upstream.py`) in one run on one machine: straight, through
`elastic-agent serve` with keys, caps and an SQLite ledger, and through LiteLLM's proxy (`make litellm`) with
a key that has a budget. They take turns, in rounds, so that other work on the machine meets all of them. Each
request is a chat completion, not streamed. Ours is measured twice: as it comes, when each request is two
passes over the upstream (thinking, solution), and with thinking off, one pass like the others'.

LiteLLM has no database here, so its key's budget is checked, reserved and accounted in memory; ours is held
and settled in a file that survives a crash.

With --memory 50,000 requests go through ours, and its resident memory is read after 10,000 and at the end.

With --json the last line of stdout is one JSON object:
    concurrency   n -> direct_p50_ms, direct_p99_ms, direct_rps, and the same for ours, ours_one_pass and
                  litellm; added_p50_ms: by name, above direct
    workers       rps of ours with one worker and with --workers N, 64 at once, their ratio, and the processor
                  time of a request in each; the generator and the upstream need processors of their own: on
                  fewer than N + 2 the ratio says little
    memory        requests -> MiB (with --memory)
    litellm_version, and `violations`: requests that were not answered as they should have been
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp

from benchmarks._gateway_upstream import ANSWER, MODEL
from benchmarks._litellm import NoLiteLLMError, litellm_python
from elastic_agent.backends.vllm.server_process import free_port

HERE = Path(__file__).resolve().parent
QUESTION = [{"role": "user", "content": "Ann has 3 apples and buys 4 more. How many has she?"}]


@dataclass
class Way:
    """One way to the upstream."""

    name: str
    url: str
    key: str = "none"
    extra: tuple[tuple[str, Any], ...] = ()

    def body(self) -> dict[str, Any]:
        return {"model": MODEL, "messages": QUESTION, "max_tokens": 64, **dict(self.extra)}


@contextmanager
def running(
    command: Sequence[str | Path], ready: str, seconds: float = 120, **how: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers until it is ended."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **how)
        try:
            asyncio.run(_wait(ready, process, seconds))
            yield process
        except RuntimeError:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _wait(url: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until and process.poll() is None:
            try:
                async with session.get(url) as response:
                    if response.status < 500:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} did not answer")


async def load(way: Way, requests: int, concurrency: int) -> tuple[list[float], float, int]:
    """(milliseconds of each request, requests a second, how many were not answered as they should be)."""
    body, found, wrong = json.dumps(way.body()).encode(), list[float](), 0
    headers = {"Authorization": f"Bearer {way.key}", "Content-Type": "application/json"}
    left = iter(range(requests))
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def work() -> None:
            nonlocal wrong
            for _ in left:
                start = time.perf_counter()
                async with session.post(f"{way.url}/chat/completions", data=body) as response:
                    said = await response.read()
                found.append(1000 * (time.perf_counter() - start))
                if response.status != 200 or f'"{ANSWER}"'.encode() not in said:
                    wrong += 1
                    if wrong == 1:
                        print(f"{way.name}: {response.status} {said[:500]!r}", file=sys.stderr)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return found, requests / (time.perf_counter() - began), wrong


def compare(ways: Sequence[Way], concurrency: int, requests: int, rounds: int) -> tuple[dict[str, Any], int]:
    """Latencies and throughput of each way, in turns; and the requests that went wrong."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    wrong = 0
    for way in ways:
        asyncio.run(load(way, max(20, concurrency), concurrency))  # warm
    for _ in range(rounds):
        for way in ways:
            found, rate, bad = asyncio.run(load(way, requests // rounds, concurrency))
            times[way.name] += found
            rates[way.name].append(rate)
            wrong += bad
    row: dict[str, Any] = {}
    for name, found in times.items():
        cuts = quantiles(found, n=100)
        row |= {f"{name}_p50_ms": round(cuts[49], 3), f"{name}_p99_ms": round(cuts[98], 3)}
        row[f"{name}_rps"] = round(median(rates[name]), 1)
    direct = row["direct_p50_ms"]
    row["added_p50_ms"] = {
        name: round(row[f"{name}_p50_ms"] - direct, 3) for name in times if name != "direct"
    }
    return row, wrong


def resident(pid: int) -> float:
    """MiB of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError("no VmRSS")


def measure(quick: bool, memory: bool, workers: int) -> dict[str, Any]:
    """All of it."""
    found: dict[str, Any] = {"concurrency": {}, "violations": 0}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = f"http://127.0.0.1:{(port := free_port())}/v1"
        stack.enter_context(
            running([sys.executable, HERE / "_gateway_upstream.py", str(port)], f"{upstream}/models")
        )
        ways = [Way("direct", upstream)]
        serving, key, url = _ours(folder, upstream, stack)
        ways.append(Way("ours", url, key))
        ways.append(Way("ours_one_pass", url, key, (("thinking_budget", 0),)))
        try:
            ways.append(Way("litellm", _litellm(folder, upstream, stack), "sk-" + "a" * 40))
            found["litellm_version"] = _litellm_version()
        except NoLiteLLMError as error:
            print(f"litellm: {error}")
        for concurrency, requests in ((1, 300), (64, 1280)) if quick else ((1, 2000), (64, 12_800)):
            row, wrong = compare(ways, concurrency, requests, 3 if quick else 5)
            found["concurrency"][str(concurrency)] = row
            found["violations"] += wrong
            print(f"{concurrency} at once: {row}", flush=True)
        if workers > 1:
            parent, key, url = _ours(folder, upstream, stack, workers)
            both = ((ways[1], serving.pid), (Way("workers", url, key), parent.pid))
            found["workers"], wrong = scaling(both, 3 if quick else 5)
            found["violations"] += wrong
            print(f"{workers} workers: {found['workers']}; {os.cpu_count()} processors", flush=True)
        if memory:
            ours, sizes = ways[1], {}
            for sofar in (10_000, 20_000, 30_000, 40_000, 50_000):
                _, _, wrong = asyncio.run(load(ours, 10_000, 32))
                found["violations"] += wrong
                sizes[str(sofar)] = resident(serving.pid)
                print(f"{sofar:,} requests: {sizes[str(sofar)]} MiB", flush=True)
            found["memory"] = sizes
    return found


def scaling(ways: Sequence[tuple[Way, int]], rounds: int) -> tuple[dict[str, float], int]:
    """Two ways with their processes, 64 at once, in turns; and the requests that went wrong.

    Requests a second say what the machine has room for, processor time a request what sharing a ledger costs.
    """
    rates: list[list[float]] = [[], []]
    times: list[list[float]] = [[], []]
    wrong = 0
    for turn in range(rounds + 1):  # the first warms
        for at, (way, pid) in enumerate(ways):
            before = processor_seconds(pid)
            _, rate, bad = asyncio.run(load(way, 1280, 64))
            wrong += bad
            if turn:
                rates[at].append(rate)
                times[at].append(1000 * (processor_seconds(pid) - before) / 1280)
    (one, many), (one_ms, many_ms) = map(median, rates), map(median, times)
    return {
        "one_rps": round(one, 1),
        "many_rps": round(many, 1),
        "ratio": round(many / one, 2),
        "one_cpu_ms": round(one_ms, 2),
        "many_cpu_ms": round(many_ms, 2),
    }, wrong


def processor_seconds(pid: int) -> float:
    """What a process and its children have computed."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if pid in (int(folder.name), int(fields[1])):
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _ours(
    folder: Path, upstream: str, stack: ExitStack, workers: int = 1
) -> tuple[subprocess.Popen[bytes], str, str]:
    """Our gateway, with keys that have caps, on an SQLite ledger; (process, key, URL)."""
    command = [sys.executable, "-m", "elastic_agent.integrations.commands.main"]
    store = str(folder / f"gateway-{workers}.db")
    made = subprocess.run(
        [*command, "keys", "create", "bench", "--usd", "1000", "--ledger", store],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    serve = [*command, "serve", "--upstream", f"{MODEL}={upstream}", "--ledger", store, "--port", str(port)]
    serve += ["--workers", str(workers)]
    process = stack.enter_context(running([*serve, "--quiet"], f"http://127.0.0.1:{port}/ready"))
    return process, made.stdout.split()[-1], url


def _litellm(folder: Path, upstream: str, stack: ExitStack) -> str:
    """LiteLLM's proxy; its URL.

    Raises:
        NoLiteLLMError: it isn't installed.
    """
    python = litellm_python()
    (folder / "_gateway_litellm.py").write_text((HERE / "_gateway_litellm.py").read_text())
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": upstream,
                    "api_key": "none",
                    "input_cost_per_token": 5e-7,
                    "output_cost_per_token": 2e-6,
                },
            }
        ],
        "general_settings": {
            "master_key": "sk-" + "m" * 48,
            "custom_auth": "_gateway_litellm.auth",
            "custom_auth_run_common_checks": True,
        },
        "litellm_settings": {"callbacks": ["_gateway_litellm.tracker"]},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    port = free_port()
    command = [
        python.parent / "litellm",
        "--config",
        "config.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    stack.enter_context(
        running(command, f"http://127.0.0.1:{port}/health/liveliness", cwd=folder, env=environment)
    )
    return f"http://127.0.0.1:{port}/v1"


def _litellm_version() -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    done = subprocess.run([litellm_python(), "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--memory", action="store_true", help="50,000 requests more, and what ours holds")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="and ours with N workers")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    args = parser.parse_args()
    found = measure(args.quick, args.memory, args.workers)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
