"""Grading beside drawing: a thread of its own, so that a slow grader never holds up a model.

What waits while a batch is graded becomes the next batch; graders work on a batch in parallel, in processes
(math-verify) or sandboxes (code). A sample is written down once it is graded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from ...rewards.grades import Grader, Sample, grade_all
from ..results import Record

BATCH = 64
"""Most samples graded together: few enough that results come steadily."""


class GradingQueue:
    """Takes samples that are drawn, and hands each over, graded, in the order in which it came.

        with GradingQueue(grader, done) as queue:
            queue.add(record, sample)

    Leaving the block waits for what is still to be graded, also when drawing has failed: it was paid for.

    Args:
        grader: asked from one thread, the queue's.
        done: gets each record, in that thread. What it raises ends the queue and comes out of `add` or the
            block's end.
    """

    def __init__(self, grader: Grader, done: Callable[[Record], None]) -> None:
        self._grader, self._done = grader, done
        self._waiting: SimpleQueue[tuple[Record, Sample] | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="grading", daemon=True)

    def add(self, record: Record, sample: Sample) -> None:
        """Leave a sample to be graded; returns at once."""
        if self._failure is not None:
            raise self._failure
        self._waiting.put((record, sample))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None and self._failure is not error:
            raise self._failure

    def _work(self) -> None:
        try:
            while batch := self._batch():
                for (record, _), grade in zip(
                    batch, grade_all(self._grader, [s for _, s in batch]), strict=True
                ):
                    right = grade.score >= 1.0
                    self._done(replace(record, right=right, why=grade.why, error=grade.failure))
        except BaseException as failure:
            self._failure = failure

    def _batch(self) -> list[tuple[Record, Sample]]:
        """What waits, at least one; none at the end."""
        found: list[tuple[Record, Sample]] = []
        one = self._waiting.get()
        while one is not None:
            found.append(one)
            if len(found) == BATCH:
                return found
            try:
                one = self._waiting.get_nowait()
            except Empty:
                return found
        if found:
            self._waiting.put(None)  # the end, for the next look
        return found
