"""Our errors as LangChain's: the same classes, with LangChain's model errors as further parents.

Code that catches `CapExceededError` still works. LangChain may retry UpstreamError,
UpstreamUnavailableError and CallTimeoutError. To LangChain the others are a `ModelError` that is not
retryable, so `ModelRetryMiddleware` raises them at once. `Runnable.with_retry` retries every exception (core
1.7), hence `retrying` for the `with_retry` of our models. LangGraph's `RetryPolicy` doesn't know `ModelError`
(1.2) and retries all but built-in programming errors, hence the parents `RuntimeError` and `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelTimeoutError,
)

from elastic_agent.errors import (
    BackendError,
    BackendUnavailableError,
    CapExceededError,
    ContextLengthError,
    DeadlineError,
    ElasticError,
    InvalidBudgetError,
    NoMarkersError,
    TaskClosedError,
    UnknownModelError,
    UnknownPriceError,
)


class BudgetExceededError(CapExceededError, ModelError, RuntimeError):
    """A cap can't hold the call; nothing was spent. `needed` and `available` have the numbers."""


class BudgetDeadlineError(DeadlineError, BudgetExceededError):
    """The call doesn't fit in the task's time."""


class ClosedTaskError(TaskClosedError, ModelError, RuntimeError):
    """The task has ended."""


class UpstreamError(BackendError, ModelAPIError):
    """The model's server failed."""


class UpstreamUnavailableError(BackendUnavailableError, ModelConnectionError):
    """The model's server can't be reached, or its stream broke off."""


class PromptTooLongError(ContextLengthError, ContextOverflowError, ValueError):
    """The prompt does not fit."""


class NoSuchModelError(UnknownModelError, ModelNotFoundError, ValueError):
    """No model of this name."""


class BadBudgetError(InvalidBudgetError, ModelInvalidRequestError):
    """A Budget that no call can obey."""


class UnbudgetableModelError(NoMarkersError, ModelInvalidRequestError, ValueError):
    """The model has no end-of-thinking marker."""


class UnpricedModelError(UnknownPriceError, ModelInvalidRequestError, ValueError):
    """A money cap is set, and nothing says what the model costs."""


class RefusedRequestError(ElasticError, ModelInvalidRequestError, ValueError):
    """A request that can't be obeyed; `__cause__` is our own error."""


class CallTimeoutError(ElasticError, ModelTimeoutError, TimeoutError):
    """The call took longer than the model's `timeout`; what it used was charged."""


_ADAPTERS: tuple[type[ElasticError], ...] = (
    *(BudgetDeadlineError, BudgetExceededError, ClosedTaskError, UpstreamUnavailableError, UpstreamError),
    *(PromptTooLongError, NoSuchModelError, BadBudgetError, UnbudgetableModelError, UnpricedModelError),
    RefusedRequestError,
)
"""Each adapts its first base; the first that fits an error is taken."""


def adapted(error: ElasticError) -> ElasticError:
    """The same error as LangChain understands it; unchanged when it is one already."""
    if isinstance(error, ModelError):
        return error
    kind = next(adapter for adapter in _ADAPTERS if isinstance(error, adapter.__bases__[0]))
    message = str(error)
    if isinstance(error, CapExceededError) and issubclass(kind, CapExceededError):
        return kind(message, needed=error.needed, available=error.available, binding=error.binding)
    return kind(message)


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise our errors as LangChain's."""
    try:
        yield
    except ElasticError as error:
        if (for_langchain := adapted(error)) is error:
            raise
        raise for_langchain from error


Kinds = tuple[type[BaseException], ...] | Callable[[BaseException], bool]


def retrying(*, retry_if_exception_type: Kinds = (Exception,), **options: Any) -> dict[str, Any]:
    """Options of `Runnable.with_retry` that never repeat an error which says that repeating can't help."""
    return {"retry_if_exception_type": partial(_may_help, retry_if_exception_type), **options}


def _may_help(kinds: Kinds, error: BaseException) -> bool:
    wanted = isinstance(error, kinds) if isinstance(kinds, tuple) else kinds(error)
    return wanted and bool(getattr(error, "is_retryable", True))
