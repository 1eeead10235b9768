"""What a run writes for people: a line a batch with the time left, `metrics.csv`, and `metrics.svg`.

A row is a batch of rollouts. Both files are replaced after each batch, in one step, so they are complete
whenever the run is killed. A resumed run drops the rows behind its checkpoint and goes on.
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..plots.panels import Panel, figure
from .sample_table import SampleTable

FIRST = (
    "step",
    "reward",
    "reward/cut",
    "reward/uncut",
    "thinking/mean_length",
    "solution/mean_length",
    "thinking/cut",
    "solution/unfinished",
    "forced_tokens",
    "groups/mixed",
    "groups/decided_by_truncation",
    "clip_ratio/region_mean",
    "loss",
    "learning_rate",
)
"""Columns that come first; the others follow in the order of their names."""
CLIPPED: Mapping[str, str] = {"": "clip_ratio/region_mean"}
PANELS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("reward", {"all": "reward", "cut": "reward/cut", "uncut": "reward/uncut"}),
    ("mean tokens", {"thinking": "thinking/mean_length", "solution": "solution/mean_length"}),
    ("share of samples", {"cut": "thinking/cut", "unfinished": "solution/unfinished"}),
    (
        "share of groups",
        {"mixed rewards": "groups/mixed", "decided by truncation": "groups/decided_by_truncation"},
    ),
    ("share of tokens clipped", CLIPPED),
    ("entropy", {"": "entropy"}),
    ("seconds a batch", {name: f"seconds/{name}" for name in ("rollout", "sync", "reward", "update")}),
    ("tokens a second, one device", {"rollout": "tokens_s/rollout", "update": "tokens_s/update"}),
)
VALIDATED = re.compile("validation/[^/]+/reward")
Row = dict[str, float | None]


class RunLogger:
    """Writes the metrics of a run after each batch.

    Args:
        folder: where `metrics.csv` and `metrics.svg` are written.
        steps: batches of the whole run.
        log: gets a line a batch.
        clock: seconds, for the time left.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        log: Callable[[str], None] = print,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.folder, self.steps = folder, steps
        self.rows: list[Row] = []
        self.log, self._clock = log, clock
        self._begun, self._started = 0, clock()
        self._failed = False

    def begin(self, step: int) -> None:
        """A run starts, or goes on after `step` batches."""
        path = self.folder / "metrics.csv"
        kept = read_csv(path.read_text(encoding="utf-8")) if step and path.exists() else []
        self.rows = [row for row in kept if (row.get("step") or 0) <= step]
        self._begun, self._started = step, self._clock()

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """The metrics of batch number `step`, from 1."""
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) or v is None}
        self.rows.append({"step": float(step), **numbers})
        spent = (self._clock() - self._started) / max(1, step - self._begun)
        self.log(line(step, self.steps, self.rows[-1], spent))
        try:
            _write(self.folder / "metrics.csv", as_csv(self.rows))
            _write(self.folder / "metrics.svg", picture(self.rows))
        except OSError as error:
            if not self._failed:  # a full disk must not end a run, nor fill the screen
                self.log(f"metrics can't be written: {error}")
            self._failed = True


def line(step: int, steps: int, row: Mapping[str, float | None], seconds: float) -> str:
    """The line of one batch."""

    def number(name: str, form: str) -> str:
        value = row.get(name)
        return "-" if value is None else format(value, form)

    left = (steps - step) * seconds
    return (
        f"step {step} of {steps}: reward {number('reward', '.3f')} (cut {number('reward/cut', '.3f')}, uncut "
        f"{number('reward/uncut', '.3f')}), thinking {number('thinking/mean_length', '.1f')}, solution "
        f"{number('solution/mean_length', '.1f')}, cut {number('thinking/cut', '.0%')}, unfinished "
        f"{number('solution/unfinished', '.0%')}, clipped {number('clip_ratio/region_mean', '.2%')}; "
        f"{seconds:.1f} s a step, {_time(left)} left"
    )


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV; a number that a row does not have is an empty field."""
    every = {name for row in rows for name in row}
    columns = [name for name in FIRST if name in every] + sorted(every - set(FIRST), key=_natural)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(name) for name in columns)
        writer.writerow(["" if cell is None else format(cell, ".9g") for cell in cells])
    return out.getvalue()


def read_csv(text: str) -> list[Row]:
    """What `as_csv` wrote."""
    return [
        {name: float(cell) if cell else None for name, cell in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def picture(rows: Sequence[Row]) -> str:
    """The course of a run as SVG. Clipping has a panel only where there was any."""
    shown = [(title, lines) for title, lines in PANELS if lines != CLIPPED or any(map(_clips, rows))]
    panels = [
        Panel(
            title,
            {name: [(row["step"] or 0.0, row.get(column)) for row in rows] for name, column in lines.items()},
            x_label="batch",
        )
        for title, lines in (*shown, *_validation(rows))
    ]
    return figure(panels)


def _clips(row: Row) -> bool:
    return any(row.get(column) for column in CLIPPED.values())


def _validation(rows: Sequence[Row]) -> list[tuple[str, Mapping[str, str]]]:
    """A panel with a line for each budget, where a run validates."""
    names = sorted({name for row in rows for name in row if VALIDATED.fullmatch(name)}, key=_natural)
    return [("validation: reward", {name.split("/")[1]: name for name in names})] if names else []


def make_callback(logger: RunLogger, updates: int, table: SampleTable | None = None) -> Any:
    """The logger as a callback of transformers' Trainer; a batch is `updates` of its steps."""
    from transformers import TrainerCallback

    class LoggerCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                logger.begin(state.global_step // updates)
                if table is not None:
                    table.begin(state.global_step // updates)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if state.is_world_process_zero and logs and "loss" in logs:
                logger.add(state.global_step // updates, logs)

    return LoggerCallback()


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which t<=16 comes before t<=128."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
