"""Both limits of a call, held inside vLLM: a logits processor, `--logits-processors elastic_vllm:Limits`.

vLLM's own `thinking_token_budget` limits thinking alone: what an early close leaves over goes to the
solution, up to `max_tokens`. With this, a request that carries `vllm_xargs={"elastic_limits": [close,
thinking, end, solution]}` has the token `close` after `thinking` tokens at the latest, and `end`, one of
its stop tokens, after `solution` more. Others are left alone. One file that imports vLLM and torch and
nothing of ours, in a folder of its own: the server's environment needs no `elastic_agent`, only this
folder on its PYTHONPATH.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

FIELD = "elastic_limits"


class Limits(AdapterLogitsProcessor):  # type: ignore[misc]
    """The processor; vLLM makes one a worker."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError for limits that can't be kept: vLLM refuses the request."""
        limits = (sampling_params.extra_args or {}).get(FIELD)
        if limits is not None:
            Kept(*map(int, limits))

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Kept | None:
        limits = (params.extra_args or {}).get(FIELD)
        return None if limits is None else Kept(*map(int, limits))


class Kept:
    """The limits of one request, and how far it has been read."""

    def __init__(self, close: int, thinking: int, end: int, solution: int) -> None:
        if min(close, thinking, end) < 0 or solution < 1:
            raise ValueError(f"{FIELD} are [close, thinking, end, solution]: no limits that can be kept")
        self._close, self._thinking, self._end, self._solution = close, thinking, end, solution
        self._read, self._closed = 0, False

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """The logits of the next token, after `output_ids`."""
        if not self._closed:
            new = output_ids[self._read :]
            self._closed = self._close in new
            self._read += new.index(self._close) + 1 if self._closed else len(new)
        if self._closed:
            due = self._end if len(output_ids) - self._read >= self._solution else None
        else:
            due = self._close if len(output_ids) >= self._thinking else None
        if due is not None:
            logits.fill_(float("-inf"))
            logits[due] = 0.0
        return logits
