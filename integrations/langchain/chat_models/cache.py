"""LangChain's answer cache, made safe for budgets.

Answers are stored under the Budget that was *asked* for (`CallOptions.key`), but a task may grant less. So an
answer that a tighter grant or a deadline cut short, or that was told how little is left (`tell=`), is not
stored (`as_asked` in its metadata): it would be replayed where a better answer is affordable. A stored
answer was not cut below the Budget that is asked for now, so it can be used inside a task as well. The
metadata of a replayed answer says that it cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.outputs import ChatGeneration, Generation


class BudgetCache(BaseCache):
    """Another cache, under the rules of the module."""

    def __init__(self, inner: BaseCache) -> None:
        self._inner = inner

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        return _replayed(self._inner.lookup(prompt, llm_string))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        return _replayed(await self._inner.alookup(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        if _storable(return_val):
            self._inner.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        if _storable(return_val):
            await self._inner.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        self._inner.clear(**kwargs)

    async def aclear(self, **kwargs: Any) -> None:
        await self._inner.aclear(**kwargs)


def budget_cache(cache: BaseCache | bool | None) -> BudgetCache | None:
    """The cache of a model with this `cache` field, under the rules; None where it has none."""
    if cache is False:
        return None
    found = cache if isinstance(cache, BaseCache) else get_llm_cache()
    return found if found is None or isinstance(found, BudgetCache) else BudgetCache(found)


def _metadata(generation: Generation) -> dict[str, Any]:
    if isinstance(generation, ChatGeneration):
        return dict(generation.message.response_metadata)
    return dict(generation.generation_info or {})


def _storable(generations: Sequence[Generation]) -> bool:
    return all(_metadata(g).get("budget", {}).get("as_asked", False) for g in generations)


def _replayed(found: RETURN_VAL_TYPE | None) -> RETURN_VAL_TYPE | None:
    return [_at_no_cost(generation) for generation in found] if isinstance(found, list) else found


def _at_no_cost(generation: Generation) -> Generation:
    metadata = {**_metadata(generation), "cost": {"usd": "0"}, "cached": True}
    if isinstance(generation, ChatGeneration):
        message = generation.message.model_copy(update={"response_metadata": metadata})
        return generation.model_copy(update={"message": message})
    return generation.model_copy(update={"generation_info": metadata})
