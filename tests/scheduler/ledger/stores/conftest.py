"""One ledger of each kind for all tests of a worker, emptied for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from benchmarks._servers import NoServerError
from elastic_agent.scheduler.ledger.stores.protocol import Store
from tests.scheduler.ledger.stores.places import PLACES, Place


@pytest.fixture(scope="session", params=list(PLACES))
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    try:
        place = PLACES[request.param](tmp_path_factory.mktemp(request.param))
    except NoServerError as error:
        pytest.skip(str(error))
    yield place
    place.remove()


@pytest.fixture
def place(started: Place) -> Place:
    started.clear()
    return started


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """A handle on an empty ledger."""
    store = place.open()
    yield store
    await store.aclose()
