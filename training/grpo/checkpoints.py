"""Which checkpoint can be trusted after a crash.

A checkpoint is sealed when all of its files are on the disk: `complete.json` names them with their sizes, is
written last, and appears in one step. A folder without a seal, or with a file that is missing or has another
size, was interrupted: it is passed over, and the one before it is used. An older checkpoint is removed only
when a newer one is sealed, so there is always one that is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

SEAL = "complete.json"


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every checkpoint, sealed or not, oldest first."""
    found = []
    for path in folder.glob("checkpoint-*") if folder.is_dir() else ():
        step = path.name.rpartition("-")[2]
        if path.is_dir() and step.isdigit():
            found.append((int(step), path))
    return sorted(found)


def seal(checkpoint: Path) -> None:
    """Say that this checkpoint is whole, once the disk has it."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    sizes = {}
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    unsealed = checkpoint / f"{SEAL}.new"
    with unsealed.open("w", encoding="utf-8") as file:
        json.dump({"files": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unsealed.replace(checkpoint / SEAL)


def unseal(checkpoint: Path) -> None:
    """Before it is written (again)."""
    (checkpoint / SEAL).unlink(missing_ok=True)


def fault(checkpoint: Path) -> str | None:
    """Why this checkpoint can't be used; None when it is whole."""
    try:
        sizes = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError, KeyError) as error:
        return f"its {SEAL} can't be read ({error})"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def last_good(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint; `tell` hears of every newer one that is passed over."""
    for _, checkpoint in reversed(checkpoints(folder)):
        wrong = fault(checkpoint)
        if wrong is None:
            return checkpoint
        tell(f"passing over {checkpoint.name}: {wrong}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Leave the newest `keep` whole checkpoints; remove older ones and older wrecks."""
    whole = [(step, path) for step, path in checkpoints(folder) if fault(path) is None]
    if len(whole) < keep:
        return
    oldest = whole[-keep][0]
    for step, path in checkpoints(folder):
        if step < oldest:
            shutil.rmtree(path, ignore_errors=True)
