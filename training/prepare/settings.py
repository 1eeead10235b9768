"""What decides a run of `prepare`, and whether a folder can take it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elastic_agent.errors import ConfigError

FILE = "prepare.json"
"""In the output: the settings, and what was made of them."""
CHECKPOINTS, START, LOCK = "checkpoints", "start", ".lock"
"""What a run keeps in the output while it goes on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run; `fixed` says what must be the same when a run goes on.

    Attributes:
        traces: the file; None: markers and template alone.
        digest: of the file's bytes.
        markers: name of a pair; None: the base's own, or "think".
        steps, epochs: how long; one of them is given.
        batch: rows of a step.
        microbatch: rows of a pass; None: as many as make up about 8,192 tokens.
        rate: the learning rate; None: by the size of the model.
        lora: rank of adapters; None: all weights.
        dtype: what is computed in.
        context: most tokens of a row; None: the model's.
        check: questions that are kept apart; 0: no check.
        compare: the check is also made before the training.
        grader: who says which answers are right.
    """

    base: str
    output: Path
    traces: Path | None = None
    digest: str = ""
    markers: str | None = None
    steps: int | None = None
    epochs: float | None = None
    batch: int = 16
    microbatch: int | None = None
    rate: float | None = None
    lora: int | None = None
    dtype: str = "float32"
    context: int | None = None
    seed: int = 0
    check: int = 32
    compare: bool = False
    grader: str = "math"

    def fixed(self) -> dict[str, Any]:
        """What a run that goes on must have in common with its beginning."""
        free = ("output", "traces", "microbatch", "compare", "grader")
        return {name: value for name, value in asdict(self).items() if name not in free}


def digest_of(path: Path) -> str:
    """A digest of a file's, or a folder's files', bytes."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(file.read_bytes())
    return found.hexdigest()


def check_output(settings: Settings, *, resume: bool) -> None:
    """Refuse a folder that holds something else, or another run.

    Raises:
        ConfigError: it does; says what, and what to do.
    """
    folder = settings.output
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder, which may be a new one")
    held = sorted(path.name for path in folder.iterdir() if path.name != LOCK) if folder.is_dir() else []
    if not held:
        return
    if FILE not in held:
        shown = ", ".join(held[:4]) + (", ..." if len(held) > 4 else "")
        raise ConfigError(
            f"--output {folder} holds something else ({shown}): name a new folder, or an empty one"
        )
    if not resume:
        done = "is a prepared model already" if _read(folder)["finished"] else "holds a run that was stopped"
        raise ConfigError(f"--output {folder} {done}: --resume goes on with it, or name another folder")
    before, now = _read(folder)["settings"], json.loads(json.dumps(settings.fixed()))
    changed = [
        f"{name} (then {before.get(name)}, now {now[name]})" for name in now if before.get(name) != now[name]
    ]
    if changed:
        raise ConfigError(
            f"--resume: the run in {folder} was begun with another {', '.join(changed)}: give the same, or "
            f"another --output"
        )


def is_finished(folder: Path) -> bool:
    """Whether the run of this folder has written its model and its check."""
    return (folder / FILE).is_file() and bool(_read(folder)["finished"])


def note(settings: Settings, **made: Any) -> None:
    """Write the settings with what was made of them so far."""
    path = settings.output / FILE
    before = _read(settings.output) if path.is_file() else {"finished": False, "settings": settings.fixed()}
    fresh = path.with_name(f"{FILE}.new")
    fresh.write_text(json.dumps({**before, **made}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)


def noted(folder: Path) -> dict[str, Any]:
    """What `note` has written; {} before."""
    return _read(folder) if (folder / FILE).is_file() else {}


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / FILE} can't be read ({error}): give another --output") from error
    return found
