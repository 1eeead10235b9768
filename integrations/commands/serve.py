"""`elastic-agent serve`: the gateway, until a signal stops it.

elastic-agent serve --model e1-tiny --no-keys
elastic-agent serve --upstream NAME=http://host:8000/v1,tokenizer=HUB/ID,price=0.1:0.4 --ledger spend.db
elastic-agent serve --config gateway.yaml --workers 4
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from elastic_agent.cli_arguments import COUNT, PAUSE, PORT, SECONDS, SOLUTION
from elastic_agent.prompts.told_budget import check_tell
from elastic_agent.validation import argument, integer

from .options import add_ledger_option, add_model_options, add_no_keys_option, add_wrap_up_option, checked

if TYPE_CHECKING:
    from .options import Commands

BYTES = argument(integer, least=1024, of="bytes")

NUMBERS: tuple[tuple[str, Callable[[str], Any], str, str], ...] = (
    ("--workers", COUNT, "N", "processes that share the port (default: 1)"),
    ("--lease", SECONDS, "SECONDS", "after how long a dead gateway's holds are charged (default: 60)"),
    ("--max-running", COUNT, "N", "most calls at once on each model"),
    ("--max-waiting", COUNT, "N", "most calls that wait for each model"),
    ("--solution", SOLUTION, "TOKENS", "solution budget where a request names none"),
)
"""Options that take a number: name, type, what the help calls the value, help."""
LIMITS: tuple[tuple[str, Callable[[str], Any], str, str, str], ...] = (
    ("--timeout", SECONDS, "SECONDS", "call_seconds", "longest call (default: 600)"),
    (
        "--grace",
        PAUSE,
        "SECONDS",
        "grace_seconds",
        "how long running calls may go on at the end (default: 30)",
    ),
    (
        "--task-idle",
        SECONDS,
        "SECONDS",
        "task_idle_seconds",
        "after how long an unused task is closed (default: 900)",
    ),
    (
        "--keep-answers",
        SECONDS,
        "SECONDS",
        "answer_seconds",
        "how long answers are kept for retries (default: 3600)",
    ),
    ("--max-body", BYTES, "BYTES", "body", "largest request (default: 4 MiB)"),
    ("--max-connections", COUNT, "N", "connections", "most open connections of clients (default: 8000)"),
)
"""Options that set a limit: name, type, what the help calls the value, the limit, help."""


class _SetLimit(argparse.Action):
    """Puts a value into `limits`, under the name of its limit."""

    def __call__(self, parser: object, options: argparse.Namespace, value: object, *_: Any) -> None:
        options.limits = options.limits | {self.dest.removeprefix("limits."): value}


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    serve = commands.add_parser(
        "serve",
        help="an OpenAI-compatible server that budgets every call",
        description="Serve models to any OpenAI client, with a thinking and a solution budget for each call, "
        "caps for each key and task, and one ledger for as many gateways as you like. Clients need a key "
        "(see `elastic-agent keys`); with --no-keys they need none, and only this machine can reach it. "
        "SIGHUP reads --config again: models, prices and limits.",
    )
    serve.add_argument(
        "--config", metavar="FILE", help="a YAML file with all of this; other options win over the file"
    )
    serve.add_argument("--check", action="store_true", help="check the config, and stop")
    serve.add_argument("--schema", action="store_true", help="print the config's JSON Schema, and stop")
    add_model_options(serve)
    serve.add_argument(
        "--upstream",
        action="append",
        metavar="NAME=URL",
        help="a model server, instead of --model; may be repeated. Further parts after commas: "
        "engine=llama.cpp, tokenizer=NAME, price=IN:OUT, key-env=VARIABLE, served-as=NAME, open=TEXT, "
        "close=TEXT",
    )
    serve.add_argument("--price", metavar="IN:OUT", help="USD per million tokens of --model")
    serve.add_argument("--host", help="where to listen (default: 127.0.0.1)")
    serve.add_argument("--port", type=PORT, help="0 takes a free one (default: 8100)")
    add_ledger_option(serve)
    add_no_keys_option(serve)
    serve.add_argument(
        "--cors",
        action="append",
        metavar="ORIGIN",
        help="let web pages of this origin (https://app.example.com) read answers; may be repeated, * is all",
    )
    add_wrap_up_option(serve)
    serve.add_argument(
        "--tell",
        type=checked(check_tell),
        nargs="?",
        const=True,
        metavar="WORDS",
        help="tell models what is left of the task that a request names, behind its last message: in the "
        "standard words, or in WORDS with {tokens}, {usd} and {seconds} (default: they aren't told)",
    )
    for name, type, metavar, help in NUMBERS:
        serve.add_argument(name, type=type, metavar=metavar, help=help)
    for name, type, metavar, limit, help in LIMITS:
        serve.add_argument(
            name, type=type, action=_SetLimit, dest=f"limits.{limit}", metavar=metavar, help=help
        )
    serve.add_argument("--log", metavar="FILE", help="record every decision, for `elastic-agent report`")
    serve.add_argument(
        "--watchdog",
        action="store_true",
        default=None,
        help="log which request blocks the event loop for 100 ms",
    )
    serve.add_argument("--quiet", action="store_true", default=None, help="no access log on standard output")
    serve.set_defaults(run=run, model=None, no_keys=None, limits={})


def run(options: argparse.Namespace) -> int:
    """Run a gateway until SIGTERM or Ctrl-C; or check its config."""
    from .serve_config import ServeConfig, read_config

    if options.schema:
        print(json.dumps(ServeConfig.model_json_schema(), indent=2))
        return 0
    config = read_config(options)
    if options.check:
        names = ", ".join(upstream.name for upstream in config.upstreams)
        print(f"{options.config or 'the command line'}: right; it serves {names}")
        return 0
    try:
        if config.workers > 1:
            from .serve_workers import serve_workers

            return serve_workers(config, lambda: read_config(options))
        from .serve_process import serve
    except ImportError as error:
        raise ValueError("the gateway needs: pip install 'elastic-agent[gateway]'") from error
    serve(config, lambda: read_config(options))
    return 0
