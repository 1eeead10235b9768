"""Speeds that tests start from."""

from __future__ import annotations

from elastic_agent.scheduler import Latency


def known(ttft: float, tpot: float) -> Latency:
    """A speed learnt earlier."""
    latency = Latency()
    latency.first(ttft)
    latency.pace(tpot)
    latency.block(8, 8 * tpot)
    return latency
