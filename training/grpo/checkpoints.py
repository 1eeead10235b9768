"""Which checkpoint can be used after a crash.

A checkpoint is committed when all of its files are on the disk: `complete.json` names them with their sizes.
It is written last, and appears in one step. A folder without it, or with a file that is missing or has
another size, was interrupted: it is passed over, and the one before it is used. An older checkpoint is
removed only when a newer one is committed, so there is always a complete one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

COMMIT_FILE = "complete.json"


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
