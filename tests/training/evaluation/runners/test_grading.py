"""Grading beside drawing: nothing waits for it, nothing is lost by it, and its order is that of drawing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from elastic_agent.errors import BackendUnavailableError
from elastic_agent.training.evaluation.grid import run
from elastic_agent.training.evaluation.results import Record, Results
from elastic_agent.training.evaluation.runners.custom_graders import (
    FinishedOnly,
    FunctionGrader,
    grader_of,
    load_grader,
)
from elastic_agent.training.evaluation.runners.grading import BATCH, GradingQueue
from elastic_agent.training.evaluation.runners.served import Served
from elastic_agent.training.evaluation.suites import Suite
from elastic_agent.training.rewards.grades import Grade, Sample
from tests.training.evaluation.grids import CUES, grid, model, record, suite


class Held:
    """Grades nothing before it is let go; remembers its batches."""

    name = "held"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        assert self.go.wait(60)
        self.batches.append(len(samples))
        return [Grade(float(sample.answer)) for sample in samples]

    def close(self) -> None:
        self.go.set()


def test_a_slow_grader_holds_nobody_up() -> None:
    """All is drawn and handed in while the first batch is still being graded; then batches are full."""
    held, done = Held(), list[Record]()
    with GradingQueue(held, done.append) as queue:
        for i in range(3 * BATCH):
            queue.add(record(problem=f"p{i}"), Sample("", answer=i % 2))
        assert not done
        held.go.set()
    assert [r.problem for r in done] == [f"p{i}" for i in range(3 * BATCH)]
    assert [r.right for r in done] == [False, True] * (3 * BATCH // 2)
    assert max(held.batches) == BATCH
    assert sum(held.batches) == 3 * BATCH


def test_a_served_run_goes_on_while_samples_wait_to_be_graded(tmp_path: Path) -> None:
    """The last request is served before the first grade is given."""
    held, backend = Held(), model()
    made = grid(suite=Suite("numbers", suite().items, held, CUES), samples=3)

    class Engine(Served):
        def run(self, samples: object, done: object) -> None:
            super().run(samples, done)  # type: ignore[arg-type]
            assert not held.batches
            held.go.set()

    with Results(tmp_path / "r.jsonl", made.header()) as results:
        run(made, Engine(backend), results)
        assert len(results.records) == len(made) == 36


def test_what_was_drawn_is_graded_though_the_upstream_is_lost() -> None:
    done: list[Record] = []

    def lost() -> None:
        with GradingQueue(FunctionGrader(lambda *_: True), done.append) as queue:
            for i in range(5):
                queue.add(record(problem=f"p{i}"), Sample("", columns={"problem": None}))
            raise BackendUnavailableError("gone")

    with pytest.raises(BackendUnavailableError):
        lost()
    assert len(done) == 5


def test_a_full_disk_ends_the_run() -> None:
    """What `done` raises comes out, once."""

    def full(_: Record) -> None:
        raise OSError("no space left")

    def write() -> None:
        with GradingQueue(FunctionGrader(lambda *_: True), full) as queue:
            queue.add(record(), Sample("", columns={"problem": None}))

    with pytest.raises(OSError, match="no space left"):
        write()


def test_one_bad_sample_costs_only_itself() -> None:
    class Fragile(Held):
        def grade(self, samples: Sequence[Sample]) -> list[Grade]:
            if any(sample.answer is None for sample in samples):
                raise RuntimeError("no parser")
            return [Grade(1.0)] * len(samples)

    done: list[Record] = []
    with GradingQueue(Fragile(), done.append) as queue:
        for answer in (1, None, 1):
            queue.add(record(), Sample("", answer=answer))
    assert [(r.right, r.error) for r in done] == [(True, ""), (False, "RuntimeError: no parser"), (True, "")]


def test_what_is_not_finished_is_not_run() -> None:
    held = Held()
    held.go.set()
    samples = [Sample("", answer=1, finished=done) for done in (True, False, True)]
    grades = FinishedOnly(held).grade(samples)
    assert [(g.score, g.why) for g in grades] == [(1.0, ""), (0.0, "not finished"), (1.0, "")]
    assert held.batches == [2]


def test_graders_by_name() -> None:
    assert [grader_of(kind).name for kind in ("word-problems", "math")] == ["word-problems", "math"]
    assert load_grader("operator:contains").name == "operator:contains"
    with pytest.raises(ValueError, match="no grader"):
        load_grader("operator:nothing")
