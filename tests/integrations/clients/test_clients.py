"""Clients that people have, unchanged but for base URL and key, in their newest versions, at a gateway.

`make clients` installs them, each into an environment of its own; a client that isn't installed is skipped.
Those that this project's own environment has are tried in `tests/integrations/gateway/test_clients.py`, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integrations.clients.matrix import SCRIPTS, Outcome, Server, running, try_client
from tools.setup_clients import CLIENTS


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One gateway for all clients; each has keys of its own."""
    with running() as server:
        yield server


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client(name: str, request: pytest.FixtureRequest) -> None:
    """Text, tool call and stream arrive; budgets hold; 402 and 429 are errors; nothing is charged twice."""
    if not CLIENTS[name].installed():
        pytest.skip(f"no environment with {name}: `make clients` makes one")
    outcome = await try_client(request.getfixturevalue("server"), name)
    assert not outcome.faults


def test_each_client_has_a_script() -> None:
    """And no script is left over."""
    assert {path.stem for path in SCRIPTS.iterdir() if not path.name.startswith("_")} == set(CLIENTS)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"said": {}}, "its script failed"),
        ({"tool": ["sub", {}]}, "the tool call is"),
        ({"stream": ["all of it"]}, "the stream is"),
        ({"spent": {"": 20, "-spent": 0, "-busy": 3}}, "the ledger has 20 tokens, the answers 10"),
        ({"solution": 90}, "more was used than granted"),
        ({"again": 402}, "402: its requests got"),
    ],
)
def test_the_matrix_finds_faults(change: dict[str, object], fault: str | None) -> None:
    """A client that is charged twice, gets too much, or asks again at 402, fails."""
    said = {"text": "5", "tool": ["add", {"a": 1}], "stream": ["5", "."], "spent": {}, "busy": {}}
    call = {"route": "/", "status": 200, "granted": [[5, 20]], "thinking": 2, "solution": 8, "charged": 10}
    call |= {name: value for name, value in change.items() if name in call}
    refused = [{"status": 402}] * (2 if "again" in change else 1)
    requests = {"": [call], "-spent": refused, "-busy": [{"status": 429}]}
    spent = {"": 10, "-spent": 0, "-busy": 3}
    said |= {name: value for name, value in change.items() if name in ("tool", "stream")}
    outcome = Outcome(
        "openai_chat",
        change.get("said", said),  # type: ignore[arg-type]
        "",
        requests,  # type: ignore[arg-type]
        change.get("spent", spent),  # type: ignore[arg-type]
    ).check()
    assert len(outcome.faults) == (fault is not None), outcome.faults
    assert not outcome.faults or outcome.faults[0].startswith(fault or "")
