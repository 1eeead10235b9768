"""The `elastic-agent` command.

    elastic-agent demo      a LangGraph agent on a shop's week of word problems, under caps
    elastic-agent ask       one question, with a thinking and a solution budget
    elastic-agent up        a vLLM server set up for budgets
    elastic-agent train     train an E1 model (base, then budget-constrained GRPO)
    elastic-agent eval      accuracy by thinking budget
    elastic-agent report    what a recorded run spent, and why

Bad input ends with one sentence on stderr and exit status 2, before anything is spent; Ctrl-C with 130.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from elastic_agent import __version__
from elastic_agent.budget import Budget, Caps
from elastic_agent.errors import ElasticError

if TYPE_CHECKING:
    from elastic_agent.scheduler import Price

PASSED_ON = {"train": "elastic_agent.training.trainer", "eval": "elastic_agent.training.evaluate"}
"""Commands whose options are their module's own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in PASSED_ON:
        return _pass_on(arguments[0], arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
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
        return 130
    except ModuleNotFoundError as error:
        return _missing(command, error, "train")
    except (ElasticError, ValueError, OSError) as error:
        print(f"elastic-agent {command}: {error}", file=sys.stderr)
        return 2


def _missing(command: str, error: ModuleNotFoundError, extra: str) -> int:
    """Name the extra that brings what is missing."""
    print(
        f"elastic-agent {command} needs {error.name}: pip install 'elastic-agent[{extra}]'", file=sys.stderr
    )
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    demo.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: 0)")
    demo.add_argument(
        "--log",
        metavar="FILE",
        default="run.jsonl",
        help="where every decision is recorded (default: run.jsonl)",
    )
    demo.add_argument(
        "--solution",
        type=int,
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
        type=_tokens,
        metavar="TOKENS",
        help="thinking budget (default: as much as the context holds)",
    )
    ask.add_argument(
        "--solution", type=int, default=512, metavar="TOKENS", help="solution budget (default: 512)"
    )
    ask.add_argument("--temperature", type=float, default=0.6, help="sampling temperature (default: 0.6)")
    ask.add_argument("--seed", type=int, help="seed of the sampling")
    ask.set_defaults(run=_ask)

    from elastic_agent.integrations.up import add_command

    add_command(commands)

    report = commands.add_parser(
        "report",
        help="what a recorded run spent, and why",
        description="Read a run.jsonl and print every call: granted, used, refunded, and why.",
    )
    report.add_argument("file", help="a run.jsonl")
    report.add_argument("--why", action="store_true", help="with the reason of each grant")
    report.set_defaults(run=_report)

    for name, text in (("train", "train an E1 model"), ("eval", "accuracy by thinking budget")):
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _caps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--usd", type=_money, metavar="N", help="money cap in dollars")
    parser.add_argument("--seconds", type=float, metavar="N", help="deadline in seconds")
    parser.add_argument("--tokens", type=int, metavar="N", help="cap on generated tokens (default: none)")
    parser.add_argument(
        "--price",
        type=_price,
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
    parser.add_argument("--api-key", metavar="KEY", help="the server's key")
    parser.add_argument(
        "--tokenizer", metavar="NAME", help="tokenizer of a served model, when the served name is no hub id"
    )


def _money(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"not a number of dollars: {text!r}") from None


def _tokens(text: str) -> int | None:
    try:
        return None if text == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number of tokens, or none: {text!r}") from None


def _price(text: str) -> Price:
    from elastic_agent.scheduler import Price

    prices = text.split(":")
    if len(prices) not in (2, 3):
        raise argparse.ArgumentTypeError(
            "expected IN:OUT or IN:OUT:CACHED, in USD per million tokens, like 0.10:0.40"
        )
    try:
        return Price(*prices)
    except (ElasticError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _demo(options: argparse.Namespace) -> int:
    print(f"loading {options.model} …", file=sys.stderr)
    from elastic_agent.integrations.demo.run import DemoOptions, run_demo

    default = options.usd is None and options.seconds is None and options.tokens is None
    caps = None if default else Caps(usd=options.usd, seconds=options.seconds, tokens=options.tokens)
    return run_demo(
        DemoOptions(
            caps=caps,
            model=options.model,
            base_url=options.base_url,
            api_key=options.api_key,
            tokenizer=options.tokenizer,
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
    from elastic_agent.generate import Call
    from elastic_agent.phases import Segment

    question = options.question
    if question == "-":
        question = sys.stdin.read() if sys.stdin is not None else ""
    if not question.strip():
        raise ValueError("the question is empty")
    budget = Budget(thinking=options.thinking, solution=options.solution)
    backend = load_backend(
        options.model, base_url=options.base_url, api_key=options.api_key, tokenizer=options.tokenizer
    )
    console = Console(highlight=False, soft_wrap=True)

    async def run() -> None:
        await backend.ready()
        call = Call(
            backend, question, budget, sampling=Sampling(temperature=options.temperature, seed=options.seed)
        )
        try:
            async for event in call:
                if event.segment is Segment.CLOSE:
                    console.print(
                        f"\n── {'cut here, the close was forced' if event.forced else 'closed by itself'} ──",
                        style="dim",
                    )
                else:
                    style = "dim italic" if event.segment is Segment.THINKING else "bold"
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


def _report(options: argparse.Namespace) -> int:
    from rich.console import Console

    from elastic_agent.integrations.report.terminal import render_run

    Console().print(render_run(options.file, why=options.why))
    return 0


if __name__ == "__main__":
    sys.exit(main())
