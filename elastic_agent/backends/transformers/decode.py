"""Batched decoding of a Hugging Face causal model, one token a step, without asyncio.

Rows live in slots of one key/value cache: the active ones first, then the parked ones. A step feeds every
active row what it has not read yet (its whole prompt at first, one token afterwards) and samples one token
for each. Rows join and leave between steps, so a slow row holds nobody back, and rows with different limits
run together.

A finished row is parked, not dropped: the two-phase machine comes back at once with the same ids and the
close behind them, and a request that begins as a parked row does takes that row over and reads only what is
new. Parked rows give way, oldest first, when a slot is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..base import Finish, TokenRequest
from .draw import draw

_PREFILL_TOKENS = 8192  # most tokens of one prefill forward, padding included


@dataclass(frozen=True, slots=True)
class Sampled:
    """One token of one row. `cached`, with the row's first token: prompt ids that it had read already."""

    key: int
    token: int
    logprob: float | None
    finish: Finish | None
    cached: int = 0


@dataclass(slots=True)
class _Row:
    key: int
    ids: list[int]
    request: TokenRequest
    read: int = 0  # ids whose keys and values are in the cache
    cached: int = 0
    produced: int = 0
    parked: int = 0  # when it was parked, counted in parkings
    generator: torch.Generator | None = None


@dataclass(slots=True)
class _Slots:
    """Keys and values, [slots, heads, room, dim] a layer; transformers' `Cache` for a forward."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    slots: int = 0
    room: int = 0
    # The forward in progress: which slots, and where each row's new tokens go
    first: int = 0
    positions: Tensor | None = None  # [rows, new]
    span: int = 0

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values ([rows, heads, new, dim]); returns all that the rows have."""
        assert self.positions is not None
        found = []
        for store, new in ((self.keys, key), (self.values, value)):
            if layer not in store or store[layer].shape[0] < self.slots or store[layer].shape[2] < self.room:
                store[layer] = self._grown(store.get(layer), new)
            rows = store[layer][self.first : self.first + new.shape[0]]
            if len(self.positions) == 1:
                rows[:, :, self.span - new.shape[2] : self.span] = new
            else:
                index = self.positions[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
                rows.scatter_(2, index, new)
            found.append(rows[:, :, : self.span])
        return found[0], found[1]

    def _grown(self, old: Tensor | None, like: Tensor) -> Tensor:
        new = like.new_zeros(self.slots, like.shape[1], self.room, like.shape[3])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def swap(self, a: int, b: int, span: int) -> None:
        """Exchange two slots' first `span` tokens."""
        self.slots = max(self.slots, _power_of_two(max(a, b) + 1))
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                if tensor.shape[0] < self.slots:
                    tensor = store[layer] = self._grown(tensor, tensor)
                kept = tensor[a, :, :span].clone()
                tensor[a, :, :span] = tensor[b, :, :span]
                tensor[b, :, :span] = kept

    def get_seq_length(self, *_: Any) -> int:
        return 0


class BatchDecoder:
    """Decodes up to `max_rows` requests at a time.

    Args:
        model: a causal language model with full attention; its weights stay where they are.
        max_rows: most slots, active and parked together; more requests wait in order.
        generator: source of randomness for requests without a seed.
    """

    def __init__(self, model: Any, *, max_rows: int = 64, generator: torch.Generator | None = None) -> None:
        layers = set(getattr(model.config, "layer_types", None) or {"full_attention"})
        if layers != {"full_attention"}:
            raise NotImplementedError(
                f"only full attention is supported in process, this model has {sorted(layers)}"
            )
        self.model = model
        self.max_rows = max_rows
        self._device = next(model.parameters()).device
        self._generator = generator
        self._waiting: dict[int, TokenRequest] = {}
        self._rows: list[_Row] = []  # by slot; the first `_active` are active, the others parked
        self._active = 0
        self._slots = _Slots()
        self._keys = itertools.count()
        self._parkings = itertools.count()

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + self._active

    def add(self, request: TokenRequest) -> int:
        """Queue a request; returns its key."""
        key = next(self._keys)
        self._waiting[key] = request
        return key

    @torch.inference_mode()
    def cancel(self, key: int) -> None:
        """Forget a request; unknown keys and finished ones are ignored."""
        if self._waiting.pop(key, None) is None:
            slot = next((i for i in range(self._active) if self._rows[i].key == key), None)
            if slot is not None:
                self._park(slot)

    @torch.inference_mode()
    def step(self) -> list[Sampled]:
        """Sample one token for every row; finished rows are parked."""
        started = self._active
        while self._waiting and self._active < self.max_rows:
            key = next(iter(self._waiting))
            self._admit(key, self._waiting.pop(key))
        sampled: list[Sampled] = []
        if started:
            sampled += self._forward(0, started)
        at = started
        while at < self._active:  # prompts: as many rows as fit into one forward
            upto, longest = at, 0
            while upto < self._active:
                row = self._rows[upto]
                longest = max(longest, len(row.ids) - row.read)
                if upto > at and longest * (upto - at + 1) > _PREFILL_TOKENS:
                    break
                upto += 1
            sampled += self._forward(at, upto)
            at = upto
        finished = {s.key for s in sampled if s.finish is not None}
        for slot in range(self._active - 1, -1, -1):
            if self._rows[slot].key in finished:
                self._park(slot)
        return sampled

    def _admit(self, key: int, request: TokenRequest) -> None:
        """Move a parked row that it continues, a new or the oldest one behind the active ones."""
        slot, read = self._continued(request.prompt_ids)
        if slot is None and len(self._rows) < self.max_rows:
            slot = len(self._rows)
            self._rows.append(_Row(-1, [], request))
        elif slot is None:
            slot = min(range(self._active, len(self._rows)), key=lambda i: self._rows[i].parked)
        row = self._rows[slot]
        row.read = read
        seed = request.sampling.seed
        row.key, row.request, row.ids = key, request, list(request.prompt_ids)
        row.cached, row.produced = row.read, 0
        row.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._swap(slot, self._active)
        self._active += 1

    def _continued(self, prompt: tuple[int, ...]) -> tuple[int | None, int]:
        """The parked row with which this prompt shares the most, and how many ids that is.

        Not all that the row has read need be shared: a row that was cut off has run ahead a little. But at
        least half, since it may be about to be continued by its own call.
        """
        best, most = None, 0
        for slot in range(self._active, len(self._rows)):
            row = self._rows[slot]
            shared = _shared(row.ids[: row.read], prompt[:-1])
            if shared > most and 2 * shared >= row.read:
                best, most = slot, shared
        return best, most

    def _park(self, slot: int) -> None:
        self._active -= 1
        self._rows[slot].parked = next(self._parkings)
        self._swap(slot, self._active)

    def _swap(self, a: int, b: int) -> None:
        if a != b:
            self._slots.swap(a, b, max(self._rows[a].read, self._rows[b].read))
            self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    def _forward(self, first: int, upto: int) -> list[Sampled]:
        rows = self._rows[first:upto]
        new = [len(row.ids) - row.read for row in rows]
        width, device = max(new), self._device
        # Padding is written past a row's end, where nobody looks before it is overwritten
        padded = [row.ids[row.read :] + [0] * (width - n) for row, n in zip(rows, new, strict=True)]
        ids = torch.tensor(padded, device=device)
        span = max(row.read for row in rows) + width
        positions = torch.tensor([[row.read] for row in rows], device=device) + torch.arange(
            width, device=device
        )
        if len(rows) == width == 1:  # sees everything
            seen = torch.ones(1, 1, 1, span, dtype=torch.bool, device=device)
        else:
            seen = torch.arange(span, device=device)[None, None, None, :] <= positions[:, None, :, None]
        slots = self._slots
        slots.slots = max(slots.slots, min(self.max_rows, _power_of_two(upto)))
        slots.room = max(slots.room, _power_of_two(span))
        slots.first, slots.positions, slots.span = first, positions, span
        ends = sorted(set(new))  # logits are asked for where some row ends
        output = self.model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=slots,
            use_cache=True,
            logits_to_keep=1 if ends == [width] else torch.tensor([n - 1 for n in ends], device=device),
        )
        which = [ends.index(n) for n in new]
        logits = output.logits[:, 0] if len(ends) == 1 else output.logits[torch.arange(len(rows)), which]
        return self._sample(rows, logits.float().cpu())

    def _sample(self, rows: list[_Row], logits: Tensor) -> list[Sampled]:
        tokens = sample(logits, rows, self._generator).tolist()
        logprobs: list[float] | None = None
        if any(row.request.sampling.logprobs for row in rows):
            every = torch.log_softmax(logits, dim=-1)
            logprobs = every[torch.arange(len(rows)), torch.tensor(tokens)].tolist()
        out = []
        for i, row in enumerate(rows):
            row.read = len(row.ids)
            row.ids.append(tokens[i])
            row.produced += 1
            finish: Finish | None = None
            if tokens[i] in row.request.stop_ids:
                finish = "stop"
            elif row.produced >= row.request.max_tokens:
                finish = "length"
            logprob = logprobs[i] if logprobs and row.request.sampling.logprobs else None
            cached = row.cached if row.produced == 1 else 0
            out.append(Sampled(row.key, tokens[i], logprob, finish, cached))
        return out


def sample(logits: Tensor, rows: Sequence[_Row], generator: torch.Generator | None) -> Tensor:
    """One token a row ([rows, vocabulary] logits to [rows] ids): temperature, then top-k, then top-p.

    Temperature 0 takes the most likely token. A row's own seed makes its draws independent of the batch.
    """
    settings = [row.request.sampling for row in rows]
    vocabulary = logits.shape[-1]
    best = logits.argmax(dim=-1)
    if all(s.temperature <= 0 for s in settings):
        return best
    temperature = torch.tensor([s.temperature if s.temperature > 0 else 1.0 for s in settings])
    at = torch.rand(len(rows), generator=generator)
    for i, row in enumerate(rows):
        if row.generator is not None:
            at[i] = torch.rand(1, generator=row.generator)
    tokens = draw(
        logits / temperature[:, None],
        torch.tensor([s.top_k if 0 < s.top_k < vocabulary else vocabulary for s in settings]),
        torch.tensor([s.top_p for s in settings]),
        at,
    )
    greedy = torch.tensor([s.temperature <= 0 for s in settings])
    return torch.where(greedy, best, tokens)


def _shared(ids: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of their common beginning."""
    if tuple(ids) == tuple(prompt[: len(ids)]):
        return len(ids)
    return next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))


def _power_of_two(n: int) -> int:
    return 1 << max(4, (n - 1).bit_length())
