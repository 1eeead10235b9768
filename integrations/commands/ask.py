"""`elastic-agent ask`: one question, with a thinking and a solution budget."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from elastic_agent.budget import Budget
from elastic_agent.cli_arguments import SEED, SOLUTION, TEMPERATURE, given_markers
from elastic_agent.credentials import upstream_key
from elastic_agent.validation import argument, integer

from .options import add_model_options, add_wrap_up_option, checked_base_url

if TYPE_CHECKING:
    from rich.console import Console

    from elastic_agent.generation.call import Call

    from .options import Commands


def _thinking(name: str, text: str) -> int | None:
    return None if text == "none" else integer(name, text)


THINKING = argument(_thinking)
"""A thinking budget, or "none"."""


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    ask = commands.add_parser(
        "ask",
        help="one question, with a thinking and a solution budget",
        description="Ask a model one question. Thinking is cut at its limit, the close is forced, and the "
        "solution always has its own tokens.",
    )
    ask.add_argument("question", help="the question; - reads it from standard input")
    add_model_options(ask)
    ask.add_argument(
        "--thinking",
        type=THINKING,
        metavar="TOKENS",
        help="thinking budget (default: as much as the context holds)",
    )
    ask.add_argument(
        "--solution", type=SOLUTION, default=512, metavar="TOKENS", help="solution budget (default: 512)"
    )
    add_wrap_up_option(ask)
    ask.add_argument(
        "--temperature", type=TEMPERATURE, default=0.6, help="sampling temperature (default: 0.6)"
    )
    ask.add_argument("--seed", type=SEED, help="seed of the sampling")
    ask.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask the model and print its answer while it comes.

    Raises:
        ValueError: the question is empty.
    """
    from rich.console import Console

    question = options.question
    if question == "-":
        question = sys.stdin.read() if sys.stdin is not None else ""
    if not question.strip():
        raise ValueError("the question is empty")
    asyncio.run(_ask(question, options, Console(highlight=False, soft_wrap=True)))
    return 0


async def _ask(question: str, options: argparse.Namespace, console: Console) -> None:
    from elastic_agent.backends.base import Sampling
    from elastic_agent.backends.load import load_backend
    from elastic_agent.generation.call import Call

    backend = load_backend(
        options.model,
        base_url=checked_base_url(options),
        api_key=upstream_key(options),
        tokenizer=options.tokenizer,
        markers=given_markers(options),
    )
    try:
        await backend.ready()
        call = Call(
            backend,
            question,
            Budget(thinking=options.thinking, solution=options.solution),
            sampling=Sampling(temperature=options.temperature, seed=options.seed),
            wrap_up=options.wrap_up,
        )
        await _print_answer(call, console)
    finally:
        await backend.aclose()


async def _print_answer(call: Call, console: Console) -> None:
    """Thinking dim, the solution bold, then what both used."""
    from elastic_agent.generation.phases.deltas import Segment

    async for event in call:
        if event.segment is Segment.CLOSE:
            cut = "cut here, the close was forced" if event.forced else "closed by itself"
            console.print(f"\n── {cut} ──", style="dim")
        else:
            style = "bold" if event.segment is Segment.SOLUTION else "dim italic"
            console.print(event.text, style=style, end="", markup=False)
    usage, result = call.usage, call.result()
    console.print(
        f"\n\nthinking {usage.thinking} of {result.budget.thinking} tokens ({result.thinking_end}), "
        f"solution {usage.solution} of {result.budget.solution} ({result.solution_end}), "
        f"prompt {usage.prompt}",
        style="dim",
    )
