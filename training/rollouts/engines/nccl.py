"""All weights in training, from the trainer's GPU to those of the servers, by TRL's `VLLMClient`.

vLLM's weight transfer (`--weight-transfer-config '{"backend": "nccl"}'`) has the trainer and the workers of a
server in one NCCL group. A server that was restarted has left its group: within the batch the others sample
in its place, and before the next one a new group is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from elastic_agent.errors import BackendError, BackendUnavailableError, ConfigError

from .full_server import FullWeightsServer
from .full_weights import FolderWeights
from .weights import named_weights

_PORT = 51216
"""The first server's group; TRL's default."""

MakeClient = Callable[[str, int], Any]
"""(address of a server, port of the group) -> a `VLLMClient`."""


def check_cuda() -> None:
    """Raise ConfigError where torch finds no GPU, or this Python has no vLLM."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            "rollout.server.weights nccl: the weights go from GPU to GPU, and torch finds no CUDA device "
            "here; take rollout.server.weights folder"
        )
    if find_spec("vllm") is None:
        raise ConfigError(
            "rollout.server.weights nccl: TRL's client needs vLLM in this Python, as `make vllm` installs it"
        )


def make_client(root: str, port: int) -> Any:
    """TRL's client."""
    from trl.generation.vllm_client import VLLMClient

    return VLLMClient(base_url=root, group_port=port)


class NcclServer(FullWeightsServer):
    """A server that is given weights by `NcclWeights` alone."""

    async def give(self, folder: Path) -> None:
        """Only all processes together can give it weights, before a batch.

        Raises:
            BackendUnavailableError: it has others.
        """
        version = await self._version()
        if not version.startswith(f"{folder.name}."):
            raise self._behind(version)

    async def joined(self) -> bool:
        """Whether it still has the weights that it was given last, and so is in the group."""
        try:
            return bool(self._held) and await self._version() == self._held
        except BackendUnavailableError:
            return False


class NcclWeights(FolderWeights):
    """Streams all weights in training to each server in turn; nothing is written."""

    make_client: MakeClient = staticmethod(make_client)
    _servers: Sequence[NcclServer]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clients: dict[str, Any] = {}
        self._metadata: list[tuple[str, str, list[int]]] = []
        """Name, precision and shape of each weight, as TRL's client announces them."""

    def _hand_over(self, given: Path) -> None:
        if not self._metadata:
            for name, weight in named_weights(self._trainer):
                precision = str(weight.dtype).removeprefix("torch.")
                self._metadata.append((name, precision, list(weight.shape)))
        for number, server in enumerate(self._servers):
            weights = named_weights(self._trainer)
            if self._trainer.accelerator.is_main_process:
                self._stream(server, _PORT + number, weights, given)
            for _ in weights:  # what was not streamed: gathering is collective
                pass

    def _stream(self, server: NcclServer, port: int, weights: Any, given: Path) -> None:
        """Give one server the weights; one that can't be reached is left to `load_all`, which says so."""
        try:
            client = self._client(server, port)
            client.update_named_params(self._metadata, weights)
            asyncio.run(server.gave(given))
        except (BackendError, OSError) as error:
            self._log(f"{server.root} was given no weights: {error}")

    def _client(self, server: NcclServer, port: int) -> Any:
        """The client of a server, in one group with it."""
        client = self._clients.get(server.root)
        if client is None or not asyncio.run(server.joined()):
            if client is not None:
                client.close_communicator()
            client = self.make_client(server.root, port)
            client.init_communicator(self._trainer.accelerator.device)
            self._clients[server.root] = client
        return client

    def close(self) -> None:
        for client in self._clients.values():
            client.close_communicator()
        super().close()
