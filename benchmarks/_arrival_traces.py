"""Traces of `arrivals.py`: when tasks come, and how long their answers are. Files, and ten made-up shapes.

A row is (seconds, answer tokens). The made-up ones differ in one thing each: the rhythm of the arrivals or
the lengths of the answers. They are drawn from a seed; the same name and seed give the same rows.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

Row = tuple[float, int]
AZURE = ("azure_llm_conv.csv", "azure_llm_code.csv")
MEAN, SPREAD = 4.5, 0.9
"""Of the logarithm of an answer's tokens, where lengths are nothing special: a median of 90."""


def azure(folder: Path) -> list[Row]:
    """The Azure pair in one; empty where it isn't there."""
    rows: list[Row] = []
    if all((folder / name).is_file() for name in AZURE):
        for name in AZURE:
            with (folder / name).open() as file:
                for row in csv.DictReader(file):
                    at = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
                    rows.append((at, int(row["GeneratedTokens"])))
    return sorted(rows)


def json_lines(path: Path) -> list[Row]:
    """A file of JSON lines with `timestamp` in milliseconds and `output_length` in tokens.

    Raises:
        SystemExit: a line is something else: with its number and what is expected.
    """
    rows: list[Row] = []
    with path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows.append((float(row["timestamp"]) / 1000, int(row["output_length"])))
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(
                    f"{path}, line {number}: a JSON object with `timestamp` (ms) and `output_length` (tokens)"
                    f" is expected: {error!r}"
                ) from None
    if not rows:
        raise SystemExit(f"{path} has no requests")
    return sorted(rows)


def thinned(rows: list[Row], tasks: int) -> list[Row]:
    """So many of them, evenly: the rhythm of the whole file, not of its first minute."""
    every = max(1, len(rows) // tasks)
    return rows[: every * tasks : every]


def _length(rng: random.Random) -> int:
    return round(rng.lognormvariate(MEAN, SPREAD))


def _steady(rng: random.Random, tasks: int, length: Callable[[random.Random, float], int]) -> list[Row]:
    """Arrivals without a rhythm (Poisson); the length may depend on the share of the trace that is over."""
    at, rows = 0.0, []
    for i in range(tasks):
        at += rng.expovariate(1.0)
        rows.append((at, length(rng, i / tasks)))
    return rows


def _timed(rng: random.Random, tasks: int, gap: Callable[[random.Random, int, float], float]) -> list[Row]:
    """Ordinary lengths; the gap before each may depend on its number and the share that is over."""
    at, rows = 0.0, []
    for i in range(tasks):
        at += gap(rng, i, i / tasks)
        rows.append((at, _length(rng)))
    return rows


SHAPES: dict[str, Callable[[random.Random, int], list[Row]]] = {
    # Lengths, at steady arrivals
    "steady": lambda rng, n: _steady(rng, n, lambda rng, _: _length(rng)),
    "heavy-tailed": lambda rng, n: _steady(rng, n, lambda rng, _: round(20 * rng.paretovariate(1.1))),
    "all-long": lambda rng, n: _steady(rng, n, lambda rng, _: rng.randint(300, 512)),
    "all-short": lambda rng, n: _steady(rng, n, lambda rng, _: rng.randint(4, 24)),
    "two-sizes": lambda rng, n: _steady(
        rng, n, lambda rng, _: 512 if rng.random() < 0.1 else rng.randint(8, 40)
    ),
    "growing": lambda rng, n: _steady(rng, n, lambda rng, f: round(rng.lognormvariate(3 + 3 * f, 0.5))),
    # Rhythms, at ordinary lengths
    "bursty": lambda rng, n: _timed(rng, n, lambda rng, i, _: rng.expovariate(2.0 if i // 40 % 2 else 0.7)),
    "diurnal": lambda rng, n: _timed(
        rng, n, lambda rng, _, f: rng.expovariate(1 + 0.8 * math.sin(4 * math.pi * f))
    ),
    "crowds": lambda rng, n: _timed(  # forty in one moment
        rng, n, lambda rng, i, _: 0.0 if i % 40 else 40 * rng.uniform(0.5, 1.5)
    ),
    "long-gaps": lambda rng, n: _timed(rng, n, lambda rng, *_: rng.paretovariate(1.2)),
}


def synthetic(name: str, tasks: int, seed: int) -> list[Row]:
    """The rows of a made-up trace."""
    return SHAPES[name](random.Random(f"{name} {seed}"), tasks)
