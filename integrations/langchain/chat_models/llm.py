"""`ElasticReasoningLLM`: the same model for code that wants text in, text out.

    llm = ElasticReasoningLLM(thinking_budget=256, solution_budget=128)
    answer = await llm.ainvoke("...", thinking_budget=64)

The prompt is one user message in the model's chat template, because that is what opens a reasoning model's
thinking. The text is the solution; the thinking is in `generation_info["reasoning_content"]`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from ...openai_format.deltas import Delta, DeltaBuilder
from ..blocking_portal import portal
from ..call import Outcome, Turned, answers, run_call, together
from ..errors import langchain_errors
from ..metadata import response_metadata, usage_metadata
from .cache import budget_cache
from .fields import ElasticFields
from .options import PER_CALL, CallOptions


class ElasticReasoningLLM(ElasticFields, BaseLLM):
    """A reasoning model as a LangChain text model; budgets, tasks and errors as in `ChatElasticReasoning`."""

    model_config = ElasticFields.model_config  # LangChain's would let a misspelt field pass

    # Generating

    async def _pieces(self, prompt: str, options: CallOptions) -> AsyncGenerator[Delta | Outcome]:
        """What the call brings, and its Outcome last."""
        with langchain_errors():
            backend = await self._ready_backend(options.model)
            ids = backend.codec.encode_chat([{"role": "user", "content": prompt}])
            pieces = DeltaBuilder()
            async with aclosing(run_call(backend, ids, options, self._terms)) as events:
                async for event in events:
                    if isinstance(event, Outcome):
                        yield event
                    elif isinstance(event, Turned):
                        continue
                    elif piece := pieces.feed(event):
                        yield piece

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        async def one(prompt: str, options: CallOptions) -> Generation:
            chunks = [chunk async for chunk in self._chunks(prompt, options)]
            return Generation(
                text="".join(c.text for c in chunks), generation_info=chunks[-1].generation_info
            )

        with langchain_errors():
            every = answers(self._options(stop, kwargs))
        made = iter(await together([one(prompt, options) for prompt in prompts for options in every]))
        return LLMResult(generations=[[next(made) for _ in every] for _ in prompts])

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[GenerationChunk]:
        with langchain_errors():
            options = self._options(stop, kwargs)
        if options.n != 1:
            raise ValueError("a stream brings one answer: n must be 1")
        async with aclosing(self._chunks(prompt, options)) as chunks:
            async for chunk in chunks:
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _chunks(self, prompt: str, options: CallOptions) -> AsyncGenerator[GenerationChunk]:
        """The solution's text as it comes; the thinking is with the last chunk."""
        reasoning: list[str] = []
        async with aclosing(self._pieces(prompt, options)) as parts:
            async for part in parts:
                if isinstance(part, Outcome):
                    yield GenerationChunk(text="", generation_info=_info(part, "".join(reasoning)))
                    continue
                reasoning.append(part.reasoning)
                if part.text:
                    yield GenerationChunk(text=part.text)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return portal.run(self._agenerate(prompts, stop, **kwargs))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        for chunk in portal.iterate(self._astream(prompt, stop, **kwargs)):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    # The cache: LangChain's key for text models is `asdict()`, without the call's own options. A copy that
    # has them as its own gives the right key.

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """See `BaseLLM.generate`; answers are looked up and stored by budget."""
        model, rest = self._configured(stop, kwargs)
        return BaseLLM.generate(model, prompts, model.stop, *args, **rest)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, *args: Any, **kwargs: Any
    ) -> LLMResult:
        """See `BaseLLM.agenerate`; answers are looked up and stored by budget."""
        model, rest = self._configured(stop, kwargs)
        return await BaseLLM.agenerate(model, prompts, model.stop, *args, **rest)

    def _configured(
        self, stop: list[str] | None, given: dict[str, Any]
    ) -> tuple[ElasticReasoningLLM, dict[str, Any]]:
        own = {name: value for name, value in given.items() if name in PER_CALL}
        model = self.with_budget(**own, stop=stop)
        if (cache := budget_cache(self.cache)) is not None:
            model = model.model_copy(update={"cache": cache})
        return model, {name: value for name, value in given.items() if name not in PER_CALL}

    # About the model

    @property
    def _llm_type(self) -> str:
        return "elastic-reasoning"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = super()._identifying_params
        return {**params, "stops": params["stop"]}  # LangChain overwrites `stop` with the call's own, or None

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._tracing("llm", stop, kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The text's ids under the model's own tokenizer, control strings as text."""
        with langchain_errors():
            return self._backend().codec.encode(text)


def _info(outcome: Outcome, reasoning: str) -> dict[str, Any]:
    return {
        **response_metadata(outcome),
        "usage_metadata": dict(usage_metadata(outcome.result.usage)),
        "reasoning_content": reasoning,
    }
