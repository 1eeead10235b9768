"""The math grader: math-verify reads the solution alone, in worker processes that may hang or die.

    with MathGrader() as grader:
        grader.grade([Sample(solution="... $\\\\boxed{\\\\frac12}$.", answer="0.5")])   # [Grade(1.0, "")]

math-verify bounds its own time with SIGALRM, which works in the main thread of a process only and can't
interrupt a long operation inside the interpreter. So math-verify runs in a few worker processes
(`math_worker`), which are started when first needed and kept. A worker that doesn't answer in time is killed,
and only the sample that it was grading loses its reward.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from ..sandbox.supervisor.launch import package_root
from ..sandbox.supervisor.messages import Closed, read_frame, write_frame
from .answers import final_answer, references, same_text
from .grades import Grade, Sample, WorkerError, default_workers

BOOT = """import sys; sys.path.insert(0, sys.argv[1])
from elastic_agent.training.rewards.math_worker import main; main()"""
START_SECONDS = 120.0  # to import sympy on a machine that is busy training


class _Worker:
    """One math-verify process. Used by one thread at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-c", BOOT, str(package_root())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("COV_")},
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        self.child: int | None = None

    def ask(self, answer: str, wanted: list[str], seconds: int, limit: float) -> dict[str, Any] | None:
        """The worker's reply; None if its child hung or died. The next call finds a new child."""
        if self.child is None:
            try:
                self.child = read_frame(self.back, deadline=time.monotonic() + START_SECONDS)["ready"]
            except (Closed, TimeoutError) as error:
                raise WorkerError("the math grader does not start; is math-verify installed?") from error
        try:
            write_frame(self.to, {"answer": answer, "references": wanted, "seconds": seconds, "limit": limit})
            reply: dict[str, Any] = read_frame(self.back, deadline=time.monotonic() + limit)
        except TimeoutError:
            self._kill_child()
            return None
        except (Closed, OSError) as error:
            raise WorkerError("the math grader died") from error
        if "ready" in reply:  # the child died of this request, and the next one reports
            self.child = reply["ready"]
            return None
        if reply["last"]:
            self.child = None
        return reply

    def _kill_child(self) -> None:
        """Kill the child, and read on to the frame in which the next child reports.

        The child may have answered in the meantime; that answer is thrown away.
        """
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        try:
            while "ready" not in (reply := read_frame(self.back, deadline=time.monotonic() + START_SECONDS)):
                pass
            self.child = reply["ready"]
        except (Closed, TimeoutError, ValueError) as error:
            raise WorkerError("the math grader does not come back") from error

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class MathGrader:
    """Grades samples against reference answers. `grade` may be called from any thread."""

    name = "math"

    def __init__(self, *, workers: int | None = None, seconds: int = 3, limit: float = 12.0) -> None:
        """`seconds` bounds each step inside math-verify, `limit` one sample by the clock."""
        self.workers, self.seconds, self.limit = workers or default_workers(), seconds, limit
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._lock = threading.Lock()
        for _ in range(self.workers):
            self._idle.put(None)  # a place for a worker, started when it is needed

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """One grade a sample, in order. Never raises for what a sample holds."""
        with ThreadPoolExecutor(self.workers, "math-grader") as threads:
            return list(threads.map(self._one, samples))

    def _one(self, sample: Sample) -> Grade:
        try:
            wanted = references(sample.answer)
        except ValueError as error:
            return Grade.failed(str(error))
        answer = final_answer(sample.solution)
        if answer is None:
            return Grade(0.0, "no answer")
        if any(same_text(answer, reference) for reference in wanted):
            return Grade(1.0)
        return self._verify(answer, wanted)

    def _verify(self, answer: str, wanted: list[str]) -> Grade:
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker()
                with self._lock:
                    self._all.append(worker)
            reply = worker.ask(answer, wanted, self.seconds, self.limit)
        except WorkerError as error:
            if worker is not None:
                worker.close()
                with self._lock:
                    self._all.remove(worker)
                worker = None
            return Grade.failed(str(error))
        finally:
            self._idle.put(worker)
        if reply is None:
            return Grade(0.0, "time limit")  # an answer that can't be compared in time is no answer
        if "error" in reply:
            return Grade(0.0, reply["error"])
        return Grade(1.0) if reply["right"] else Grade(0.0, "wrong answer")

    def close(self) -> None:
        """End the workers; a later `grade` starts new ones."""
        with self._lock:
            workers, self._all = self._all, []
        for worker in workers:
            worker.close()
        for _ in range(self.workers):
            self._idle.get()
        for _ in range(self.workers):
            self._idle.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
