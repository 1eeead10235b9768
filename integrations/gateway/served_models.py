"""The models that a gateway serves now, their prices, and the models that a reload took away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from elastic_agent.backends.base import Backend
from elastic_agent.scheduler.ledger.prices import NOTIONAL, Price, listed

from .settings import Upstream


class ServedModels:
    """The models of a gateway.

    Attributes:
        by_name: the models by the names that clients use, the default one first. Others hold this dict, so
            it stays the same one.
    """

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.by_name = {one.name: one for one in upstreams}
        self._retired: list[Backend] = []

    @property
    def default(self) -> Backend | None:
        """The model of requests that name none; None: there is no model."""
        return next((one.backend for one in self.by_name.values()), None)

    def replace(self, upstreams: Sequence[Upstream], prices: dict[str, Price]) -> None:
        """Serve these from now on. Those that are gone are retired.

        Args:
            prices: the dict of the main scheduler, which reads the dict at each call.
        """
        before = [one.backend for one in self.by_name.values()]
        now = [one.backend for one in upstreams]
        self._retired = [one for one in dict.fromkeys([*self._retired, *before]) if one not in now]
        self.by_name.clear()
        self.by_name.update({one.name: one for one in upstreams})
        prices.clear()
        prices.update(given_prices(upstreams))

    async def close_retired(self, uses: Callable[[Backend], bool] = lambda _: False) -> None:
        """Close the retired models that nobody uses any more."""
        for backend in [one for one in self._retired if not uses(one)]:
            self._retired.remove(backend)
            await backend.aclose()


def load_prices(upstreams: Sequence[Upstream]) -> None:
    """Read the price list, which takes up to a second, before a request would wait for it."""
    for one in upstreams:
        if one.price is None and one.backend.model not in NOTIONAL:
            listed(one.backend.model)


def given_prices(upstreams: Sequence[Upstream]) -> dict[str, Price]:
    """The prices that were given, by the backends' names for the models."""
    return {one.backend.model: one.price for one in upstreams if one.price is not None}
