"""`elastic-agent up`: a vLLM server with the flags that budgets want, until Ctrl-C.

It serves on 127.0.0.1, in the Python that ELASTIC_VLLM_PYTHON names or the one of `make vllm` or this one
(`elastic_agent.backends.vllm_process`). Options after `--` are vLLM's own and win over ours.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from elastic_agent.backends.vllm_process import VllmProcess
from elastic_agent.errors import BackendUnavailableError


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The command and its options."""
    up = commands.add_parser(
        "up",
        help="start a vLLM server set up for budgets",
        description="Start vLLM on 127.0.0.1 with prefix caching, priorities and token counts, wait until it "
        "answers, and say how to use it. Ctrl-C stops it and its engine. Needs vLLM: in this Python, or in "
        "one that ELASTIC_VLLM_PYTHON names.",
    )
    up.add_argument("--model", default="e1-tiny", help="embedded model, folder or hub id (default: e1-tiny)")
    up.add_argument("--name", help="what to serve it as (default: the model)")
    up.add_argument("--port", type=int, default=8000, help="default: 8000")
    native = "hold both limits of a call in the engine, in one pass, for calls that nobody steers"
    up.add_argument("--native", action="store_true", help=native)
    up.add_argument("--log", metavar="FILE", default="vllm.log", help="what vLLM says (default: vllm.log)")
    up.add_argument("--wait", type=float, default=1800.0, metavar="SECONDS", help="for its start (1800)")
    up.add_argument("options", nargs="*", metavar="-- OPTION", help="more options for vLLM")
    up.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Start, say how to use it, and stay until a signal or until it ends by itself.

    Raises:
        UnknownModelError: no Python with vLLM.
        BackendUnavailableError: it did not start, or ended by itself.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    server = VllmProcess(
        options.model,
        options.options,
        name=options.name,
        port=options.port,
        native=options.native,
        log=Path(options.log),
    )
    print(f"starting vLLM with {options.model}; what it says is in {options.log} …", file=sys.stderr)
    try:
        server.launch()
        server.wait(options.wait)
        tokenizer = "" if server.name == options.model else f', tokenizer="{options.model}"'
        flag = "" if server.name == options.model else f" --tokenizer {options.model}"
        native = ', backend_options={"native": True}' if options.native else ""
        where = f'model="{server.name}", base_url="{server.base_url}"{tokenizer}{native}'
        print(f"ChatElasticReasoning({where}, thinking_budget=1024, solution_budget=512)")
        print(f'elastic-agent ask "..." --model {server.name} --base-url {server.base_url}{flag}', flush=True)
        while server.running:
            time.sleep(0.2)
        said = Path(options.log).read_text(errors="replace")[-2000:]
        raise BackendUnavailableError(f"vLLM ended by itself:\n{said}")
    except KeyboardInterrupt:
        print("stopping …", file=sys.stderr)
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.stop()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
