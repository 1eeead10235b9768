"""Batched decoding of a Hugging Face causal model, one token a step, without asyncio.

Rows live in slots of one key/value cache: the active ones first, then the parked ones. A step feeds every
active row what it has not read yet (its whole prompt at first, one token afterwards) and samples one token
for each. Rows join and leave between steps, so a slow row holds nobody back, and rows with different limits
run together.

A finished row is parked, not dropped: the two-phase machine comes back at once with the same ids and the
close behind them, and a request that begins as a parked row does takes that row over and reads only what is
new. Parked rows give way, oldest first, when a slot is needed.

Requests that join together and have one prompt, as the samples of a group do, read it once: the first of them
does, and the others get a copy of its keys and values, and draw from the same logits.

Logits stay on the model's device, and tokens are drawn there. Only ids and log-probs come to the host. The
random numbers come from the host, so one seed draws the same numbers on every device.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..base import Finish, TokenRequest
from ..decoder import Sampled
from .draw import draw
from .slots import Slots, power_of_two

PREFILL_TOKENS = 8192  # most tokens of one prefill forward, padding included


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


class BatchDecoder:
    """Decodes up to `max_rows` requests at a time.

    Args:
        model: a causal language model with full attention; its weights stay where they are.
        max_rows: most slots, active and parked together; more requests wait in order.
        generator: source of randomness for requests without a seed.
        tempered: log-probs are those of the logits divided by the temperature; otherwise the model's own.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_rows: int = 64,
        generator: torch.Generator | None = None,
        tempered: bool = False,
    ) -> None:
        layers = set(getattr(model.config, "layer_types", None) or {"full_attention"})
        if layers != {"full_attention"}:
            raise NotImplementedError(
                f"only full attention is supported in process, this model has {sorted(layers)}"
            )
        self.model = model
        self.max_rows = max_rows
        self._device = next(model.parameters()).device
        self._generator = generator
        self._tempered = tempered
        self._waiting: dict[int, TokenRequest] = {}
        self._rows: list[_Row] = []  # by slot; the first `_active` are active, the others parked
        self._active = 0
        self._slots = Slots()
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
        twins = self._take_in()
        sampled: list[Sampled] = []
        if started:
            sampled += self._sample(range(started), self._forward(0, started))
        for first, upto in self._prefills(started, self._active - sum(map(len, twins.values()))):
            logits = self._forward(first, upto)
            slots = list(range(first, upto))
            sources = list(slots)
            for slot in range(first, upto):
                if copies := twins.get(slot):
                    self._slots.copy(slot, copies, len(self._rows[slot].ids))
                    slots += copies
                    sources += [slot] * len(copies)
            if slots != sources:
                logits = logits[[slot - first for slot in sources]]
            sampled += self._sample(slots, logits)
        finished = {s.key for s in sampled if s.finish is not None}
        for slot in range(self._active - 1, -1, -1):
            if self._rows[slot].key in finished:
                self._park(slot)
        return sampled

    def _take_in(self) -> dict[int, list[int]]:
        """Admit what waits, as far as there is room.

        The first request with a prompt reads it; others with the same prompt get slots behind all those that
        read. Returns, by the slot of a row that reads, the slots of the others with its prompt.
        """
        room = self.max_rows - self._active
        new = [(key, self._waiting.pop(key)) for key in list(itertools.islice(self._waiting, room))]
        groups: dict[tuple[int, ...], list[tuple[int, TokenRequest]]] = {}
        for key, request in new:
            groups.setdefault(tuple(request.prompt_ids), []).append((key, request))
        first = self._active
        for key, request in (group[0] for group in groups.values()):
            self._admit(key, request, *self._continued(request.prompt_ids))
        twins: dict[int, list[int]] = {}
        for slot, group in enumerate(groups.values(), first):
            for key, request in group[1:]:
                twins.setdefault(slot, []).append(self._active)
                self._admit(key, request, None, 0)
                self._rows[self._active - 1].cached = len(request.prompt_ids) - 1
        return twins

    def _prefills(self, at: int, end: int) -> Iterator[tuple[int, int]]:
        """The slots from `at` to `end` in parts that fit into one forward: (first, behind the last)."""
        while at < end:
            upto, longest = at, 0
            while upto < end:
                row = self._rows[upto]
                longest = max(longest, len(row.ids) - row.read)
                if upto > at and longest * (upto - at + 1) > PREFILL_TOKENS:
                    break
                upto += 1
            yield at, upto
            at = upto

    def _admit(self, key: int, request: TokenRequest, slot: int | None, read: int) -> None:
        """Move a row behind the active ones: the parked one in `slot`, whose first `read` ids it continues;
        without a slot a new one, or the one that has been parked longest."""
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

    def _forward(self, first: int, upto: int) -> Tensor:
        """The logits behind the last id of each row in slots `first` to `upto`, [rows, vocabulary]."""
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
        slots.slots = max(slots.slots, min(self.max_rows, power_of_two(self._active)))
        slots.room = max(slots.room, power_of_two(span))
        slots.first, slots.positions, slots.span = first, positions, span
        ends = sorted(set(new))  # the head is asked for where some row ends
        with self._head_reads([ends.index(n) for n in new]) if len(ends) > 1 else nullcontext():
            output = self.model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=slots,
                use_cache=True,
                # By index: a slice is a view with gaps, on which a bfloat16 head took 9 s a batch on a CPU
                logits_to_keep=1 if width == 1 else torch.tensor([n - 1 for n in ends], device=device),
            )
        logits: Tensor = output.logits
        return logits[:, 0]

    @contextmanager
    def _head_reads(self, which: list[int]) -> Iterator[None]:
        """Within, the head reads one position a row, of those that the model hands it.

        Logits of all would have the size of rows x ends x vocabulary, gigabytes where many prompts differ.
        """

        def one_each(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (inputs[0][list(range(len(which))), which][:, None],)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(one_each)
        try:
            yield
        finally:
            hook.remove()

    def _sample(self, slots: Sequence[int], logits: Tensor) -> list[Sampled]:
        """Draw a token for each row from its logits, [rows, vocabulary]; the row's ids count as read."""
        rows = [self._rows[slot] for slot in slots]
        logits = logits.float()
        drawn = sample(logits, rows, self._generator)
        logprobs: list[float] | None = None
        if any(row.request.sampling.logprobs for row in rows):
            if self._tempered:
                by = [row.request.sampling.temperature or 1.0 for row in rows]
                logits = logits / torch.tensor(by, device=logits.device)[:, None]
            logprobs = (logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
        tokens = drawn.tolist()
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
    Random numbers are made on the host; all that has the size of the vocabulary stays where the logits are.
    """
    settings = [row.request.sampling for row in rows]
    vocabulary, device = logits.shape[-1], logits.device
    cold = [s.temperature <= 0 for s in settings]
    if all(cold):
        return logits.argmax(dim=-1)
    at = torch.rand(len(rows), generator=generator)
    for i, row in enumerate(rows):
        if row.generator is not None:
            at[i] = torch.rand(1, generator=row.generator)
    scaled = logits
    if any(s.temperature != 1 for s in settings):
        by = torch.tensor([s.temperature if s.temperature > 0 else 1.0 for s in settings], device=device)
        scaled = logits / by[:, None]
    tokens = draw(
        scaled,
        torch.tensor([s.top_k if 0 < s.top_k < vocabulary else vocabulary for s in settings], device=device),
        torch.tensor([s.top_p for s in settings], device=device),
        at.to(device),
    )
    if any(cold):
        tokens = torch.where(torch.tensor(cold, device=device), logits.argmax(dim=-1), tokens)
    return tokens


def _shared(ids: Sequence[int], prompt: Sequence[int]) -> int:
    """Length of their common beginning."""
    if tuple(ids) == tuple(prompt[: len(ids)]):
        return len(ids)
    return next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))
