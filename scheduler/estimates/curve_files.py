"""Measured success curves from files: those that ship with a model, and those that an evaluation wrote.

Success is smoothed with half a success and half a failure, since log p is what is added up and p=0 out of 500
is not impossible.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..latency.concurrency import Pool, rising
from .lengths import Lengths
from .success_curve import PRIOR_SCALE, Curve, CurveSet

BEYOND = 2.0
"""Standard errors by which success has to fall with more thinking to be believed."""


class CurveFileError(ValueError):
    """A curves file that can't be used; says where and why."""


def load(model: str, *, scale: float = PRIOR_SCALE) -> CurveSet:
    """The curves that ship with an embedded model; the prior for every other."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", model) and not model.startswith("."):
        packaged = files("elastic_agent").joinpath("models", model, "curves.json")
        if packaged.is_file():
            return parse(json.loads(packaged.read_text(encoding="utf-8")), where=f"{model}/curves.json")
    return CurveSet(model, scale=scale)


def load_file(path: str | Path) -> CurveSet:
    """Curves from a file, as `elastic-agent eval` writes them.

    Raises:
        CurveFileError: not JSON, or not of the schema.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CurveFileError(f"{path}: not JSON: {error}") from None
    return parse(data, where=str(path))


def parse(data: Any, *, where: str = "curves") -> CurveSet:
    """Curves from decoded JSON.

    The schema: `{"model": str, "s": int, "kinds": {kind: [[t, p, n], ...]}}`, t null for unconstrained
    thinking, and optionally `"natural_thinking": {kind: {"mean", "p50", "p90", "p99"}}` and
    `"solution_tokens"` with the same, `"solution_by_thinking": {kind: [[t, mean], ...]}` and
    `"right_solutions": {kind: [[t, p50, p90, p99], ...]}`.

    Raises:
        CurveFileError: it is something else.
    """
    if not isinstance(data, dict) or not isinstance(data.get("kinds"), dict) or not data["kinds"]:
        raise CurveFileError(f"{where}: expected an object with 'model', 's' and a non-empty 'kinds'")
    model, solution = data.get("model"), data.get("s")
    if not isinstance(model, str) or not isinstance(solution, int) or solution < 1:
        raise CurveFileError(f"{where}: 'model' must be a string and 's' a whole number of tokens")
    curves = {}
    for kind, rows in data["kinds"].items():
        natural = _percentiles(data, "natural_thinking", kind, where)
        solution_tokens = _percentiles(data, "solution_tokens", kind, where)
        lengths = Lengths.of(natural["p50"], natural["p90"], natural["p99"]) if natural else None
        points = _points(rows, lengths, f"{where}: kinds[{kind!r}]")
        means = _by_limit(data, "solution_by_thinking", kind, ("tokens",), points, where)
        right = _by_limit(data, "right_solutions", kind, ("p50", "p90", "p99"), points, where)
        curves[kind] = Curve(
            kind,
            points,
            lengths,
            solution_tokens["mean"] if solution_tokens else None,
            solutions=tuple((t, mean) for t, (mean,) in means),
            right_solutions=tuple((t, Lengths.of(*row)) for t, row in right),
        )
    return CurveSet(model, curves, solution)


def _points(rows: Any, lengths: Lengths | None, where: str) -> tuple[tuple[int, float], ...]:
    found: dict[int, tuple[float, int]] = {}
    unlimited: tuple[float, int] | None = None
    if not isinstance(rows, list) or not rows:
        raise CurveFileError(f"{where}: expected a list of [t, p, n]")
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3):
            raise CurveFileError(f"{where}: expected [t, p, n], got {row!r}")
        t, p, n = row
        if not (t is None or (isinstance(t, int) and t >= 0)) or t in found:
            raise CurveFileError(f"{where}: t must be null or a whole number, each once; got {t!r}")
        if not isinstance(p, int | float) or not 0 <= p <= 1 or not isinstance(n, int) or n < 1:
            raise CurveFileError(f"{where}: p must lie in 0..1 and n be at least 1; got {row!r}")
        smooth = (p * n + 0.5) / (n + 1), n
        if t is None:
            unlimited = smooth
        else:
            found[t] = smooth
    if unlimited is not None:
        found[max([lengths.longest if lengths else 0, *(2 * t for t in found)])] = unlimited
    if 0 not in found:
        found[0] = min(found.values())  # not measured: no better than the worst point
    return tuple(rising(((t, p, n) for t, (p, n) in sorted(found.items())), _falls))


def _falls(left: Pool, right: Pool) -> bool:
    """Whether success falls by more than `BEYOND` standard errors: such a fall is no noise."""
    mean = (left[1] * left[2] + right[1] * right[2]) / (left[2] + right[2])
    error = math.sqrt(mean * (1 - mean) * (1 / left[2] + 1 / right[2]))
    return left[1] - right[1] > BEYOND * error


def _by_limit(
    data: Any, name: str, kind: str, columns: Sequence[str], points: Sequence[tuple[int, float]], where: str
) -> list[tuple[int, list[float]]]:
    """The [t, *columns] rows of a kind, by rising t; null is the success curve's unconstrained point."""
    found: dict[int, list[float]] = {}
    for row in (data.get(name) or {}).get(kind) or ():
        numbers = row[1:] if isinstance(row, list) else ()
        if len(numbers) != len(columns) or not all(isinstance(n, int | float) and n >= 0 for n in numbers):
            raise CurveFileError(
                f"{where}: {name}[{kind!r}]: expected [t, {', '.join(columns)}], got {row!r}"
            )
        found[points[-1][0] if row[0] is None else int(row[0])] = [float(n) for n in numbers]
    return sorted(found.items())


def _percentiles(data: Any, name: str, kind: str, where: str) -> dict[str, float] | None:
    row, keys = (data.get(name) or {}).get(kind), ("mean", "p50", "p90", "p99")
    if row is None:
        return None
    if not isinstance(row, dict) or not all(
        isinstance(row.get(k), int | float) and row[k] >= 0 for k in keys
    ):
        raise CurveFileError(f"{where}: {name}[{kind!r}]: expected mean, p50, p90 and p99, got {row!r}")
    return {key: float(row[key]) for key in keys}
