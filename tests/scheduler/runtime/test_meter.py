"""Law 2 from outside, in small: worker processes that die, one ledger, an upstream that counts by itself.

The full form (2,000 tasks, 220 kills a store) is `benchmarks/meter.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CASES = (
    ("sqlite", "sound"),
    ("postgres", "sound"),
    ("redis", "sound"),
    ("sqlite", "settle-after"),
    ("sqlite", "refund-on-expiry"),
    ("sqlite", "shrink-to-headroom"),
)


def run(store: str, variant: str) -> dict[str, Any]:
    command = [sys.executable, "benchmarks/meter.py", "--store", store, "--variant", variant]
    done = subprocess.run(
        [*command, "--tasks", "60", "--kills", "11", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    last = (done.stdout.splitlines() or [""])[-1]
    if not last.startswith("{"):
        return {"failed": done.stdout + done.stderr}
    found: dict[str, Any] = json.loads(last)
    return found | {"status": done.returncode}


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], Future[dict[str, Any]]]:
    """They wait more than they compute: three at a time."""
    pool = ThreadPoolExecutor(3)
    return {case: pool.submit(run, *case) for case in CASES}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("store", "variant"), CASES)
def test_the_meter_catches_what_is_wrong_and_nothing_else(
    store: str, variant: str, runs: dict[tuple[str, str], Future[dict[str, Any]]]
) -> None:
    """A sound ledger keeps every cap at the meter; each wrong one is caught by it."""
    found = runs[store, variant].result()
    if "install" in found.get("failed", ""):
        pytest.skip(found["failed"].strip().splitlines()[-1])
    assert "failed" not in found, found["failed"]
    assert found["status"] == 0
    assert found["kills"] > 0
    counts = [found[name] for name in ("cap_violations", "ledger_below_meter", "stranded", "double_terminal")]
    if variant == "sound":
        assert counts == [0, 0, 0, 0]
        assert found["check"] == ""
        assert found["calls"] > 60
    else:
        assert sum(counts) > 0
