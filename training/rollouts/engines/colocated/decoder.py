"""vLLM's engine as a batch decoder (`elastic_agent.generation.machine_runner.Decoder`).

A two-phase machine asks for one pass after the other, so a call's solution begins as soon as its thinking is
over, beside the thinking of the others; the prefix cache holds what the call has read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from elastic_agent.backends.base import TokenRequest
from elastic_agent.backends.decoder import Sampled


class VllmDecoder:
    """Decodes on a `vllm.LLM`, whose steps it drives.

    Args:
        llm: with `logprobs_mode="processed_logprobs"`: log-probs are those of the distribution that is drawn
            from.
    """

    _keys = itertools.count()
    """Of all decoders: one that is made after a failure must not get the tokens of another's requests."""

    def __init__(self, llm: Any) -> None:
        self._engine = llm.llm_engine
        self._begun: set[str] = set()
        """Requests that have brought a token."""

    def add(self, request: TokenRequest) -> int:
        """Queue a request; returns its key."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        key, sampling = next(self._keys), request.sampling
        parameters = SamplingParams(
            max_tokens=request.max_tokens,
            stop_token_ids=sorted(request.stop_ids),
            ignore_eos=True,  # the machine says what ends a pass
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=max(0, sampling.top_k),
            seed=sampling.seed,
            logprobs=0 if sampling.logprobs else None,  # that of the sampled token alone
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._engine.add_request(str(key), {"prompt_token_ids": list(request.prompt_ids)}, parameters)
        return key

    def cancel(self, key: int) -> None:
        """Forget a request; unknown keys and finished ones are ignored."""
        self._engine.abort_request([str(key)])

    def step(self) -> list[Sampled]:
        """Run one step of the engine; returns its tokens."""
        return [sampled for output in self._engine.step() for sampled in self._tokens_of(output)]

    def _tokens_of(self, output: Any) -> Iterator[Sampled]:
        part, key = output.outputs[0], output.request_id
        for i, token in enumerate(part.token_ids):
            ended = output.finished and i == len(part.token_ids) - 1
            cached = 0 if key in self._begun else output.num_cached_tokens or 0
            self._begun.add(key)
            logprob = part.logprobs[i][token].logprob if part.logprobs else None
            yield Sampled(int(key), token, logprob, part.finish_reason if ended else None, cached)
