"""What the launcher of a run says in the environment: which process this is, and of how many."""

from __future__ import annotations

import os


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes the launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """How many of them it has started on this machine; at least 1."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
