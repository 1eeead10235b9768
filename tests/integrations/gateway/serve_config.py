"""`elastic-agent serve ARGUMENTS`, whose served models have the tokenizer of the scripted model.

python -m tests.integrations.gateway.serve_config ARGUMENTS
"""

from __future__ import annotations

import sys

from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.integrations.commands.main import main
from elastic_agent.integrations.commands.upstreams import UpstreamConfig
from elastic_agent.integrations.gateway.settings import Upstream
from tests.integrations.gateway.conftest import shared_codec


def load(config: UpstreamConfig) -> Upstream:
    assert config.url is not None
    return Upstream(config.name, VllmServerBackend(config.name, config.url, codec=shared_codec()))


if __name__ == "__main__":
    UpstreamConfig.load = load  # type: ignore[method-assign]
    sys.exit(main(["serve", *sys.argv[1:]]))
