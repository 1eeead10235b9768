"""`elastic-agent demo`: an agent on a shop's week of word problems, under caps."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from elastic_agent.budget import Caps
from elastic_agent.cli_arguments import PORT, SEED, SOLUTION, given_markers
from elastic_agent.credentials import upstream_key

from .options import add_cap_options, add_model_options, checked_base_url

if TYPE_CHECKING:
    from .options import Commands


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    demo = commands.add_parser(
        "demo",
        help="an agent solves word problems under a money cap and a deadline",
        description="A LangGraph agent works through a shop's week: chains of word problems as parallel "
        "branches, each day combined by a last call, under a money cap and a deadline. Then the same under "
        "one fixed max_tokens a call, at the same caps. Needs no key, GPU or server.",
    )
    add_cap_options(demo)
    add_model_options(demo)
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
    demo.add_argument(
        "--page",
        type=PORT,
        metavar="PORT",
        help="also show the run live in a browser, at http://127.0.0.1:PORT/ui",
    )
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; its exit status."""
    print(f"loading {options.model} …", file=sys.stderr)
    from ..demo.run import DemoOptions, run_demo

    default = options.usd is None and options.seconds is None and options.tokens is None
    caps = None if default else Caps(usd=options.usd, seconds=options.seconds, tokens=options.tokens)
    return run_demo(
        DemoOptions(
            caps=caps,
            model=options.model,
            base_url=checked_base_url(options),
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
            page=options.page,
        )
    )
