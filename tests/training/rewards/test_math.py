"""Mathematics: right answers in any notation, one answer a solution, and no hang or crash of the grader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("math_verify", reason="math-verify comes with the [train] extra")

from elastic_agent.training.rewards.answers import boxed, final_answer, references
from elastic_agent.training.rewards.grades import Grade, Sample
from elastic_agent.training.rewards.math import MathGrader


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(workers=1, seconds=2) as made:
        yield made


RIGHT = [
    (r"So the answer is $\boxed{\frac12}$.", "0.5"),
    (r"\boxed{5} is wrong; it is \boxed{\dfrac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{025}", 25),
    (r"\boxed{x=5}", "5"),
    (r"\boxed{1,234}", "1234"),
    (r"\boxed{36}", r"\$36"),
    (r"\boxed{\$36}", "36"),
    (r"\boxed{(C)}", r"\text{(C)}"),
    (r"\boxed{\text{even}}", "even"),
    (r"\boxed{(2, 1) \cup (3, 4)}", r"(2,1)\cup(3,4)"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1"),
    (r"\boxed{21}", 21.0),
    (r"\boxed{0.554}", ["0.5", "0.554\n"]),
    (r"\boxed{623}", "He ran 600 + 23 <<600+23=623>>623.\n#### 623"),
    ("Answer: 42", "42"),
    ("It follows that\n42", "42"),
]
WRONG = [
    (r"\boxed{4}", "5"),
    (r"\boxed{5}\boxed{7}", "5"),
    (r"\boxed{5 \text{ or } 7}", "7"),
    (r"\boxed{1, 2, 3}", "2"),
    (r"\boxed{\{5, 7\}}", "7"),
    (r"\boxed{5 \pm 2}", "7"),
    (r"\boxed{5 \quad 7}", "5"),
    (r"\boxed{6 $ and $ 5}", "5"),
    ("The answer is 5 or 7.", "5"),
    (r"The answer is 5, but \boxed{", "5"),
    (r"\boxed{}", "5"),
    ("", "5"),
    ("{" * 50_000, "5"),
    (r"\boxed{" + "{" * 50_000, "5"),
    ("answer: " * 20_000, "5"),
    ("answer:" + " " * 50_000 + "x" * 5000, "5"),
    ("\x00\ud800", "5"),
    (r"\boxed{x}", "y"),
]


@pytest.mark.parametrize(("solution", "answer"), RIGHT)
def test_a_right_answer_earns_1(grader: MathGrader, solution: str, answer: object) -> None:
    assert grader.grade([Sample(solution, answer)]) == [Grade(1.0)]


@pytest.mark.parametrize(("solution", "answer"), WRONG)
def test_anything_else_earns_0(grader: MathGrader, solution: str, answer: object) -> None:
    """Hedges, boxes that never close, no answer, text made to be slow: wrong, and no grader's failure."""
    (grade,) = grader.grade([Sample(solution, answer)])
    assert (grade.score, grade.failure) == (0.0, "")


def test_a_hang_costs_one_sample_and_no_more(grader: MathGrader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power tower, in which no signal handler runs: the child is killed, and the next answer is graded."""
    assert grader.grade([Sample(r"\boxed{1+1}", "2")])[0].score == 1.0
    monkeypatch.setattr(grader, "seconds", 60)
    monkeypatch.setattr(grader, "limit", 1.0)
    grades = grader.grade([Sample(r"\boxed{9^{9^{9^{9}}}}", "5"), Sample(r"\boxed{1+2}", "3")])
    assert grades == [Grade(0.0, "time limit"), Grade(1.0)]


def test_it_works_from_any_thread(grader: MathGrader) -> None:
    """math-verify by itself raises outside the main thread, which is where a trainer may ask for rewards."""
    found: list[Grade] = []
    thread = threading.Thread(target=lambda: found.extend(grader.grade([Sample(r"\boxed{1+1}", "2")])))
    thread.start()
    thread.join()
    assert found == [Grade(1.0)]


def test_a_dead_worker_is_replaced(grader: MathGrader) -> None:
    """What was being graded is a failure to be counted; the next sample has a new worker."""
    grader.grade([Sample(r"\boxed{1+1}", "2")])
    (worker,) = grader._all
    os.killpg(worker.process.pid, 9)
    worker.process.wait()
    first, second = (grader.grade([Sample(r"\boxed{1+1}", "2")])[0] for _ in range(2))
    assert first.failure == "the math grader died"
    assert second == Grade(1.0)


def test_no_reference_is_a_failure_of_the_data(grader: MathGrader) -> None:
    for answer in (None, "", [], ["  "], True):
        assert grader.grade([Sample(r"\boxed{5}", answer)])[0].failure.startswith("no reference answer")


def test_parts_of_a_solution() -> None:
    assert boxed(r"\boxed{\frac{1}{2}} and \fbox{a_{b}}") == "a_{b}"
    assert boxed(r"\boxed{\{1\}}") == r"\{1\}"
    assert boxed("none") is None
    assert final_answer("First.\nThe final answer is: 7\nGood.") == "7"
    assert final_answer("Answer:\n 7") == "7"
    assert references([r"$\frac{1}{2}$.", 3.0]) == [r"$\frac{1}{2}$", "3"]
