"""When a graph's invocation ends: by itself, an error, a cancellation, an interrupt, or a reader that left.

LangGraph calls no node at the end of a run that fails, and a node can't see its graph's invocation.
LangChain's callbacks see both: the start of each node, with the graph's run around it, and the end of the
graph's run, which LangGraph reports whatever ended it. An interrupt ends a run too; going on is another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast
from uuid import UUID
from weakref import WeakSet

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.tracers.context import register_configure_hook


class Ends(Protocol):
    """Anything that ends with an invocation."""

    def invocation_over(self) -> None:
        """Called when the invocation has ended, on its event loop: may not block."""


class Invocations(BaseCallbackHandler):
    """A handler for all chains of the process; a chain that is no node and no graph costs one look-up."""

    run_inline = True
    ignore_llm = ignore_chat_model = ignore_retriever = ignore_agent = ignore_custom_event = True

    def __init__(self) -> None:
        self._graph_of: dict[UUID, UUID] = {}
        self._ends: dict[UUID, WeakSet[Ends]] = {}

    def end_with_graph(self, config: Mapping[str, Any], thing: Ends) -> None:
        """Call `thing.invocation_over` when the invocation of the graph around this node ends.

        Where callbacks don't reach the node it is never called: `thing` needs another end of last resort.

        Args:
            config: of the node that runs now.
        """
        manager = config.get("callbacks")
        node = manager.parent_run_id if isinstance(manager, BaseCallbackManager) else None
        graph = None if node is None else self._graph_of.get(node)
        if graph is not None:
            self._ends.setdefault(graph, WeakSet()).add(thing)

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the graph of a node: nodes have their step as a tag."""
        if parent_run_id is not None and any(tag.startswith("graph:step:") for tag in tags or ()):
            self._graph_of[run_id] = parent_run_id

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Forget a node, or end what ends with a graph."""
        self._over(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for any error: a cancellation, a closed generator."""
        self._over(run_id)

    def _over(self, run: UUID) -> None:
        self._graph_of.pop(run, None)
        for thing in list(self._ends.pop(run, ())):
            thing.invocation_over()


class _Always:
    """Gives LangChain the handler in every context; LangChain asks it like a context variable."""

    def get(self) -> Invocations:
        return invocations


invocations = Invocations()
"""The process's handler."""
register_configure_hook(cast("Any", _Always()), inheritable=True)
