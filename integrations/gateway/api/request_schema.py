"""What clients send, as pydantic models: the checks, and the OpenAPI description made from them.

OpenAI's clients send many fields. Those that we know are checked. Those that would change the answer and
that nothing here can obey are refused, unless they ask for nothing (`REFUSED`). A limit under another
server's name is read as ours, and a name that looks like a limit is refused (`aliases`). All others are
ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from elastic_agent.budget import Caps
from elastic_agent.errors import InvalidCapsError, InvalidValueError
from elastic_agent.validation import integer, shown

from .aliases import check_unknown, translate
from .errors import GatewayError, bad
from .json_body import parse

MOST = 2**31 - 1
_MOST_HEADER = 200
Tokens = Annotated[int, Field(ge=0, le=MOST)]
Some = Annotated[int, Field(ge=1, le=MOST)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
T = TypeVar("T")
MOST_MESSAGES = 2048
"""In one conversation, and parts in one message: as many as OpenAI allows."""
MOST_TOOLS = 128


def at_most(many: int) -> BeforeValidator:
    """An object with no more keys than this. Pydantic would check all of them first, and tell each error."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > many:
            raise ValueError(f"at most {many} keys, not {len(value)}")
        return value

    return BeforeValidator(check)


Several = Annotated[list[T], Field(max_length=MOST_MESSAGES, fail_fast=True)]
"""A list whose first error is the only one: to tell each of a million took half a minute."""
Few = Annotated[list[T], Field(max_length=MOST_TOOLS, fail_fast=True)]
OnExhausted = Literal["shrink", "wait", "raise"]
EFFORTS: Mapping[str, float | None] = {
    "none": 0.0,
    "minimal": 1 / 64,
    "low": 1 / 32,
    "medium": 1 / 16,
    "high": 1 / 8,
    "xhigh": 1 / 4,
    "max": None,
}
"""`reasoning_effort` as a part of the model's context; of 32K: 0, 512, 1024, 2048, 4096, 8192, no limit."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": (),
    "functions": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logits_processors": ([],),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "presence_penalty": (0,),
    "prompt_logprobs": (0,),
    "repetition_penalty": (1,),
    "stop_token_ids": ([],),
    "structured_outputs": ({},),
    "suffix": ("",),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Fields that nothing here can obey, and the values with which they ask for nothing (null is one always)."""


class Body(BaseModel):
    """JSON that is checked. Unknown fields are looked at by `read`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = REFUSED


class Function(Body):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class CalledFunction(Body):
    name: str
    arguments: str = "{}"


class CalledTool(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Part(Body):
    """A piece of a message. Text is read; a refusal and old thinking are text too."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Several[Part] | None = None
    name: str | None = None
    tool_calls: Few[CalledTool] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class NamedFunction(Body):
    name: str


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    name: str = "answer"
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    include_usage: bool | None = None


class _Generation(Body):
    model: Text | None = None
    thinking_budget: Annotated[Tokens | None, Field(description="At most so many thinking tokens.")] = None
    solution_budget: Annotated[Some | None, Field(description="At most so many solution tokens.")] = None
    reasoning_effort: Effort | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MOST)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatRequest(_Generation):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[Several[Message], Field(min_length=1)]
    max_completion_tokens: Some | None = None
    max_tokens: Some | None = None
    tools: Few[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None


class CompletionRequest(_Generation):
    """The body of `/v1/completions`."""

    prompt: Text | Annotated[list[Annotated[int, Field(ge=0, le=MOST)]], Field(min_length=1, fail_fast=True)]
    max_tokens: Some | None = None
    logprobs: Annotated[int, Field(ge=0, le=0)] | None = None


class TaskRequest(Body):
    """The body of a POST to `/v1/tasks`: at least one cap."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: Name | None = None
    usd: Annotated[float, Field(gt=0, le=1e6)] | None = None
    tokens: Some | None = None
    seconds: Annotated[float, Field(gt=0, le=1e7)] | None = None
    expect: Annotated[dict[Name, Annotated[int, Field(ge=0, le=100_000)]] | None, at_most(100)] = None
    final_solution: Some | None = None
    on_exhausted: OnExhausted = "shrink"


B = TypeVar("B", bound=Body)


def read(kind: type[B], raw: bytes) -> B:
    """A body as its model.

    Raises:
        GatewayError: 400, with the name of a field that is wrong.
    """
    body = checked(kind, translate(parse(raw), kind.model_fields))
    _check_others(kind, body.model_extra or {})
    return body


def checked(kind: type[B], value: dict[str, Any]) -> B:
    """A JSON object as its model.

    Raises:
        GatewayError: 400, with the name of a field that is wrong.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        deepest = max(errors, key=lambda one: len(one["loc"]))  # of a union, the branch that came closest
        where = _where(deepest["loc"])
        raise bad(where, f"{where}: {deepest['msg']}") from None
    except RecursionError:
        raise bad(None, "the body is nested too deeply", "invalid_json") from None


def _where(loc: tuple[int | str, ...]) -> str:
    """A place in the body as people write it. Names of unions' branches are pydantic's own: left out."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and not step[0].isupper() and step not in ("str", "int", "bool", "float"):
            path += f".{step}" if path else step
    return path[:200] or "body"


def _check_others(kind: type[Body], extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        if name not in kind.refused:
            check_unknown(name)
        elif value is not None and value not in kind.refused[name]:
            raise bad(name, f"{name} can't be obeyed here: leave it out", "unsupported_value")


def header_tokens(headers: Mapping[str, str], name: str, least: int) -> int | None:
    """A number of tokens in a header.

    Raises:
        GatewayError: 400, naming the header.
    """
    text = headers.get(name)
    if text is None:
        return None
    try:
        return integer(name, text, least=least)
    except InvalidValueError as error:
        raise bad(name, str(error)) from None


def header_caps(text: str) -> Caps:
    """`X-Elastic-Caps: tokens=4000, usd=0.05, seconds=30` as caps.

    Raises:
        GatewayError: 400, naming the header: no such unit, a unit twice, or a cap that can't be.
    """
    form = "X-Elastic-Caps is like tokens=4000, usd=0.05, seconds=30"
    found: dict[str, str] = {}
    for part in text[:_MOST_HEADER].replace(";", ",").split(","):
        unit, _, value = (piece.strip() for piece in part.partition("="))
        if unit not in ("tokens", "usd", "seconds") or len(text) > _MOST_HEADER:
            raise bad("X-Elastic-Caps", f"{form}, not {shown(text)}")
        if unit in found:
            raise bad("X-Elastic-Caps", f"{form}; {unit} is there twice: {shown(text)}")
        found[unit] = value
    try:
        return Caps(**cast("dict[str, Any]", found))
    except InvalidCapsError as error:
        raise bad("X-Elastic-Caps", f"X-Elastic-Caps: {error}") from None


HEADERS = (
    "x-elastic-caps",
    "x-elastic-final",
    "x-elastic-kind",
    "x-elastic-on-exhausted",
    "x-elastic-solution",
    "x-elastic-task",
    "x-elastic-thinking",
)


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers of ours that don't exist, that are there twice, or that are too long to mean anything.

    Raises:
        GatewayError: 400, naming it.
    """
    there = set()
    for name, value in headers.items():
        ours = name.lower()
        if not ours.startswith("x-elastic-"):
            continue
        if ours not in HEADERS:
            raise bad(
                name[:64], f"there is no header {name[:64]}; ours are {', '.join(HEADERS)}", "unknown_header"
            )
        if len(value) > _MOST_HEADER:
            raise bad(name, f"{name} has {len(value):,} characters: at most {_MOST_HEADER}")
        if ours in there:
            raise bad(name, f"{name} is there twice: send it once")
        there.add(ours)


def unknown(what: str, name: str, there: list[str]) -> GatewayError:
    """404: a name that stands for nothing."""
    return GatewayError(
        404, f"no {what} called {name[:64]!r}; there is {', '.join(there) or 'none'}", f"{what}_not_found"
    )
