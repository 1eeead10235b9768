"""Success curves in a run log: measured curves whole, learnt curves as their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..estimates.lengths import Lengths
from ..estimates.online_curves import Curves, LearntCurves
from ..estimates.success_curve import Curve, CurveSet


def curves_to_json(curves: Curves) -> dict[str, Any]:
    """The curves, for the event `curves`."""
    if isinstance(curves, LearntCurves):
        return {"learnt": {**_about(curves), "calls": curves.calls}}
    return {
        "measured": {**_about(curves), "kinds": {kind: _curve_to_json(c) for kind, c in curves.kinds.items()}}
    }


def _about(curves: Curves) -> dict[str, Any]:
    return {"model": curves.model, "solution": curves.solution, "scale": curves.scale}


def _curve_to_json(curve: Curve) -> dict[str, Any]:
    return {
        "kind": curve.kind,
        "points": curve.points,
        "lengths": None if curve.lengths is None else curve.lengths.knots,
        "solution": curve.solution,
        "measured": curve.measured,
        "solutions": curve.solutions,
        "right_solutions": [(t, lengths.knots) for t, lengths in curve.right_solutions],
    }


def curves_from_json(event: Mapping[str, Any]) -> Curves:
    """The curves of an event; learnt curves without any calls."""
    learnt = event.get("learnt")
    if learnt is not None:
        return LearntCurves(learnt["model"], scale=learnt["scale"], solution=learnt["solution"])
    measured = event["measured"]
    kinds = {kind: _curve_from_json(curve) for kind, curve in measured["kinds"].items()}
    return CurveSet(measured["model"], kinds, measured["solution"], measured["scale"])


def _curve_from_json(data: Mapping[str, Any]) -> Curve:
    lengths = data["lengths"]
    return Curve(
        data["kind"],
        _pairs(data["points"]),
        None if lengths is None else Lengths(_pairs(lengths)),
        data["solution"],
        data["measured"],
        _pairs(data["solutions"]),
        tuple((t, Lengths(_pairs(knots))) for t, knots in data["right_solutions"]),
    )


def _pairs(rows: Any) -> tuple[tuple[Any, Any], ...]:
    return tuple((x, y) for x, y in rows)
