"""`elastic-agent up`: a vLLM server with the flags that budgets want, and a gateway before it, until Ctrl-C.

Both are processes (`elastic_agent.backends.vllm.server_process`). vLLM serves on 127.0.0.1, in the Python
that ELASTIC_VLLM_PYTHON names, or in the one of `make vllm`, or in this one; options after `--` are for vLLM
and win over ours. The gateway is `elastic-agent serve`. Both start at the same time, so that a taken port is
an error at once, and are ready when `/ready` of the gateway says so.

The gateway stops first, which lets running calls end and settles them, then vLLM. When one of the two dies,
the other is stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.backends.vllm.server_process import STOP_SECONDS, ServerProcess, free_port
from elastic_agent.cli_arguments import COUNT, PAUSE, PORT, add_marker_options, given_markers
from elastic_agent.credentials import ledger_place
from elastic_agent.model_location import model_path
from elastic_agent.prompts.marker_profiles import MarkerText

from .options import add_ledger_option, add_no_keys_option

if TYPE_CHECKING:
    from .options import Commands

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_SECONDS = 0.2
"""Seconds between two looks at the processes."""


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    up = commands.add_parser(
        "up",
        help="start a vLLM server set up for budgets, and the gateway before it",
        description="Start vLLM with prefix caching, priorities and token counts, and the gateway before it; "
        "wait until both are ready, and say how to use them. Ctrl-C stops both. Needs vLLM: in this Python, "
        "or in one that ELASTIC_VLLM_PYTHON names.",
    )
    up.add_argument("--model", default="e1-tiny", help="embedded model, folder or hub id (default: e1-tiny)")
    up.add_argument("--name", help="what to serve it as (default: the model)")
    native = "hold both limits of a call in the engine, in one pass, for calls whose limits can't move"
    up.add_argument("--native", action="store_true", help=native)
    up.add_argument("--host", default="127.0.0.1", help="where the gateway listens (default: 127.0.0.1)")
    up.add_argument("--port", type=PORT, default=8100, help="the gateway's; 0: a free one (default: 8100)")
    up.add_argument("--vllm-port", type=PORT, default=8000, help="vLLM's; 0: a free one (default: 8000)")
    add_ledger_option(up)
    add_no_keys_option(up)
    add_marker_options(up)
    up.add_argument("--price", metavar="IN:OUT", help="USD per million tokens, where caps are in dollars")
    up.add_argument("--max-running", type=COUNT, metavar="N", help="most calls at once")
    up.add_argument(
        "--grace",
        type=PAUSE,
        default=30.0,
        metavar="SECONDS",
        help="time that running calls have to end when the gateway stops (default: 30)",
    )
    up.add_argument(
        "--logs", metavar="FOLDER", default=".", help="for vllm.log and gateway.log (default: here)"
    )
    up.add_argument(
        "--wait",
        type=PAUSE,
        default=1800.0,
        metavar="SECONDS",
        help="longest time for both to become ready (default: 1800)",
    )
    up.add_argument("options", nargs="*", metavar="-- OPTION", help="more options for vLLM")
    up.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Start both, say how to use them, and stay until a signal or until one of them ends by itself.

    Raises:
        UnknownModelError: no Python with vLLM.
        BackendUnavailableError: one of them did not start, or ended by itself; with the end of its log.
    """
    markers = given_markers(options)
    logs = Path(options.logs)
    vllm = VllmProcess(
        options.model,
        options.options,
        name=options.name,
        port=options.vllm_port,
        native=options.native,
        log=logs / "vllm.log",
    )
    port = options.port or free_port()
    url = f"http://{_reachable_host(options.host)}:{port}"
    gateway = ServerProcess(
        "the gateway",
        _gateway_command(options, vllm, port, markers),
        ready=f"{url}/ready",
        log=logs / "gateway.log",
        stop_seconds=options.grace + STOP_SECONDS,
    )
    both = (gateway, vllm)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    print(f"starting vLLM with {options.model}; its log is {vllm.log} …", file=sys.stderr)
    try:
        for server in both:
            server.launch()
        _wait_until_ready(gateway, vllm, url, options.wait)
        _print_usage(options, vllm, url, markers)
        while True:
            _check_running(both, "ended by itself")
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        print("stopping …", file=sys.stderr, flush=True)
        return 0
    finally:
        _stop(both)


def _wait_until_ready(gateway: ServerProcess, vllm: VllmProcess, url: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not gateway.answers():
        _check_running((gateway, vllm), "did not start")
        if time.monotonic() > until:
            raise vllm.failed(f"and the gateway were not ready within {seconds:g} s: {_readiness(url)}")
        time.sleep(LOOK_SECONDS)


def _print_usage(
    options: argparse.Namespace, vllm: VllmProcess, url: str, markers: MarkerText | None
) -> None:
    """Lines to paste: the environment of an OpenAI client, and the LangChain model."""
    key = "none" if options.no_keys else "KEY"
    print(f"export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}  # any OpenAI client; model {vllm.name}")
    tokenizer = "" if vllm.name == options.model else f', tokenizer="{options.model}"'
    native = ', backend_options={"native": True}' if options.native else ""
    pair = f", markers={(markers.open, markers.close)!r}" if markers is not None else ""
    where = f'model="{vllm.name}", base_url="{vllm.base_url}"{tokenizer}{pair}{native}'
    print(f"ChatElasticReasoning({where}, thinking_budget=1024, solution_budget=512)", flush=True)


def _stop(servers: Sequence[ServerProcess]) -> None:
    """Stop the servers in this order; one more signal kills them."""

    def kill(number: int, frame: FrameType | None) -> None:
        for server in servers:
            server.send(signal.SIGKILL)

    for number in SIGNALS:
        signal.signal(number, kill)
    for server in servers:
        server.stop()


def _gateway_command(
    options: argparse.Namespace, vllm: VllmProcess, port: int, markers: MarkerText | None
) -> list[str]:
    """The gateway's command line."""
    command = [sys.executable, "-m", "elastic_agent.integrations.commands.main", "serve"]
    command += ["--model", vllm.name, "--base-url", vllm.base_url, "--tokenizer", model_path(options.model)]
    command += ["--host", options.host, "--port", str(port), "--grace", str(options.grace)]
    command += ["--no-keys"] if options.no_keys else []
    if options.ledger is not None:  # else the gateway reads the same environment
        command += ["--ledger", ledger_place(options.ledger)]
    if markers is not None:  # joined by "=": a marker may begin like an option
        command += [f"--open={markers.open}", f"--close={markers.close}"]
    for name, value in (("--price", options.price), ("--max-running", options.max_running)):
        command += [] if value is None else [name, str(value)]
    return command


def _reachable_host(host: str) -> str:
    """The host under which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _readiness(url: str) -> str:
    """What `/ready` says: whether the ledger or the model is missing."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=10) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except OSError as error:
        return str(error)


def _check_running(servers: Sequence[ServerProcess], what: str) -> None:
    for server in servers:
        if not server.running:
            raise server.failed(what)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
