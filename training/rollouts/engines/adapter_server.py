"""Servers that sample with adapters in training.

Every set of weights is loaded under a name of its own, so a sample is drawn with exactly the weights that
its request names, or not at all: a server that was restarted in between answers 404. Loading one name again
with `load_inplace` would seem simpler. But vLLM 0.31 then reads the adapter from the disk at every step of
its engine, dies when the folder goes, and, under the same path, goes on using the prefix cache of the old
weights (docs/lab-notes.md has the numbers).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Codec
from elastic_agent.backends.vllm.server import VllmServerBackend

from ...config.schema import ServerConfig
from .adapters import write_adapter
from .engine import whole_model
from .vllm_server import VllmServer, broadcast, load_all


def name_of(adapter: Path) -> str:
    """The name under which a server serves the adapter of a folder."""
    return f"elastic-{adapter.name}"


class AdapterServer(VllmServer):
    """A server that loads adapters by name."""

    names_weights = True

    def __init__(self, url: str, config: ServerConfig, codec: Codec, context: int) -> None:
        super().__init__(url, config, codec, context)
        self._loaded: str | None = None

    async def load(self, folder: Path) -> None:
        """Serve this adapter, in place of the one that was loaded here before; nothing if it does already.

        Several processes may load one adapter: the first to come loads it, for the others it is there.
        """
        name = name_of(folder)
        if not await self.holds(folder):
            body = {"lora_name": name, "lora_path": str(folder)}
            status, text = await self.ask("/v1/load_lora_adapter", body)
            if status != 200 and "already been loaded" not in text:
                raise await self.refused(
                    f"load the adapter in {folder}",
                    status,
                    text,
                    "It must find that folder under the same path, and be started with --enable-lora "
                    "--max-lora-rank R (R at least lora.rank) and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
                )
        if self._loaded != name:
            await self.unload()
        self._loaded = name

    async def unload(self) -> None:
        """Forget the adapter that was loaded here last, if the server has not forgotten it by itself."""
        if self._loaded is not None:
            await self.ask("/v1/unload_lora_adapter", {"lora_name": self._loaded})
        self._loaded = None

    async def holds(self, folder: Path) -> bool:
        """Whether requests may name this adapter."""
        return any(entry["id"] == name_of(folder) for entry in await self.served())

    def backend(self, folder: Path) -> VllmServerBackend:
        return self._backend(name_of(folder))


class AdapterWeights:
    """Writes the adapters in training, and has every server load them.

    Args:
        folder: where adapters are written.
    """

    gathers = False

    def __init__(self, servers: Sequence[VllmServer], folder: Path) -> None:
        self._servers, self._folder = servers, folder
        self._published: Path | None = None
        self._step = -1

    def start(self, trainer: Any) -> None: ...

    def sync(self) -> None:
        """Nothing: `current` writes them."""

    def current(self, trainer: Any) -> Path:
        """Write the weights as they are now, once for all processes and each update; those before go.

        The first process also loads the new adapter on every server that it reaches, and unloads the old
        one; the others wait until it has, and then find the adapter there.
        """
        if self._published is not None and self._step == trainer.state.global_step:
            return self._published  # episodes decode several times, in one process oftener than in another
        accelerator = trainer.accelerator
        adapter = None
        if accelerator.is_main_process:
            model = whole_model(trainer)
            # What `state_dict` would give where weights are sharded is this process's part
            whole = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
            adapter = write_adapter(model, self._folder, whole)
            if accelerator.num_processes > 1:
                asyncio.run(load_all(self._servers, adapter))
        (adapter,) = broadcast(accelerator, [adapter])
        assert isinstance(adapter, Path)
        if accelerator.is_main_process and self._published is not None and self._published != adapter:
            shutil.rmtree(self._published, ignore_errors=True)
        self._published, self._step = adapter, trainer.state.global_step
        return adapter

    def close(self) -> None: ...
