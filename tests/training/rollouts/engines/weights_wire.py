"""A wire that takes new weights while it runs, as vLLM does with `plugin/elastic_weights.py`."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from safetensors.torch import load_file

from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.backends.transformers.decode import BatchDecoder
from tests.wire import Wire, serve_in_thread


class WeightsWire(Wire):
    """The wire. `plan(wire, n)` is called before its n-th completion, from 1.

    Attributes:
        asked: the endpoints of development that were asked, in order.
        loses: names of weights that a reload leaves as they were.
    """

    plan: Callable[[WeightsWire, int], None] = staticmethod(lambda wire, n: None)
    precision = "float32"
    version = "default"
    loses: Callable[[str], bool] = staticmethod(lambda name: False)

    def __init__(self, backend: TransformersBackend, **options: Any) -> None:
        super().__init__(backend, **options)
        self.module = backend.module
        self._judge = copy.deepcopy(self.module)  # another thread decodes with the module itself
        # In another process, as a server is, it would not draw from the generator of the run that it serves
        self._decoder = backend._decoder = BatchDecoder(backend.module, generator=torch.Generator())
        self.asked: list[str] = []
        self.versions: list[str] = []
        """What it said that it has, each time that it was told."""
        self.precisions: set[str] = set()
        """Of the weights that it was given."""
        self._base = {name: weight.clone() for name, weight in self.module.state_dict().items()}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/weight_info", self._weight_info)
        for name in ("pause", "resume", "reset_prefix_cache", "update_weight_version", "collective_rpc"):
            app.router.add_post(f"/{name}", self._develop)

    def restart(self) -> None:
        """It comes back with the base."""
        self.module.load_state_dict(self._base)
        self.version = "default"

    def take(self, weights: Mapping[str, Any]) -> None:
        """Weights that it is given."""
        self.precisions |= {str(weight.dtype).removeprefix("torch.") for weight in weights.values()}
        kept = {name: weight for name, weight in weights.items() if not self.loses(name)}
        self.module.load_state_dict(kept, strict=False)

    async def _weight_info(self, _: web.Request) -> web.Response:
        return web.json_response({"weight_version": self.version})

    async def _develop(self, http: web.Request) -> web.Response:
        body, name = await http.json(), http.path[1:]
        self.asked.append(body.get("method", name))
        while name == "pause" and len(self._decoder):  # noqa: ASYNC110 (mode=wait; another thread decodes)
            await asyncio.sleep(0.01)
        if name == "reset_prefix_cache":
            for row in self._decoder._rows:
                row.ids.clear()
        if body.get("method") == "elastic_precision":
            return web.json_response({"results": [{"precision": self.precision}]})
        if body.get("method") == "elastic_reload":
            self.take(load_file(Path(body["kwargs"]["path"]) / "model.safetensors"))
            return web.json_response({"results": [None]})
        if name == "update_weight_version":
            self.version = body["new_version"]
            self.versions.append(self.version)
        return web.json_response({})

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        body = await http.json()
        if body.get("prompt_logprobs") is None:
            self.plan(self, len(self.requests) + 1)
            return await super()._completions(http)
        ids = body["prompt"]
        self._judge.load_state_dict(self.module.state_dict())
        with torch.no_grad():
            logits = self._judge(torch.tensor([ids])).logits[0, :-1].float()
        own = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        entries = [None, *({str(i): {"logprob": p}} for i, p in zip(ids[1:], own, strict=True))]
        return web.json_response({"choices": [{"prompt_logprobs": entries}]})


@contextmanager
def serving(base: Path) -> Iterator[WeightsWire]:
    """The base behind a wire that takes weights."""
    backend = TransformersBackend.load(str(base), name=str(base))
    with serve_in_thread(backend, make=WeightsWire) as wire:
        yield wire  # type: ignore[misc]
    asyncio.run(backend.aclose())
