"""One vLLM server that samples with adapters in training.

Every set of weights is loaded under a name of its own, so a sample is drawn with exactly the weights that
its request names, or not at all: a server that was restarted in between answers 404. Loading one name again
with `load_inplace` would seem simpler. But vLLM 0.31 then reads the adapter from the disk at every step of
its engine, dies when the folder goes, and, under the same path, goes on using the prefix cache of the old
weights (docs/lab-notes.md has the numbers).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import aiohttp

from elastic_agent.backends.base import Codec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import BackendError, BackendProtocolError, BackendUnavailableError

from ...config.fields import ConfigError
from ...config.schema import ServerConfig


def name_of(adapter: Path) -> str:
    """The name under which a server serves the adapter of a folder."""
    return f"elastic-{adapter.name}"


class AdapterServer:
    """The server behind one of `rollout.server.urls`.

    Its methods raise BackendUnavailableError where the server can't be reached or its engine has died, and
    other BackendErrors where it answers what no retry will change.

    Args:
        url: up to and with /v1.
        config: timeouts.
        codec: of the base.
        context: most tokens of a sample, prompt included.
    """

    def __init__(self, url: str, config: ServerConfig, codec: Codec, context: int) -> None:
        self._root = url.rstrip("/").removesuffix("/v1")
        self._config, self._codec, self._context = config, codec, context
        self._key = os.environ.get("VLLM_API_KEY")
        self._loaded: str | None = None

    async def check(self, names: tuple[str, ...]) -> None:
        """See to it that it serves the base, under one of `names`, with a context that is long enough.

        Raises:
            ConfigError: it does not.
        """
        bases = [entry for entry in await self._served() if not entry.get("parent")]
        base = next((b for b in bases if {b["id"], b.get("root")} & set(names)), None)
        if base is None:
            raise ConfigError(
                f"rollout.server: {self._root} serves {', '.join(b['id'] for b in bases) or 'nothing'}, not "
                f"{names[0]}: if that is the same model, set rollout.server.base to the name it has there"
            )
        most = base.get("max_model_len")
        if most is not None and int(most) < self._context:
            raise ConfigError(
                f"rollout.context: {self._context} tokens, but {self._root} was started with "
                f"--max-model-len {most}"
            )

    async def load(self, adapter: Path) -> None:
        """Serve this adapter, in place of the one that was loaded here before; nothing if it does already.

        Several processes may load one adapter: the first to come loads it, for the others it is there.
        """
        name = name_of(adapter)
        if not await self.serves(name):
            body = {"lora_name": name, "lora_path": str(adapter)}
            status, text = await self._ask("/v1/load_lora_adapter", body)
            if status >= 500 and (await self._ask("/health"))[0] != 200:
                raise BackendUnavailableError(f"{self._root}: the engine has died: {text[:500]}")
            if status != 200 and "already been loaded" not in text:
                raise BackendError(
                    f"{self._root} can't load the adapter in {adapter} ({status}: {text[:500]}). It must "
                    f"find that folder under the same path, and be started with --enable-lora "
                    f"--max-lora-rank R (R at least lora.rank) and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
                )
        if self._loaded != name:
            await self.unload()
        self._loaded = name

    async def unload(self) -> None:
        """Forget the adapter that was loaded here last, if the server has not forgotten it by itself."""
        if self._loaded is not None:
            await self._ask("/v1/unload_lora_adapter", {"lora_name": self._loaded})
        self._loaded = None

    async def serves(self, name: str) -> bool:
        """Whether requests may name this model or adapter."""
        return any(entry["id"] == name for entry in await self._served())

    def backend(self, adapter: Path) -> VllmServerBackend:
        """What samples with the weights of this adapter, once it is loaded."""
        return VllmServerBackend(
            name_of(adapter),
            f"{self._root}/v1",
            api_key=self._key,
            codec=self._codec,
            context_length=self._context,
            connect_timeout=self._config.connect_timeout,
            idle_timeout=self._config.idle_timeout,
        )

    async def _served(self) -> list[dict[str, Any]]:
        """The entries of /v1/models: bases, and adapters, which have a parent."""
        status, text = await self._ask("/v1/models")
        if status >= 500:
            raise BackendUnavailableError(f"{self._root} answered {status}: {text[:200]}")
        try:
            return [{**entry, "id": str(entry["id"])} for entry in json.loads(text)["data"]]
        except (KeyError, TypeError, ValueError):
            raise BackendProtocolError(
                f"{self._root}/v1/models did not answer like vLLM ({status}: {text[:200]})"
            ) from None

    async def _ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """(status, text) of a POST with a body, of a GET without."""
        method = "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._config.connect_timeout, sock_read=self._config.idle_timeout
        )
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.request(method, self._root + path, json=body) as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BackendUnavailableError(
                f"{self._root} can't be reached ({str(error) or type(error).__name__}): is the vLLM "
                f"server running?"
            ) from error
