"""The `elastic-agent` command.

    elastic-agent demo      a LangGraph agent on a shop's week of word problems, under caps
    elastic-agent ask       one question, with a thinking and a solution budget
    elastic-agent serve     an OpenAI-compatible server that budgets every call
    elastic-agent keys      keys for it, with caps
    elastic-agent up        a vLLM server set up for budgets, and the gateway before it
    elastic-agent prepare   any model made ready for it: markers, template, cold start
    elastic-agent train     train an E1 model (base, then budget-constrained GRPO)
    elastic-agent export    a training checkpoint as a model that loads everywhere
    elastic-agent eval      accuracy by thinking budget
    elastic-agent report    what a recorded run spent, and why
    elastic-agent bench     whether a recorded run replays, and its regret against hindsight

Bad input ends with one sentence on stderr and exit status 2, before anything is spent; Ctrl-C with 130.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from elastic_agent import __version__
from elastic_agent.cli_arguments import Parser
from elastic_agent.errors import ElasticError, UsageError

from . import ask, bench, demo, keys, report, serve, up

TRAINING = {
    "prepare": "elastic_agent.training.prepare",
    "train": "elastic_agent.training.cli",
    "export": "elastic_agent.training.export",
    "eval": "elastic_agent.training.evaluation",
}
"""Commands of the training part: their modules parse their own options."""


SHELLS = ("bash", "zsh", "tcsh")
EXIT_CODES = (
    "Exit codes: 0 done; 1 done, and what was checked is not so (bench --replay); "
    "2 refused or failed, with one sentence on standard error; 130 stopped by Ctrl-C."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in TRAINING:
        command, *rest = arguments
        return _exit_status(command, lambda: import_module(TRAINING[command]).main(rest), extra="train")
    parser = command_parser()
    try:
        options = parser.parse_args(arguments)
    except UsageError as error:
        named = [name for name in arguments[:1] if not name.startswith("-")]
        print(f"{' '.join(['elastic-agent', *named])}: {error}", file=sys.stderr)
        return 2
    if options.completion is not None:
        return _exit_status(
            "--completion", lambda: _print_completion(parser, options.completion), extra="demo"
        )
    if options.command is None:
        parser.print_help()
        return 0
    return _exit_status(options.command, lambda: options.run(options), extra="demo")


def command_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands. Each sets `run`, which takes the options and returns an exit status."""
    parser = Parser(
        prog="elastic-agent",
        description="Hard caps on what an agent spends: each call gets a thinking and a solution budget.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "--completion",
        choices=SHELLS,
        help='the shell\'s completion of these commands, e.g. eval "$(elastic-agent --completion bash)"',
    )
    parser.add_argument("--version", action="version", version=f"elastic-agent {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    for module in (demo, ask, serve, keys, up, report, bench):
        module.add_command(commands)
    for name, text in (
        ("prepare", "make any model ready to be trained: markers, template, cold start"),
        ("train", "train an E1 model"),
        ("export", "a training checkpoint as a model"),
        ("eval", "accuracy by thinking budget"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> None:
    import shtab

    print(shtab.complete(parser, shell=shell))


def _exit_status(command: str, run: Callable[[], int | None], *, extra: str) -> int:
    """The exit status of a command; what users can mend is one sentence on stderr.

    Args:
        extra: the extra of our package that brings a module which is missing.
    """
    try:
        return int(run() or 0)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        message = f"elastic-agent {command} needs {error.name}: pip install 'elastic-agent[{extra}]'"
    except (ElasticError, ValueError, OSError) as error:
        message = f"elastic-agent {command}: {error}"
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
