"""The `elastic-agent` command.

    elastic-agent demo      a LangGraph agent on a shop's week of word problems, under caps
    elastic-agent ask       one question, with a thinking and a solution budget
    elastic-agent serve     an OpenAI-compatible server that budgets every call
    elastic-agent keys      keys for it, with caps
    elastic-agent up        a vLLM server set up for budgets, and the gateway before it
    elastic-agent train     train an E1 model (base, then budget-constrained GRPO)
    elastic-agent eval      accuracy by thinking budget
    elastic-agent report    what a recorded run spent, and why
    elastic-agent bench     whether a recorded run replays, and its regret against hindsight

Bad input ends with one sentence on stderr and exit status 2, before anything is spent; Ctrl-C with 130.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from elastic_agent import __version__
from elastic_agent.arguments import (
    CAP,
    COUNT,
    PAUSE,
    PORT,
    SECONDS,
    SEED,
    SOLUTION,
    TEMPERATURE,
    USD,
    Parser,
    add_marker_options,
    given_markers,
)
from elastic_agent.budget import Budget, Caps
from elastic_agent.credentials import LEDGER_VARIABLE, add_key_options, check_address, upstream_key
from elastic_agent.errors import ElasticError, UsageError
from elastic_agent.values import argument, integer

if TYPE_CHECKING:
    from elastic_agent.scheduler import Price

PASSED_ON = {"train": "elastic_agent.training.run", "eval": "elastic_agent.training.evaluation"}
"""Commands whose options are their module's own."""

BENCH = """\
Feed a run.jsonl to a fresh scheduler: every decision must come out the same, byte
for byte. Exit status 0: all identical; 1: not, with the first line that differs.

Then, for each task with a cap on tokens or money, its regret: what was granted
against the best split of the same cap by a hindsight that knows which calls came
and what their solutions really used.

  all right   the chance that all calls are right (sum of log p), as granted;
              beside it that of the best split, and the difference: the regret
  right       how many calls are right, expected; beside it the most possible
  told        answers that somebody has called right (call.outcome(True))

Both are valued by the success curves that the scheduler had. Whether these are
true is another question, and hindsight does not know which answers would be right.
Regret is below zero where calls used less than they do on average.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in PASSED_ON:
        return _pass_on(arguments[0], arguments[1:])
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except UsageError as error:
        named = [name for name in arguments[:1] if not name.startswith("-")]
        print(f"{' '.join(['elastic-agent', *named])}: {error}", file=sys.stderr)
        return 2
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ElasticError, ValueError, OSError) as error:
        print(f"elastic-agent {options.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        return _missing(options.command, error, "demo")


def _pass_on(command: str, arguments: list[str]) -> int:
    from importlib import import_module

    try:
        module = import_module(PASSED_ON[command])
        return int(module.main(arguments) or 0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        return _missing(command, error, "train")
    except (ElasticError, ValueError, OSError) as error:
        print(f"elastic-agent {command}: {error}", file=sys.stderr)
        return 2


def _thinking(name: str, text: str) -> int | None:
    return None if text == "none" else integer(name, text)


def _price(name: str, text: str) -> Price:
    from elastic_agent.scheduler import Price

    return Price.parse(text)


THINKING = argument(_thinking)
"""A thinking budget, or "none"."""
PRICE = argument(_price)
"""IN:OUT or IN:OUT:CACHED."""


def _missing(command: str, error: ModuleNotFoundError, extra: str) -> int:
    """Name the extra that brings what is missing."""
    print(
        f"elastic-agent {command} needs {error.name}: pip install 'elastic-agent[{extra}]'", file=sys.stderr
    )
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="elastic-agent",
        description="Hard caps on what an agent spends: each call gets a thinking and a solution budget.",
    )
    parser.add_argument("--version", action="version", version=f"elastic-agent {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    demo = commands.add_parser(
        "demo",
        help="an agent solves word problems under a money cap and a deadline",
        description="A LangGraph agent works through a shop's week: chains of word problems as parallel "
        "branches, each day combined by a last call, under a money cap and a deadline. Then the same under "
        "one fixed max_tokens a call, at the same caps. Needs no key, GPU or server.",
    )
    _caps(demo)
    _model(demo)
    demo.add_argument(
        "--problems", metavar="FILE", help="JSON lines, one day each (default: the shipped week)"
    )
    demo.add_argument("--seed", type=SEED, default=0, help="seed of the sampling (default: 0)")
    demo.add_argument(
        "--log",
        metavar="FILE",
        default="run.jsonl",
        help="where every decision is recorded (default: run.jsonl)",
    )
    demo.add_argument(
        "--solution",
        type=SOLUTION,
        metavar="TOKENS",
        help="solution budget of a call (default: 96, or 512 with another model)",
    )
    demo.add_argument("--json", action="store_true", help="no screen; one JSON object as the last line")
    demo.add_argument("--svg", metavar="FILE", help="also save the last screen as a picture")
    demo.set_defaults(run=_demo)

    ask = commands.add_parser(
        "ask",
        help="one question, with a thinking and a solution budget",
        description="Ask a model one question. Thinking is cut at its limit, the close is forced, and the "
        "solution always has its own tokens.",
    )
    ask.add_argument("question", help="the question; - reads it from standard input")
    _model(ask)
    ask.add_argument(
        "--thinking",
        type=THINKING,
        metavar="TOKENS",
        help="thinking budget (default: as much as the context holds)",
    )
    ask.add_argument(
        "--solution", type=SOLUTION, default=512, metavar="TOKENS", help="solution budget (default: 512)"
    )
    _wrap_up(ask)
    ask.add_argument(
        "--temperature",
        type=TEMPERATURE,
        default=0.6,
        help="sampling temperature (default: 0.6)",
    )
    ask.add_argument("--seed", type=SEED, help="seed of the sampling")
    ask.set_defaults(run=_ask)

    _gateway(commands)

    from .up import add_command

    add_command(commands)

    report = commands.add_parser(
        "report",
        help="what a recorded run spent, and why",
        description="Read a run.jsonl and print every call: granted, used, refunded, and why.",
    )
    report.add_argument("file", help="a run.jsonl")
    report.add_argument("--why", action="store_true", help="with the reason of each grant")
    report.set_defaults(run=_report)

    bench = commands.add_parser(
        "bench",
        help="whether a recorded run replays, and its regret against hindsight",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=BENCH,
    )
    bench.add_argument(
        "--replay", metavar="FILE", required=True, help="a run.jsonl, as BudgetScheduler(log=) writes it"
    )
    bench.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    bench.set_defaults(run=_bench)

    for name, text in (("train", "train an E1 model"), ("eval", "accuracy by thinking budget")):
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _wrap_up(parser: Parser) -> None:
    parser.add_argument(
        "--wrap-up",
        type=_sentence,
        metavar="TEXT",
        help="a sentence before each forced close, or a model family's own: qwen3, seed-oss (default: none)",
    )


def _sentence(text: str) -> str:
    from elastic_agent.generation.wrap_up import wrap_up_of

    try:
        wrap_up_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _gateway(commands: argparse._SubParsersAction[Parser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="an OpenAI-compatible server that budgets every call",
        description="Serve models to any OpenAI client, with a thinking and a solution budget for each call, "
        "caps for each key and task, and one ledger for as many gateways as you like. Clients need a key "
        "(see `elastic-agent keys`); with --no-keys they need none, and only this machine can reach it.",
    )
    _model(serve)
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
    _ledger(serve)
    serve.add_argument(
        "--no-keys", action="store_true", help="ask for no key: whoever uses this machine can spend"
    )
    serve.add_argument(
        "--lease",
        type=SECONDS,
        default=60.0,
        metavar="SECONDS",
        help="what a gateway that died holds is charged after (default: 60)",
    )
    serve.add_argument(
        "--max-running",
        type=COUNT,
        metavar="N",
        help="most calls at once on each model",
    )
    serve.add_argument(
        "--max-waiting",
        type=COUNT,
        metavar="N",
        help="most calls that wait for each model",
    )
    serve.add_argument(
        "--solution", type=SOLUTION, metavar="TOKENS", help="solution budget where none is asked for"
    )
    _wrap_up(serve)
    serve.add_argument(
        "--timeout", type=SECONDS, default=600.0, metavar="SECONDS", help="longest call (default: 600)"
    )
    serve.add_argument(
        "--grace",
        type=PAUSE,
        default=30.0,
        metavar="SECONDS",
        help="for running calls at the end (default: 30)",
    )
    serve.add_argument(
        "--task-idle",
        type=SECONDS,
        default=900.0,
        metavar="SECONDS",
        help="close unused tasks (default: 900)",
    )
    serve.add_argument(
        "--keep-answers",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="for requests that come again with their Idempotency-Key (default: 3600)",
    )
    serve.add_argument(
        "--max-body",
        type=argument(integer, least=1024, of="bytes"),
        default=4 * 1024 * 1024,
        metavar="BYTES",
        help="largest request (default: 4 MiB)",
    )
    serve.add_argument(
        "--max-connections",
        type=COUNT,
        default=8_000,
        metavar="N",
        help="(default: 8000)",
    )
    serve.add_argument("--log", metavar="FILE", help="record every decision, for `elastic-agent report`")
    serve.add_argument(
        "--watchdog", action="store_true", help="tell who makes the event loop stand still for 100 ms"
    )
    serve.add_argument("--quiet", action="store_true", help="no access log on standard output")
    serve.set_defaults(run=_serve)

    keys = commands.add_parser(
        "keys",
        help="keys for the gateway, with caps",
        description="Keys lie hashed beside the ledger; a key is shown once, when it is made.",
    )
    actions = keys.add_subparsers(dest="action", metavar="action", required=True)
    create = actions.add_parser("create", help="make a key and print it")
    create.add_argument("name", help="whose it is, for logs")
    create.add_argument("--usd", type=USD, metavar="N", help="cap in dollars")
    create.add_argument("--tokens", type=CAP, metavar="N", help="cap on generated tokens")
    create.add_argument("--per", choices=("day", "month"), help="the caps are for each UTC day or month")
    revoke = actions.add_parser("revoke", help="end a key")
    revoke.add_argument("name")
    for action in (create, actions.add_parser("list", help="all keys, never the keys themselves"), revoke):
        _ledger(action)
        action.set_defaults(run=_keys)


def _ledger(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ledger",
        metavar="WHERE",
        help="an SQLite file, postgresql://.. or redis://.. (default: gateway.db). An address with a "
        f"password is for the environment: {LEDGER_VARIABLE}",
    )


def _caps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--usd", type=USD, metavar="N", help="money cap in dollars")
    parser.add_argument("--seconds", type=SECONDS, metavar="N", help="deadline in seconds")
    parser.add_argument("--tokens", type=CAP, metavar="N", help="cap on generated tokens (default: none)")
    parser.add_argument(
        "--price",
        type=PRICE,
        metavar="IN:OUT",
        help="USD per million input and output tokens, where the model's price is not known",
    )


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="e1-tiny",
        help="embedded model, folder, hub id, or a served name (default: e1-tiny)",
    )
    parser.add_argument("--base-url", metavar="URL", help="a vLLM server, like http://localhost:8000/v1")
    add_key_options(parser)
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="tokenizer of a served model, when the served name is no hub id"
    )
    add_marker_options(parser)


def _base_url(options: argparse.Namespace) -> str | None:
    url: str | None = options.base_url
    if url is not None:
        check_address(url, "--base-url")
    return url


def _demo(options: argparse.Namespace) -> int:
    print(f"loading {options.model} …", file=sys.stderr)
    from ..demo.run import DemoOptions, run_demo

    default = options.usd is None and options.seconds is None and options.tokens is None
    caps = None if default else Caps(usd=options.usd, seconds=options.seconds, tokens=options.tokens)
    return run_demo(
        DemoOptions(
            caps=caps,
            model=options.model,
            base_url=_base_url(options),
            api_key=upstream_key(options),
            tokenizer=options.tokenizer,
            markers=given_markers(options),
            problems=options.problems,
            price=options.price,
            seed=options.seed,
            log=options.log,
            solution=options.solution,
            json=options.json,
            svg=options.svg,
        )
    )


def _ask(options: argparse.Namespace) -> int:
    from rich.console import Console

    from elastic_agent.backends.base import Sampling
    from elastic_agent.backends.load import load_backend
    from elastic_agent.generation.generate import Call
    from elastic_agent.generation.phases import Segment

    question = options.question
    if question == "-":
        question = sys.stdin.read() if sys.stdin is not None else ""
    if not question.strip():
        raise ValueError("the question is empty")
    budget = Budget(thinking=options.thinking, solution=options.solution)
    backend = load_backend(
        options.model,
        base_url=_base_url(options),
        api_key=upstream_key(options),
        tokenizer=options.tokenizer,
        markers=given_markers(options),
    )
    console = Console(highlight=False, soft_wrap=True)

    async def run() -> None:
        await backend.ready()
        call = Call(
            backend,
            question,
            budget,
            sampling=Sampling(temperature=options.temperature, seed=options.seed),
            wrap_up=options.wrap_up,
        )
        try:
            async for event in call:
                if event.segment is Segment.CLOSE:
                    console.print(
                        f"\n── {'cut here, the close was forced' if event.forced else 'closed by itself'} ──",
                        style="dim",
                    )
                else:
                    style = "bold" if event.segment is Segment.SOLUTION else "dim italic"
                    console.print(event.text, style=style, end="", markup=False)
        finally:
            await backend.aclose()
        usage, result = call.usage, call.result()
        console.print(
            f"\n\nthinking {usage.thinking} of {result.budget.thinking} tokens ({result.thinking_end}), "
            f"solution {usage.solution} of {result.budget.solution} ({result.solution_end}), "
            f"prompt {usage.prompt}",
            style="dim",
        )

    asyncio.run(run())
    return 0


def _serve(options: argparse.Namespace) -> int:
    from .serve import serve

    return serve(options)


def _keys(options: argparse.Namespace) -> int:
    from .serve import keys

    return keys(options)


def _report(options: argparse.Namespace) -> int:
    from rich.console import Console

    from ..report.terminal import render_run

    Console().print(render_run(options.file, why=options.why))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from rich.console import Console

    from ..report.replay import as_dict, check_run, render_check

    found, tasks = check_run(options.replay)
    if options.json:
        print(json.dumps(as_dict(found, tasks)))
    else:
        Console().print(render_check(options.replay, found, tasks))
    return 0 if found.difference is None else 1


if __name__ == "__main__":
    sys.exit(main())
