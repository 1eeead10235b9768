"""What the demo is compared with: one fixed `max_tokens` for each call, thinking and solution in one.

Such calls keep a total cap only if the cap is divided by their number beforehand. Tokens that one call leaves
over are lost to the others, and a call that thinks too long has no tokens left for its answer.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from elastic_agent.backends.base import Backend, Finish, Sampling, TokenRequest
from elastic_agent.budget import Caps
from elastic_agent.generation.prepare import prompt_ids
from elastic_agent.scheduler import Price
from elastic_agent.usage import Usage

from .agent import answer_of


@dataclass(slots=True)
class FixedMaxTokens:
    """Asks with the largest `max_tokens` with which all calls together are sure to keep the caps.

    Args:
        backend: the model.
        caps: of all calls together.
        calls: how many there will be.
        longest: the longest prompt, in tokens.
        price: what the model costs.
        sampling: how tokens are drawn.
    """

    backend: Backend
    caps: Caps
    calls: int
    longest: int
    price: Price
    sampling: Sampling
    usage: Usage = field(default_factory=Usage)
    made: int = 0

    @property
    def max_tokens(self) -> int:
        """Output tokens of each call; 0 when the caps don't hold one token for each."""
        limits = [self.backend.context_length - self.longest]
        if self.caps.tokens is not None:
            limits.append(self.caps.tokens // self.calls)
        if self.caps.nanodollars is not None:
            share = self.caps.nanodollars // self.calls
            low, high = 0, limits[0]
            while low < high:
                middle = (low + high + 1) // 2
                worst = Usage(prompt=self.longest, input=self.longest, solution=middle, passes=1)
                low, high = (middle, high) if self.price.worst(worst) <= share else (low, middle - 1)
            limits.append(low)
        return max(0, min(limits))

    async def ask(self, label: str, text: str, kind: str) -> int | None:
        """The answer in the text after the model's own close; None when it was cut before it had one."""
        if self.max_tokens == 0:
            return None
        ids = tuple(prompt_ids(self.backend, text))
        seed = None if self.sampling.seed is None else self.sampling.seed + self.made
        self.made += 1
        markers = self.backend.codec.markers
        sampling = Sampling(self.sampling.temperature, self.sampling.top_p, seed=seed)
        request = TokenRequest(ids, self.max_tokens, markers.eos_ids, sampling)
        output: list[int] = []
        finish: Finish | None = None
        async with aclosing(self.backend.stream(request)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                output += chunk.ids
                finish = chunk.finish
        self.usage += Usage(prompt=len(ids), input=len(ids), solution=len(output), passes=1)
        ends = range(1, len(output) + 1)
        end = next((end for end in ends if markers.close_at(output, end) is not None), None)
        if end is None:
            return None
        return answer_of(self.backend.codec.decode(output[end:]), cut=finish == "length")
