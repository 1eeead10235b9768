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
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from ..blocking_portal import portal
from ..call import CompletedCall, run_all
from ..errors import langchain_errors
from ..metadata import note_budget, response_metadata, usage_metadata
from .base import ElasticModel
from .cache import budget_cache
from .options import PER_CALL, CallOptions


class ElasticReasoningLLM(ElasticModel, BaseLLM):
    """A reasoning model as a LangChain text model; budgets, tasks and errors as in `ChatElasticReasoning`."""

    model_config = ElasticModel.model_config  # LangChain's would let a misspelt field pass

    # Generating

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
            answers = self._options(stop, kwargs).answers()
        made = iter(await run_all([one(prompt, options) for prompt in prompts for options in answers]))
        return _noted(LLMResult(generations=[[next(made) for _ in answers] for _ in prompts]), run_manager)

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
        """The solution's text as it comes; the last chunk has the thinking."""
        reasoning = ""
        async with aclosing(self._deltas([{"role": "user", "content": prompt}], options)) as parts:
            async for part in parts:
                if isinstance(part, CompletedCall):
                    yield GenerationChunk(text="", generation_info=_info(part, reasoning))
                    continue
                reasoning += part.reasoning
                if part.text:
                    yield GenerationChunk(text=part.text)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        return _noted(portal.run(self._agenerate(prompts, stop, **kwargs)), run_manager)

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

    # The cache. LangChain's key for a text model is the model's `asdict()`, which lacks the call's options.
    # So the call is made on a copy of the model that has them as its own.

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


def _noted(made: LLMResult, manager: BaseRunManager | None) -> LLMResult:
    """The same. Of several prompts LangChain tells the first one's run alone, so nothing is noted."""
    info = made.generations[0][0].generation_info
    if len(made.generations) == 1 and info is not None:
        note_budget(manager, info["budget"])
    return made


def _info(completed: CompletedCall, reasoning: str) -> dict[str, Any]:
    return {
        **response_metadata(completed),
        "usage_metadata": dict(usage_metadata(completed.result.usage)),
        "reasoning_content": reasoning,
    }
