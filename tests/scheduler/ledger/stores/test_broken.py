"""The model and the contract catch stores that are wrong: otherwise a green test would say nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from elastic_agent.errors import ElasticError
from elastic_agent.scheduler.ledger.accounts import HoldState
from elastic_agent.scheduler.ledger.amounts import NOTHING, Amount, Shortage
from elastic_agent.scheduler.ledger.stores.memory import MemoryStore
from elastic_agent.scheduler.ledger.stores.protocol import Store, StoredHold
from elastic_agent.scheduler.ledger.stores.repository import AccountRow, HoldRow
from elastic_agent.scheduler.ledger.stores.transitions import Transitions, window_start
from tests.scheduler.ledger.stores import test_contract as contract
from tests.scheduler.ledger.stores.places import Memory
from tests.scheduler.ledger.stores.test_model import Ledgers

BOUNDED = settings(
    max_examples=400,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # it only has to be found, not to be made small
)


class ChargesTwice(Transitions):
    """A settle that is repeated charges again."""

    def settle(self, key: str, actual: Amount) -> StoredHold:
        row = self._known(key)
        if row.state is HoldState.SETTLED:
            path = self._path(row.account)
            for level in path:
                level.spent += actual
            path[0].own += actual
        return super().settle(key, actual)


class LeafOnly(Transitions):
    """A hold looks at its own account and not at those above it."""

    def hold(self, key: str, account: str, *more: Any) -> StoredHold | Shortage:
        above = self._path(account)[1:]
        specs = [(row, row.spec) for row in above]
        for row, spec in specs:
            row.spec = replace(spec, tokens=None, nano=None)
        try:
            return super().hold(key, account, *more)
        finally:
            for row, spec in specs:
                row.spec = spec


class RefundsTheUnknown(Transitions):
    """A lease that runs out gives back what was dispatched."""

    def _lapse(self, row: HoldRow, now: float) -> None:
        self._end(row, HoldState.REFUNDED, NOTHING, now)


class ForgetsAtTheBorder(Transitions):
    """A new window starts with nothing held."""

    def _path(self, account: str) -> list[AccountRow]:
        path = super()._path(account)
        for row in path:
            if row.spec.window and window_start(row.spec.window, self.repository.now()) > row.starts:
                row.held = NOTHING
        return path


class ForgetsKeys(Transitions):
    """A hold that ended frees its key at once."""

    def hold(self, key: str, *more: Any) -> StoredHold | Shortage:
        row = self.repository.hold(key)
        if row is not None and row.state is not HoldState.LIVE:
            del self.repository._holds[key]  # type: ignore[attr-defined]
        return super().hold(key, *more)


BROKEN: dict[type[Transitions], tuple[Callable[..., Any], dict[str, Any]]] = {
    ChargesTwice: (contract.test_a_hold_is_taken_on_the_whole_path_and_settled_once, {}),
    LeafOnly: (contract.test_all_or_nothing_on_the_path, {}),
    RefundsTheUnknown: (contract.test_a_lease_that_runs_out_is_charged_if_the_call_may_have_left, {}),
    ForgetsAtTheBorder: (contract.test_a_window_starts_anew, {"window": "day"}),
    ForgetsKeys: (contract.test_the_same_request_gets_the_same_answer, {}),
}
"""What is wrong, and the test of the contract that says so."""


class BrokenStore(MemoryStore):
    """A store in memory whose steps are these."""

    def __init__(self, steps: type[Transitions], **options: Any) -> None:
        super().__init__(**options)
        self._steps = steps(self._steps.repository)

    async def _run(self, step: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._steps, step.__name__)(*args, **kwargs)


class Broken(Memory):
    """Where it lives."""

    def __init__(self, steps: type[Transitions]) -> None:
        super().__init__(Path())
        self.steps = steps

    def open(self, **options: Any) -> Store:
        return BrokenStore(self.steps, **{**self.clocks, "clock": lambda: self.now}, **options)


def model_of(steps: type[Transitions], settings: settings) -> None:
    """Run the model test on it."""

    class Here(Ledgers):
        place = Broken(steps)

    run_state_machine_as_test(Here, settings=settings)


@pytest.mark.parametrize("steps", BROKEN)
def test_the_model_catches(steps: type[Transitions]) -> None:
    """Laws 1 and 2: within a bounded number of steps, always the same ones."""
    with pytest.raises((AssertionError, ElasticError)):  # a wrong answer, or a wrong refusal
        model_of(steps, BOUNDED)


def test_the_model_lets_the_right_one_pass() -> None:
    """It is what is wrong that it catches, not how these stores are made."""
    model_of(Transitions, settings(BOUNDED, max_examples=20))


@pytest.mark.parametrize("steps", [Transitions, *BROKEN])
async def test_the_contract_catches(steps: type[Transitions]) -> None:
    """Each wrong store fails the sentence that it breaks; the right one none of them."""
    for broken, (sentence, arguments) in BROKEN.items():
        place = Broken(steps)
        found = {"store": place.open(), "place": place, **arguments}
        names = inspect.signature(sentence).parameters
        asked = sentence(**{name: found[name] for name in names})
        if broken is steps:
            with pytest.raises(AssertionError):
                await asked
        elif steps is Transitions:
            await asked
        else:
            asked.close()
