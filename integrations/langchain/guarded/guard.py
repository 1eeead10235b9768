"""`guard`: any chat model under the same ledger as ours.

    gpt = guard(ChatOpenAI(model="gpt-4o-mini"), price=Price("0.15", "0.60"))
    async with task_budget(usd="0.02") as task:
        await gpt.ainvoke("...")            # held before it is sent, settled by the provider's usage

The guarded model is the same model, of a subclass: tools, structured output, streaming and everything else
are its own. Before each call its prompt is counted (`elastic_agent.prompts.counting`, an upper bound), its
largest output is held, and the Budget that the task grants is sent as the provider's own controls (`controls`
has the table).

Guaranteed: no call leaves without a hold. The output that is asked for is what is held. A call whose usage
stays unknown (cancelled, timed out, cut off, no usage in the answer) is charged whole; a number that a usage
leaves out is charged as held. Usage is charged as the provider states it, even beyond the hold. What never
left, or was refused, costs nothing (docs/charges.md). The client's own retries are switched off; a warning
names those that can't be.

Not guaranteed, because only the provider and its client library could: that the provider keeps to its limits
and counts rightly; that thinking keeps to its share (effort is advice); the tokens of prompts that providers
bill in other ways (cache-write surcharges, images, the provider's own tools: `allow=` says what to hold).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, get_args

from langchain_core.language_models.chat_models import BaseChatModel

from elastic_agent.scheduler import Price
from elastic_agent.scheduler.allocation.call_terms import OnExhausted
from elastic_agent.scheduler.ledger.prices import check_price
from elastic_agent.validation import integer, one_of

from ..chat_models.fields import ElasticFields
from .guarded_call import GuardTerms
from .guarded_model import guarded_copy
from .providers import Controls, model_name, thinks
from .retries import without_retries

M = TypeVar("M", bound=BaseChatModel)


def guard(
    model: M,
    *,
    price: Price | None = None,
    max_tokens: int | None = None,
    thinking_budget: int | None = None,
    allow: Mapping[str, int] | None = None,
    controls: Controls | None = None,
    on_exhausted: OnExhausted | None = None,
    tell: bool = False,
) -> M:
    """The model, with each call held and settled by the task that the call is made in.

    Outside of any task its calls are not held; `max_tokens` is sent, and its client's retries are off. See
    the module for what is guaranteed. A call also takes `kind=`, `final=`, `weight=`, `priority=`, `label=`
    and `on_exhausted=`, as `ChatElasticReasoning` does.

    Args:
        model: any `BaseChatModel` but ours, which need no guard.
        price: what the model costs; None: what the price list says. Needed for caps in `usd`. A call that
            names another model (`model=`) is charged by the list.
        max_tokens: most output tokens of a call, thinking included; None: the model's own limit, or 4,096.
        thinking_budget: most thinking tokens among these, where thinking can be controlled; None: half.
        allow: input tokens to hold for each part of a message that can't be counted, by type; see
            `elastic_agent.prompts.counting.count_prompt`.
        controls: turns a Budget into the provider's call options, for a model that the table doesn't know.
        on_exhausted: what to do with a call that the caps can't hold; None: as the task says.
        tell: tell Claude what its task has left, where it takes a task budget: advice, beside the hold.

    Raises:
        TypeError: the model is one of ours, or no chat model.
        ValueError: a thinking budget that leaves no token for the answer, or an invalid argument.

    Warns:
        UserWarning: the client keeps retries that can't be switched off.
    """
    given: object = model
    if isinstance(given, ElasticFields) or not isinstance(given, BaseChatModel):
        raise TypeError(f"guard is for other providers' chat models; a {type(model).__name__} is none")
    check_price(price)
    if on_exhausted is not None:
        one_of("on_exhausted", on_exhausted, get_args(OnExhausted))
    terms = GuardTerms(
        price,
        model_name(model),
        None if max_tokens is None else integer("max_tokens", max_tokens, least=1),
        None if thinking_budget is None else integer("thinking_budget", thinking_budget),
        {name: integer(f"allow[{name!r}]", n) for name, n in (allow or {}).items()},
        controls,
        on_exhausted,
        tell,
    )
    most = terms.most(model)
    if terms.thinking is not None and terms.thinking >= most:
        raise ValueError(
            f"thinking_budget={terms.thinking} leaves nothing of max_tokens={most} for the answer"
        )
    guarded = guarded_copy(model, terms)
    without_retries(guarded)
    if controls is None and thinks(model) and "thinking" in type(model).model_fields:
        guarded.__dict__["thinking"] = None  # ChatAnthropic's own would replace what a call is granted
    return guarded


def is_guarded(model: object) -> bool:
    """Whether the model came out of `guard`."""
    return isinstance(getattr(model, "guard_terms", None), GuardTerms)
