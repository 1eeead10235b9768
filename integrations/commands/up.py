"""`elastic-agent up`: a vLLM server with the flags that budgets want and a gateway before it, until Ctrl-C.

Both are processes (`elastic_agent.backends.vllm.server_process`). vLLM serves on 127.0.0.1, in the Python
that ELASTIC_VLLM_PYTHON names or the one of `make vllm` or this one; options after `--` are its own and win
over ours. The gateway is `elastic-agent serve`. They start side by side, so that a taken port is told at
once, and are ready when the gateway says that it could answer a call.

They end together: the gateway first, which lets running calls end and settles them, then vLLM. When one of
them dies, the other is stopped.
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

from elastic_agent.arguments import COUNT, PAUSE, PORT, Parser, add_marker_options, given_markers
from elastic_agent.backends.load import model_path
from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.backends.vllm.server_process import STOP_SECONDS, ServerProcess, free_port
from elastic_agent.credentials import LEDGER_VARIABLE, ledger_place

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def add_command(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command and its options."""
    up = commands.add_parser(
        "up",
        help="start a vLLM server set up for budgets, and the gateway before it",
        description="Start vLLM with prefix caching, priorities and token counts, and the gateway before it; "
        "wait until both are ready, and say how to use them. Ctrl-C stops both. Needs vLLM: in this Python, "
        "or in one that ELASTIC_VLLM_PYTHON names.",
    )
    up.add_argument("--model", default="e1-tiny", help="embedded model, folder or hub id (default: e1-tiny)")
    up.add_argument("--name", help="what to serve it as (default: the model)")
    native = "hold both limits of a call in the engine, in one pass, for calls that nobody steers"
    up.add_argument("--native", action="store_true", help=native)
    up.add_argument("--host", default="127.0.0.1", help="where the gateway listens (default: 127.0.0.1)")
    up.add_argument(
        "--port",
        type=PORT,
        default=8100,
        help="the gateway's; 0: a free one (default: 8100)",
    )
    up.add_argument(
        "--vllm-port",
        type=PORT,
        default=8000,
        help="vLLM's; 0: a free one (default: 8000)",
    )
    up.add_argument(
        "--ledger",
        metavar="WHERE",
        help="an SQLite file, postgresql://.. or redis://.. (default: gateway.db). An address with a "
        f"password is for the environment: {LEDGER_VARIABLE}",
    )
    up.add_argument(
        "--no-keys", action="store_true", help="ask for no key: whoever uses this machine can spend"
    )
    add_marker_options(up)
    up.add_argument("--price", metavar="IN:OUT", help="USD per million tokens, where caps are in dollars")
    up.add_argument("--max-running", type=COUNT, metavar="N", help="most calls at once")
    up.add_argument(
        "--grace",
        type=PAUSE,
        default=30.0,
        metavar="SECONDS",
        help="for running calls at the end (30)",
    )
    up.add_argument(
        "--logs", metavar="FOLDER", default=".", help="for vllm.log and gateway.log (default: here)"
    )
    up.add_argument(
        "--wait",
        type=PAUSE,
        default=1800.0,
        metavar="SECONDS",
        help="for their start (1800)",
    )
    up.add_argument("options", nargs="*", metavar="-- OPTION", help="more options for vLLM")
    up.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Start both, say how to use them, and stay until a signal or until one of them ends by itself.

    Raises:
        UnknownModelError: no Python with vLLM.
        BackendUnavailableError: one of them did not start, or ended by itself; with the end of its log.
    """
    named = given_markers(options)
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
    url = f"http://{_address(options.host)}:{port}"
    gateway = ServerProcess(
        "the gateway",
        _serve(options, vllm, port),
        ready=f"{url}/ready",
        log=logs / "gateway.log",
        stop_seconds=options.grace + STOP_SECONDS,
    )
    both = (gateway, vllm)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    print(f"starting vLLM with {options.model}; {vllm.log} has what it says …", file=sys.stderr)
    try:
        for server in both:
            server.launch()
        until = time.monotonic() + options.wait
        while not gateway.answers():
            _check(both, "did not start")
            if time.monotonic() > until:
                raise vllm.failed(f"and the gateway were not ready within {options.wait:g} s: {_said(url)}")
            time.sleep(0.2)
        key = "none" if options.no_keys else "KEY"
        print(f"export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}  # any OpenAI client; model {vllm.name}")
        tokenizer = "" if vllm.name == options.model else f', tokenizer="{options.model}"'
        native = ', backend_options={"native": True}' if options.native else ""
        pair = f", markers={(named.open, named.close)!r}" if named is not None else ""
        where = f'model="{vllm.name}", base_url="{vllm.base_url}"{tokenizer}{pair}{native}'
        print(f"ChatElasticReasoning({where}, thinking_budget=1024, solution_budget=512)", flush=True)
        while True:
            _check(both, "ended by itself")
            time.sleep(0.2)
    except KeyboardInterrupt:
        print("stopping …", file=sys.stderr, flush=True)
        return 0
    finally:

        def hurry(number: int, frame: FrameType | None) -> None:
            for server in both:
                server.send(signal.SIGKILL)

        for number in SIGNALS:
            signal.signal(number, hurry)
        for server in both:
            server.stop()


def _serve(options: argparse.Namespace, vllm: VllmProcess, port: int) -> list[str]:
    """The gateway's command line."""
    command = [
        sys.executable,
        "-m",
        "elastic_agent.integrations.commands.main",
        "serve",
        "--model",
        vllm.name,
    ]
    command += ["--base-url", vllm.base_url, "--tokenizer", model_path(options.model)]
    command += ["--host", options.host, "--port", str(port), "--grace", str(options.grace)]
    command += ["--no-keys"] if options.no_keys else []
    if options.ledger is not None:  # else the gateway has it from the environment, as we do
        command += ["--ledger", ledger_place(options.ledger)]
    named = given_markers(options)
    if named is not None:  # joined: a text may begin like an option
        command += [f"--open={named.open}", f"--close={named.close}"]
    for name, value in (("--price", options.price), ("--max-running", options.max_running)):
        command += [] if value is None else [name, str(value)]
    return command


def _address(host: str) -> str:
    """Where this machine reaches what listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _said(url: str) -> str:
    """What the gateway lacks: its ledger, or the model."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=10) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace")
    except OSError as error:
        return str(error)


def _check(servers: Sequence[ServerProcess], what: str) -> None:
    for server in servers:
        if not server.running:
            raise server.failed(what)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
