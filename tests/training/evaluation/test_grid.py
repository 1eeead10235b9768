"""The grid: checked before anything is spent, resumed without a trace, graded with care."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import ContextLengthError, InvalidBudgetError
from elastic_agent.training.evaluation.grid import Grid, GridError, check, run, seed_of, weights_of
from elastic_agent.training.evaluation.results import Key, Record, Results
from elastic_agent.training.evaluation.runners.custom_graders import FunctionGrader
from elastic_agent.training.evaluation.runners.served import Served
from elastic_agent.training.evaluation.suites import Item, Suite
from tests.training.evaluation.grids import grid, model, suite


class Stop(Exception):
    """The process is killed."""


def drawn(made: Grid, path: Path, *, after: int | None = None, name: str = "scripted") -> dict[Key, Record]:
    """Run to the end, or until so many samples are written."""
    count = 0

    def done(_: Record) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise Stop

    with Results(path, made.header()) as results:
        with suppress(Stop):
            run(made, Served(model(name), concurrency=3), results, done)
        return dict(results.records)


def test_every_sample_is_drawn_once_and_graded(tmp_path: Path) -> None:
    """avg@k over strategies by t by s: a problem is right once its thinking suffices."""
    made = grid(strategies=("elastic", "truncate"), samples=2, solution=(3, 4))
    found = drawn(made, tmp_path / "r.jsonl")
    assert len(found) == len(made) == 2 * 3 * 2 * 4 * 2
    right = {(r.problem, r.t) for r in found.values() if r.right and r.strategy == "elastic"}
    assert right == {("p0", 0), ("p0", 2), ("p1", 2), ("p2", 2), *((f"p{i}", None) for i in range(4))}
    one = next(r for r in found.values() if r.key == Key("scripted", "elastic", 2, 4, "p1", 0))
    assert (one.thinking, one.solution, one.kind) == ("step-0. step-1.", "1", "kind-1")
    assert (one.thinking_tokens, one.solution_tokens, one.forced, one.tokens) == (2, 2, 1, 4)


def test_a_run_that_is_taken_up_again_is_the_same_run(tmp_path: Path) -> None:
    """Stopped at any sample, gone on with: the same records, none drawn twice."""
    made = grid(strategies=("elastic", "s1"), samples=2)
    whole = drawn(made, tmp_path / "whole.jsonl", name="org/model")
    for after in (1, 7, 40):
        path = tmp_path / f"{after}.jsonl"
        first = drawn(made, path, after=after, name="org/model")
        assert after <= len(first) < len(whole)
        assert drawn(made, path, name="org/model") == whole
    lines = (tmp_path / "7.jsonl").read_text().count("\n")
    assert lines == 1 + len(whole)


def test_a_grid_may_grow(tmp_path: Path) -> None:
    """More budgets and samples draw only what is new."""
    path = tmp_path / "r.jsonl"
    before = drawn(grid(), path)
    larger = grid(thinking=(0, 2, 4, None), samples=2)
    after = drawn(larger, path)
    assert after.items() >= before.items()
    assert len(after) == len(larger)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"thinking": ()}, GridError, "at least one"),
        ({"thinking": (2, 2)}, GridError, "each once"),
        ({"strategies": ("elastic", "elastic")}, GridError, "each once"),
        ({"samples": 0}, GridError, "at least 1"),
        ({"solution": (0,)}, InvalidBudgetError, "at least 1"),
        ({"thinking": (-1,)}, InvalidBudgetError, "at least 0"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(changes: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        grid(**changes)


def test_no_problems_and_twice_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="no problems"):
        suite(0)
    item = Item("a", "?", "1")
    with pytest.raises(ValueError, match="same id"):
        Suite("twice", [item, item], FunctionGrader(lambda *_: True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"thinking": (95,)}, r"context of 100 tokens; .* t=95 \+ s=4"),
        ({"solution": (4, 96), "thinking": (None,)}, "lower --thinking or --solution"),
        ({"strategies": ("s1:waits=60",), "thinking": (32,)}, "62 for s1:waits=60"),
    ],
)
def test_a_budget_beyond_the_context_is_refused_before_a_token(changes: Any, says: str) -> None:
    """For the longest prompt and the largest s, with what the strategy inserts."""
    backend = model()
    with pytest.raises(ContextLengthError, match=says):
        check(grid(**changes), Served(backend))
    assert backend.meter.requests == 0
    check(grid(thinking=(80,)), Served(backend))


def test_unconstrained_fits_into_the_context_exactly(tmp_path: Path) -> None:
    """t=None is what the context has room for, never more."""
    made = grid(thinking=(None,), strategies=("elastic", "truncate", "s1", "early-exit:every=4"))
    backend = model(thinks=500, context=60)
    check(made, Served(backend))
    with Results(tmp_path / "r.jsonl", made.header()) as results:
        run(made, Served(backend), results)
        assert len(results.records) == len(made)
        assert max(r.thinking_tokens for r in results.records.values()) > 30


def test_native_needs_a_server_and_one_pass_no_swap() -> None:
    """Refused by name, before anything is spent."""
    backend = model()
    with pytest.raises(GridError, match="thinking budget of its own"):
        check(grid(strategies=("native",)), Served(backend))
    pair = Served(backend, solver=model("b"))
    with pytest.raises(GridError, match="two models"):
        check(grid(strategies=("truncate",)), pair)
    check(grid(), pair)


def test_a_grader_that_raises_costs_its_sample_only(tmp_path: Path) -> None:
    def grade(item: Item, text: str, done: bool) -> bool:
        if item.id == "p1":
            raise RuntimeError("no parser")
        return True

    found = drawn(grid(suite=suite(grade=grade)), tmp_path / "r.jsonl")
    assert {r.problem for r in found.values() if r.error == "RuntimeError: no parser"} == {"p1"}
    assert sum(r.right for r in found.values()) == 9


def test_comparisons_are_paired() -> None:
    """The same seed for every model, strategy and budget; another for each problem and sample."""
    key = Key("a", "elastic", 8, 4, "p", 0)
    assert seed_of(1, key) == seed_of(1, key._replace(model="b", strategy="s1", t=None, s=9))
    seeds = {seed_of(r, key._replace(problem=p, sample=k)) for r in (1, 2) for p in "pq" for k in (0, 1)}
    assert len(seeds) == 8
    assert max(seeds) < 2**31


def test_weights_have_a_fingerprint(tmp_path: Path) -> None:
    assert weights_of(tmp_path) == ""
    (tmp_path / "model.safetensors").write_bytes(b"a" * 3_000_000)
    first = weights_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"a" * 2_999_999 + b"b")
    assert len({first, weights_of(tmp_path), ""}) == 3
