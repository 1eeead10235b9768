"""The ways in which weights get to servers, by name: `rollout.server.weights`. A new one is an entry here."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from elastic_agent.errors import ConfigError

from ...config.processes import rank
from ...config.schema import TrainConfig
from ..prompts import codec_of
from .adapter_server import AdapterServer, AdapterWeights
from .adapters import adapters_folder, write_blank_adapter
from .full_server import FullWeightsServer
from .full_weights import FolderWeights
from .nccl import NcclServer, NcclWeights, check_cuda
from .probe import probe_ids
from .vllm_server import ServedWeights, VllmServer

Log = Callable[[str], None]
MakeWay = Callable[[TrainConfig, str, Any, Log], tuple[Sequence[VllmServer], ServedWeights]]
"""(config, base, tokenizer, log) -> the servers, which can take weights, and what gives them weights.
ConfigError or BackendError where a server can't."""


def with_adapters(
    config: TrainConfig, base: str, tokenizer: Any, log: Log
) -> tuple[Sequence[AdapterServer], AdapterWeights]:
    """Every server has loaded an adapter of the run's shape."""
    if config.lora is None:
        raise ConfigError(
            "rollout.server.weights adapters: set lora, for example with --set lora.rank=16; or take folder "
            "or nccl, which give the servers all weights"
        )
    settings, codec = config.rollout.server, codec_of(tokenizer, config.named_markers)
    servers = [AdapterServer(url, settings, codec, config.rollout.context) for url in settings.urls]

    async def check() -> None:
        for server in servers:
            await server.check(_names(config, base))
        adapter = write_blank_adapter(config, base)
        try:
            for server in servers:
                await server.load(adapter)
                await server.unload()
        finally:
            shutil.rmtree(adapter)

    if rank() == 0:
        asyncio.run(check())
    return servers, AdapterWeights(servers, adapters_folder(config))


def with_all_weights(
    config: TrainConfig, base: str, tokenizer: Any, log: Log, *, nccl: bool = False
) -> tuple[Sequence[FullWeightsServer], FolderWeights]:
    """Every server has said in which precision it computes; it takes weights when the trainer has some."""
    settings, codec = config.rollout.server, codec_of(tokenizer, config.named_markers)
    make = NcclServer if nccl else FullWeightsServer
    names = _names(config, base)
    servers = [make(url, settings, codec, config.rollout.context, names, log) for url in settings.urls]

    async def ask() -> list[str]:
        return [await server.precision() for server in servers]

    precisions = asyncio.run(ask()) if rank() == 0 else []
    folder = (settings.folder or config.output / "weights").expanduser().resolve()
    way = NcclWeights if nccl else FolderWeights
    return servers, way(servers, precisions, folder, probe_ids(tokenizer), log)


def with_nccl(
    config: TrainConfig, base: str, tokenizer: Any, log: Log
) -> tuple[Sequence[FullWeightsServer], FolderWeights]:
    """The same, on a machine whose GPU can send them."""
    check_cuda()
    return with_all_weights(config, base, tokenizer, log, nccl=True)


def _names(config: TrainConfig, base: str) -> tuple[str, ...]:
    """Under which of these a server must serve the base."""
    return (config.rollout.server.base,) if config.rollout.server.base else (config.base, base)


WAYS: dict[str, MakeWay] = {"adapters": with_adapters, "folder": with_all_weights, "nccl": with_nccl}
