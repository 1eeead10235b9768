"""`elastic-agent serve` in front of a scripted model behind the wire, which needs a tokenizer of its own.

python -m tests.integrations.gateway.serve BASE_URL LEDGER LEASE GRACE
"""

from __future__ import annotations

import asyncio
import sys

from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.integrations.commands.serve_process import print_access, run_gateway
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits, Upstream
from tests.integrations.gateway.conftest import PRICE, shared_codec

if __name__ == "__main__":
    base_url, ledger, lease, grace = sys.argv[1:]
    backend = VllmServerBackend("scripted", base_url, codec=shared_codec())
    settings = GatewaySettings(
        [Upstream("scripted", backend, price=PRICE)],
        ledger=ledger,
        port=0,
        no_keys=True,
        lease=float(lease),
        limits=Limits(grace_seconds=float(grace)),
    )
    asyncio.run(run_gateway(Gateway(settings, print_access)))
