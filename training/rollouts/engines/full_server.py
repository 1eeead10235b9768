"""A server that samples with all the weights in training, which it reloads while it runs.

The server says which weights it has (`/weight_info`). We set what it says after each reload: the name of the
weights, and a number of this reload alone. So a server that was restarted ("default"), was given other
weights, or was reloaded in between, is found out: it is asked before a batch and after each sample. And
before each batch the log-probs of a fixed text are compared with the trainer's (`probe`), so that a reload
that was lost or half done is an error. What the server needs is in `elastic_agent.backends.vllm.plugin`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from elastic_agent.backends.base import Codec
from elastic_agent.backends.vllm.process import PLUGIN
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import BackendProtocolError, BackendUnavailableError, ConfigError

from ...config.schema import ServerConfig
from .probe import StaleWeightsError, mean_gap
from .vllm_server import VllmServer

START = (
    f"VLLM_SERVER_DEV_MODE=1 PYTHONPATH={PLUGIN} vllm serve MODEL "
    f"--worker-extension-cls elastic_weights.Weights"
)
"""How a server must be started that reloads weights from a folder."""


@dataclass(frozen=True, slots=True)
class Target:
    """Weights that a server must have.

    Attributes:
        probe: ids of the fixed text.
        logprobs: the trainer's log-probs of the probe but its first id.
        most: nats a token by which the server's may differ.
    """

    folder: Path
    probe: Sequence[int]
    logprobs: Sequence[float]
    most: float


class FullWeightsServer(VllmServer):
    """A server that reloads all weights; `target` says which, before each `load`.

    Args:
        names: under one of which it serves the base.
        log: gets a line when it has to be given the same weights again.
    """

    target: Target
    gap = math.nan
    """Nats a token between its log-probs of the probe and the trainer's, after the last `load`."""

    def __init__(
        self,
        url: str,
        config: ServerConfig,
        codec: Codec,
        context: int,
        names: tuple[str, ...],
        log: Callable[[str], None],
    ) -> None:
        super().__init__(url, config, codec, context)
        self._names, self._log = names, log
        self._name = ""
        self._held = ""

    async def precision(self) -> str:
        """The precision in which it computes, such as float32.

        Raises:
            ConfigError: it does not serve the base, or was not started to reload weights.
        """
        self._name = await self.check(self._names)
        status, text = await self.ask("/collective_rpc", {"method": "elastic_precision"})
        if status != 200:
            raise ConfigError(
                f"rollout.server: {self.root} can't reload weights ({status}: {text[:200]}): start it with "
                f"{START}"
            )
        return str(self._json(text, "results")[0]["precision"])

    async def load(self, folder: Path) -> None:
        """Reload the target, if the server does not have it.

        Raises:
            StaleWeightsError: its log-probs are not those of the target.
        """
        target = self.target
        assert target.folder == folder
        version = await self._version()
        if not version.startswith(f"{folder.name}.") or not await self._agrees():
            if self._held.startswith(f"{folder.name}."):
                self._log(f"{self._behind(version)}; it is given them again")
            await self.give(folder)
            version = await self._version()
            if not await self._agrees():
                raise StaleWeightsError(
                    f"rollout.server: {self.root} was given the weights in training, and its log-probs "
                    f"differ by {self.gap:.2g} nats a token from theirs (at most {target.most:.2g} is "
                    f"rounding): it has not taken them all, and nothing was sampled with the others"
                )
        self._held = version

    async def give(self, folder: Path) -> None:
        """Have it reload the weights in a folder, when the samples that it is making are made."""
        await self._do("/pause?mode=wait")
        try:
            await self._do("/collective_rpc", method="elastic_reload", kwargs={"path": str(folder)})
            await self.gave(folder)
        finally:
            await self._do("/resume")

    async def gave(self, folder: Path) -> None:
        """It has new weights: have it forget what it computed with the old ones, and say so from now on."""
        await self._do("/reset_prefix_cache")
        await self._do("/update_weight_version", new_version=f"{folder.name}.{uuid4().hex[:8]}")

    async def holds(self, folder: Path) -> bool:
        return self._held.startswith(f"{folder.name}.") and await self._version() == self._held

    async def confirm(self, folder: Path) -> None:
        """Ask whether it has had the weights all the time."""
        if not await self.holds(folder):
            raise self._behind(await self._version())

    def backend(self, folder: Path) -> VllmServerBackend:
        return self._backend(self._name)

    def _behind(self, version: str) -> BackendUnavailableError:
        why = "was restarted" if version == "default" else "was given others"
        wanted = self.target.folder.name
        return BackendUnavailableError(
            f"{self.root} has the weights {version!r} and not {wanted!r}, those in training: it {why}"
        )

    async def _version(self) -> str:
        status, text = await self.ask("/weight_info")
        if status != 200:
            raise await self.refused("say which weights it has", status, text, f"Start it with {START}")
        return str(self._json(text, "weight_version"))

    async def _agrees(self) -> bool:
        """Whether its log-probs of the probe are those of the target."""
        self._name = self._name or await self.check(self._names)
        ids = list(self.target.probe)
        body = {"model": self._name, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        status, text = await self.ask("/v1/completions", body)
        if status != 200:
            raise await self.refused("give log-probs of a prompt", status, text, "")
        entries = self._json(text, "choices")[0]["prompt_logprobs"][1:]
        theirs = [entry[str(token)]["logprob"] for entry, token in zip(entries, ids[1:], strict=True)]
        self.gap = mean_gap(self.target.logprobs, theirs)
        return self.gap <= self.target.most

    async def _do(self, path: str, **body: Any) -> None:
        status, text = await self.ask(path, body)
        if status != 200:
            raise await self.refused(f"{path[1:].partition('?')[0]}", status, text, f"Start it with {START}")

    def _json(self, text: str, key: str) -> Any:
        try:
            return json.loads(text)[key]
        except (KeyError, TypeError, ValueError):
            raise BackendProtocolError(f"{self.root} did not answer like vLLM: {text[:200]}") from None
