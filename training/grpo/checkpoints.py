"""Checkpoints that survive a crash: how they are written, and which can be used.

A checkpoint is committed when all of its files are on the disk: `complete.json` names them with their sizes.
`complete.json` is written last, and appears in one step. A folder without it, or with a file that is missing
or has another size, was interrupted: the checkpoint before is used instead. An older checkpoint is
removed only when a newer one is committed, so there is always a complete one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..rollouts.engines.engine import is_sharded
from .launch import act_alone
from .output_lock import OutputLock

COMMIT_FILE = "complete.json"
MOST_FAILURES = 3
"""Checkpoints in a row that may fail before the run is stopped."""
_PATIENCE = 10.0  # seconds that a process waits for the right to write, at the end of a run


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, complete or not, oldest first."""
    found = []
    for path in folder.glob("checkpoint-*") if folder.is_dir() else ():
        step = path.name.rpartition("-")[2]
        if path.is_dir() and step.isdigit():
            found.append((int(step), path))
    return sorted(found)


def commit(checkpoint: Path) -> None:
    """Mark this checkpoint as complete, once the disk has all of it."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMMIT_FILE)
    sizes = {}
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    fresh = checkpoint / f"{COMMIT_FILE}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump({"files": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(checkpoint / COMMIT_FILE)


def uncommit(checkpoint: Path) -> None:
    """Mark this checkpoint as incomplete, before it is written (again)."""
    (checkpoint / COMMIT_FILE).unlink(missing_ok=True)


def fault(checkpoint: Path) -> str | None:
    """Why this checkpoint can't be used; None when it is complete."""
    try:
        sizes = json.loads((checkpoint / COMMIT_FILE).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError, KeyError) as error:
        return f"its {COMMIT_FILE} can't be read ({error})"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that can be used, oldest first."""
    return [path for _, path in checkpoints(folder) if fault(path) is None]


def last_good(folder: Path, log: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint; `log` gets a line for every newer one that is passed over."""
    for _, checkpoint in reversed(checkpoints(folder)):
        wrong = fault(checkpoint)
        if wrong is None:
            return checkpoint
        log(f"passing over {checkpoint.name}: {wrong}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Keep the newest `keep` complete checkpoints, and remove everything older."""
    complete = complete_checkpoints(folder)
    every = [path for _, path in checkpoints(folder)]
    for path in every[: every.index(complete[-keep])] if len(complete) >= keep else ():
        shutil.rmtree(path, ignore_errors=True)


class CheckpointWriter:
    """Writes the checkpoints of a run. A full disk costs a checkpoint, not the run.

    Args:
        folder: of all checkpoints of the run.
        keep: complete checkpoints to keep.
        accelerator: of the trainer, with its processes.
    """

    def __init__(self, folder: Path, keep: int, accelerator: Any) -> None:
        self._folder, self._keep, self._accelerator = folder, keep, accelerator
        self._failures = 0

    def write(self, step: int, save: Callable[[], None]) -> None:
        """Let `save` write the checkpoint of this step, commit it, and prune the older ones.

        Raises:
            Exception: of `save`, where several processes run or `MOST_FAILURES` checkpoints failed in a row.
        """
        checkpoint, main = self._folder / f"checkpoint-{step}", self._accelerator.is_main_process
        if main:
            uncommit(checkpoint)
        try:
            save()
            self._accelerator.wait_for_everyone()
            if main:
                commit(checkpoint)
        except Exception as error:
            # With several processes the others would wait for ever. Not OSError alone: torch and safetensors
            # report a full disk as errors of their own.
            self._failures += 1
            if self._accelerator.num_processes > 1 or self._failures >= MOST_FAILURES:
                raise
            shutil.rmtree(checkpoint, ignore_errors=True)
            complete = complete_checkpoints(self._folder)
            print(
                f"{checkpoint.name} could not be written ({error}); training goes on, and the last good "
                f"one is {complete[-1].name if complete else 'still to come'}",
                file=sys.stderr,
                flush=True,
            )
            return
        self._failures = 0
        if main:
            prune(self._folder, self._keep)


def rescue(trainer: Any, lock: OutputLock) -> str:
    """Write a checkpoint of the last finished update, since the run must stop; returns how to go on.

    Each of several processes with whole weights could write, and one does: the first to have the lock, which
    the main process holds while it lives. Of sharded weights a part may be lost: the last checkpoint serves.
    """
    folder, step = Path(trainer.args.output_dir), trainer.state.global_step
    several = trainer.accelerator.num_processes > 1
    if step and not is_sharded(trainer) and lock.take(_PATIENCE) and fault(folder / f"checkpoint-{step}"):
        if several:
            act_alone()
        trainer._save_checkpoint(trainer.model, None)
    complete = complete_checkpoints(folder)
    if not complete:
        return "there is no checkpoint yet, so --resume starts from the beginning"
    return f"--resume goes on from {complete[-1]}"
