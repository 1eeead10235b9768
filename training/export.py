"""Write a checkpoint of a training run as a model: weights in bfloat16, adapters merged.

    elastic-agent export CHECKPOINT OUT

CHECKPOINT is a folder checkpoint-N, or a run's output, of which the newest complete checkpoint is taken. OUT
loads in transformers, vLLM and elastic-agent. Weights are read and written one at a time on the CPU, so a
model of any size needs little memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from elastic_agent.cli_arguments import Parser
from elastic_agent.errors import UsageError

from .grpo.checkpoints import checkpoints, last_good
from .grpo.export import export_checkpoint


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint that a folder is or holds.

    Raises:
        UsageError: it is none, and holds none that is complete.
    """
    for holder in (folder / "checkpoints", folder):
        if checkpoints(holder):
            found = last_good(holder, print)
            if found is None:
                raise UsageError(f"{holder} holds no complete checkpoint")
            return found
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} is no checkpoint: give a folder checkpoint-N, or the --output of a run")
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Run `elastic-agent export`."""
    parser = Parser(
        prog="elastic-agent export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint-N, or a run's output")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the model")
    options = parser.parse_args(argv)
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise UsageError(f"{options.out} is there already: give a new folder")
    checkpoint = checkpoint_of(options.checkpoint)
    export_checkpoint(checkpoint, options.out)
    print(f'wrote {checkpoint} to {options.out}; next: elastic-agent ask "..." --model {options.out}')


if __name__ == "__main__":
    main()
