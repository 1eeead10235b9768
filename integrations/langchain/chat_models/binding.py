"""`model.bind(...)` that keeps its options when tools are bound afterwards.

LangChain's own binding forwards `bind_tools` to the model underneath and forgets the options that were bound
before: in `create_agent(llm.bind(thinking_budget=64), tools)` the budget would silently vanish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from langchain_core.language_models.chat_models import _ChatModelBinding

from .options import PER_CALL

if TYPE_CHECKING:
    from .chat import ChatElasticReasoning

_OPTIONS = PER_CALL | {"stop"}


class BudgetBinding(_ChatModelBinding):
    """A chat model with bound call options."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> BudgetBinding:
        """This binding with tools."""
        rest = {name: value for name, value in self.kwargs.items() if name not in _OPTIONS}
        bound = cast("BudgetBinding", self._configured().bind_tools(tools, **{**rest, **kwargs}))
        return BudgetBinding(bound=bound.bound, kwargs=bound.kwargs, config=self.config)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        """This binding with structured output."""
        return self._configured().with_structured_output(schema, **kwargs).with_config(self.config)

    def with_budget(self, **options: Any) -> BudgetBinding:
        """This binding with other call options."""
        return BudgetBinding(bound=self.bound, kwargs={**self.kwargs, **options}, config=self.config)

    def _configured(self) -> ChatElasticReasoning:
        """The model with the bound options as its own."""
        options = {name: value for name, value in self.kwargs.items() if name in _OPTIONS}
        return cast("ChatElasticReasoning", self.bound).with_budget(**options)
