"""One vLLM server that samples for the trainer: what is asked of it, however the weights get there."""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from elastic_agent.backends.base import Codec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import BackendError, BackendProtocolError, BackendUnavailableError, ConfigError

from ...config.schema import ServerConfig

PLAIN: dict[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}
"""What the engine "transformers" does. A server fills in what a request leaves out from the model's
generation_config, such as Qwen's top_k of 20; and it may know ends of text that the tokenizer in training
does not."""
LONGEST_PAUSE = 60.0  # seconds


class VllmServer(ABC):
    """The server behind one of `rollout.server.urls`.

    Its methods raise BackendUnavailableError where the server can't be reached or its engine has died, and
    other BackendErrors where it answers what no retry will change. Weights have the name of the folder in
    which they were written, which is never used again.

    Args:
        url: up to and with /v1.
        config: timeouts.
        codec: of the base.
        context: most tokens of a sample, prompt included.
    """

    names_weights = False
    """Requests name the weights: what is answered was drawn with them, and `confirm` has nothing to ask."""

    def __init__(self, url: str, config: ServerConfig, codec: Codec, context: int) -> None:
        self.root = url.rstrip("/").removesuffix("/v1")
        self._config, self._codec, self._context = config, codec, context
        self._key = os.environ.get("VLLM_API_KEY")

    @abstractmethod
    async def load(self, folder: Path) -> None:
        """Sample with these weights from now on; nothing is loaded if the server does already."""

    @abstractmethod
    async def holds(self, folder: Path) -> bool:
        """Whether the weights of the last `load` have been there ever since."""

    @abstractmethod
    def backend(self, folder: Path) -> VllmServerBackend:
        """What samples with these weights, once they are loaded."""

    async def confirm(self, folder: Path) -> None:
        """A sample was drawn.

        Raises:
            BackendUnavailableError: perhaps with other weights than these.
        """
        return

    async def check(self, names: tuple[str, ...]) -> str:
        """The name under which it serves the base, one of `names`, with a context that is long enough.

        Raises:
            ConfigError: it does not.
        """
        bases = [entry for entry in await self.served() if not entry.get("parent")]
        base = next((b for b in bases if {b["id"], b.get("root")} & set(names)), None)
        if base is None:
            raise ConfigError(
                f"rollout.server: {self.root} serves {', '.join(b['id'] for b in bases) or 'nothing'}, not "
                f"{names[0]}: if that is the same model, set rollout.server.base to the name it has there"
            )
        most = base.get("max_model_len")
        if most is not None and int(most) < self._context:
            raise ConfigError(
                f"rollout.context: {self._context} tokens, but {self.root} was started with "
                f"--max-model-len {most}"
            )
        return str(base["id"])

    async def served(self) -> list[dict[str, Any]]:
        """The entries of /v1/models: bases, and adapters, which have a parent."""
        status, text = await self.ask("/v1/models")
        if status >= 500:
            raise BackendUnavailableError(f"{self.root} answered {status}: {text[:200]}")
        try:
            return [{**entry, "id": str(entry["id"])} for entry in json.loads(text)["data"]]
        except (KeyError, TypeError, ValueError):
            raise BackendProtocolError(
                f"{self.root}/v1/models did not answer like vLLM ({status}: {text[:200]})"
            ) from None

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """(status, text) of a POST with a body, of a GET without."""
        method = "GET" if body is None else "POST"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._config.connect_timeout, sock_read=self._config.idle_timeout
        )
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.request(method, self.root + path, json=body) as response,
            ):
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise BackendUnavailableError(
                f"{self.root} can't be reached ({str(error) or type(error).__name__}): is the vLLM "
                f"server running?"
            ) from error

    async def refused(self, what: str, status: int, text: str, cure: str) -> BackendError:
        """The error for an answer that is not 200: the engine has died, or `what` can't be done."""
        if status >= 500 and (await self.ask("/health"))[0] != 200:
            return BackendUnavailableError(f"{self.root}: the engine has died: {text[:500]}")
        return BackendError(f"{self.root} can't {what} ({status}: {text[:500]}). {cure}")

    def _backend(self, name: str) -> VllmServerBackend:
        """What samples from a model or adapter of this name."""
        return VllmServerBackend(
            name,
            f"{self.root}/v1",
            api_key=self._key,
            codec=self._codec,
            context_length=self._context,
            connect_timeout=self._config.connect_timeout,
            idle_timeout=self._config.idle_timeout,
        )


class ServedWeights(Protocol):
    """How the weights in training get to the servers.

    Attributes:
        gathers: they go there in `sync`, which reads sharded weights by itself; otherwise in `current`, for
            which the run gathers them.
    """

    @property
    def gathers(self) -> bool: ...

    def start(self, trainer: Any) -> None:
        """The trainer is made.

        Raises:
            ConfigError: the servers can't take the weights, or serve another model.
        """

    def sync(self) -> None:
        """A batch will be sampled. All processes must call this."""

    def current(self, trainer: Any) -> Path:
        """The folder of the weights in training, for `VllmServer.load`."""
        ...

    def close(self) -> None:
        """The run is over."""


async def load_all(servers: Sequence[VllmServer], folder: Path) -> list[BackendUnavailableError | None]:
    """Load the weights on every server; why a server can't be reached, for each."""

    async def load(server: VllmServer) -> BackendUnavailableError | None:
        try:
            await server.load(folder)
        except BackendUnavailableError as error:
            return error
        return None

    return list(await asyncio.gather(*(load(server) for server in servers)))


async def forgot(server: VllmServer, weights: Path) -> bool:
    """Whether the server was restarted since it loaded the weights, or is lost altogether."""
    try:
        return not await server.holds(weights)
    except BackendUnavailableError:
        return True


def pause(settings: ServerConfig, tries: int) -> float:
    """Seconds to wait after so many tries that brought nothing, at least one."""
    return min(LONGEST_PAUSE, settings.backoff * 2.0 ** min(tries - 1, 100))


def broadcast(accelerator: Any, values: list[Any]) -> list[Any]:
    """The first process's values, in all processes."""
    if accelerator.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(values)
    return values
