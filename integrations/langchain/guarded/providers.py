"""A Budget as the call options of a provider's chat model, by the tables of `controls`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from elastic_agent.budget import Budget

from .controls import CLIENTS, LMH, TASK_BUDGET_LEAST, Client, Model, level, model_row

Controls = Callable[[Budget], Mapping[str, Any]]
"""A Budget as call options of a provider's model."""

OUTPUT = (
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "max_new_tokens"),
    *("max_tokens_to_sample", "max_output_tokens_per_request"),
)
"""Names of fields and call options that hold the most output tokens."""
_NAMES = ("model_name", "model", "model_id", "deployment_name", "azure_deployment")
_BASES = ("base_model_id", "base_model")
"""Fields that name the model behind an inference profile's address (Bedrock)."""
_MERGED = ("output_config", "reasoning", "extra_body", "additional_model_request_fields")
"""Options that hold more than thinking: the model's and the call's own values in them are kept."""


def unguarded_class(model: BaseChatModel) -> type[BaseChatModel]:
    """The model's class, without guard's."""
    return getattr(type(model), "guard_of", type(model))


def model_name(model: BaseChatModel) -> str:
    """The provider's name for the model."""
    found = _text(model, _NAMES)
    return found.removeprefix("models/") if found else unguarded_class(model).__name__


def thinks(model: BaseChatModel, call: Mapping[str, Any] | None = None) -> bool:
    """Whether the model's thinking can be controlled."""
    return _known(model, call or {}) is not None


def known_controls(model: BaseChatModel, call: Mapping[str, Any] | None = None) -> Controls:
    """How this model takes a Budget.

    Args:
        call: the other options of the call; where one has the name of ours the two are merged.
    """
    call = call or {}
    client, row = _client(model), _known(model, call)
    output = _output_option(model, client)

    def options(budget: Budget) -> Mapping[str, Any]:
        thinking = budget.thinking or 0
        found: dict[str, Any] = {output: thinking + budget.solution}
        if row is not None and client is not None:
            if row.control == "budget" and thinking < row.least:
                thinking = 0 if row.off else row.least
                found[output] = budget.solution if row.off else found[output]
            if _tool_forced(call) and row.family == "claude" and row.off:
                thinking = 0  # Claude can't think before a tool that it has to call
            if row.most is not None:
                thinking = min(thinking, row.most)
            found |= _STYLES[client.style](model, call, row, thinking)
        return {name: _merged(model, call, name, value) for name, value in found.items()}

    return options


def options_as_fields(model: BaseChatModel) -> tuple[str, ...]:
    """Those of its options that its class takes as fields only, not as options of a call."""
    client = _client(model)
    return (client.output,) if client is not None and client.field else ()


def task_budget(model: BaseChatModel, call: Mapping[str, Any], left: float) -> Mapping[str, Any]:
    """What is left of a task, as advice to a model that takes it; {} for others, and for too few tokens."""
    client, row = _client(model), _known(model, call)
    if client is None or client.style != "anthropic" or row is None or not row.task_budget:
        return {}
    if not TASK_BUDGET_LEAST <= left < float("inf"):
        return {}
    return {"output_config": {"task_budget": {"type": "tokens", "total": int(left)}}}


def named_model(call: Mapping[str, Any]) -> str | None:
    """The model that a call's options name instead of the model's own; None where they name none."""
    return next((n for key in ("model", "model_name") if isinstance(n := call.get(key), str) and n), None)


def _known(model: BaseChatModel, call: Mapping[str, Any]) -> Model | None:
    """The model's row, where its class can express the control."""
    client = _client(model)
    row = model_row(named_model(call) or _text(model, _BASES) or model_name(model))
    if client is None or row is None or not client.style or row.control == "none":
        return None
    return row if not client.families or row.family in client.families else None


def _client(model: BaseChatModel) -> Client | None:
    bases = {base.__name__ for base in type(model).__mro__}
    found = next((client for client in CLIENTS if not bases.isdisjoint(client.classes)), None)
    if found is not None and found.style == "openai" and _at_openrouter(model):
        return replace(found, style="openrouter", families=())
    if found is not None and getattr(model, "beta_use_converse_api", False):
        return next(client for client in CLIENTS if client.style == "bedrock")
    return found


def _output_option(model: BaseChatModel, client: Client | None) -> str:
    """The option for all output tokens: the class's own field, where no row knows the class."""
    if client is not None:
        return client.output
    fields = type(model).model_fields
    return next((name for name in OUTPUT if name in fields), "max_tokens")


def _at_openrouter(model: BaseChatModel) -> bool:
    return "openrouter.ai" in str(
        getattr(model, "openai_api_base", None) or getattr(model, "base_url", None) or ""
    )


def _text(model: BaseChatModel, names: tuple[str, ...]) -> str:
    return next((found for n in names if isinstance(found := getattr(model, n, None), str) and found), "")


def _anthropic(model: BaseChatModel, call: Mapping[str, Any], row: Model, thinking: int) -> dict[str, Any]:
    shown = {**_mapping(getattr(model, "thinking", None)), **_mapping(call.get("thinking"))}
    display = {"display": shown["display"]} if "display" in shown else {}
    if row.control == "budget":
        if thinking:
            return {"thinking": {"type": "enabled", "budget_tokens": thinking, **display}}
        return {"thinking": {"type": "disabled"}}
    found: dict[str, Any] = {"output_config": {"effort": level(thinking, row.levels)}}
    if thinking:
        found["thinking"] = {"type": "adaptive", **display}
    elif row.off:
        found["thinking"] = {"type": "disabled"}
    return found


def _bedrock(model: BaseChatModel, call: Mapping[str, Any], row: Model, thinking: int) -> dict[str, Any]:
    if row.family == "claude":
        fields = _anthropic(model, {}, row, thinking)
    elif row.family == "nova":
        effort = level(thinking, row.levels)
        fields = {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": effort}}
        if not thinking:
            fields = {"reasoningConfig": {"type": "disabled"}}
    else:
        oss = "gpt-oss" in model_name(model)
        effort = level(thinking, row.levels)
        fields = {"reasoning_effort": effort} if oss else {"reasoning": {"effort": effort}}
    return {"additional_model_request_fields": fields}


def _openai(model: BaseChatModel, call: Mapping[str, Any], row: Model, thinking: int) -> dict[str, Any]:
    if row.family == "deepseek" and not thinking:
        return {"extra_body": {"thinking": {"type": "disabled"}}}
    effort = level(thinking, row.levels)
    # Where `reasoning` is set LangChain picks the Responses API, which takes no reasoning_effort beside it
    own = {**_mapping(getattr(model, "model_kwargs", None)), **call}
    if getattr(model, "reasoning", None) is not None or own.get("reasoning") is not None:
        return {"reasoning": {"effort": effort}}
    return {"reasoning_effort": effort}


def _openrouter(model: BaseChatModel, call: Mapping[str, Any], row: Model, thinking: int) -> dict[str, Any]:
    if "ChatOpenRouter" in {base.__name__ for base in type(model).__mro__}:
        words = row.levels or (*(("none",) if row.off else ()), *LMH)
        return {"reasoning": {"effort": "none" if row.off and not thinking else level(thinking, words)}}
    if row.off and not thinking:
        return {"extra_body": {"reasoning": {"enabled": False}}}
    if row.control == "budget":
        return {"extra_body": {"reasoning": {"max_tokens": thinking}}}
    return {"extra_body": {"reasoning": {"effort": level(thinking, row.levels)}}}


def _gemini(model: BaseChatModel, call: Mapping[str, Any], row: Model, thinking: int) -> dict[str, Any]:
    if row.control == "level":
        return {"thinking_level": level(thinking, row.levels)}
    return {"thinking_budget": thinking}


_STYLES: Mapping[str, Callable[[BaseChatModel, Mapping[str, Any], Model, int], dict[str, Any]]] = {
    "anthropic": _anthropic,
    "bedrock": _bedrock,
    "openai": _openai,
    "openrouter": _openrouter,
    "gemini": _gemini,
}


def _merged(model: BaseChatModel, call: Mapping[str, Any], name: str, value: Any) -> Any:
    """Our value of an option, merged with the model's and the call's, except their control of thinking."""
    if name not in _MERGED:
        return value
    theirs = {**_mapping(getattr(model, name, None)), **_mapping(call.get(name))}
    if name == "reasoning":
        theirs = {key: one for key, one in theirs.items() if key not in ("effort", "max_tokens", "enabled")}
    mine = {
        key: {**_mapping(theirs.get(key)), **one} if key == "output_config" else one
        for key, one in value.items()
    }
    return {**theirs, **mine}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tool_forced(call: Mapping[str, Any]) -> bool:
    choice = call.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    return kind is not None and kind not in ("auto", "none")
