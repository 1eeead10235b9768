"""Hostile requests at the gateway, beside a bystander who asks once a second.

    python benchmarks/hostile.py [--quick] [--json]

A gateway with keys, an SQLite ledger and its watchdog stands before an upstream that takes as long as a small
engine does. A bystander asks it once a second, first alone. Then an attacker with a key of its own
(`_hostile_client.py`) sends 20,000 requests at a steady pace, all over loopback: bodies that are none or cost
more than they should, schemas that would stop an engine, numbers without end, malformed headers, what is no
HTTP, connections that idle, drip, are half closed, pipelined, never read or left in the middle of a call.

With --json the last line of stdout is one JSON object:
    requests, stalls_over_100ms (times that the gateway's loop stood still, by its watchdog), 5xx (of the
    attacker and of the bystander), engine_deaths, gateway_deaths, rss_growth_mb (of the gateway, from before
    the attack to its end), bystander_{alone,beside}_{p50,p99}_ms, bystander_failed, statuses (0: no answer)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from benchmarks._gateway_upstream import MODEL
from benchmarks.gateway import resident, running
from elastic_agent.backends.vllm.server_process import free_port

HERE = Path(__file__).resolve().parent
PASS_SECONDS = 0.15
PER_SECOND = 80
QUESTION = [{"role": "user", "content": "A shop has 37 pens . #1 It sells 12 . How many pens are left ?"}]


async def bystand(url: str, key: str, seconds: float, attack: subprocess.Popen[str] | None) -> list[Any]:
    """(milliseconds, status) of a question a second, for so long, or until the attack ends."""
    found: list[Any] = []
    until = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask() -> None:
            began, status = time.perf_counter(), 0
            try:
                body = {"messages": QUESTION, "max_tokens": 40}
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    await response.read()
                    status = response.status
            except (aiohttp.ClientError, OSError):
                pass
            found.append((1000 * (time.perf_counter() - began), status))

        asked = []
        while time.monotonic() < until and (attack is None or attack.poll() is None):
            asked.append(asyncio.ensure_future(ask()))
            await asyncio.sleep(1.0)
        await asyncio.gather(*asked)
    return found


def measure(requests: int, alone: float) -> dict[str, Any]:
    """All of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, engine_port = free_port(), free_port()
        upstream = f"http://127.0.0.1:{engine_port}/v1"
        command = [sys.executable, "-m", "elastic_agent.integrations.commands.main"]
        ledger = str(folder / "gateway.db")
        keys = [
            subprocess.run(
                [*command, "keys", "create", name, "--tokens", "100000000", "--ledger", ledger],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout.split()[-1]
            for name in ("bystander", "mallory")
        ]
        engine = stack.enter_context(
            running(
                [sys.executable, HERE / "_gateway_upstream.py", str(engine_port), str(PASS_SECONDS)],
                f"{upstream}/models",
            )
        )
        said = folder / "said.log"
        gateway = stack.enter_context(_gateway([*command, "serve"], upstream, ledger, port, said))
        url = f"http://127.0.0.1:{port}/v1"
        asyncio.run(bystand(url, keys[0], 3.0, None))  # warm
        before = asyncio.run(bystand(url, keys[0], alone, None))
        _show("alone", before)
        size, started = resident(gateway.pid), len(said.read_bytes())
        attack = subprocess.Popen(
            [
                sys.executable,
                HERE / "_hostile_client.py",
                str(port),
                keys[1],
                str(requests),
                str(PER_SECOND),
                "1",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            during = asyncio.run(bystand(url, keys[0], 3600.0, attack))
            out, _ = attack.communicate(timeout=120)
        finally:
            attack.kill()
        _show("beside", during)
        sent = json.loads(out.splitlines()[-1])
        statuses = {int(status): many for status, many in sent["statuses"].items()}
        gateway_died, engine_died = gateway.poll() is not None, engine.poll() is not None
        grown = 0.0 if gateway_died else resident(gateway.pid) - size
        log = said.read_bytes()[started:].decode(errors="replace")
        stalls = re.findall(r"the loop stood still for \d+ ms: .*(?:\n  .*)*", log)
        for stall in stalls[:10]:
            print(stall, flush=True)
        if len(log) > 200_000 or keys[0] in log or keys[1] in log:
            print(f"the log has {len(log):,} characters; a key is in it: {keys[1] in log}", flush=True)
        failed = sum(status != 200 for _, status in during)
        return {
            "requests": sent["requests"],
            "stalls_over_100ms": len(stalls),
            "5xx": sum(many for status, many in statuses.items() if status >= 500)
            + sum(status >= 500 for _, status in during),
            "engine_deaths": int(engine_died),
            "gateway_deaths": int(gateway_died),
            "rss_growth_mb": round(grown, 1),
            **_times("alone", before),
            **_times("beside", during),
            "bystander_failed": failed,
            "keys_in_log": sum(key in log for key in keys),
            "statuses": statuses,
        }


def _gateway(command: list[str], upstream: str, ledger: str, port: int, said: Path) -> Any:
    """A gateway whose words go to a file."""
    options = ["--upstream", f"{MODEL}={upstream}", "--ledger", ledger, "--port", str(port), "--quiet"]
    line = " ".join([*command, *options, "--watchdog"])
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    shell = ["sh", "-c", f"exec {line} 2>{said}"]
    return running(shell, f"http://127.0.0.1:{port}/ready", env=environment)


def _times(when: str, found: list[Any]) -> dict[str, float]:
    times = sorted(milliseconds for milliseconds, _ in found)
    p50, p99 = median(times), times[max(0, -(-99 * len(times) // 100) - 1)]
    return {f"bystander_{when}_p50_ms": round(p50, 1), f"bystander_{when}_p99_ms": round(p99, 1)}


def _show(when: str, found: list[Any]) -> None:
    print(f"bystander {when}: {len(found)} questions, {_times(when, found)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1,600 requests instead of 20,000")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    args = parser.parse_args()
    found = measure(1600, 10.0) if args.quick else measure(20_000, 60.0)
    print(found, flush=True)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
