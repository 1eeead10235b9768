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
        natural = _percentiles(data.get("natural_thinking"), kind, f"{where}: natural_thinking[{kind!r}]")
        answers = _percentiles(data.get("solution_tokens"), kind, f"{where}: solution_tokens[{kind!r}]")
        lengths = Lengths.of(natural["p50"], natural["p90"], natural["p99"]) if natural else None
        points = _points(rows, lengths, f"{where}: kinds[{kind!r}]")
        mean = answers["mean"] if answers else None
        table = data.get("solution_by_thinking")
        says = (
            _lengths_at(table.get(kind), points, f"{where}: solution_by_thinking[{kind!r}]") if table else ()
        )
        right = _answers(data.get("right_solutions"), kind, points, f"{where}: right_solutions[{kind!r}]")
        curves[kind] = Curve(kind, points, lengths, mean, solutions=says, right_solutions=right)
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
        found[0] = min(found.values())  # nobody measured it: no better than the worst that was
    return _smoothed([(t, p, n) for t, (p, n) in sorted(found.items())])


def _smoothed(rows: Sequence[tuple[int, float, int]]) -> tuple[tuple[int, float], ...]:
    """More thinking is taken to be no worse, unless it was measured to be: a fall that is within its error is
    averaged away (pool adjacent violators), one beyond `BEYOND` standard errors stays.

    Args:
        rows: (thinking tokens, success, samples), by rising tokens.
    """
    blocks: list[tuple[list[int], float, int]] = []
    for t, p, n in rows:
        block = [t], p, n
        while blocks and blocks[-1][1] > block[1]:
            before, count = blocks[-1], blocks[-1][2] + block[2]
            mean = (before[1] * before[2] + block[1] * block[2]) / count
            error = math.sqrt(mean * (1 - mean) * (1 / before[2] + 1 / block[2]))
            if before[1] - block[1] > BEYOND * error:
                break
            blocks.pop()
            block = before[0] + block[0], mean, count
        blocks.append(block)
    return tuple((t, p) for ts, p, _ in blocks for t in ts)


def _lengths_at(rows: Any, points: Sequence[tuple[int, float]], where: str) -> tuple[tuple[int, float], ...]:
    """[t, mean solution tokens] rows; null stands where the success curve has its unconstrained point."""
    found: dict[int, float] = {}
    for row in rows or ():
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], int | float) and row[1] >= 0):
            raise CurveFileError(f"{where}: expected [t, tokens], got {row!r}")
        found[points[-1][0] if row[0] is None else int(row[0])] = float(row[1])
    return tuple(sorted(found.items()))


def _answers(
    table: Any, kind: str, points: Sequence[tuple[int, float]], where: str
) -> tuple[tuple[int, Lengths], ...]:
    """[t, p50, p90, p99] rows; null stands where the success curve has its unconstrained point."""
    found: dict[int, Lengths] = {}
    for row in (table or {}).get(kind, ()):
        numbers = row[1:] if isinstance(row, list) else ()
        if len(numbers) != 3 or not all(isinstance(n, int | float) and n >= 0 for n in numbers):
            raise CurveFileError(f"{where}: expected [t, p50, p90, p99], got {row!r}")
        found[points[-1][0] if row[0] is None else int(row[0])] = Lengths.of(*numbers)
    return tuple(sorted(found.items(), key=lambda pair: pair[0]))


def _percentiles(table: Any, kind: str, where: str) -> dict[str, float] | None:
    if table is None or kind not in table:
        return None
    row = table[kind]
    if not isinstance(row, dict) or not all(
        isinstance(row.get(key), int | float) and row[key] >= 0 for key in ("mean", "p50", "p90", "p99")
    ):
        raise CurveFileError(f"{where}: expected mean, p50, p90 and p99, got {row!r}")
    return {key: float(row[key]) for key in ("mean", "p50", "p90", "p99")}
