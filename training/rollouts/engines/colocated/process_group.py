"""The processes of a run stay together when the vLLM in each of them stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def processes_together() -> Iterator[None]:
    """Within, nothing ends torch's group of all processes; groups below may end.

    vLLM makes groups of its own below the trainer's, and when it stops it ends all that torch has: the model
    in training could not be gathered any more.
    """
    from torch import distributed

    end = distributed.destroy_process_group

    def end_part(group: Any = None) -> None:
        if group is not None and distributed.is_initialized():  # a run that was rescued has ended all
            end(group)

    distributed.destroy_process_group = end_part
    try:
        yield
    finally:
        distributed.destroy_process_group = end
