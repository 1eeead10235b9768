"""Solutions are allocated, too: where it is known how long they get, none holds more than it needs."""

from __future__ import annotations

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.estimates.lengths import Lengths
from elastic_agent.scheduler.estimates.online_curves import LearntCurves
from elastic_agent.scheduler.estimates.success_curve import Curve, CurveSet
from tests.clock import run

POINTS = ((0, 0.05), (40, 0.5), (80, 0.95))
SHORT = ((0, Lengths.of(30, 36, 40)), (80, Lengths.of(10, 14, 16)))
KNOWN = CurveSet("m", {"hard": Curve("hard", POINTS, right_solutions=SHORT)}, 64)
UNKNOWN = CurveSet("m", {"hard": Curve("hard", POINTS)}, 64)


def grant(curves: CurveSet, tokens: int, **options: object) -> tuple[int, int, int]:
    """Thinking and solution of one call under a cap, and what is kept for the final answer beside it."""

    async def main() -> tuple[int, int, int]:
        backend = ScriptedBackend(Reply("hm " * 200, "ok " * 100))
        scheduler = BudgetScheduler(backend, curves=curves)
        async with scheduler, scheduler.task(Caps(tokens=tokens), expect={"hard": 1}) as task:
            call = task.call("a b c", kind="hard", solution=64, **options)  # type: ignore[arg-type]
            async for _ in call:
                break
            assert call.grant is not None
            budget, kept = call.grant.budget, task.state.account.reserve.tokens
            await call.aclose()
        return budget.thinking or 0, budget.solution, kept

    return run(main())


def test_a_tight_cap_takes_from_the_solution_what_thinking_needs_more() -> None:
    """120 tokens for a final call: 80 to think with and 39 to say it in, not 55 and 64."""
    assert grant(KNOWN, 120, final=True) == (80, 37, 0)
    assert grant(UNKNOWN, 120, final=True) == (55, 64, 0)


def test_where_there_is_room_the_solution_is_what_was_asked_for() -> None:
    """Nothing is taken from it before something is short."""
    assert grant(KNOWN, 1000)[:2] == (80, 64)


def test_callers_that_take_no_less_get_no_less() -> None:
    """`raise` and `wait` never shrink a solution."""
    assert grant(KNOWN, 120, final=True, on_exhausted="raise") == (55, 64, 0)


def test_the_reserve_is_as_long_as_such_answers_are() -> None:
    """Nine of ten that were not thought about need 36 tokens and the close; unknown, all 64 are kept."""
    assert grant(KNOWN, 1000)[2] == 37
    assert grant(UNKNOWN, 1000)[2] == 65


def test_what_the_user_says_is_kept() -> None:
    """`final_solution` is the reserve, whatever is known."""

    async def main() -> None:
        backend = ScriptedBackend(Reply("hm", "ok"))
        scheduler = BudgetScheduler(backend, curves=KNOWN)
        async with scheduler, scheduler.task(Caps(tokens=1000), final_solution=64) as task:
            await task.generate("a b c", kind="hard", solution=32)
            assert task.state.account.reserve.tokens == 65

    run(main())


def test_lengths_are_learnt() -> None:
    """From twenty right answers on; uncut ones count for every limit beyond their thinking."""
    curves = LearntCurves("m")
    for i in range(19):
        curves.record_call("hard", 100, 20 + i, False, 10 + i)
    assert not curves.curve("hard").right_solutions
    for i in range(30):
        curves.record_call("hard", 100, 30, False, 20 + i % 3)
    curve = curves.curve("hard")
    assert curve.right_solutions
    assert curve.fit_probability(90, 9) < 0.5 < curve.fit_probability(90, 40)
    assert curve.right_solution_lengths(64).size(0.9) < 40
