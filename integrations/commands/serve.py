"""`elastic-agent serve`: the gateway, until a signal stops it.

elastic-agent serve --model e1-tiny --no-keys
elastic-agent serve --upstream NAME=http://host:8000/v1,tokenizer=HUB/ID,price=0.1:0.4 --ledger spend.db
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from elastic_agent.cli_arguments import COUNT, PAUSE, PORT, SECONDS, SOLUTION
from elastic_agent.credentials import ledger_place
from elastic_agent.prompts.told_budget import check_tell
from elastic_agent.validation import argument, integer

from .options import (
    PRICE,
    add_ledger_option,
    add_model_options,
    add_no_keys_option,
    add_wrap_up_option,
    checked,
)

if TYPE_CHECKING:
    from ..gateway.app import Gateway
    from .options import Commands

BYTES = argument(integer, least=1024, of="bytes")
COLLECT_EVERY = 20_000
"""New objects between two rounds of the garbage collector. What concurrent requests have made is alive and is
scanned in vain: with 64 requests, the default of 700 took 1.1 ms of processor time a request, this 0.1 ms."""
SWITCH_SECONDS = 0.001
"""Longest time for which a thread that encodes a long prompt keeps the event loop waiting. Python's default
of 5 ms adds up over the packets of such a prompt."""
OPEN_TO_ALL = (
    "NO KEYS: EVERY PROGRAM AND USER OF THIS MACHINE CAN SPEND HERE. "
    "To ask for keys: elastic-agent keys create NAME, and start again without --no-keys."
)


NUMBERS: tuple[tuple[str, Callable[[str], Any], float | None, str, str], ...] = (
    ("--lease", SECONDS, 60.0, "SECONDS", "after how long a dead gateway's holds are charged (default: 60)"),
    ("--max-running", COUNT, None, "N", "most calls at once on each model"),
    ("--max-waiting", COUNT, None, "N", "most calls that wait for each model"),
    ("--solution", SOLUTION, None, "TOKENS", "solution budget where a request names none"),
    ("--timeout", SECONDS, 600.0, "SECONDS", "longest call (default: 600)"),
    ("--grace", PAUSE, 30.0, "SECONDS", "how long running calls may go on at the end (default: 30)"),
    ("--task-idle", SECONDS, 900.0, "SECONDS", "after how long an unused task is closed (default: 900)"),
    ("--keep-answers", SECONDS, 3600.0, "SECONDS", "how long answers are kept for retries (default: 3600)"),
    ("--max-body", BYTES, 4 * 1024 * 1024, "BYTES", "largest request (default: 4 MiB)"),
    ("--max-connections", COUNT, 8000, "N", "most open connections of clients (default: 8000)"),
)
"""Options that take a number: name, type, default, what the help calls the value, help."""


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    serve = commands.add_parser(
        "serve",
        help="an OpenAI-compatible server that budgets every call",
        description="Serve models to any OpenAI client, with a thinking and a solution budget for each call, "
        "caps for each key and task, and one ledger for as many gateways as you like. Clients need a key "
        "(see `elastic-agent keys`); with --no-keys they need none, and only this machine can reach it.",
    )
    add_model_options(serve)
    serve.add_argument(
        "--upstream",
        action="append",
        metavar="NAME=URL",
        help="a vLLM server, instead of --model; may be repeated. Further parts after commas: "
        "tokenizer=NAME, price=IN:OUT, key-env=VARIABLE, served-as=NAME, open=TEXT, close=TEXT",
    )
    serve.add_argument("--price", type=PRICE, metavar="IN:OUT", help="USD per million tokens of --model")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1)")
    serve.add_argument("--port", type=PORT, default=8100, help="0 takes a free one (default: 8100)")
    add_ledger_option(serve)
    add_no_keys_option(serve)
    add_wrap_up_option(serve)
    serve.add_argument(
        "--tell",
        type=checked(check_tell),
        nargs="?",
        const=True,
        default=False,
        metavar="WORDS",
        help="tell models what is left of the task that a request names, behind its last message: in the "
        "standard words, or in WORDS with {tokens}, {usd} and {seconds} (default: they aren't told)",
    )
    for name, type, default, metavar, help in NUMBERS:
        serve.add_argument(name, type=type, default=default, metavar=metavar, help=help)
    serve.add_argument("--log", metavar="FILE", help="record every decision, for `elastic-agent report`")
    serve.add_argument(
        "--watchdog",
        action="store_true",
        help="log which request blocks the event loop for 100 ms",
    )
    serve.add_argument("--quiet", action="store_true", help="no access log on standard output")
    serve.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run a gateway until SIGTERM or Ctrl-C."""
    try:
        from ..gateway.app import Gateway
    except ImportError as error:
        raise ValueError("the gateway needs: pip install 'elastic-agent[gateway]'") from error
    from ..gateway.settings import GatewaySettings, Limits
    from .upstreams import upstreams_of

    limits = Limits(
        body=options.max_body,
        call_seconds=options.timeout,
        connections=options.max_connections,
        grace_seconds=options.grace,
        task_idle_seconds=options.task_idle,
        answer_seconds=options.keep_answers,
    )
    settings = GatewaySettings(
        upstreams=upstreams_of(options),
        ledger=ledger_place(options.ledger),
        host=options.host,
        port=options.port,
        limits=limits,
        lease=options.lease,
        max_running=options.max_running,
        max_waiting=options.max_waiting,
        solution=options.solution,
        wrap_up=options.wrap_up,
        tell=options.tell,
        log=options.log,
        no_keys=options.no_keys,
        watchdog=options.watchdog,
    )
    asyncio.run(run_gateway(Gateway(settings, None if options.quiet else print_access)))
    return 0


async def run_gateway(gateway: Gateway) -> None:
    """Start a gateway, wait for SIGTERM or Ctrl-C, and stop it; then close its models."""
    from ..gateway.settings import without_password

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await gateway.start()
    gc.collect()
    gc.freeze()  # what is loaded by now stays: the collector need not scan it again
    gc.set_threshold(COLLECT_EVERY)
    sys.setswitchinterval(SWITCH_SECONDS)
    settings = gateway.settings
    names, ledger = ", ".join(gateway.upstreams), without_password(settings.ledger)
    _print_status(f"serving {names} at {gateway.url}; ledger: {ledger}")
    if settings.no_keys:
        _print_status(OPEN_TO_ALL)
    await stop.wait()
    _print_status(f"stopping: what runs has {settings.limits.grace_seconds:g} s to end")
    await gateway.stop()
    for one in settings.upstreams:
        await one.backend.aclose()


def print_access(facts: dict[str, Any]) -> None:
    """Print one request as a line of the access log."""
    print(json.dumps(facts), flush=True)


def _print_status(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
